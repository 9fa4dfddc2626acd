"""A sweep that was trained, as an object for a notebook."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..quantities import QUANTITIES
from .files import read_json
from .latex import latex_table, latex_value
from .sweep_record import SweepRecord, read_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

_IN_A_PAPER = ("train_accuracy", "test_accuracy", "objective", "gap", "nc1", "nc2", "nc3")
_IN_A_NOTEBOOK = ("depth", "seed", *_IN_A_PAPER)


@dataclass(frozen=True)
class SweepRun:
    """One network of a sweep: its depth, its seed, and its row of the table as `metrics`."""

    sweep: "TrainedSweep"
    depth: int
    seed: int
    metrics: dict[str, Any]

    def load(self) -> "PreTrainedModel":
        """Load the network, as [`TrainedSweep.load`]."""
        return self.sweep.load(self.depth, self.seed)

    def processor(self) -> "BaseImageProcessor | PreTrainedTokenizerBase":
        """Load what makes its inputs, as [`TrainedSweep.processor`]."""
        return self.sweep.processor(self.depth, self.seed)

    def __repr__(self) -> str:
        return f"SweepRun({self.sweep.name}, depth {self.depth}, seed {self.seed})"


class TrainedSweep:
    """A sweep's networks and tables, from its folder. Iterating gives its runs, by depth and seed.

    Args:
        folder: which holds `results.csv`.

    Raises:
        FileNotFoundError: the folder has no table.

    Every method below raises a `ValueError` where a file is damaged; the message names it.

    Example:
        >>> sweep = TrainedSweep("runs/mnist5k-rn1-demo")  # doctest: +SKIP
        >>> [run.metrics["gap"] for run in sweep]  # doctest: +SKIP
        >>> sweep.plot("gap").savefig("gap.pdf")  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "results.csv").is_file():
            raise FileNotFoundError(f"{self.folder} holds no sweep: it has no results.csv")

    @cached_property
    def record(self) -> SweepRecord:
        """All that the folder holds."""
        return read_sweep(self.folder)

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.record.name

    @property
    def results(self) -> pd.DataFrame:
        """One row a network; the columns are those of `results.csv`, whose diverged runs have none."""
        return self.record.finished

    @property
    def summary(self) -> dict[str, Any]:
        """Slopes, means by depth and verdicts, as [`summarize`] gives them, the unfinished runs and the machines."""
        return self.record.summary

    @property
    def depths(self) -> list[int]:
        """Numbers of blocks, in increasing order."""
        return sorted({run.depth for run in self})

    @property
    def seeds(self) -> list[int]:
        """Seeds, in increasing order."""
        return sorted({run.seed for run in self})

    def __iter__(self) -> Iterator[SweepRun]:
        for row in self.results.to_dict("records"):
            yield SweepRun(self, int(row["depth"]), int(row["seed"]), row)

    def __len__(self) -> int:
        return len(self.results)

    def load(self, depth: int, seed: int | None = None) -> "PreTrainedModel":
        """Load a network with this package's code; `seed=None` is the smallest seed of that depth.

        Raises:
            ValueError: the sweep has no such network, or its files are damaged.
        """
        from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

        where = self._where(depth, self._known_seed(depth, seed))
        config = self._checked_config(where, depth)
        self._check_weights(where, depth)
        auto = AutoModelForSequenceClassification if _takes_texts(config) else AutoModelForImageClassification
        return auto.from_pretrained(**where, use_safetensors=True)

    def processor(self, depth: int, seed: int | None = None) -> "BaseImageProcessor | PreTrainedTokenizerBase":
        """Load the image processor or tokenizer that goes with a network.

        Raises:
            ValueError: as [`TrainedSweep.load`].
        """
        from transformers import AutoImageProcessor, AutoTokenizer

        where = self._where(depth, self._known_seed(depth, seed))
        texts = _takes_texts(self._checked_config(where, depth))
        return (AutoTokenizer if texts else AutoImageProcessor).from_pretrained(**where)

    def plot(self, figure: str = "collapse") -> "Figure":
        """Draw one figure of the report; it can be saved, changed, or shown by a notebook.

        Args:
            figure: "collapse", "gap", "gap_parts", "objective", "rates", "penalty", "generalization", "training",
                "layers" or "geometry"; the last three where they were measured, which `hf-ncollapse report` does.

        Raises:
            ValueError: the sweep has no such figure; the message lists those that it has.
        """
        from matplotlib import pyplot  # noqa: F401  (IPython learns with it how a figure is shown)

        from ..figure_style import styled
        from .figures import sweep_figures

        record = self.record
        figures = sweep_figures(record.results, record.curves, record.networks, record.panel)
        if figure not in figures:
            raise ValueError(f"figure is {figure!r}; {self.name} has {', '.join(figures)}")
        with styled():
            return figures[figure]()

    def report(self, output: str | Path | None = None) -> Path:
        """Write the report, as [`write_report`]: into the folder, which keeps its figures too, or as `output`."""
        from .report import write_report

        return write_report(self.folder, output)

    def to_latex(self, quantities: Sequence[str] = _IN_A_PAPER) -> str:
        r"""Return the means by depth, ± one standard deviation over the seeds, as a `tabular` for `booktabs`.

        Args:
            quantities: columns of the table; those without a value in this sweep are left out.

        Raises:
            ValueError: there is no such column.
        """
        by_depth = self.summary["by_depth"]
        unknown = [name for name in quantities if name not in self.results and name not in by_depth[0]]
        if unknown:
            raise ValueError(f"quantities has {', '.join(unknown)}; it takes columns of results.csv")
        names = [name for name in quantities if any(row.get(name) is not None for row in by_depth)]
        headings = [QUANTITIES[name].symbol or QUANTITIES[name].title for name in ("depth", *names)]
        rows = [
            [str(row["depth"]), *(latex_value(row.get(name), row.get(f"{name}_std")) for name in names)]
            for row in by_depth
        ]
        return latex_table(headings, rows)

    def __repr__(self) -> str:
        depths, seeds = ", ".join(map(str, self.depths)), ", ".join(map(str, self.seeds))
        return f"{type(self).__name__}({self.address}: {len(self)} networks, depths {depths}, seeds {seeds})"

    def _repr_html_(self) -> str:
        shown = self.results[[name for name in _IN_A_NOTEBOOK if self.results[name].notna().any()]]
        return shown.to_html(index=False, float_format="{:.4g}".format)

    @property
    def address(self) -> str:
        """Where it is: its folder, or its id on the Hub."""
        return str(self.folder)

    def _known_seed(self, depth: int, seed: int | None) -> int:
        seeds = [run.seed for run in self if run.depth == depth]
        if not seeds:
            raise ValueError(f"depth is {depth!r}; {self.name} has {', '.join(map(str, self.depths))}")
        if seed is not None and seed not in seeds:
            raise ValueError(f"seed is {seed!r}; depth {depth} has {', '.join(map(str, seeds))}")
        return min(seeds) if seed is None else seed

    def _where(self, depth: int, seed: int) -> dict[str, Any]:
        """What `from_pretrained` is called with. The installed classes are registered: no downloaded code runs."""
        folder = self.folder / f"depth-{depth}" / f"seed-{seed}"
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no network, though results.csv has its row")
        return {"pretrained_model_name_or_path": str(folder), "trust_remote_code": False}

    def _checked_config(self, where: dict[str, Any], depth: int) -> dict[str, Any]:
        return read_json(Path(str(where["pretrained_model_name_or_path"])) / "config.json")

    def _check_weights(self, where: dict[str, Any], depth: int) -> None:
        from .run_folder import check_weights

        folder = Path(str(where["pretrained_model_name_or_path"]))
        check_weights(folder, read_json(folder / "metrics.json"))


def _takes_texts(config: dict[str, Any]) -> bool:
    return config["architectures"][0].endswith("ForSequenceClassification")
