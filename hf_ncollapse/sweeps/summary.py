"""What a sweep's table says: slopes in depth with their confidence, and the theory's predictions held against it."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

SLOPES_OF = ("nc1", "nc2", "nc3", "gap", "regularization", "regularization_body")
# J is summed in float64 from float32 logits and weights: a gap above minus this is not negative.
ROUNDING = 1e-6
_NAMES = {"nc1": "NC1", "nc2": "NC2", "nc3": "NC3", "gap": "gap", "regularization_body": "the body's penalty"}


@dataclass(frozen=True)
class Slope:
    """The exponent p of quantity ∝ L^p, by least squares on the logarithms, seed by seed.

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


@dataclass(frozen=True)
class Verdict:
    """One prediction, whether the sweep bears it out, and the numbers that say so.

    Args:
        name: key of the prediction.
        prediction: what the theory says, in one sentence.
        source: where it says so.
        holds: None where the sweep cannot tell.
        evidence: measured numbers, or what is missing.
    """

    name: str
    prediction: str
    source: str
    holds: bool | None
    evidence: str


def summarize(results: pd.DataFrame) -> dict[str, object]:
    """Summarise a results table.

    Args:
        results: rows with the columns of `COLUMNS`, one a finished run; at least one.

    Returns:
        JSON types: what the sweep is, `slopes` ([`Slope`] by quantity), `by_depth` (mean and standard deviation over
        the seeds of every quantity), and `verdicts` (a list of [`Verdict`]).

    Raises:
        ValueError: if the table has no row.
    """
    if results.empty:
        raise ValueError("results has no row; a summary needs one finished run")
    first = results.iloc[0]
    return {
        **{name: str(first[name]) for name in ("sweep", "architecture", "norm_placement", "dataset", "loss")},
        "l2_in_depth": l2_in_depth(results),
        "depths": sorted(int(depth) for depth in results["depth"].unique()),
        "seeds": sorted(int(seed) for seed in results["seed"].unique()),
        "runs": len(results),
        "slopes": {name: asdict(slope_in_depth(results, name)) for name in SLOPES_OF},
        "by_depth": _by_depth(results),
        "verdicts": [asdict(verdict) for verdict in verdicts(results)],
    }


def slope_in_depth(results: pd.DataFrame, quantity: str) -> Slope:
    """Fit log(quantity) = p · log(L) + c for each seed."""
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
    if len(slopes) == 1:
        return Slope(float(slopes[0]), None, per_seed, "one seed gives no confidence interval")
    half = student_t_quantile(len(slopes) - 1) * slopes.std(ddof=1) / math.sqrt(len(slopes))
    mean = slopes.mean()
    return Slope(float(mean), (float(mean - half), float(mean + half)), per_seed)


def student_t_quantile(degrees_of_freedom: int, confidence: float = 0.95) -> float:
    """The t with P(|T| ≤ t) = confidence; with T = √ν tan φ, φ has the density cos^(ν−1) φ on ±π/2."""
    angle = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(angle) ** (degrees_of_freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees_of_freedom) * math.tan(np.interp(confidence, mass / mass[-1], angle))


def l2_in_depth(results: pd.DataFrame) -> str:
    """How the resolved λ goes with depth: "constant", "inverse" (λ/L) or "other"; one depth alone is "constant"."""
    values = results["l2_coefficient"].astype(float)
    if np.allclose(values, values.iloc[0], rtol=1e-6):
        return "constant"
    products = values * results["depth"]
    return "inverse" if np.allclose(products, products.iloc[0], rtol=1e-6) else "other"


def verdicts(results: pd.DataFrame) -> list[Verdict]:
    """Hold the table against what the theory says of this architecture and this λ."""
    found = [_gap_is_not_negative(results), _gap_does_not_rise(results)]
    one_linear_layer = str(results["architecture"].iloc[0]).endswith("1")
    in_depth = l2_in_depth(results)
    if results["depth"].nunique() == 1 or in_depth == "other":
        return found
    if in_depth == "inverse":
        return [*found, _gap_falls(results), _collapse_improves(results, "Theorem 4.6")]
    if one_linear_layer:
        return [*found, _body_penalty_falls(results), _collapse_improves(results, "Theorem 4.3")]
    return [*found, _body_penalty_has_a_floor(results)]


def _gap_is_not_negative(results: pd.DataFrame) -> Verdict:
    prediction = "No network's objective lies below the global optimum: gap = J − J* ≥ 0 in every run."
    gaps = results.dropna(subset="gap")
    if gaps.empty:
        return Verdict("gap_not_negative", prediction, "Lemma 4.2", None, _NO_OPTIMUM)
    least = gaps.loc[gaps["gap"].idxmin()]
    evidence = f"smallest gap of {_count(len(gaps), 'run')}: {_number(least['gap'])} ({_run(least)})"
    return Verdict("gap_not_negative", prediction, "Lemma 4.2", bool(least["gap"] >= -ROUNDING), evidence)


_NO_OPTIMUM = "these runs have no J*, so no gap"


