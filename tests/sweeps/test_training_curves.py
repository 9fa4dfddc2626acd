"""What a sweep remembers of its training, and of where it was computed."""

import getpass
import json
import socket

import pandas as pd
import pytest
import torch

from hf_ncollapse.sweeps import read_results, write_report
from hf_ncollapse.sweeps.environment import describe_environment
from hf_ncollapse.sweeps.training_curves import training_curves


def test_a_curve_ends_at_the_runs_own_result(sweep):
    curves = training_curves(sweep)
    for row in read_results(sweep).itertuples():
        curve = curves[(curves["depth"] == row.depth) & (curves["seed"] == row.seed)]
        assert curve["step"].tolist() == [10, 20]
        assert curve["gap"].iloc[-1] == pytest.approx(row.gap, rel=1e-6)
        assert curve["nc1"].iloc[-1] == pytest.approx(row.nc1, rel=1e-6)


def test_curves_that_a_report_kept_are_read_without_the_runs(sweep):
    write_report(sweep)
    curves = training_curves(sweep)
    for path in sweep.glob("depth-*/seed-*/log_history.json"):
        path.unlink()
    pd.testing.assert_frame_equal(training_curves(sweep), curves)


def test_a_run_that_is_not_finished_has_no_curve(sweep):
    (sweep / "depth-4" / "seed-1" / "metrics.json").unlink()
    curves = training_curves(sweep)
    assert set(zip(curves["depth"], curves["seed"], strict=True)) == {(2, 0), (2, 1), (4, 0)}


def test_a_damaged_log_is_named(sweep):
    (sweep / "depth-2" / "seed-0" / "log_history.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"depth-2/seed-0/log_history\.json is damaged"):
        training_curves(sweep)


def test_an_environment_says_what_matters_and_not_whose_machine_it_is():
    environment = describe_environment(torch.device("cpu"))
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert environment["device"] == "cpu"
    said = json.dumps(environment)
    assert socket.gethostname() not in said
    assert f'"{getpass.getuser()}"' not in said
    assert not any(str(value).startswith("/") for value in environment.values())
