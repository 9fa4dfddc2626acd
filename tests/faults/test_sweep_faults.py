"""What a sweep does when it is stopped, its files are damaged or its disk is full: explain, continue, lose nothing."""

import contextlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from hf_ncollapse.cli import main as command
from hf_ncollapse.data.images import image_dataset
from hf_ncollapse.sweeps import interruption, parse_recipe, run_sweep
from hf_ncollapse.sweeps.files import read_json, write_json
from hf_ncollapse.sweeps.interruption import StopRequest
from hf_ncollapse.sweeps.plan import claim_folder
from hf_ncollapse.sweeps.run_folder import last_checkpoint
from hf_ncollapse.sweeps.run_trainer import RunClock
from hf_ncollapse.training.trainer import CollapseTrainer

SCRIPT = Path(__file__).parents[2] / "recipes" / "train.py"
ARGUMENTS = [
    "--sweep=small", "--architecture=L-RN1", "--dataset=digits", "--train_samples=100", "--test_samples=50",
    "--hidden_size=16", "--depths", "2", "4", "--initialization=continuation", "--max_steps=60", "--use_cpu",
    "--per_device_train_batch_size=40", "--logging_steps=30", "--eval_steps=30",
]  # fmt: skip
CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("train_script", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def table(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "small" / "results.csv").drop(columns="seconds")


def contents(output: Path) -> dict[str, bytes]:
    """Every file but the lock, which has no content of its own."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def names(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*")}


@pytest.fixture(scope="module")
def undisturbed(script, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    assert script.main([*ARGUMENTS, "--output_dir", str(output)]) == 0
    return output


@contextlib.contextmanager
def signal_when(number: int, path: Path):
    """Send this process a signal as soon as a file exists."""
    ended = threading.Event()

    def watch():
        while not path.exists() and not ended.is_set():
            time.sleep(0.001)
        if not ended.is_set():
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("number", "code", "depth"),
    [
        (signal.SIGTERM, 143, 2),
        (signal.SIGINT, 130, 4),
        pytest.param(signal.SIGTERM, 143, 4, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.slow),
    ],
)
def test_a_sweep_asked_to_stop_saves_says_so_and_continues(script, undisturbed, tmp_path, capsys, number, code, depth):
    run = tmp_path / "small" / f"depth-{depth}" / "seed-0"
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with signal_when(number, run / "checkpoint-12" / "trainer_state.json"):
        assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == code
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    message = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name} at depth {depth}, seed 0, step " in message
    assert "start the same command again to continue" in message
    stopped_at = int(message.partition("step ")[2].split()[0])
    assert last_checkpoint(run) == str(run / f"checkpoint-{stopped_at}")
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(undisturbed), check_exact=True)
    assert names(tmp_path) == names(undisturbed)


def test_a_signal_passed_on_twice_is_one_and_a_later_one_ends_at_once(monkeypatch):
    request = StopRequest()
    with request.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert request.signal_number == signal.SIGINT
        monkeypatch.setattr(interruption, "_ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def stopped(script, tmp_path_factory) -> Path:
    """A sweep that was stopped in its second run, with two checkpoints there."""
    output = tmp_path_factory.mktemp("stopped")
    with signal_when(signal.SIGTERM, output / "small" / "depth-4" / "seed-0" / "checkpoint-18" / "trainer_state.json"):
        assert script.main([*ARGUMENTS, "--output_dir", str(output)]) == 143
    return output


def flipped(content: bytes) -> bytes:
    """One bit of the last number is another."""
    return content[:-1] + bytes([content[-1] ^ 64])


def at_step_999(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"global_step": 999}).encode()


DAMAGE = [
    *((name, damage) for name in (*CHECKPOINT_FILES, "sha256.json") for damage in ("cut", "empty", "missing")),
    ("model.safetensors", flipped),
    ("optimizer.pt", flipped),
    ("trainer_state.json", at_step_999),
    ("trainer_state.json", lambda content: b"null"),
    ("trainer_state.json", lambda content: b"[]"),
    ("sha256.json", lambda content: b"null"),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_checkpoint_that_is_not_as_written_is_named_and_gives_way_to_the_one_before(stopped, tmp_path, name, damage):
    run = Path(shutil.copytree(stopped / "small" / "depth-4" / "seed-0", tmp_path / "run"))
    older, newest = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    said = []
    assert last_checkpoint(run, said.append) == str(newest)
    assert said == []
    file = newest / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        damages = {"cut": lambda content: content[: len(content) // 2], "empty": lambda content: b""}
        file.write_bytes(damages.get(damage, damage)(content))
    assert last_checkpoint(run, said.append) == str(older)
    (line,) = said
    assert line.startswith(f"{newest} is skipped: ")
    assert name in line or (name, damage) == ("sha256.json", "missing")
    shutil.rmtree(older)
    assert last_checkpoint(run) is None


def test_a_sweep_with_a_damaged_checkpoint_says_so_and_ends_with_the_same_table(
    script, stopped, undisturbed, tmp_path, capsys
):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    checkpoint = Path(last_checkpoint(tmp_path / "small" / "depth-4" / "seed-0"))
    file = checkpoint / "model.safetensors"
    file.write_bytes(flipped(file.read_bytes()))
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 0
    assert f"{checkpoint} is skipped: model.safetensors is not as written" in capsys.readouterr().out.splitlines()
    pd.testing.assert_frame_equal(table(tmp_path), table(undisturbed), check_exact=True)


@pytest.mark.parametrize("damage", ["flipped", "half"])
def test_weights_that_a_finished_run_did_not_write_are_named_by_report_and_publish(
    undisturbed, tmp_path, capsys, damage
):
    folder = Path(shutil.copytree(undisturbed / "small", tmp_path / "small"))
    file = folder / "depth-4/seed-0/model.safetensors"
    content = file.read_bytes()
    file.write_bytes(flipped(content) if damage == "flipped" else content[: len(content) // 2])
    for arguments in (["report", str(folder)], ["publish", str(folder), "--namespace", "me", "--dry-run"]):
        assert command(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{file} is damaged: it is not what the run wrote" in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sweep.json", "sweep.json is damaged"),
        ("depth-4/seed-0/metrics.json", "metrics.json is damaged"),
        ("depth-2/seed-0/metrics.json", "metrics.json is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_made_anew_once_deleted(script, undisturbed, tmp_path, capsys, name, message):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "small" / name
    os.truncate(file, 20)
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "delete it to make it anew" in error
    file.unlink()
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(undisturbed), check_exact=True)


def test_a_damaged_table_is_written_anew(script, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "small" / "results.csv", 100)
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(undisturbed), check_exact=True)


@pytest.mark.parametrize("damage", ["flipped", "half"])
def test_a_damaged_parent_is_named(script, undisturbed, tmp_path, capsys, damage):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "small" / "depth-4")
    file = tmp_path / "small" / "depth-2" / "seed-0" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(flipped(content) if damage == "flipped" else content[: len(content) // 2])
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 2
    assert f"{file} is damaged" in capsys.readouterr().err


def test_another_sweep_in_the_same_folder_is_refused_and_changes_nothing(script, undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    other = [*ARGUMENTS, "--seeds", "0", "1", "--output_dir", str(tmp_path), "--learning_rate=0.1"]
    assert script.main(other) == 2
    assert "holds a sweep with another configuration" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_folder_that_another_command_claims_first_is_refused_at_the_first_step(
    script, undisturbed, tmp_path, capsys, monkeypatch
):
    """Both have looked at an empty folder, and the other one has begun."""
    (tmp_path / "small").mkdir()
    configuration = read_json(undisturbed / "small" / "sweep.json")
    configuration["training"]["max_steps"] = 50

    def looked(recipe):
        write_json(recipe.folder / "sweep.json", configuration)

    with monkeypatch.context() as patch:
        patch.setattr("hf_ncollapse.sweeps.schedule.check_configuration", looked)
        assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 2
    assert "holds a sweep with another configuration: max_steps was 50 and is 60" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.json"))


def test_seeds_that_another_command_added_since_stay(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "small" / "sweep.json"
    (recipe,), _ = parse_recipe([*ARGUMENTS, "--output_dir", str(tmp_path)])
    write_json(path, read_json(path) | {"sweep": read_json(path)["sweep"] | {"seeds": [0, 1]}})
    claim_folder(recipe)
    assert read_json(path)["sweep"]["seeds"] == [0, 1]


@pytest.mark.parametrize("runs", ["all finished", "one left", "one stopped"])
def test_another_number_of_processes_for_the_rest_is_refused_and_changes_nothing(
    script, undisturbed, stopped, tmp_path, capsys, runs
):
    shutil.copytree(stopped if runs == "one stopped" else undisturbed, tmp_path, dirs_exist_ok=True)
    if runs == "one left":
        shutil.rmtree(tmp_path / "small" / "depth-4")
    path = tmp_path / "small" / "sweep.json"
    assert read_json(path)["launch"] == {"processes": 1}
    write_json(path, read_json(path) | {"launch": {"processes": 2}})
    before = contents(tmp_path)
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 2
    assert "holds a sweep with another configuration: processes was 2 and is 1" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_mistake_that_only_the_first_run_finds_binds_no_folder(script, undisturbed, tmp_path, capsys):
    mistake = ["--changed_objective=optim", "--optim=adamw_torch", '--lr_scheduler_kwargs={"cycles": 1}']
    with pytest.raises(TypeError, match="cycles"):
        script.main([*ARGUMENTS, *mistake, "--output_dir", str(tmp_path)])
    assert not (tmp_path / "small" / "sweep.json").exists()
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(undisturbed), check_exact=True)


@pytest.mark.parametrize("name", ["hub_token", "hub-token"])
def test_a_token_is_refused_and_neither_shown_nor_written(script, tmp_path, capsys, name):
    assert script.main([*ARGUMENTS, f"--{name}=hf_secret", "--output_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search("hub_token is a secret.* `hf auth login`, or set HF_TOKEN", error)
    assert "hf_secret" not in error
    assert not list(tmp_path.iterdir())


def test_a_token_that_an_older_version_wrote_is_dropped_at_the_next_start(script, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "small" / "sweep.json"
    configuration = read_json(path)
    write_json(path, configuration | {"training": configuration["training"] | {"hub_token": "hf_secret"}})
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 0
    assert read_json(path) == configuration


def test_a_home_folder_is_one_folder_for_checkpoints_and_results_and_shown_as_it_is_called(
    script, undisturbed, tmp_path, monkeypatch, capsys
):
    home, here = tmp_path / "home[/b]:x:", tmp_path / "here"  # what rich would take for a tag and an emoji
    home.mkdir(parents=True)
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    arguments = [*ARGUMENTS, "--output_dir", "~/runs"]
    with signal_when(signal.SIGTERM, home / "runs/small/depth-2/seed-0/checkpoint-12/trainer_state.json"):
        assert script.main(arguments) == 143
    assert last_checkpoint(home / "runs/small/depth-2/seed-0")
    assert script.main(arguments) == 0
    assert names(home / "runs") == names(undisturbed)
    assert f"results: {home}/runs/small/results.csv" in capsys.readouterr().out.splitlines()
    assert not list(here.iterdir())


class Killed(BaseException):
    """In the place of SIGKILL, which this process would not survive."""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [7, 9])
def test_a_run_killed_between_its_last_checkpoint_and_its_metrics_is_only_measured(
    script, tmp_path, monkeypatch, steps
):
    """Three steps an epoch: one run ends within an epoch, the other with it."""

    def killed(*arguments):
        raise Killed

    arguments = [*ARGUMENTS, f"--max_steps={steps}", "--output_dir"]
    assert script.main([*arguments, str(tmp_path / "whole")]) == 0
    taken = []
    step = CollapseTrainer.training_step
    monkeypatch.setattr(CollapseTrainer, "training_step", lambda *given: taken.append(1) or step(*given))
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("hf_ncollapse.sweeps.run.write_run", killed)
            with pytest.raises(Killed):
                script.main([*arguments, str(tmp_path / "killed")])
    assert len(taken) == steps
    assert script.main([*arguments, str(tmp_path / "killed")]) == 0
    assert len(taken) == 2 * steps
    pd.testing.assert_frame_equal(table(tmp_path / "killed"), table(tmp_path / "whole"), check_exact=True)
    for depth in (2, 4):
        paths = (tmp_path / name / f"small/depth-{depth}/seed-0/model.safetensors" for name in ("whole", "killed"))
        first, second = (path.read_bytes() for path in paths)
        assert first == second


def test_a_full_disk_is_explained_and_the_sweep_goes_on_when_there_is_room(script, undisturbed, tmp_path, capsys):
    """A limit on the size of a file, which the system answers like a full disk, with an error from write()."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limit[1]))
    try:
        code = script.main([*ARGUMENTS, "--output_dir", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2
    assert "cannot be saved in" in capsys.readouterr().err
    assert script.main([*ARGUMENTS, "--output_dir", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(undisturbed), check_exact=True)
    assert names(tmp_path) == names(undisturbed)


MOUNTED = """
import subprocess, sys
folder, options = sys.argv[1:3]
subprocess.run(["mount", *options.split(), folder], check=True)
import runpy
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-t tmpfs -o size=64k tmpfs", r"cannot be saved in .* bytes are free|No space left on device"),
        ("-t tmpfs -o ro tmpfs", "Read-only file system"),
    ],
)
def test_a_file_system_that_is_full_or_read_only_is_explained(tmp_path, options, message):
    command = ["unshare", "-m", sys.executable, "-c", MOUNTED, str(tmp_path), options, str(SCRIPT)]
    ended = subprocess.run(
        [*command, *ARGUMENTS, "--output_dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert re.search(message, ended.stderr)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_poisoned_sample_fails_its_run_at_the_step_that_meets_it(script, tmp_path, capsys, monkeypatch, value):
    def poisoned(images, labels, processor):
        dataset = image_dataset(images, labels, processor)
        dataset.tensors["pixel_values"][7, 0, 0, 0] = value
        return dataset

    monkeypatch.setattr("hf_ncollapse.data.image_dataset", poisoned)
    arguments = [*ARGUMENTS, "--initialization=scratch", "--output_dir", str(tmp_path)]
    assert script.main(arguments) == 1
    error = capsys.readouterr().err
    for depth in (2, 4):
        assert f"depth {depth}, seed 0: the loss is not finite at step" in error
        assert (tmp_path / "small" / f"depth-{depth}" / "seed-0" / "failure.json").is_file()


def test_seconds_do_not_follow_a_clock_that_is_set_back(monkeypatch):
    clock = RunClock()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= clock.seconds < 60


def test_a_resumed_run_ends_in_the_very_weights_of_an_uninterrupted_one(script, stopped, undisturbed, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (recipe,), _ = parse_recipe([*ARGUMENTS, "--output_dir", str(tmp_path)])
    run_sweep(recipe)
    from safetensors.torch import load_file

    weights, expected = (
        load_file(folder / "small" / "depth-4" / "seed-0" / "model.safetensors") for folder in (tmp_path, undisturbed)
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
