"""A sweep's folder as it goes to the Hub: everything is checked here, before anything is uploaded."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_imports

from ..sweeps.arguments import is_secret
from ..sweeps.files import read_json
from ..sweeps.recipe_text import recipe_yaml
from ..sweeps.results import COLUMNS
from ..sweeps.run_folder import check_weights
from ..sweeps.sweep_record import SweepRecord, read_sweep

# Those of the gap are drawn where there is an optimum.
FIGURES = ("collapse.png", "gap.png", "gap_parts.png", "rates.png", "generalization.png")
# The last four are there when the networks were measured.
TABLES = ("results.csv", "sweep.json", "layers.csv", "geometry.csv", "weights.csv", "held_out.csv")
# All that a run writes to be published, with the code that its configurations name; what else lies there stays there.
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_CONFIGURATIONS = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
_TOKENIZER = (
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
_PUBLISHED = {"metrics.json", "model.safetensors.index.json", "generation_config.json", *_CONFIGURATIONS, *_TOKENIZER}
_KEPT_HERE = {"log_history.json", "failure.json"}
# Loading one of these can run any code.
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}


@dataclass(frozen=True)
class FinishedRun:
    """One trained network: its folder, its row of the results table, and its `metrics.json` and `config.json`."""

    depth: int
    seed: int
    folder: Path
    row: dict[str, Any]
    metrics: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def files(self) -> list[Path]:
        """The files of the checkpoint, sorted by name, and `metrics.json`; nothing that a run does not write."""
        names = _PUBLISHED | self._modules()
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.is_file() and (path.name in names or _WEIGHTS.fullmatch(path.name))
        )

    @property
    def left_out(self) -> list[Path]:
        """What lies in the folder besides, and was not written by a run."""
        return sorted(path for path in set(self.folder.iterdir()) - set(self.files) if path.name not in _KEPT_HERE)

    def _modules(self) -> set[str]:
        """Names of the code files that the configurations name, and of those that these import from beside them."""
        here = {path.name: path for path in self.folder.iterdir() if path.is_file()}
        configurations = [read_json(here[name]) for name in _CONFIGURATIONS if name in here]
        waiting = [module for configuration in configurations for module in _code_named_by(configuration)]
        found = set()
        while waiting:
            module = waiting.pop()
            if module in here and module not in found:
                found.add(module)
                try:
                    waiting += [f"{name}.py" for name in get_relative_imports(here[module])]
                except UnicodeDecodeError as error:
                    raise ValueError(f"{here[module]} is damaged: {error}") from None
        return found


@dataclass(frozen=True)
class SweepFolder(SweepRecord):
    """A sweep that can be published.

    Args:
        runs: the finished runs, sorted by depth and seed.
    """

    runs: list[FinishedRun]

    @property
    def depths(self) -> list[int]:
        return sorted({run.depth for run in self.runs})

    @cached_property
    def recipe(self) -> str:
        """The recipe of the same sweep, as YAML."""
        return recipe_yaml(self.configuration)

    def runs_of(self, depth: int) -> list[FinishedRun]:
        """The runs of one depth, by seed."""
        return self._by_depth[depth]

    @cached_property
    def _by_depth(self) -> dict[int, list[FinishedRun]]:
        found: dict[int, list[FinishedRun]] = {}
        for run in self.runs:
            found.setdefault(run.depth, []).append(run)
        return found

    @property
    def left_out(self) -> list[str]:
        """What lies in the runs' folders and is not published, because no run writes it."""
        return [str(path.relative_to(self.folder)) for run in self.runs for path in run.left_out]

    @property
    def tables(self) -> list[Path]:
        return [self.folder / name for name in TABLES if (self.folder / name).is_file()]

    @property
    def figures(self) -> list[Path]:
        return [self.folder / "figures" / name for name in FIGURES if (self.folder / "figures" / name).is_file()]


