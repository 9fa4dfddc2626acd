"""What a summary concludes from a table whose truth is known."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hf_ncollapse.sweeps.results import COLUMNS, results_table
from hf_ncollapse.sweeps.summary import SLOPES_OF, l2_in_depth, slope_in_depth, student_t_quantile, summarize

DEPTHS = (2, 4, 8, 16)


def table(architecture="L-RN1", depths=DEPTHS, seeds=(0, 1, 2), slope=-1.0, **columns) -> pd.DataFrame:
    """A results table in which every quantity is 0.1 · L^slope, and columns given as f(depth, seed) or a value."""
    rows = []
    for depth in depths:
        for seed in seeds:
            row = dict.fromkeys(COLUMNS, 0.1 * float(depth) ** slope)
            row |= {"sweep": "s", "architecture": architecture, "norm_placement": "post", "norm_scale": "unit"}
            row |= {"dataset": "digits", "loss": "cross_entropy", "depth": depth, "seed": seed, "steps": 10}
            row |= {"l2_coefficient": 0.005, "gufm_optimum": 0.475}
            row |= {name: value(depth, seed) if callable(value) else value for name, value in columns.items()}
            rows.append(row)
    return results_table(rows)


def verdict(results: pd.DataFrame, name: str) -> dict:
    found = [entry for entry in summarize(results)["verdicts"] if entry["name"] == name]
    assert len(found) == 1, f"{name} is judged {len(found)} times"
    return found[0]


def names(results: pd.DataFrame) -> set[str]:
    return {entry["name"] for entry in summarize(results)["verdicts"]}


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


def test_one_depth_has_no_slope_and_leaves_the_predictions_on_depth_open():
    summary = summarize(table(depths=(4,)))
    assert summary["slopes"]["nc1"]["slope"] is None
    assert "two depths" in summary["slopes"]["nc1"]["note"]
    assert {entry["name"]: entry["holds"] for entry in summary["verdicts"]} == {
        "gap_not_negative": True,
        "gap_does_not_rise": None,
    }


def test_without_an_optimum_nothing_is_said_about_the_gap():
    results = table(gap=math.nan, gufm_optimum=math.nan)
    assert "no gap" in summarize(results)["slopes"]["gap"]["note"]
    assert verdict(results, "gap_not_negative")["holds"] is None
    assert verdict(results, "gap_does_not_rise")["holds"] is None
    assert verdict(results, "body_penalty_falls")["holds"] is True


def test_a_negative_gap_is_an_alarm_that_names_its_run():
    found = verdict(table(gap=lambda depth, seed: -0.01 if (depth, seed) == (8, 1) else 0.1), "gap_not_negative")
    assert found["holds"] is False
    assert "-0.0100" in found["evidence"]
    assert "L = 8, seed 1" in found["evidence"]


def test_a_gap_below_zero_by_rounding_is_no_alarm():
    assert verdict(table(gap=-1e-8), "gap_not_negative")["holds"] is True


def test_a_rise_of_the_gap_in_one_seed_is_told_with_its_numbers():
    found = verdict(
        table(gap=lambda depth, seed: 0.3 if (depth, seed) == (8, 1) else 0.2 / depth), "gap_does_not_rise"
    )
    assert found["holds"] is False
    assert "1 of 9 steps" in found["evidence"]
    assert "seed 1, from 0.0500 at L = 4 to 0.3000 at L = 8" in found["evidence"]


def test_one_linear_layer_with_constant_l2_is_held_against_theorem_4_3():
    for architecture in ("L-RN1", "L-T11", "L-T21"):
        results = table(architecture)
        assert names(results) == {
            "gap_not_negative", "gap_does_not_rise", "body_penalty_falls", "collapse_improves"
        }  # fmt: skip
        assert verdict(results, "body_penalty_falls")["holds"] is True
        assert verdict(results, "collapse_improves")["holds"] is True
    rising = table(regularization_body=lambda depth, seed: 0.1 * depth)
    assert verdict(rising, "body_penalty_falls")["holds"] is False
    assert verdict(table(nc2=lambda depth, seed: 0.1 * depth), "collapse_improves")["holds"] is False


def test_two_linear_layers_with_constant_l2_keep_a_floor_as_theorem_4_6_says():
    for architecture in ("L-RN2", "L-T12", "L-T22"):
        floor = table(architecture, regularization_body=lambda depth, seed: 0.06 if depth == 2 else 0.042)
        assert names(floor) == {"gap_not_negative", "gap_does_not_rise", "body_penalty_has_a_floor"}
        found = verdict(floor, "body_penalty_has_a_floor")
        assert found["holds"] is True
        assert "0.70" in found["evidence"]
        assert "4.6" in found["source"]
    assert verdict(table("L-RN2"), "body_penalty_has_a_floor")["holds"] is False


def test_l2_that_falls_with_depth_must_bring_the_gap_down():
    inverse = table("L-RN2", l2_coefficient=lambda depth, seed: 0.005 / depth)
    assert l2_in_depth(inverse) == "inverse"
    assert verdict(inverse, "gap_falls")["holds"] is True
    assert "relative to J*" in verdict(inverse, "gap_falls")["evidence"]
    assert "body_penalty_has_a_floor" not in names(inverse)
    stuck = table("L-RN2", l2_coefficient=lambda depth, seed: 0.005 / depth, gap=lambda depth, seed: 0.1 * depth)
    assert verdict(stuck, "gap_falls")["holds"] is False


def test_seeds_that_have_not_reached_every_depth_are_judged_by_the_depths_they_have():
    results = table()
    partial = results[~((results["seed"] == 2) & (results["depth"] > 4))]
    assert verdict(partial, "body_penalty_falls")["holds"] is True
    assert slope_in_depth(partial, "nc1").slope == pytest.approx(-1)


def test_a_summary_is_json_without_nan_and_counts_what_it_is_made_of():
    summary = json.loads(json.dumps(summarize(table(gap=math.nan, test_accuracy=math.nan)), allow_nan=False))
    assert (summary["depths"], summary["seeds"], summary["runs"]) == ([2, 4, 8, 16], [0, 1, 2], 12)
    assert summary["by_depth"][0]["nc1"] == pytest.approx(0.05)
    assert summary["by_depth"][0]["nc1_std"] == pytest.approx(0, abs=1e-12)


def test_an_empty_table_has_no_summary():
    with pytest.raises(ValueError, match="no row"):
        summarize(results_table([]))