def _gap_does_not_rise(results: pd.DataFrame) -> Verdict:
    name, prediction = "gap_does_not_rise", "For each seed, the gap does not rise from one depth to the next."
    source = "Theorem 4.6" if l2_in_depth(results) == "inverse" else "a block of zeros is the identity, at no cost"
    if results["gap"].isna().all():
        return Verdict(name, prediction, source, None, _NO_OPTIMUM)
    pairs = [
        (shallow, deep)
        for _, rows in results.dropna(subset="gap").sort_values("depth").groupby("seed")
        for shallow, deep in zip(rows.iloc[:-1].itertuples(), rows.iloc[1:].itertuples(), strict=True)
    ]
    if not pairs:
        return Verdict(name, prediction, source, None, "one depth only")
    rises = [(shallow, deep) for shallow, deep in pairs if deep.gap > shallow.gap + ROUNDING]
    if not rises:
        evidence = f"it fell or stayed in all {_count(len(pairs), 'step')} in depth"
        return Verdict(name, prediction, source, True, evidence)
    shallow, deep = max(rises, key=lambda pair: pair[1].gap - pair[0].gap)
    evidence = (
        f"it rose in {len(rises)} of {_count(len(pairs), 'step')} in depth; most for seed {deep.seed}, "
        f"from {_number(shallow.gap)} at L = {shallow.depth} to {_number(deep.gap)} at L = {deep.depth}"
    )
    return Verdict(name, prediction, source, False, evidence)


def _body_penalty_falls(results: pd.DataFrame) -> Verdict:
    return _falls(
        results,
        "body_penalty_falls",
        "One linear layer a branch: the body's penalty falls with depth, like 1/L at the optimum.",
        "Theorem 4.3",
        ("regularization_body",),
    )


def _collapse_improves(results: pd.DataFrame, source: str) -> Verdict:
    prediction = "The deepest network is more collapsed than the shallowest, in NC1, NC2 and NC3."
    return _falls(results, "collapse_improves", prediction, source, ("nc1", "nc2", "nc3"))


def _gap_falls(results: pd.DataFrame) -> Verdict:
    prediction = "With λ falling like 1/L, the gap falls with depth."
    if results["gap"].isna().all():
        return Verdict("gap_falls", prediction, "Theorem 4.6", None, _NO_OPTIMUM)
    verdict = _falls(results, "gap_falls", prediction, "Theorem 4.6", ("gap",))
    relative = results.assign(relative=results["gap"] / results["gufm_optimum"]).groupby("depth")["relative"].mean()
    # J* falls with λ as well, so the gap alone would flatter.
    extra = f"; relative to J*, {_number(relative.iloc[0])} to {_number(relative.iloc[-1])}"
    return Verdict(verdict.name, prediction, verdict.source, verdict.holds, verdict.evidence + extra)


def _body_penalty_has_a_floor(results: pd.DataFrame) -> Verdict:
    penalties = results.pivot(index="depth", columns="seed", values="regularization_body")
    lowest = (penalties / penalties.iloc[0]).min().min()
    means = penalties.mean(axis=1)
    return Verdict(
        "body_penalty_has_a_floor",
        "Two linear layers a branch and constant λ: the body's penalty does not fall below half of its value at the "
        "shallowest depth, so depth alone does not lead to the optimum.",
        "Theorem 4.6, which asks for λ = o(1/log L)",
        bool(lowest >= 0.5),
        f"{_from_to('regularization_body', means)}; its lowest share of the shallowest value is {lowest:.2f}",
    )


def _falls(results: pd.DataFrame, name: str, prediction: str, source: str, quantities: tuple[str, ...]) -> Verdict:
    """Every seed's value at its deepest is below that at its shallowest."""
    evidence, holds = [], []
    for quantity in quantities:
        values = results.pivot(index="depth", columns="seed", values=quantity)
        seeds = [column.dropna() for _, column in values.items()]
        falls = [bool(seed.iloc[-1] < seed.iloc[0]) for seed in seeds if len(seed) > 1]
        holds += falls
        share = f"lower in {sum(falls)} of {_count(len(falls), 'seed')}"
        evidence.append(f"{_from_to(quantity, values.mean(axis=1))}, {share}")
    return Verdict(name, prediction, source, all(holds) if holds else None, "; ".join(evidence))


def _from_to(quantity: str, by_depth: pd.Series) -> str:
    first, last = by_depth.iloc[0], by_depth.iloc[-1]
    verb = "falls" if last < first else "rises"
    return (
        f"{_NAMES[quantity]} {verb} from {_number(first)} at L = {by_depth.index[0]} "
        f"to {_number(last)} at L = {by_depth.index[-1]}"
    )


def _by_depth(results: pd.DataFrame) -> list[dict[str, object]]:
    quantities = [
        name
        for name in results.select_dtypes("number").columns
        if name not in ("depth", "seed") and results[name].notna().any()
    ]
    rows = []
    for depth, group in results.groupby("depth"):
        row = {"depth": int(depth), "seeds": int(group["seed"].nunique())}
        for name in quantities:
            mean, deviation = group[name].mean(), group[name].std(ddof=1)
            row[name] = None if math.isnan(mean) else float(mean)
            row[f"{name}_std"] = None if math.isnan(deviation) else float(deviation)
        rows.append(row)
    return rows


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.2e}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _run(row: pd.Series) -> str:
    return f"L = {row['depth']}, seed {row['seed']}"
