"""Which run comes next, and what becomes of those that ended, without training any."""

import json
import time

import pytest

from hf_ncollapse.sweeps import parse_recipe, schedule
from hf_ncollapse.sweeps.files import sole_use
from hf_ncollapse.sweeps.plan import plan_runs
from hf_ncollapse.sweeps.run import RunEnd
from hf_ncollapse.sweeps.schedule import Schedule


@pytest.fixture
def runs(tmp_path):
    """Depths 1 and 2 of seeds 0 and 1, in a continuation; a, b of the first seed and c, d of the second."""
    (recipe,), _ = parse_recipe(
        [
            "--sweep=s", "--architecture=L-RN1", "--dataset=digits", "--depths", "1", "2", "--seeds", "0", "1",
            "--initialization=continuation", "--output_dir", str(tmp_path),
        ]
    )  # fmt: skip
    runs = plan_runs(recipe, learning_rate=0.01, max_steps=6)
    for run in runs:
        run.folder.mkdir(parents=True)
    return runs


def finish(run):
    (run.folder / "metrics.json").write_text("{}")


def fail(run):
    (run.folder / "failure.json").write_text(json.dumps({"status": "diverged", "error": f"at {time.time_ns()}"}))


def test_a_depth_waits_for_its_parent_and_the_seeds_for_nothing(runs):
    a, b, c, d = runs
    planned = Schedule(runs)
    assert planned.next(8, False) == ([], [a, c])
    planned.start([a, c])
    assert planned.next(8, False) == ([], [])
    finish(a)
    planned.note(RunEnd(a, "finished"))
    assert planned.next(8, False) == ([], [b])
    assert planned.finished == [a]
    assert d in planned.waiting


def test_an_engine_that_orders_parents_gets_whole_chains(runs):
    assert Schedule(runs).next(8, True) == ([], runs)


def test_no_more_runs_are_started_than_there_is_room_for(runs):
    planned = Schedule(runs)
    assert planned.next(1, False) == ([], runs[:1])
    assert planned.next(0, False) == ([], [])


def test_what_is_finished_is_left_alone_and_its_children_start(runs):
    a, b, c, d = runs
    for run in (a, c, d):
        finish(run)
    planned = Schedule(runs)
    known, starting = planned.next(8, False)
    assert [(end.run, end.status) for end in known] == [(run, "finished") for run in (a, c, d)]
    assert starting == [b]


def test_a_run_that_another_process_trains_is_passed_over_until_it_is_free(runs, monkeypatch):
    a, _, c, _ = runs
    monkeypatch.setattr(schedule, "_LOOK_SECONDS", 0.0)
    planned = Schedule(runs)
    with sole_use(a.folder):
        assert planned.next(8, False) == ([], [c])
    assert planned.next(8, False) == ([], [a, c])


def test_a_failure_from_before_is_tried_again_and_one_of_another_command_is_not(runs):
    a, b, c, _ = runs
    fail(a)
    planned = Schedule(runs)
    assert planned.next(1, False) == ([], [a])
    (a.folder / "failure.json").unlink()
    fail(a)
    known, starting = planned.next(8, False)
    assert starting == [c]
    assert [(end.run, end.status) for end in known] == [(a, "failed"), (b, "failed")]
    assert "another process trained it" in known[0].line
    assert known[1].reason == "its parent, depth 1, seed 0, is not finished"


def test_a_run_whose_process_dies_is_tried_three_times(runs):
    a, b, *_ = runs
    planned = Schedule(runs)
    for attempt in range(3):
        assert a in planned.next(8, False)[1]
        planned.start([a])
        line = planned.note(RunEnd(a, "lost", reason="its worker was killed by SIGKILL"))
        assert ("it goes on from its last checkpoint" in line) == (attempt < 2)
    assert planned.failed == {"depth 1, seed 0": "its worker was killed by SIGKILL"}
    known, _ = planned.next(8, False)
    assert [end.run for end in known] == [b]


def test_a_child_that_came_before_its_parent_waits_and_loses_no_attempt(runs):
    a, b, *_ = runs
    planned = Schedule([a, b])
    planned.start([a, b])
    for status in ("early", "lost", "lost", "lost"):
        planned.note(RunEnd(b, status))
        planned.start([b])
    assert not planned.failed
    planned.note(RunEnd(a, "busy"))
    assert planned.waiting == [a]
    assert planned.is_open


def test_an_error_that_concerns_more_than_its_run_is_raised(runs):
    planned = Schedule(runs)
    with pytest.raises(OSError, match="disk"):
        planned.note(RunEnd(runs[0], "refused", error=OSError("disk")))
