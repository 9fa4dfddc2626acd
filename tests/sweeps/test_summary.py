"""What a summary concludes from a table whose truth is known."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from constructed import DEPTHS, table
from scipy import stats

from hf_ncollapse.sweeps.results import results_table
from hf_ncollapse.sweeps.summary import (
    SLOPES_OF,
    has_complete_optimum,
    l2_in_words,
    refinement_in_words,
    refinement_slope,
    slope_in_depth,
    student_t_quantile,
    summarize,
)


@pytest.mark.parametrize("quantity", SLOPES_OF)
def test_an_exact_power_law_has_its_exponent_and_an_interval_of_no_width(quantity):
    slope = slope_in_depth(table(slope=-0.91), quantity)
    assert slope.slope == pytest.approx(-0.91, abs=1e-12)
    assert slope.confidence_interval == pytest.approx((-0.91, -0.91), abs=1e-9)
    assert set(slope.per_seed) == {0, 1, 2}


def test_the_interval_is_student_ts_over_the_slopes_of_the_seeds():
    noise = np.random.default_rng(0).normal(scale=0.2, size=(17, 5))
    results = table(seeds=range(5), nc1=lambda depth, seed: math.exp(noise[depth, seed]) / depth)
    slope = slope_in_depth(results, "nc1")
    expected = [
        stats.linregress(np.log(rows["depth"]), np.log(rows["nc1"])).slope for _, rows in results.groupby("seed")
    ]
    assert list(slope.per_seed.values()) == pytest.approx(expected, rel=1e-9)
    interval = stats.t.interval(0.95, 4, loc=np.mean(expected), scale=stats.sem(expected))
    assert slope.confidence_interval == pytest.approx(interval, rel=1e-6)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 99])
def test_the_t_quantile_is_that_of_the_distribution(degrees):
    assert student_t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


def test_one_seed_has_a_slope_and_says_that_it_has_no_interval():
    slope = slope_in_depth(table(seeds=(3,)), "nc2")
    assert slope.slope == pytest.approx(-1)
    assert slope.confidence_interval is None
    assert "one seed" in slope.note


def test_one_depth_has_no_slope_and_without_an_optimum_the_gap_has_none():
    slopes = summarize(table(depths=(4,)))["slopes"]
    assert slopes["nc1"]["slope"] is None
    assert "two depths" in slopes["nc1"]["note"]
    assert "no gap" in summarize(table(gap=math.nan, gufm_optimum=math.nan))["slopes"]["gap"]["note"]


def test_the_slopes_of_the_last_two_steps_stand_beside_those_of_all_and_those_expected():
    bent = table(nc1=lambda depth, seed: 0.1 if depth <= 4 else 0.4 / depth)
    summary = summarize(bent)
    deepest = slope_in_depth(bent[bent["depth"] >= 4], "nc1").slope
    assert summary["deepest_slopes"]["nc1"]["slope"] == pytest.approx(deepest)
    assert deepest < summary["slopes"]["nc1"]["slope"]
    expected = {"gap": -1.0, "nc1": -1.0, "nc2": -0.5, "nc3": -1.0, "regularization_body": -1.0}
    assert summary["expected_slopes"] == expected
    assert summarize(table(depths=(1, 2, 4)))["deepest_slopes"] is None, "they would be those of all depths"


def test_the_gap_times_the_depth_is_constant_where_the_rate_holds():
    rows = summarize(table(slope=-1.0))["by_depth"]
    assert [row["gap_times_depth"] for row in rows] == pytest.approx([0.1] * len(DEPTHS))
    assert "gap_times_depth" not in summarize(table(gap=math.nan, gufm_optimum=math.nan))["by_depth"][0]


def optimum_of_one_path(depth: int, rest) -> tuple[float, float]:
    """The least a ℓ²/B + rest(ℓ) over a fine grid of path lengths ℓ, and the first term's share in it."""
    lengths = np.linspace(1e-3, 20, 400_001)
    body = 0.01 * lengths**2 / depth
    best = np.argmin(body + rest(lengths))
    return body[best] + rest(lengths)[best], body[best]


