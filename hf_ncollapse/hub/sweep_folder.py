"""A sweep's folder as it goes to the Hub: everything is checked here, before anything is uploaded."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError, safe_open

from ..sweeps.files import read_json
from ..sweeps.report import finish_sweep, unfinished_runs
from ..sweeps.results import COLUMNS, read_results

# The second is drawn where there is an optimum.
FIGURES = ("collapse.png", "gap.png")
# What a checkpoint is made of: weights, configuration, code, and a tokenizer's vocabulary.
_PUBLISHED = {".safetensors", ".json", ".py", ".txt"}
_KEPT_HERE = {"log_history.json", "failure.json"}
# Loading one of these can run any code.
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}


@dataclass(frozen=True)
class FinishedRun:
    """One trained network: its folder, its row of the results table, and its `metrics.json` and `config.json`."""

    depth: int
    seed: int
    folder: Path
    row: dict[str, object]
    metrics: dict[str, object]
    config: dict[str, object]

    @cached_property
    def files(self) -> list[Path]:
        """The files of the checkpoint, sorted by name, and `metrics.json`."""
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.is_file() and path.suffix in _PUBLISHED and path.name not in _KEPT_HERE
        )


@dataclass(frozen=True)
class SweepFolder:
    """A sweep that can be published.

    Args:
        folder: where it is.
        name: the sweep's name, the start of its repositories' names.
        configuration: its `sweep.json`.
        results: its `results.csv`, one row a finished run.
        runs: the finished runs, sorted by depth and seed.
    """

    folder: Path
    name: str
    configuration: dict[str, dict]
    results: pd.DataFrame
    runs: list[FinishedRun]

    @property
    def depths(self) -> list[int]:
        return sorted({run.depth for run in self.runs})

    def runs_of(self, depth: int) -> list[FinishedRun]:
        """The runs of one depth, by seed."""
        return [run for run in self.runs if run.depth == depth]

    @property
    def figures(self) -> list[Path]:
        return [self.folder / "figures" / name for name in FIGURES if (self.folder / "figures" / name).is_file()]


def read_sweep_folder(folder: Path, *, partial: bool = False) -> SweepFolder:
    """Read and check a sweep's folder; figures that are missing or older than the table are drawn.

    Args:
        folder: the sweep's folder, with `sweep.json` and `results.csv`.
        partial: leave unfinished runs out instead of refusing the folder.

    Raises:
        FileNotFoundError: the folder is no sweep's, or a checkpoint lacks a file.
        ValueError: runs are not finished, a file is damaged or contradicts the table, or a checkpoint holds pickles.
    """
    folder = Path(folder)
    if not (folder / "sweep.json").is_file():
        raise FileNotFoundError(f"{folder} is no sweep's folder: it has no sweep.json")
    configuration = read_json(folder / "sweep.json")
    results = read_results(folder)
    unfinished = unfinished_runs(folder, results)
    if unfinished and not partial:
        named = ", ".join(f"depth {run['depth']} seed {run['seed']} ({run['reason']})" for run in unfinished)
        raise ValueError(
            f"{folder} has {len(unfinished)} unfinished of {len(unfinished) + len(results)} runs: {named}. Start the "
            f"sweep again to finish them, or publish without them with --partial"
        )
    runs = [_read_run(folder, row) for row in results.to_dict("records")]
    table, figure = folder / "results.csv", folder / "figures" / FIGURES[0]
    if not figure.is_file() or figure.stat().st_mtime < table.stat().st_mtime:
        finish_sweep(folder)
    name = str(configuration["sweep"]["sweep"])
    return SweepFolder(folder, name, configuration, results, sorted(runs, key=lambda run: (run.depth, run.seed)))


def _read_run(sweep_folder: Path, row: dict[str, object]) -> FinishedRun:
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
    _check_checkpoint(run)
    return run


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
    for path in weights:
        try:
            with safe_open(path, framework="np") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    for target in run.config.get("auto_map", {}).values():
        code = run.folder / f"{target.split('.')[0]}.py"
        if not code.is_file():
            raise FileNotFoundError(f"{run.folder} has no {code.name}, which its config.json names")


def _is_missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
