"""The table of a sweep: one row a run that ended, finished or diverged."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from .files import REMEDY, read_json, read_table, write_atomically, write_table

COLUMNS = (
    "sweep", "architecture", "norm_placement", "norm_scale", "dataset", "loss", "classifier_bias", "initialization",
    "depth", "seed", "l2_coefficient", "classifier_l2_coefficient", "l2_depth_scaling", "status", "steps",
    "train_accuracy", "test_accuracy", "fit", "regularization", "objective", "gufm_optimum", "gap",
    "regularization_body", "gap_fit", "gap_classifier", "gap_spread", "nc1", "nc2", "nc3", "nc1_bound", "nc3_bound",
    "start_gap", "relative_gradient", "regularization_classifier", "gufm_lower_bound", "gufm_nc2", "gufm_nc3",
    "seconds",
)  # fmt: skip
# What a run's recipe says. The λ are those of the recipe, before depth scaling, so that they are the sweep's own too;
# a classifier's λ that the recipe leaves open is the blocks'.
SETTINGS = (
    "sweep", "architecture", "norm_placement", "norm_scale", "dataset", "loss", "classifier_bias", "initialization",
    "l2_coefficient", "classifier_l2_coefficient", "l2_depth_scaling",
)  # fmt: skip
# Of a run that stopped at a non-finite loss nothing but these is known.
_OF_A_DIVERGED_RUN = (*SETTINGS, "depth", "seed", "status", "steps")
_NOT_NUMBERS = ("status", *(name for name in SETTINGS if not name.endswith("l2_coefficient")))
_NUMBERS = tuple(name for name in COLUMNS if name not in _NOT_NUMBERS)
# No held-out samples; no J*, and what needs it; no parent; not measured; J* in closed form, which needs no bound.
_MAY_BE_EMPTY = (
    "test_accuracy", "gufm_optimum", "gap", "gap_fit", "gap_classifier", "gap_spread", "nc1_bound", "nc3_bound",
    "start_gap", "relative_gradient", "gufm_lower_bound", "gufm_nc2", "gufm_nc3",
)  # fmt: skip
_OF_A_FINISHED_RUN = tuple(name for name in COLUMNS if name not in _MAY_BE_EMPTY)


def collect_results(folder: str | Path) -> pd.DataFrame:
    """Read every run below a sweep's folder that ended, sorted by depth and seed.

    A finished run has a `metrics.json`; a diverged one a `failure.json` instead, which names the settings, the step
    it came to and the status "diverged".

    Raises:
        ValueError: if a file is damaged; the message names it.
    """
    return results_table(collect_rows(Path(folder)).values())


def collect_rows(folder: Path) -> dict[Path, dict[str, object]]:
    """Read what [`collect_results`] does, as rows by the runs' folders."""
    rows = {run: run_row(run) for run in folder.glob("depth-*/seed-*")}
    return {run: row for run, row in rows.items() if row is not None}


def run_row(run: Path) -> dict[str, object] | None:
    """Read the row of one run from its folder; None where it did not end.

    Raises:
        ValueError: if a file is damaged; the message names it.
    """
    metrics, failure = run / "metrics.json", run / "failure.json"
    if metrics.is_file():
        return _checked(metrics, {**read_json(metrics), "status": "finished"}, _OF_A_FINISHED_RUN)
    if failure.is_file() and (row := read_json(failure)).get("status") == "diverged":
        return _checked(failure, row, _OF_A_DIVERGED_RUN)
    return None


def _checked(path: Path, row: dict[str, object], needed: Sequence[str]) -> dict[str, object]:
    """The row that a file holds, when it has what every such run has."""
    missing = [name for name in needed if row.get(name) is None]
    if missing:
        raise ValueError(f"{path} is damaged (it has no {', '.join(missing)}); {REMEDY}")
    wrong = [name for name in _NUMBERS if not isinstance(row.get(name), int | float | None)]
    if wrong:
        raise ValueError(f"{path} is damaged ({', '.join(wrong)} is no number); {REMEDY}")
    return row


def results_table(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """Return the rows with exactly the columns of `COLUMNS`, sorted by depth and seed; a missing number is empty."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame = frame.astype({name: float for name in _NUMBERS if frame[name].isna().any()})
    return frame.sort_values(["depth", "seed"], ignore_index=True)


def finished_runs(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of networks that were trained to their end."""
    return results[results["status"] == "finished"].reset_index(drop=True)


def diverged_runs(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs that stopped at a non-finite loss."""
    return results[results["status"] == "diverged"].reset_index(drop=True)


def write_results(folder: Path, results: pd.DataFrame) -> None:
    """Write `results.csv` and `results.parquet` into the sweep's folder."""
    write_table(folder / "results.csv", results)
    write_atomically(folder / "results.parquet", lambda path: results.to_parquet(path, index=False))


def read_results(folder: str | Path, remedy: str = REMEDY) -> pd.DataFrame:
    """Read a sweep's `results.csv`, diverged runs included, with every digit that was written.

    Args:
        folder: that it lies in.
        remedy: what the message about a damaged one advises.

    Raises:
        FileNotFoundError: if the sweep has no table yet.
        ValueError: if the table is damaged; the message names it.
    """
    path = Path(folder) / "results.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a sweep writes it when its first run finishes")
    results = read_table(path, COLUMNS, remedy)
    numbers = results[list(_NUMBERS)]
    if (
        not results["status"].isin(["finished", "diverged"]).all()
        or finished_runs(results)[list(_OF_A_FINISHED_RUN)].isna().any(axis=None)
        or diverged_runs(results)[list(_OF_A_DIVERGED_RUN)].isna().any(axis=None)
        or len(numbers.select_dtypes("number").columns) < len(numbers.columns)
        or (results[["depth", "seed"]] % 1 != 0).any(axis=None)
    ):
        raise ValueError(f"{path} is damaged (cells are empty or hold no number); {remedy}")
    return results
