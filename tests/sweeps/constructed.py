"""Results tables whose truth is known, made without training."""

from collections.abc import Sequence

import pandas as pd

from hf_ncollapse.quantities import GAP_PARTS
from hf_ncollapse.sweeps.results import COLUMNS, results_table

DEPTHS = (2, 4, 8, 16)
_OPTIMUM = 0.0227593675


def table(
    architecture: str = "L-RN1",
    depths: Sequence[int] = DEPTHS,
    seeds: Sequence[int] = (0, 1, 2),
    slope: float = -1.0,
    **columns,
) -> pd.DataFrame:
    """Converged networks in which every quantity is 0.1 · B^slope, and columns given as f(depth, seed) or a value.

    The gap is the sum of its four parts, a quarter each, and the objective the optimum plus the gap.
    """
    rows = []
    for depth in depths:
        for seed in seeds:
            value = 0.1 * float(depth) ** slope
            row = dict.fromkeys(COLUMNS, value) | dict.fromkeys(GAP_PARTS, value / 4)
            row |= {"sweep": "s", "architecture": architecture, "norm_placement": "post", "norm_scale": "sqrt"}
            row |= {"dataset": "digits", "loss": "cross_entropy", "classifier_bias": False, "depth": depth}
            row |= {"initialization": "continuation", "seed": seed, "status": "finished", "steps": 10, "seconds": 1.5}
            row |= {"l2_coefficient": 0.005, "classifier_l2_coefficient": 0.005, "l2_depth_scaling": "constant"}
            row |= {"train_accuracy": 1.0, "test_accuracy": 0.7, "gufm_optimum": _OPTIMUM}
            row |= {"objective": _OPTIMUM + value, "nc1_bound": 1.1 * value, "nc3_bound": 2.0 * value}
            row |= {
                "start_gap": 1.5 * value,
                "relative_gradient": 0.01,
                "regularization": _OPTIMUM * float(depth) ** slope,
            }
            row |= {name: value(depth, seed) if callable(value) else value for name, value in columns.items()}
            if row["status"] == "diverged":
                kept = ("status", "steps", "depth", "seed", "l2_coefficient", "classifier_l2_coefficient")
                row = {name: cell for name, cell in row.items() if isinstance(cell, (str, bool)) or name in kept}
            rows.append(row)
    return results_table(rows)
