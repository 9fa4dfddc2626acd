"""The table of a sweep: one row a finished run."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from .files import read_json, read_table, write_atomically, write_table

COLUMNS = (
    "sweep", "architecture", "norm_placement", "norm_scale", "dataset", "loss", "depth", "seed", "l2_coefficient",
    "steps", "train_accuracy", "test_accuracy", "fit", "regularization", "objective", "gufm_optimum", "gap", "nc1",
    "nc2", "nc3", "seconds", "regularization_embedding", "regularization_body", "regularization_classifier",
)  # fmt: skip

_TEXTS = ("sweep", "architecture", "norm_placement", "norm_scale", "dataset", "loss")
_MAY_BE_EMPTY = ("test_accuracy", "gufm_optimum", "gap")


def collect_results(folder: Path) -> pd.DataFrame:
    """Read the `metrics.json` of every finished run below a sweep's folder, sorted by depth and seed.

    Raises:
        ValueError: if a file is damaged; the message names it.
    """
    rows = [read_json(path) for path in folder.glob("depth-*/seed-*/metrics.json")]
    return results_table(rows)


def results_table(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """Return the rows with exactly the columns of `COLUMNS`, sorted by depth and seed; a missing number is empty."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.sort_values(["depth", "seed"], ignore_index=True)


def write_results(folder: Path, results: pd.DataFrame) -> None:
    """Write `results.csv` and `results.parquet` into the sweep's folder."""
    write_table(folder / "results.csv", results)
    write_atomically(folder / "results.parquet", lambda path: results.to_parquet(path, index=False))


def read_results(folder: Path) -> pd.DataFrame:
    """Read a sweep's `results.csv`, with every digit that was written.

    Raises:
        FileNotFoundError: if the sweep has no table yet.
        ValueError: if the table is damaged; the message names it.
    """
    path = folder / "results.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a sweep writes it when its first run finishes")
    results = read_table(path, COLUMNS)
    needed = results[[name for name in COLUMNS if name not in _MAY_BE_EMPTY]]
    numbers = results[[name for name in COLUMNS if name not in _TEXTS]]
    if needed.isna().any(axis=None) or len(numbers.select_dtypes("number").columns) < len(numbers.columns):
        raise ValueError(f"{path} is damaged (cells are empty or hold no number); delete it to make it anew")
    return results
