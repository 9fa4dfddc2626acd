"""Several processes, started by the command that users type, compute what one process computes."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import PartialState
from safetensors.torch import load_file

from hf_ncollapse.sweeps import parse_recipe, run_sweep
from hf_ncollapse.training.processes import check_processes

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "accelerate_configs"

# Notes every file that a process opens for writing in the output folder.
WRITE_LOG = """
import os, sys
folder, log = os.environ["WATCHED_FOLDER"], os.environ["WRITE_LOG"]
rank = os.environ.get("RANK")
def note(event, arguments):
    if rank is not None and event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(folder):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR):
            with open(f"{log}-{rank}", "a") as file:
                file.write(os.path.basename(arguments[0]) + chr(10))
sys.addaudithook(note)
"""


def start(*arguments, cwd, config="cpu_2_processes.yaml", launcher=(), environment=None):
    """Start `accelerate launch`, as a user in a folder of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR")}
    options = launcher or ("--config_file", str(CONFIGS / config), "--main_process_port", str(port))
    return subprocess.Popen(
        [Path(sys.executable).parent / "accelerate", "launch", *options, *map(str, arguments)],
        cwd=cwd,
        env={**inherited, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(*arguments, **keywords):
    """Run `accelerate launch` to its end; SIGTERM makes it stop its processes too."""
    process = start(*arguments, **keywords)
    try:
        output, errors = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.mark.parametrize(
    ("name", "distributed_type", "num_processes"),
    [
        ("cpu_2_processes", "MULTI_GPU", 2),
        ("single_gpu", "NO", 1),
        ("multi_gpu", "MULTI_GPU", 8),
        ("multi_node", "MULTI_GPU", 16),
        ("fsdp2", "FSDP", 8),
        ("deepspeed_zero2", "DEEPSPEED", 8),
    ],
)
def test_accelerate_takes_every_launch_configuration(name, distributed_type, num_processes):
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert text.startswith("# ")
    assert (config.distributed_type, config.num_processes) == (distributed_type, num_processes)
    assert config.mixed_precision == "no"


def test_every_launch_configuration_is_known_to_the_tests():
    assert len(list(CONFIGS.glob("*"))) == 6


def test_the_recipe_on_two_processes_writes_the_table_of_one(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "sweep: tiny\narchitecture: L-RN1\ndataset: digits\ntrain_samples: 110\ntest_samples: 50\nhidden_size: 16\n"
        "depths: [2]\nloss: [cross_entropy, mse]\nmax_steps: 20\ngradient_accumulation_steps: 2\nlogging_steps: 5\n"
    )
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(WRITE_LOG)
    finished = launch(
        ROOT / "recipes/train.py", "--config", recipe, "--output_dir", tmp_path / "two",
        "--per_device_train_batch_size", 14, cwd=tmp_path,
        environment={
            "PYTHONPATH": str(tmp_path / "hook"), "WATCHED_FOLDER": str(tmp_path / "two"),
            "WRITE_LOG": str(tmp_path / "writes"),
        },
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    recipes, _ = parse_recipe(
        ["--config", str(recipe), "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "28"]
    )
    for one in recipes:
        assert not run_sweep(one).failed

    for sweep in ("tiny-cross-entropy", "tiny-mse"):
        alone, together = (
            pd.read_csv(tmp_path / folder / sweep / "results.csv").drop(columns="seconds") for folder in ("one", "two")
        )
        pd.testing.assert_frame_equal(together, alone, rtol=1e-5, atol=1e-6)
        metrics = json.loads((tmp_path / "two" / sweep / "depth-2" / "seed-0" / "metrics.json").read_text())
        assert metrics["processes"] == 2
        one, two = (
            load_file(tmp_path / folder / sweep / "depth-2" / "seed-0" / "model.safetensors")
            for folder in ("one", "two")
        )
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, atol=5e-5, rtol=0)
        table = finished.stdout.count(f"{sweep}: L-RN1 on digits")
        assert table == 1
    assert "metrics.json" in (tmp_path / "writes-0").read_text()
    assert not (tmp_path / "writes-1").exists()


@pytest.mark.slow
def test_parameters_and_measurements_equal_those_of_one_process_for_both_families(tmp_path):
    script = Path(__file__).with_name("train_networks.py")
    finished = launch(script, tmp_path, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    specification = importlib.util.spec_from_file_location("train_networks", script)
    networks = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(networks)

    reports = [json.loads((tmp_path / f"report-{rank}.json").read_text()) for rank in (0, 1)]

    assert [report["world_size"] for report in reports] == [2, 2]
    for name in networks.NETWORKS:
        parameters, measured = networks.train(name, tmp_path / "alone")
        tolerance = 1e-6 if name.endswith("float64") else 5e-5
        for rank in (0, 1):
            together = load_file(tmp_path / f"{name}-{rank}.safetensors")
            for key, weight in parameters.items():
                torch.testing.assert_close(together[key], weight, atol=tolerance, rtol=0)
            assert {"gap", "gap_fit", "nc3", "relative_gradient", "test_accuracy"} <= measured.keys()
            assert reports[rank][name] == pytest.approx(measured, abs=1e-6 if name.endswith("float64") else 2e-5), name
    for report in reports:
        assert "gradients would not be synchronised" in report["unsynchronised"]


SWEEP = (
    ROOT / "recipes/train.py", "--sweep", "stopped", "--architecture", "L-RN1", "--dataset", "digits",
    "--train_samples", 110, "--hidden_size", 16, "--depths", 2, 4, "--initialization", "continuation",
    "--per_device_train_batch_size", 14, "--max_steps", 60,
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = launch(*SWEEP, "--output_dir", folder, cwd=folder)
    assert finished.returncode == 0, finished.stderr
    return pd.read_csv(folder / "stopped" / "results.csv").drop(columns="seconds")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whom", "number"),
    [
        ("launcher", signal.SIGTERM),
        ("all", signal.SIGINT),
        ("one", signal.SIGTERM),
        ("one", signal.SIGKILL),
        ("all", signal.SIGKILL),
    ],
)
def test_two_processes_that_are_stopped_continue_to_the_same_table(whom, number, undisturbed, tmp_path):
    process = start(*SWEEP, "--output_dir", tmp_path, cwd=tmp_path)
    run = tmp_path / "stopped" / "depth-4" / "seed-0"
    while not (run / "checkpoint-18" / "trainer_state.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    targets = {"launcher": [process.pid], "all": [process.pid, *workers], "one": [workers[1]]}[whom]
    for target in targets:
        os.kill(int(target), number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    said = errors.count(f"stopped by {signal.Signals(number).name} at depth 4, seed 0, step ")
    assert said == (0 if number == signal.SIGKILL else 1), errors
    finished = launch(*SWEEP, "--output_dir", tmp_path, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    ended = pd.read_csv(tmp_path / "stopped" / "results.csv").drop(columns="seconds")
    pd.testing.assert_frame_equal(ended, undisturbed, check_exact=True)
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.mark.slow
def test_a_launcher_that_started_fewer_processes_than_it_was_asked_for_is_stopped(tmp_path):
    finished = launch(
        ROOT / "recipes/train.py", "--sweep", "x", "--architecture", "L-RN1", "--depths", 2, "--dataset", "digits",
        "--output_dir", tmp_path / "runs", launcher=("--cpu", "--num_processes", "2"), cwd=tmp_path,
    )  # fmt: skip
    assert finished.returncode != 0
    assert "accelerate was asked for several processes and started one, as it does with --cpu" in finished.stderr
    assert not (tmp_path / "runs").exists()


def test_a_process_that_cannot_see_the_others_is_stopped(monkeypatch):
    check_processes(PartialState())
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="4 processes were launched, but each of them sees 1 and would train alone"):
        check_processes(PartialState())
