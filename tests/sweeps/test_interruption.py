"""A sweep that is killed at any moment and started again ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from hf_ncollapse.sweeps.files import sole_use

SCRIPT = Path(__file__).parents[2] / "recipes" / "train.py"
ARGUMENTS = [
    *("--sweep", "killed", "--architecture", "L-RN1", "--dataset", "digits", "--train_samples", "200"),
    *("--hidden_size", "16", "--depths", "2", "4", "--initialization", "continuation"),
    *("--learning_rate_depth_exponent", "1", "--per_device_train_batch_size", "50", "--max_steps", "60"),
]
RUNS = ("depth-2/seed-0", "depth-4/seed-0")


def start(output: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), *ARGUMENTS, "--output_dir", str(output)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(output: Path) -> None:
    process = start(output)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def kill_when(output: Path, moment) -> None:
    """Kill the sweep with SIGKILL as soon as `moment(folder)` is true."""
    process = start(output)
    deadline = time.monotonic() + 300
    while not moment(output / "killed"):
        assert process.poll() is None, "the sweep ended before the moment to kill it"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def table(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "killed" / "results.csv").drop(columns="seconds")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> pd.DataFrame:
    output = tmp_path_factory.mktemp("undisturbed")
    finish(output)
    return table(output)


MOMENTS = {
    "during a step of the first run": lambda folder: (
        folder / RUNS[0] / "checkpoint-18" / "trainer_state.json"
    ).is_file(),
    "while a checkpoint is written": lambda folder: (folder / RUNS[0] / "checkpoint-30").is_dir(),
    "while the optimiser of the second run is written": lambda folder: (
        folder / RUNS[1] / "checkpoint-24" / "model.safetensors"
    ).is_file(),
    "between the runs": lambda folder: (folder / RUNS[0] / "metrics.json").is_file(),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_sweep_that_is_killed_and_started_again_ends_with_the_same_table(moment, undisturbed, tmp_path):
    kill_when(tmp_path, MOMENTS[moment])
    finish(tmp_path)
    pd.testing.assert_frame_equal(table(tmp_path), undisturbed, check_exact=True)
    left = [path.name for path in (tmp_path / "killed").rglob("*")]
    assert not [name for name in left if name.endswith(".partial") or name.startswith("checkpoint-")]


@pytest.mark.slow
def test_a_folder_in_use_is_refused_to_a_second_process_until_the_first_ends(tmp_path):
    code = f"""
from pathlib import Path
from hf_ncollapse.sweeps.files import sole_use
with sole_use(Path({str(tmp_path)!r})):
    pass
"""
    with sole_use(tmp_path):
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is training in" in refused.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