def read_sweep_folder(folder: str | Path, *, partial: bool = False) -> SweepFolder:
    """Read and check a sweep's folder; nothing is written or drawn.

    Args:
        folder: the sweep's folder, with `sweep.json` and `results.csv`.
        partial: leave unfinished runs out instead of refusing the folder.

    Raises:
        FileNotFoundError: the folder is no sweep's, or a checkpoint lacks a file.
        ValueError: no run is finished, or a planned one neither finished nor diverged, a file is damaged or
            contradicts the table, a checkpoint holds pickles, `sweep.json` a secret, a file or folder is a link, or
            the figures are missing or another table's.
    """
    folder = Path(folder)
    if not (folder / "sweep.json").is_file():
        raise FileNotFoundError(f"{folder} is no sweep's folder: it has no sweep.json")
    published = (*TABLES, "figures", *(f"figures/{name}" for name in FIGURES))
    _refuse_links([*map(folder.joinpath, published), *folder.glob("depth-*"), *folder.glob("depth-*/seed-*")])
    record = read_sweep(folder)
    for name in filter(is_secret, record.configuration.get("training", {})):
        raise ValueError(
            f"{folder / 'sweep.json'} holds the secret {name}, which would be published; start the sweep again "
            f"without it, which writes the file anew"
        )
    unfinished = record.unfinished
    if unfinished and not partial:
        named = ", ".join(f"depth {run['depth']} seed {run['seed']} ({run['reason']})" for run in unfinished)
        raise ValueError(
            f"{folder} has {len(unfinished)} unfinished of {len(unfinished) + len(record.results)} runs: {named}. "
            f"Start the sweep again to finish them, or publish without them with --partial"
        )
    if record.finished.empty:
        raise ValueError(f"{folder} has no finished run; there is nothing to publish")
    runs = [_read_run(folder, row) for row in record.finished.to_dict("records")]
    if not record.has_current_figures or not (folder / "figures" / FIGURES[0]).is_file():
        raise ValueError(
            f"{folder} has no figures of this results.csv, as where a sweep was stopped before its end; "
            f"`hf-ncollapse report {folder}` draws them"
        )
    ordered = sorted(runs, key=lambda run: (run.depth, run.seed))
    return SweepFolder(record.folder, record.configuration, record.results, ordered)


def _read_run(sweep_folder: Path, row: dict[str, Any]) -> FinishedRun:
    folder = sweep_folder / f"depth-{row['depth']}" / f"seed-{row['seed']}"
    for name in ("metrics.json", "config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}, but results.csv says that the run is finished")
    run = FinishedRun(
        depth=int(row["depth"]),
        seed=int(row["seed"]),
        folder=folder,
        row={name: None if _is_missing(value) else value for name, value in row.items()},
        metrics=read_json(folder / "metrics.json"),
        config=read_json(folder / "config.json"),
    )
    for name in COLUMNS:
        if run.row[name] != run.metrics.get(name):
            raise ValueError(
                f"{folder / 'metrics.json'} says {name} = {run.metrics.get(name)!r}, results.csv says "
                f"{run.row[name]!r}; start the sweep again, which writes the table anew"
            )
    _refuse_links(run.files)
    _check_checkpoint(run)
    return run


def _refuse_links(paths: Iterable[Path]) -> None:
    """What a link points to may be anything, and is nothing that a sweep wrote."""
    for path in paths:
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link, and links are not published; put what it is to be there")


def _check_checkpoint(run: FinishedRun) -> None:
    pickles = sorted(path.name for path in run.folder.iterdir() if path.suffix.lower() in _PICKLES)
    if pickles:
        raise ValueError(
            f"{run.folder} holds {', '.join(pickles)}: pickles can run code where they are loaded and are not "
            f"published; delete them"
        )
    weights = [path for path in run.files if path.suffix == ".safetensors"]
    if not weights:
        raise FileNotFoundError(f"{run.folder} has no model.safetensors")
    check_weights(run.folder, run.metrics)
    for path in weights:
        try:
            with safe_open(path, framework="np") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    published = {path.name for path in run.files}
    for module in _code_named_by(run.config):
        if module not in published:
            raise FileNotFoundError(f"{run.folder} has no {module}, which its config.json names")


def _code_named_by(configuration: dict[str, Any]) -> list[str]:
    """The files of an `auto_map`, whose values are `module.Class` or, for a tokenizer, two of these or None."""
    targets = configuration.get("auto_map", {}).values()
    pairs = [target if isinstance(target, list) else [target] for target in targets]
    return [f"{target.split('.')[0]}.py" for pair in pairs for target in pair if target]


def _is_missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
