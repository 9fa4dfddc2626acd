"""A sweep whose seeds are trained together is the sweep whose seeds are trained one after another, to rounding."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hf_ncollapse.commands.train import main
from hf_ncollapse.sweeps import COLUMNS, make_engine, parse_engine, parse_recipe, run, run_sweep, schedule
from hf_ncollapse.sweeps.interruption import SweepInterrupted
from hf_ncollapse.training import ensemble, stacked_networks

ARGUMENTS = [
    "--sweep=tiny", "--architecture=L-RN1", "--dataset=digits", "--train_samples=100", "--test_samples=50",
    "--hidden_size=16", "--depths", "2", "4", "--seeds", "0", "1", "--initialization=continuation",
    "--max_steps=10", "--eval_steps=5", "--save_steps=2", "--per_device_train_batch_size=40", "--use_cpu",
]  # fmt: skip
RUNS = [(depth, seed) for depth in (2, 4) for seed in (0, 1)]


@pytest.fixture(autouse=True, scope="module")
def no_figures():
    """Figures are drawn from the table, which is what is compared here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(schedule, "finish_sweep", lambda folder: None)
        yield


def sweep(folder, *options):
    (recipe,), given = parse_recipe([*ARGUMENTS, *options, "--output_dir", str(folder)])
    return run_sweep(recipe, make_engine(parse_engine(given)))


def weights(folder, depth, seed):
    return load_file(folder / "tiny" / f"depth-{depth}" / f"seed-{seed}" / "model.safetensors")


def files(folder):
    """Of all runs."""
    return {str(path.relative_to(folder)) for path in folder.glob("*/depth-*/**/*")}


def assert_same_sweep(folder, other):
    """The same files, and numbers that differ by rounding only."""
    assert files(folder) == files(other)
    one, two = (pd.read_csv(f / "tiny" / "results.csv") for f in (folder, other))
    assert list(one.columns) == list(two.columns)
    assert list(one.columns)[: len(COLUMNS)] == list(COLUMNS)
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), rtol=1e-3, atol=1e-4)
    for depth, seed in RUNS:
        left, right = weights(folder, depth, seed), weights(other, depth, seed)
        assert left.keys() == right.keys()
        assert all(torch.allclose(left[name], right[name], rtol=0, atol=1e-4) for name in left)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The sweep without ensembles."""
    folder = tmp_path_factory.mktemp("alone")
    assert len(sweep(folder).finished) == len(RUNS)
    return folder


def counted_steps(monkeypatch, at=None, do=None):
    """Count every network's steps in ensembles, and do something at one of them."""
    steps = []
    advance = ensemble.Member.advance

    def counting(member, *given):
        steps.append(member.step)
        if len(steps) == at:
            do()
        advance(member, *given)

    monkeypatch.setattr(ensemble.Member, "advance", counting)
    return steps


def test_an_ensemble_leaves_the_folders_of_an_ordinary_sweep_each_depth_from_its_own_parents(
    alone, tmp_path, monkeypatch
):
    monkeypatch.setattr(stacked_networks, "_WORTH_TRACING", 3)
    steps = counted_steps(monkeypatch)
    outcome = sweep(tmp_path, "--ensemble")
    assert len(outcome.finished) == len(RUNS)
    assert len(steps) == 10 * len(RUNS)
    assert_same_sweep(tmp_path, alone)
    log, other = (
        json.loads((folder / "tiny/depth-4/seed-1/log_history.json").read_text())["log_history"]
        for folder in (tmp_path, alone)
    )
    assert [(entry["step"], set(entry)) for entry in log] == [(entry["step"], set(entry)) for entry in other]


class Killed(BaseException):
    """As if the process had ended there: nothing is saved or said."""


@pytest.mark.parametrize("continued", [["--ensemble"], []])
def test_a_killed_ensemble_is_taken_up_by_another_or_by_an_ordinary_start(alone, tmp_path, monkeypatch, continued):
    def kill():
        raise Killed

    with monkeypatch.context() as patched:
        counted_steps(patched, at=10, do=kill)  # in the fifth step
        with pytest.raises(Killed):
            sweep(tmp_path, "--ensemble")
    for seed in (0, 1):
        assert (tmp_path / f"tiny/depth-2/seed-{seed}/checkpoint-4/sha256.json").is_file()
    steps = counted_steps(monkeypatch)
    sweep(tmp_path, *continued)
    assert len(steps) == (2 * 6 + 2 * 10 if continued else 0)
    assert_same_sweep(tmp_path, alone)


