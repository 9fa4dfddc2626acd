"""What a sweep's table says: slopes in depth with their confidence, means by depth, and the theory's predictions."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..theory import expected_slopes
from .results import SETTINGS, diverged_runs, finished_runs
from .verdicts import of_complete_seeds, verdicts

LOSSES = {"cross_entropy": "cross-entropy", "mse": "mean squared error"}
SLOPES_OF = ("gap", "nc1", "nc2", "nc3", "regularization_body", "regularization")
# Its slopes say whether a rate is reached at the deepest networks, where the fit has stopped moving.
_DEEPEST_STEPS = 2
# Numbers of linear layers in a block's branches, and how λ goes with depth, for which B times the blocks' penalty of a
# path that is refined stays.
_REFINED_PENALTY_FALLS = (({"1"}, "constant"), ({"2"}, "inverse"))


@dataclass(frozen=True)
class Slope:
    """The exponent p of quantity ∝ B^p, by least squares on the logarithms, seed by seed.

    Args:
        slope: mean over the seeds; None where no seed has two depths with positive values.
        confidence_interval: 95% interval of the mean, by Student's t over the seeds' slopes; None for one seed.
        per_seed: the seeds' own slopes.
        note: why a number is absent; None where none is.
    """

    slope: float | None
    confidence_interval: tuple[float, float] | None
    per_seed: dict[int, float]
    note: str | None = None


def summarize(results: pd.DataFrame) -> dict[str, Any]:
    """Summarise a results table.

    Args:
        results: rows with the columns of `COLUMNS`, at least one of a finished run.

    Returns:
        JSON types: the sweep's settings, how many runs finished and which diverged, `slopes` ([`Slope`] by quantity)
        over all depths, `deepest_slopes` over the last steps in depth alone, where there are more, `expected_slopes`
        of the theory, `refinement_slope` ([`refinement_slope`] over the last steps), `by_depth` (mean and standard
        deviation over the seeds of every quantity, and of the gap times the depth, which is constant where the gap
        falls like 1/B), `verdicts` (a list of [`Verdict`]), and `held_out`, a sentence on the held-out accuracy, or
        None.

    Raises:
        ValueError: if the table has no row of a finished run.
    """
    finished = finished_runs(results)
    if finished.empty:
        raise ValueError("results has no row of a finished run; a summary needs one")
    depths = sorted(int(depth) for depth in finished["depth"].unique())
    deepest = finished[finished["depth"].isin(depths[-_DEEPEST_STEPS - 1 :])]
    has_more = len(depths) > _DEEPEST_STEPS + 1
    return {
        **{name: _plain(finished[name].iloc[0]) for name in SETTINGS},
        "depths": depths,
        "seeds": sorted(int(seed) for seed in finished["seed"].unique()),
        "runs": len(finished),
        "diverged": diverged_runs(results)[["depth", "seed", "steps"]].astype(int).to_dict("records"),
        "slopes": {name: asdict(slope_in_depth(finished, name)) for name in SLOPES_OF},
        "deepest_slopes": {name: asdict(slope_in_depth(deepest, name)) for name in SLOPES_OF} if has_more else None,
        "expected_slopes": {**expected_slopes(), "regularization_body": expected_slopes()["gap"]},
        "refinement_slope": refinement_slope(deepest),
        "by_depth": _by_depth(finished),
        "verdicts": [asdict(verdict) for verdict in verdicts(results)],
        "held_out": held_out_accuracy(results),
    }


def slope_in_depth(results: pd.DataFrame, quantity: str) -> Slope:
    """Fit log(quantity) = p · log(B) + c for each seed."""
    values = results[["depth", "seed", quantity]].dropna()
    if values.empty:
        return Slope(None, None, {}, f"there is no {quantity}")
    if (values[quantity] <= 0).any():
        return Slope(None, None, {}, f"{quantity} is not positive everywhere, and has no logarithm")
    per_seed = {
        int(seed): float(np.polyfit(np.log(rows["depth"]), np.log(rows[quantity]), 1)[0])
        for seed, rows in values.groupby("seed")
        if rows["depth"].nunique() > 1
    }
    if not per_seed:
        return Slope(None, None, {}, "a slope needs two depths of one seed")
    slopes = np.array(list(per_seed.values()))
    note = "one seed gives no confidence interval" if len(slopes) == 1 else None
    return Slope(float(slopes.mean()), mean_interval(slopes), per_seed, note)


def refinement_slope(results: pd.DataFrame) -> float | None:
    """The slope that the gap has over these depths if every network is an optimum that refines one path of features.

    Splitting its blocks keeps a path and divides its blocks' penalty by the factor, where they have one linear layer a
    block and a constant λ, or two and a λ that falls with depth. What else changes from one optimum to the next is of
    second order (envelope theorem), so d log gap/d log B is minus the share of the blocks' penalty in the gap, here
    its mean over log B and over the seeds. docs/theory.md has the derivation.

    Args:
        results: finished runs.

    Returns:
        From −1 to 0; None without a gap, of one depth, and for other architectures and λ.
    """
    layers, scaling = set(results["architecture"].iloc[0][-2:]) & {"1", "2"}, results["l2_depth_scaling"].iloc[0]
    shares = (results["regularization_body"] / results["gap"]).where(results["gap"] > 0)
    by_depth = shares.groupby(results["depth"]).mean()
    if (layers, scaling) not in _REFINED_PENALTY_FALLS or len(by_depth) < 2 or by_depth.isna().any():
        return None
    logs = np.log(by_depth.index.to_numpy(dtype=float))
    return float(-np.trapezoid(by_depth, logs) / (logs[-1] - logs[0]))


def refinement_in_words(summary: Mapping[str, Any]) -> str | None:
    """Say what slope the gap's parts allow at the deepest networks, and which was measured; None where not known."""
    allowed = summary["refinement_slope"]
    measured = (summary["deepest_slopes"] or summary["slopes"])["gap"]["slope"]
    if allowed is None or measured is None:
        return None
    return (
        f"Over the deepest steps the blocks' penalty is {-allowed:.2f} of the gap. Optima that refine one path of "
        f"features have a gap of slope −{-allowed:.2f} there, and −1 only where nothing but that penalty is left; "
        f"measured is {measured:.2f}.".replace("-", "−")
    )


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """The 95% interval of a mean, by Student's t; None for one value."""
    if len(values) < 2:
        return None
    half = student_t_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def student_t_quantile(degrees_of_freedom: int, confidence: float = 0.95) -> float:
    """The t with P(|T| ≤ t) = confidence; with T = √ν tan φ, φ has the density cos^(ν−1) φ on ±π/2."""
    angle = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(angle) ** (degrees_of_freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees_of_freedom) * math.tan(np.interp(confidence, mass / mass[-1], angle))


