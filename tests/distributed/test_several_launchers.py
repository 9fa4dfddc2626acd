"""Machines that were started for different things say so before they train together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("--sweep", "nodes", "--architecture", "L-RN1", "--dataset", "digits", "--train_samples", "100"),
    *("--hidden_size", "16", "--depths", "2", "--max_steps", "3", "--use_cpu"),
]


def start_nodes(output: Path, *options: list[str]) -> list[tuple[int, str]]:
    """Start one launcher a list of options, as on as many machines; return the exit codes and the errors."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *(
            "--config_file",
            str(ROOT / "recipes/accelerate_configs/multi_node.yaml"),
            "--num_machines",
            str(len(options)),
        ),
        *("--num_processes", str(len(options)), "--main_process_port", str(port), "--machine_rank"),
    ]
    nodes = [
        subprocess.Popen(
            [
                *(*launcher, str(rank), str(ROOT / "recipes/train.py"), *OPTIONS, "--output_dir", str(output)),
                *own,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(options)
    ]
    errors = [node.communicate(timeout=240)[1] for node in nodes]
    return [(node.returncode, error) for node, error in zip(nodes, errors, strict=True)]


@pytest.mark.slow
def test_two_launchers_with_different_recipes_end_before_any_training_and_say_what_differs(tmp_path):
    ends = start_nodes(
        tmp_path, ["--per_device_train_batch_size", "50"], ["--per_device_train_batch_size", "25", "--seeds", "1"]
    )
    for code, errors in ends:
        assert code != 0
        assert "process 1 was started for something else: per_device_train_batch_size is 25 there and 50 in" in errors
        assert "seeds is [1] there and [0] in process 0" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_launchers_with_one_recipe_train_together(tmp_path):
    options = ["--per_device_train_batch_size", "50", "--log_level"]
    assert [code for code, _ in start_nodes(tmp_path, [*options, "error"], [*options, "warning"])] == [0, 0]
    assert (tmp_path / "nodes/results.csv").is_file()
