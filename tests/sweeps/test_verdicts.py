"""The verdicts: what earns a tick, what does not, and what leaves a prediction open."""

import math

import pytest
from constructed import table

from hf_ncollapse.sweeps.verdicts import Verdict, verdicts

ABOUT_DEPTH = {"gap_falls", "collapse_improves", "body_penalty_falls"}


def by_name(results) -> dict[str, Verdict]:
    found = verdicts(results)
    assert len({verdict.name for verdict in found}) == len(found)
    return {verdict.name: verdict for verdict in found}


def noisy(by_depth: dict[int, float], noise: float):
    """A quantity by depth, with factors around 1 that differ between the seeds."""
    return lambda depth, seed: by_depth[depth] * (1 + noise * (seed - 1) * (-1) ** depth.bit_length())


@pytest.mark.parametrize("architecture", ["L-RN1", "L-T11", "L-T21"])
def test_one_linear_layer_with_constant_l2_is_held_against_theorem_4_3(architecture):
    found = by_name(table(architecture))
    assert set(found) == {"gap_not_negative", "collapse_within_bounds"} | ABOUT_DEPTH
    for name in ABOUT_DEPTH:
        assert found[name].answer == "holds"
        assert found[name].source == "Theorem 4.3"
    assert found["collapse_improves"].steps == {
        name: {"fell": 3, "rose": 0, "unclear": 0} for name in ("nc1", "nc2", "nc3")
    }
    assert "NC1 fell at 3 of 3 steps: 0.0500 at B = 2, 0.0063 at B = 16" in found["collapse_improves"].evidence


def test_one_rise_that_all_seeds_share_does_not_hold_and_is_told():
    found = by_name(table(nc2=lambda depth, seed: {2: 0.1, 4: 0.05, 8: 0.06, 16: 0.01}[depth]))["collapse_improves"]
    assert found.answer == "does not hold"
    assert found.steps["nc2"] == {"fell": 2, "rose": 1, "unclear": 0}
    assert "NC2 fell at 2 of 3 steps, rose from B = 4 to 8 (+20%)" in found.evidence


def test_a_step_within_the_spread_of_the_seeds_is_unclear_and_leaves_the_prediction_open():
    values = {2: 0.1, 4: 0.05, 8: 0.051, 16: 0.01}
    found = by_name(table(gap=noisy(values, 0.1), start_gap=math.nan))["gap_falls"]
    assert found.answer == "cannot tell"
    assert found.steps["gap"] == {"fell": 2, "rose": 0, "unclear": 1}
    assert "unclear from B = 4 to 8" in found.evidence


@pytest.mark.parametrize("change", [2e-6, -2e-6, 5e-7])
def test_a_change_of_two_millionths_is_neither_a_rise_nor_a_fall(change):
    results = table(gap=lambda depth, seed: {2: 0.02, 4: 0.01, 8: 0.01 + change, 16: 0.005}[depth])
    found = by_name(results)["gap_falls"]
    assert found.answer == "cannot tell"
    assert found.steps["gap"]["unclear"] == 1


def test_a_gap_of_rounding_alone_does_not_fall():
    found = by_name(table(gap=lambda depth, seed: 1e-6 / depth, start_gap=math.nan))["gap_falls"]
    assert found.steps["gap"] == {"fell": 0, "rose": 0, "unclear": 3}


@pytest.mark.parametrize(("factor", "answer"), [(0.95, "cannot tell"), (0.8, "holds"), (1.2, "does not hold")])
def test_a_step_of_one_seed_must_be_larger_than_ten_percent(factor, answer):
    results = table(seeds=(0,), gap=lambda depth, seed: 0.01 * factor ** math.log2(depth), start_gap=math.nan)
    found = by_name(results)["gap_falls"]
    assert found.answer == answer
    assert "(1 seed)" in found.evidence


def test_shallow_networks_that_do_not_fit_are_left_out_and_named_where_three_depths_remain():
    unfit = {1: 0.97, 2: 0.99}
    rising_first = {
        "train_accuracy": lambda depth, seed: unfit.get(depth, 1.0),
        "gap": lambda depth, seed: 0.01 if depth == 1 else 0.1 / depth,
    }
    found = {verdict.name: verdict for verdict in verdicts(table(depths=(1, 2, 4, 8, 16), **rising_first))}
    assert found["gap_falls"].answer == "holds"
    assert found["gap_falls"].steps["gap"] == {"fell": 2, "rose": 0, "unclear": 0}
    assert "at B = 4" in found["gap_falls"].evidence
    assert "B = 1 and 2 left out, whose networks fit 0.9700 of their samples or more" in found["gap_falls"].evidence
    few = {verdict.name: verdict for verdict in verdicts(table(depths=(1, 2, 4, 8), **rising_first))}
    assert few["gap_falls"].answer == "cannot tell"
    assert "fit less than 0.999" in few["gap_falls"].evidence


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"train_accuracy": 0.1}, "12 of 12 networks fit less than 0.999 of their training samples, the least 0.1000"),
        (
            {"train_accuracy": lambda depth, seed: 0.99 if (depth, seed) == (8, 1) else 1.0},
            "1 of 12 networks fit less than 0.999 of their training samples, the least 0.9900 (B = 8, seed 1)",
        ),
        (
            {"relative_gradient": lambda depth, seed: 0.65 if (depth, seed) == (16, 0) else 0.1},
            "1 of 12 networks are not converged: ‖∇J‖ is up to 0.65 of the penalty's gradient (B = 16, seed 0)",
        ),
        (
            {"start_gap": lambda depth, seed: 0.0001 if (depth, seed) == (4, 2) else None},
            "training made 1 of 12 networks worse than the split that it started from, most from a gap of 1.00e−04",
        ),
    ],
    ids=["dead", "one label contradicts", "not converged", "worse than the split"],
)
def test_networks_that_do_not_solve_the_problem_earn_no_tick(columns, reason):
    found = by_name(table(**columns))
    for name in ABOUT_DEPTH:
        assert found[name].answer == "cannot tell"
        assert reason in found[name].evidence
        assert found[name].steps == {}
    assert found["gap_not_negative"].answer == "holds", "a statement about every network, whatever its training"