def held_out_accuracy(results: pd.DataFrame) -> str | None:
    """Say how the held-out accuracy of the seeds that have every depth goes with depth; None where there is none."""
    means = of_complete_seeds(results).dropna(subset="test_accuracy").groupby("depth")["test_accuracy"].mean()
    if len(means) < 2:
        return None
    first, last = round(means.iloc[0], 3), round(means.iloc[-1], 3)
    seeds = of_complete_seeds(results)["seed"].nunique()
    count = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    if first == last:
        return f"held-out accuracy is {first:.3f} at B = {means.index[0]} and at B = {means.index[-1]} ({count})"
    verb = "falls" if last < first else "rises"
    return (
        f"held-out accuracy {verb} from {first:.3f} at B = {means.index[0]} to {last:.3f} at "
        f"B = {means.index[-1]} ({count})"
    )


def has_complete_optimum(results: pd.DataFrame) -> bool:
    """Whether complete collapse, NC1 = NC2 = NC3 = 0, is known to be the optimum: the classes are balanced.

    A run has a certified bound of NC1 only there.
    """
    return bool(results["nc1_bound"].notna().any())


def l2_in_words(settings: Mapping[str, Any]) -> str:
    """Say which λ the blocks and the classifier have, and how these go with depth.

    Args:
        settings: a row of the results table, or a summary.
    """
    scaling = settings["l2_depth_scaling"]
    blocks, classifier = (f"{settings[name]:g}" for name in ("l2_coefficient", "classifier_l2_coefficient"))
    return {
        "constant": f"λ = {blocks} in the blocks and λ_L = {classifier} in the classifier, at every depth",
        "inverse": f"λ = {blocks}/B in the B blocks and λ_L = {classifier} in the classifier at every depth",
        "inverse_all": f"λ = {blocks}/B in the B blocks and λ_L = {classifier}/B in the classifier",
    }[scaling]


def _by_depth(finished: pd.DataFrame) -> list[dict[str, float | None]]:
    finished = finished.assign(gap_times_depth=finished["gap"] * finished["depth"])
    quantities = [
        name
        for name in finished.select_dtypes("number").columns
        if name not in ("depth", "seed") and finished[name].notna().any()
    ]
    rows = []
    for depth, group in finished.groupby("depth"):
        row: dict[str, float | None] = {"depth": int(depth), "seeds": int(group["seed"].nunique())}
        for name in quantities:
            mean, deviation = group[name].mean(), group[name].std(ddof=1)
            row[name] = None if math.isnan(mean) else float(mean)
            row[f"{name}_std"] = None if math.isnan(deviation) else float(deviation)
        rows.append(row)
    return rows


def _plain(value: object) -> object:
    """A cell as JSON has it."""
    return value.item() if isinstance(value, np.generic) else value
