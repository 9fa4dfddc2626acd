"""How objective, gap and collapse went during training, for every run of a sweep."""

from pathlib import Path

import pandas as pd

from .files import read_json, read_table

COLUMNS = (
    "depth", "seed", "step", "fit", "regularization", "objective", "gufm_optimum", "gap", "train_accuracy",
    "test_accuracy", "nc1", "nc2", "nc3",
)  # fmt: skip


def training_curves(folder: str | Path) -> pd.DataFrame:
    """Return every measurement that the finished runs logged, sorted by depth, seed and step.

    They come from the runs' `log_history.json`, or where the runs' folders are not there, from the
    `training_curves.csv` that a report left in the sweep's.

    Args:
        folder: the sweep's folder.

    Returns:
        A table with the columns of `COLUMNS`; empty where nothing was logged.

    Raises:
        ValueError: if a file is damaged; the message names it.
    """
    folder = Path(folder)
    kept = folder / "training_curves.csv"
    rows = []
    for path in sorted(folder.glob("depth-*/seed-*/log_history.json")):
        metrics = path.with_name("metrics.json")
        if not metrics.is_file():
            continue
        run = read_json(metrics)
        rows += [
            {**entry, "depth": run["depth"], "seed": run["seed"]}
            for entry in read_json(path).get("log_history", [])
            if "objective" in entry
        ]
    if not rows and kept.is_file():
        return read_table(kept, COLUMNS)
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["depth", "seed", "step"], ignore_index=True)