@pytest.mark.parametrize(
    "rest",
    [lambda lengths: 0.04 * np.exp(-2 * lengths), lambda lengths: 1e-4 / lengths**2],
    ids=["contraction", "power"],
)
def test_optima_that_refine_one_path_have_the_slope_that_their_parts_allow(rest):
    depths = (32, 64, 128)
    optima = {depth: optimum_of_one_path(depth, rest) for depth in depths}
    columns = {
        name: lambda depth, seed, at=at: optima[depth][at] for at, name in enumerate(("gap", "regularization_body"))
    }
    results = table(depths=depths, **columns)
    slope = refinement_slope(results)
    assert slope == pytest.approx(slope_in_depth(results, "gap").slope, abs=2e-3)
    assert -0.95 < slope < -0.45
    summary = summarize(results)
    assert summary["refinement_slope"] == slope
    words = refinement_in_words(summary)
    assert f"{-slope:.2f} of the gap" in words
    assert f"measured is −{-slope:.2f}" in words


@pytest.mark.parametrize(
    ("architecture", "scaling", "is_known"),
    [("L-RN1", "constant", True), ("L-T11", "constant", True), ("L-RN2", "inverse", True), ("L-T22", "inverse", True),
     ("L-RN1", "inverse", False), ("L-RN2", "constant", False), ("L-T12", "constant", False),
     ("L-T21", "inverse", False), ("L-RN2", "inverse_all", False)],
)  # fmt: skip
def test_a_slope_of_refinement_is_known_where_splitting_divides_the_blocks_penalty(architecture, scaling, is_known):
    results = table(architecture, l2_depth_scaling=scaling)
    assert refinement_slope(results) == (pytest.approx(-0.25) if is_known else None)
    assert (refinement_in_words(summarize(results)) is not None) is is_known
    assert refinement_slope(table(depths=(4,))) is None
    assert refinement_slope(table(gap=math.nan, gufm_optimum=math.nan)) is None


def test_held_out_accuracy_is_told_whichever_way_it_goes():
    falling = table(test_accuracy=lambda depth, seed: 0.72 - 0.001 * depth)
    assert summarize(falling)["held_out"] == (
        "held-out accuracy falls from 0.718 at B = 2 to 0.704 at B = 16 (mean of 3 seeds)"
    )
    rising = table(seeds=(0,), test_accuracy=lambda depth, seed: 0.7 + 0.001 * depth)
    assert summarize(rising)["held_out"] == "held-out accuracy rises from 0.702 at B = 2 to 0.716 at B = 16 (one seed)"
    assert "0.700 at B = 2 and at B = 16" in summarize(table(test_accuracy=0.7))["held_out"]
    assert summarize(table(test_accuracy=math.nan))["held_out"] is None


def test_a_diverged_run_is_counted_apart_and_has_no_part_in_any_mean():
    results = table(status=lambda depth, seed: "diverged" if (depth, seed) == (16, 2) else "finished")
    summary = summarize(results)
    assert summary["diverged"] == [{"depth": 16, "seed": 2, "steps": 10}]
    assert summary["runs"] == 11
    assert [row["seeds"] for row in summary["by_depth"]] == [3, 3, 3, 2]
    assert summary["by_depth"][-1]["nc1"] == pytest.approx(0.1 / 16)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ("constant", "λ = 0.01 in the blocks and λ_L = 0.005 in the classifier, at every depth"),
        ("inverse", "λ = 0.01/B in the B blocks and λ_L = 0.005 in the classifier at every depth"),
        ("inverse_all", "λ = 0.01/B in the B blocks and λ_L = 0.005/B in the classifier"),
    ],
)
def test_both_l2_coefficients_and_their_scaling_are_said(scaling, words):
    summary = summarize(table("L-RN2", l2_coefficient=0.01, l2_depth_scaling=scaling))
    assert l2_in_words(summary) == words


def test_complete_collapse_is_the_optimum_only_where_a_bound_says_so():
    assert has_complete_optimum(table())
    assert not has_complete_optimum(table(nc1_bound=math.nan))


def test_a_summary_is_json_without_nan_and_counts_what_it_is_made_of():
    summary = json.loads(json.dumps(summarize(table(gap=math.nan, test_accuracy=math.nan)), allow_nan=False))
    assert (summary["depths"], summary["seeds"], summary["runs"]) == ([2, 4, 8, 16], [0, 1, 2], 12)
    assert summary["classifier_bias"] is False
    assert summary["by_depth"][0]["nc1"] == pytest.approx(0.05)
    assert summary["by_depth"][0]["nc1_std"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("results", [results_table([]), table(status="diverged")], ids=["no run", "all diverged"])
def test_a_table_without_a_finished_run_has_no_summary(results: pd.DataFrame):
    with pytest.raises(ValueError, match="no row of a finished run"):
        summarize(results)