def test_an_ensemble_that_is_asked_to_stop_saves_every_run_and_goes_on(alone, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        counted_steps(patched, at=6, do=lambda: signal.raise_signal(signal.SIGTERM))  # of the second network
        with pytest.raises(SweepInterrupted, match="stopped by SIGTERM at depth 2 of 2 seeds, step 3;"):
            sweep(tmp_path, "--ensemble")
    assert all((tmp_path / f"tiny/depth-2/seed-{seed}/checkpoint-3").is_dir() for seed in (0, 1))
    sweep(tmp_path, "--ensemble")
    assert_same_sweep(tmp_path, alone)


def test_one_whose_loss_is_not_finite_is_a_row_of_the_table_and_the_others_go_on(alone, tmp_path, monkeypatch):
    make = run._initial_model

    def spoilt(one, *given):
        model = make(one, *given)
        if (one.depth, one.seed) == (2, 1):
            model.classifier.weight.data.fill_(torch.nan)
        return model

    with monkeypatch.context() as patched:
        patched.setattr(run, "_initial_model", spoilt)
        outcome = sweep(tmp_path, "--ensemble")
    assert outcome.failed == {
        "depth 2, seed 1": "the loss is not finite at step 1",
        "depth 4, seed 1": "its parent, depth 2, seed 1, is not finished",
    }
    table = pd.read_csv(tmp_path / "tiny" / "results.csv")
    assert table[["depth", "seed", "status"]].to_numpy().tolist() == [
        [2, 0, "finished"], [2, 1, "diverged"], [4, 0, "finished"],
    ]  # fmt: skip
    assert json.loads((tmp_path / "tiny/depth-2/seed-1/failure.json").read_text())["steps"] == 0
    sweep(tmp_path, "--ensemble")
    assert_same_sweep(tmp_path, alone)


def test_an_error_of_an_ensemble_is_that_of_its_runs_and_the_next_depth_goes_on(tmp_path, monkeypatch):
    backward = stacked_networks.StackedNetworks.backward

    def failing(networks, batches):
        if networks.networks[0].config.num_hidden_layers == 2:
            raise torch.OutOfMemoryError("no memory.\nTried")
        return backward(networks, batches)

    monkeypatch.setattr(stacked_networks.StackedNetworks, "backward", failing)
    outcome = sweep(tmp_path, "--ensemble", "--initialization", "scratch")
    assert outcome.failed == dict.fromkeys(
        ("depth 2, seed 0", "depth 2, seed 1"), "OutOfMemoryError: no memory. Tried"
    )
    assert [(one.depth, one.seed) for one in outcome.finished] == [(4, 0), (4, 1)]
    assert "in _train_ensemble" in json.loads((tmp_path / "tiny/depth-2/seed-1/failure.json").read_text())["traceback"]


def test_l_bfgs_polishes_each_network_after_the_ensemble(tmp_path):
    polished = ["--full_batch", "--polish_steps", "0.5", "--depths", "2"]
    for folder, options in (("alone", []), ("together", ["--ensemble"])):
        sweep(tmp_path / folder, *polished, *options)
    one, two = (pd.read_csv(tmp_path / folder / "tiny/results.csv") for folder in ("alone", "together"))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), rtol=1e-2, atol=1e-3)
    log = json.loads((tmp_path / "together/tiny/depth-2/seed-0/log_history.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "line_search_trials" in entry] == [10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "ensemble is True, engine 'local' and workers 2; an ensemble trains in this process"),
        (["--engine", "ray"], "ensemble is True, engine 'ray' and workers None; an ensemble trains in this process"),
        (["--optim", "lbfgs", "--full_batch"], "optim is 'lbfgs'; an ensemble takes 'adam' or 'sgd'"),
        (["--bf16"], "bf16 is True; an ensemble takes False"),
        (["--report_to", "wandb"], r"report_to is \['wandb'\]; an ensemble takes \[\] or \['tensorboard'\]"),
    ],
)
def test_what_an_ensemble_cannot_do_is_refused_before_any_training(tmp_path, capsys, options, message):
    assert main([*ARGUMENTS, "--ensemble", *options, "--output_dir", str(tmp_path)]) == 2
    assert message.replace("\\", "") in capsys.readouterr().err
    assert not list(tmp_path.rglob("sweep.json"))


@pytest.mark.slow
def test_an_ensemble_that_the_system_kills_ends_in_the_same_table(alone, tmp_path):
    script = Path(__file__).parents[2] / "recipes" / "train.py"
    command = [sys.executable, str(script), *ARGUMENTS, "--ensemble", "--output_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (tmp_path / "tiny/depth-4/seed-1/checkpoint-4").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    assert_same_sweep(tmp_path, alone)
