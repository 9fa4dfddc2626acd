"""What a sweep's folder holds, read once and never written."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .files import REMEDY, read_json
from .paper_figures import PaperPanel, paper_panel
from .results import diverged_runs, finished_runs, read_results
from .summary import summarize
from .training_curves import training_curves

if TYPE_CHECKING:
    from .network_measurements import NetworkMeasurements


@dataclass(frozen=True)
class SweepRecord:
    """A sweep's folder, as it was when it was read. What takes a while is read or computed when it is first asked for.

    Args:
        folder: where it is.
        configuration: its `sweep.json`; empty where there is none.
        results: its `results.csv`, diverged runs included.
    """

    folder: Path
    configuration: dict[str, dict[str, Any]]
    results: pd.DataFrame

    @cached_property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.configuration.get("sweep", {}).get("sweep", self.results["sweep"].iloc[0]))

    @cached_property
    def finished(self) -> pd.DataFrame:
        """The rows of networks that were trained to their end."""
        return finished_runs(self.results)

    @property
    def panel(self) -> PaperPanel | None:
        """The paper's panel that the recipe names, if it names one."""
        return paper_panel(self.configuration)

    @cached_property
    def unfinished(self) -> list[dict[str, Any]]:
        """Depth, seed and reason of every planned run that neither finished nor diverged."""
        planned = self.configuration.get("sweep", {})
        ended = set(zip(self.results["depth"], self.results["seed"], strict=True))
        is_continuation = planned.get("initialization") == "continuation"
        diverged = diverged_runs(self.results)
        missing = []
        for depth in planned.get("depths", []):
            for seed in planned.get("seeds", []):
                if (depth, seed) not in ended:
                    shallower = diverged[(diverged["seed"] == seed) & (diverged["depth"] < depth)]
                    has_no_start = is_continuation and len(shallower)
                    reason = "the network that it starts from diverged" if has_no_start else "not finished yet"
                    missing.append({"depth": depth, "seed": seed, "reason": reason})
        return missing

    @cached_property
    def summary(self) -> dict[str, Any]:
        """[`summarize`], the planned runs that did not end, and where the others ran, in JSON types.

        Raises:
            ValueError: no run is finished, or a file is damaged; the message names it.
        """
        return {**summarize(self.results), "unfinished": self.unfinished, "environments": self._environments()}

    def _environments(self) -> list[dict[str, Any]]:
        """By the runs' own files, or where these are not here, by the summary that was written."""
        found: list[dict[str, Any]] = []
        for path in sorted(self.folder.glob("depth-*/seed-*/metrics.json")):
            metrics = read_json(path)
            if "environment" in metrics:
                environment = {**metrics["environment"], "processes": metrics.get("processes")}
                if environment not in found:
                    found.append(environment)
        return found or self.written_summary.get("environments", [])

    @cached_property
    def written_summary(self) -> dict[str, Any]:
        """The `summary.json` that lies in the folder; empty where there is none."""
        path = self.folder / "summary.json"
        return read_json(path) if path.is_file() else {}

    @cached_property
    def results_sha256(self) -> str:
        """Of `results.csv`, which `summary.json` names: it and the figures were made of that table."""
        return hashlib.sha256((self.folder / "results.csv").read_bytes()).hexdigest()

    @property
    def has_current_figures(self) -> bool:
        """Whether summary and figures were made of the table that is here now."""
        return self.written_summary.get("results_sha256") == self.results_sha256

    @cached_property
    def curves(self) -> pd.DataFrame:
        """How training went, from [`training_curves`]; empty where that is not known."""
        return training_curves(self.folder)

    @cached_property
    def networks(self) -> "NetworkMeasurements":
        """What was measured of the networks; empty tables where nothing was."""
        from .network_measurements import read_network_measurements

        return read_network_measurements(self.folder)


def read_sweep(folder: str | Path, remedy: str = REMEDY) -> SweepRecord:
    """Read a sweep's folder.

    Args:
        folder: which holds `results.csv` at least.
        remedy: what the message about a damaged table advises.

    Raises:
        FileNotFoundError: the sweep has no table yet.
        ValueError: a file is damaged; the message names it.
    """
    folder = Path(folder)
    results = read_results(folder, remedy)
    path = folder / "sweep.json"
    return SweepRecord(folder, read_json(path, remedy) if path.is_file() else {}, results)
