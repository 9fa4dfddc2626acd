"""The theory's predictions held against a sweep's table: each holds, does not hold, or the sweep cannot tell.

A prediction about depth is judged on the seeds that have every depth of the sweep, and only where their networks solve
the problem that the theory speaks of: they fit their training samples and stand near a stationary point of J. Its
theorems are about networks that are deep enough, so shallow ones that do not fit are left out, and named, where three
depths or more remain. From one depth to the next a quantity *fell* if log(q_deep/q_shallow), by its mean over the
seeds, is below 0 by more than its standard deviation over the seeds and by more than 1%; of one seed, whose spread is
not known, by more than 10%. It *rose* the other way round, and else the step is unclear. A prediction that it falls
holds if it fell at every step, and does not hold if it rose at one.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from ..quantities import COLLAPSE, title
from .results import finished_runs

Answer = Literal["holds", "does not hold", "cannot tell"]
# Answer, evidence and steps of a [`Verdict`].
Judgement = tuple[Answer, str, dict[str, dict[str, int]]]

# J is summed in float64 from float32 logits and weights: smaller differences are none. What is measured like J:
ROUNDING = 1e-6
_LIKE_THE_OBJECTIVE = ("objective", "gap", "regularization", "regularization_body")
# A bound of collapse divides the gap's rounding by a small number.
_BOUND_ROUNDING = 1e-3
LEAST_ACCURACY = 0.999
# ‖∇J‖/‖∇penalty‖ is 0 at a stationary point and about 1 where the fit does not answer the penalty.
LARGEST_RELATIVE_GRADIENT = 0.5
# A network whose gap is this much above that of the split it started from was made worse by training.
_WORSE_THAN_ITS_START = 0.01
# Fewer, and there would be one step in depth.
_LEAST_DEPTHS = 3
_LEAST_STEP, _LEAST_STEP_OF_ONE_SEED = math.log(1.01), math.log(1.1)
# A penalty that was never large has no room to fall: its prediction is left out below this share of the gap.
_TINY_SHARE = 0.05
# Flat: log10 NC1 falls by less than this, as in the paper's Figure 2.
_FLAT_DECADES = 0.15


@dataclass(frozen=True)
class Verdict:
    """One prediction, what the sweep says of it, and the numbers that say so.

    Args:
        name: key of the prediction.
        prediction: what the theory says, in one sentence.
        source: where it says so.
        answer: "holds", "does not hold" or "cannot tell".
        evidence: measured numbers, or why they cannot tell.
        steps: for each quantity, at how many steps in depth it "fell", "rose" and was "unclear"; empty where a
            prediction is not about steps or cannot be judged.
    """

    name: str
    prediction: str
    source: str
    answer: Answer
    evidence: str
    steps: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prediction:
    """One prediction about depth; `judge` gets the rows that count and returns the rest of a verdict."""

    name: str
    prediction: str
    source: str
    judge: Callable[[pd.DataFrame], Judgement]


def verdicts(results: pd.DataFrame) -> list[Verdict]:
    """Hold a results table against what the theory says of this architecture, this λ and its scaling with depth.

    Args:
        results: rows with the columns of `COLUMNS`, at least one of a finished run.
    """
    finished = finished_runs(results)
    found = [_gap_is_not_negative(finished), *_collapse_is_within_its_bounds(finished)]
    complete = of_complete_seeds(results)
    counted = _deep_enough_to_fit(complete)
    reason = _why_depth_cannot_be_judged(results, counted)
    for prediction in _predictions_about_depth(finished, counted):
        answer, evidence, steps = ("cannot tell", reason, {}) if reason else prediction.judge(counted)
        if not reason:
            evidence += _seeds_in_words(results, counted) + _left_out_in_words(complete, counted)
        found.append(Verdict(prediction.name, prediction.prediction, prediction.source, answer, evidence, steps))
    return found


def of_complete_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """The finished rows of the seeds that have every depth of the table."""
    finished = finished_runs(results)
    depths = finished.groupby("seed")["depth"].nunique()
    complete = depths.index[depths == results["depth"].nunique()]
    return finished[finished["seed"].isin(complete)].sort_values(["depth", "seed"], ignore_index=True)


def _deep_enough_to_fit(complete: pd.DataFrame) -> pd.DataFrame:
    """The rows from the depth on from which every network fits its samples; all where too few depths would remain."""
    unfit = complete.loc[complete["train_accuracy"] < LEAST_ACCURACY, "depth"]
    deeper = complete if unfit.empty else complete[complete["depth"] > unfit.max()]
    return deeper if deeper["depth"].nunique() >= _LEAST_DEPTHS else complete


def _gap_is_not_negative(finished: pd.DataFrame) -> Verdict:
    prediction = "No network's objective lies below the global optimum: gap = J − J* ≥ 0 in every run."
    gaps = finished.dropna(subset="gap")
    if gaps.empty:
        return Verdict("gap_not_negative", prediction, "Lemma 4.2", "cannot tell", "these runs have no J*, so no gap")
    least = gaps.loc[gaps["gap"].idxmin()]
    answer: Answer = "holds" if least["gap"] >= -ROUNDING else "does not hold"
    evidence = f"smallest gap of {_count(len(gaps), 'run')}: {_number(least['gap'])} ({_run(least)})"
    return Verdict("gap_not_negative", prediction, "Lemma 4.2", answer, evidence)


def _collapse_is_within_its_bounds(finished: pd.DataFrame) -> list[Verdict]:
    evidence, holds = [], []
    for quantity in ("nc1", "nc3"):
        known = finished.dropna(subset=f"{quantity}_bound")
        if known.empty:
            continue
        shares = known[quantity] / known[f"{quantity}_bound"]
        holds.append(bool((known[quantity] <= known[f"{quantity}_bound"] * (1 + _BOUND_ROUNDING) + ROUNDING).all()))
        worst = known.loc[shares.idxmax()]
        evidence.append(
            f"{title(quantity)} is at most {shares.max():.2f} of its bound, which {_count(len(known), 'run')} "
            f"of {len(finished)} could prove ({_run(worst)})"
        )
    if not evidence:
        return []
    prediction = "Collapse is at least what the gap certifies: NC1 and NC3 are not above their bounds."
    answer: Answer = "holds" if all(holds) else "does not hold"
    return [Verdict("collapse_within_bounds", prediction, "the exact split of the gap", answer, "; ".join(evidence))]


def _why_depth_cannot_be_judged(results: pd.DataFrame, counted: pd.DataFrame) -> str | None:
    """The first reason for which no prediction about depth can be judged, with its numbers; None if there is none."""
    depths = results["depth"].nunique()
    if depths == 1:
        return "the sweep has one depth"
    if counted.empty:
        return f"no seed has a finished network at all {depths} depths"
    unfit = counted[counted["train_accuracy"] < LEAST_ACCURACY]
    if len(unfit):
        worst = unfit.loc[unfit["train_accuracy"].idxmin()]
        return (
            f"{len(unfit)} of {_count(len(counted), 'network')} fit less than {LEAST_ACCURACY} of their training "
            f"samples, the least {worst['train_accuracy']:.4f} ({_run(worst)})"
        )
    moving = counted[counted["relative_gradient"] > LARGEST_RELATIVE_GRADIENT]
    if len(moving):
        worst = moving.loc[moving["relative_gradient"].idxmax()]
        return (
            f"{len(moving)} of {_count(len(counted), 'network')} are not converged: ‖∇J‖ is up to "
            f"{worst['relative_gradient']:.2f} of the penalty's gradient ({_run(worst)}), more than "
            f"{LARGEST_RELATIVE_GRADIENT}"
        )
    worse = counted[counted["gap"] > counted["start_gap"] * (1 + _WORSE_THAN_ITS_START) + ROUNDING]
    if len(worse):
        worst = worse.loc[(worse["gap"] / worse["start_gap"]).idxmax()]
        return (
            f"training made {len(worse)} of {_count(len(counted), 'network')} worse than the split that it started "
            f"from, most from a gap of {_number(worst['start_gap'])} to {_number(worst['gap'])} ({_run(worst)})"
        )
    return None


def _predictions_about_depth(finished: pd.DataFrame, counted: pd.DataFrame) -> list[_Prediction]:
    first = finished.iloc[0]
    one_linear_layer = str(first["architecture"]).endswith("1")
    scaling = first["l2_depth_scaling"]
    if not one_linear_layer and scaling != "inverse":
        return [_stays(scaling)]
    if one_linear_layer and scaling == "inverse_all":
        return []  # The paper's argument is about two layers, its theorem about a constant λ_L.
    setting, source = "Two linear layers a block and λ/B", "Theorem 4.6"
    if one_linear_layer:
        # A smaller λ of the blocks only helps.
        setting, source = "One linear layer a block", "Theorem 4.3"
    predictions = [
        _falls("gap_falls", f"{setting}: the gap falls with depth.", source, ("gap",)),
        _falls("collapse_improves", f"{setting}: NC1, NC2 and NC3 fall with depth.", source, COLLAPSE),
    ]
    shallowest = counted[counted["depth"] == counted["depth"].min()]
    has_room = not shallowest["regularization_body"].mean() < _TINY_SHARE * shallowest["gap"].mean()
    if one_linear_layer and scaling == "constant" and has_room:
        # It vanishes as depth grows, but may rise first, where more depth lets the network fit better.
        text = f"{setting}: the blocks' total penalty is lower in the deepest network than in the shallowest."
        predictions.append(_falls("body_penalty_falls", text, source, ("regularization_body",), ends_only=True))
    return predictions


def _falls(
    name: str, prediction: str, source: str, quantities: tuple[str, ...], *, ends_only: bool = False
) -> _Prediction:
    """Each of the quantities falls at every step in depth, or from the shallowest to the deepest in one."""

    def judge(counted: pd.DataFrame) -> Judgement:
        if counted[list(quantities)].isna().any(axis=None):
            return "cannot tell", "these runs have no J*, so no gap", {}
        outcomes, evidence = {}, []
        if ends_only:
            counted = counted[counted["depth"].isin([counted["depth"].min(), counted["depth"].max()])]
        for quantity in quantities:
            steps = _steps(counted, quantity)
            outcomes[quantity] = dict.fromkeys(("fell", "rose", "unclear"), 0)
            for _, _, outcome, _ in steps:
                outcomes[quantity][outcome] += 1
            evidence.append(_in_words(counted, quantity, steps))
        answer: Answer
        if all(counts["fell"] == sum(counts.values()) for counts in outcomes.values()):
            answer = "holds"
        else:
            answer = "does not hold" if any(counts["rose"] for counts in outcomes.values()) else "cannot tell"
        return answer, "; ".join(evidence), outcomes

    return _Prediction(name, prediction, source, judge)


def _stays(scaling: str) -> _Prediction:
    """Two linear layers without λ = o(1/log L) in the blocks alone: depth does not lead to collapse."""
    setting = "and constant λ" if scaling == "constant" else "with λ and λ_L falling together"

    def judge(counted: pd.DataFrame) -> Judgement:
        collapse = np.log10(counted.pivot(index="depth", columns="seed", values="nc1"))
        moved = collapse.iloc[-1] - collapse.iloc[0]
        answer: Answer
        if (moved > -_FLAT_DECADES).all():
            answer = "holds"
        else:
            answer = "does not hold" if moved.mean() <= -_FLAT_DECADES else "cannot tell"
        body = counted.groupby("depth")["regularization_body"].mean()
        first, last = collapse.index[0], collapse.index[-1]
        evidence = (
            f"from B = {first} to B = {last} log10 NC1 moves by {moved.mean():+.2f}, between {moved.min():+.2f} and "
            f"{moved.max():+.2f}, and the body from {_number(body.iloc[0])} to {_number(body.iloc[-1])}"
        )
        return answer, evidence.replace("+0.00", "0.00").replace("-", "−"), {}

    return _Prediction(
        "collapse_stays",
        f"Two linear layers a block {setting}: depth alone does not lead to collapse. log10 NC1 falls by less than "
        f"{_FLAT_DECADES} from the shallowest network to the deepest.",
        "Appendix C; Theorem 4.6 asks for λ(L) = o(1/log L) in the blocks alone",
        judge,
    )


def _steps(counted: pd.DataFrame, quantity: str) -> list[tuple[int, int, str, float]]:
    """Shallow depth, deep depth, "fell", "rose" or "unclear", and the mean of log(q_deep/q_shallow) of every step."""
    values = counted.pivot(index="depth", columns="seed", values=quantity).astype(float)
    rounding = ROUNDING if quantity in _LIKE_THE_OBJECTIVE else 0.0
    least = _LEAST_STEP if values.shape[1] > 1 else _LEAST_STEP_OF_ONE_SEED
    steps = []
    for shallow, deep in itertools.pairwise(values.index):
        before, after = (values.loc[depth].clip(lower=max(rounding, 1e-12)) for depth in (shallow, deep))
        ratios = np.log(after / before).where((after - before).abs() > rounding, 0.0)
        mean, deviation = ratios.mean(), ratios.std(ddof=1) if len(ratios) > 1 else 0.0
        is_clear = abs(mean) > max(deviation, least)
        outcome = ("fell" if mean < 0 else "rose") if is_clear else "unclear"
        steps.append((int(shallow), int(deep), outcome, float(mean)))
    return steps


def _in_words(counted: pd.DataFrame, quantity: str, steps: list[tuple[int, int, str, float]]) -> str:
    means = counted.groupby("depth")[quantity].mean()
    fell = sum(outcome == "fell" for _, _, outcome, _ in steps)
    parts = [f"fell at {fell} of {_count(len(steps), 'step')}"]
    for outcome, verb in (("rose", "rose"), ("unclear", "unclear")):
        where = [
            f"{shallow} to {deep} ({math.expm1(mean):+.0%})".replace("-", "−")
            for shallow, deep, found, mean in steps
            if found == outcome
        ]
        if where:
            parts.append(f"{verb} from B = {' and '.join(where)}")
    return (
        f"{title(quantity)} {', '.join(parts)}: {_number(means.iloc[0])} at B = {means.index[0]}, "
        f"{_number(means.iloc[-1])} at B = {means.index[-1]}"
    )


def _seeds_in_words(results: pd.DataFrame, counted: pd.DataFrame) -> str:
    """How many seeds counted, and how many did not."""
    seeds, all_seeds = counted["seed"].nunique(), results["seed"].nunique()
    said = f" ({_count(seeds, 'seed')}"
    if seeds < all_seeds:
        said += f"; {all_seeds - seeds} left out, without a finished network at every depth"
    return said + ")"


def _left_out_in_words(complete: pd.DataFrame, counted: pd.DataFrame) -> str:
    """Which depths are too shallow to fit, and what they fit."""
    shallow = complete[~complete["depth"].isin(counted["depth"])]
    if shallow.empty:
        return ""
    *others, last = (str(depth) for depth in sorted(shallow["depth"].unique()))
    depths = f"{', '.join(others)} and {last}" if others else last
    return (
        f"; B = {depths} left out, whose networks fit {shallow['train_accuracy'].min():.4f} of their samples or more"
    )


def _number(value: float) -> str:
    return (f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.2e}").replace("-", "−")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _run(row: pd.Series) -> str:
    return f"B = {row['depth']}, seed {row['seed']}"