def test_what_was_not_measured_keeps_no_verdict_back():
    found = by_name(table(relative_gradient=None, start_gap=None))
    assert found["gap_falls"].answer == "holds"


def test_a_seed_without_every_depth_does_not_count_and_is_told():
    results = table(nc1=lambda depth, seed: 0.1 * depth if seed == 2 else 0.1 / depth)
    results = results[~((results["seed"] == 2) & (results["depth"] > 4))]
    found = by_name(results)["collapse_improves"]
    assert found.answer == "holds"
    assert "(2 seeds; 1 left out, without a finished network at every depth)" in found.evidence


def test_a_seed_with_a_diverged_run_does_not_count():
    one = table(status=lambda depth, seed: "diverged" if (depth, seed) == (16, 0) else "finished")
    assert "2 seeds; 1 left out" in by_name(one)["gap_falls"].evidence
    every = table(status=lambda depth, seed: "diverged" if depth == 16 else "finished")
    found = by_name(every)["gap_falls"]
    assert (found.answer, found.evidence) == ("cannot tell", "no seed has a finished network at all 4 depths")


def test_one_depth_can_tell_nothing_about_depth():
    found = by_name(table(depths=(4,)))
    assert {name: found[name].answer for name in ABOUT_DEPTH} == dict.fromkeys(ABOUT_DEPTH, "cannot tell")
    assert found["gap_not_negative"].answer == "holds"


def test_a_penalty_of_the_blocks_that_was_never_large_is_not_judged():
    assert "body_penalty_falls" not in by_name(table(regularization_body=1e-4))
    rising = by_name(table(regularization_body=lambda depth, seed: 0.01 * depth))["body_penalty_falls"]
    assert rising.answer == "does not hold"


def test_a_negative_gap_is_an_alarm_that_names_its_run():
    found = by_name(table(gap=lambda depth, seed: -0.01 if (depth, seed) == (8, 1) else 0.1))["gap_not_negative"]
    assert found.answer == "does not hold"
    assert "−0.0100 (B = 8, seed 1)" in found.evidence
    assert by_name(table(gap=-1e-8))["gap_not_negative"].answer == "holds", "that much is rounding"


def test_without_an_optimum_nothing_is_said_about_the_gap():
    found = by_name(table(gap=math.nan, gufm_optimum=math.nan, nc1_bound=math.nan, nc3_bound=math.nan))
    assert (found["gap_not_negative"].answer, found["gap_falls"].answer) == ("cannot tell", "cannot tell")
    assert "collapse_within_bounds" not in found
    assert found["collapse_improves"].answer == "holds"


def test_a_collapse_above_its_bound_is_an_alarm_that_names_its_run():
    found = by_name(table(nc1_bound=lambda depth, seed: 0.001 if (depth, seed) == (2, 1) else None))
    assert found["collapse_within_bounds"].answer == "does not hold"
    evidence = found["collapse_within_bounds"].evidence
    assert "NC1 is at most 50.00 of its bound, which 1 run of 12 could prove (B = 2, seed 1)" in evidence


@pytest.mark.parametrize("architecture", ["L-RN2", "L-T12", "L-T22"])
def test_two_linear_layers_are_judged_by_how_l2_goes_with_depth(architecture):
    inverse = by_name(table(architecture, l2_depth_scaling="inverse"))
    assert {name: inverse[name].answer for name in ("gap_falls", "collapse_improves")} == {
        "gap_falls": "holds",
        "collapse_improves": "holds",
    }
    assert inverse["gap_falls"].source == "Theorem 4.6"
    for scaling in ("constant", "inverse_all"):
        found = by_name(table(architecture, l2_depth_scaling=scaling, regularization_body=0.01, nc1=0.1))
        assert "gap_falls" not in found
        assert found["collapse_stays"].answer == "holds"
        assert "Appendix C" in found["collapse_stays"].source


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"nc1": lambda depth, seed: 10 ** (-0.8 - 0.02 * math.log2(depth))}, "holds"),
        ({"nc1": lambda depth, seed: 10 ** (-0.8 - 0.10 * math.log2(depth))}, "does not hold"),
        ({"nc1": lambda depth, seed: 10 ** (-0.8 - (0.06 if seed else 0.02) * math.log2(depth))}, "cannot tell"),
    ],
    ids=["flat", "collapses", "one seed is flat"],
)
def test_constant_l2_with_two_layers_is_flat_within_its_tolerance(columns, answer):
    found = by_name(table("L-RN2", **{"regularization_body": 0.01, **columns}))["collapse_stays"]
    assert found.answer == answer


def test_one_linear_layer_with_both_l2_falling_has_no_prediction_about_depth():
    assert set(by_name(table(l2_depth_scaling="inverse_all"))) == {"gap_not_negative", "collapse_within_bounds"}
    assert set(by_name(table(l2_depth_scaling="inverse"))) >= {"gap_falls", "collapse_improves"}
