"""A sweep outlives who reads its output, and saves when its terminal goes."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
TRAIN = [
    *(sys.executable, "-m", "hf_ncollapse.cli", "train", "--sweep", "tiny", "--architecture", "L-RN1", "--dataset"),
    *("digits", "--train_samples", "100", "--test_samples", "50", "--hidden_size", "16", "--depths", "1", "2"),
    *("--per_device_train_batch_size", "50", "--use_cpu", "--max_steps"),
]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def start(output: Path, steps: int, *options: str, **keywords) -> subprocess.Popen:
    command = [*TRAIN, str(steps), "--output_dir", str(output), *options]
    return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, cwd=ROOT, **keywords)


def table(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "tiny/results.csv").drop(columns="seconds")


def wait_for(file: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["closed pipe", "full device"])
def test_a_sweep_whose_output_cannot_be_written_goes_on_quietly(where, tmp_path):
    if where == "closed pipe":
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open("/dev/full", os.O_WRONLY)
    process = start(tmp_path, 5, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    _, errors = process.communicate(timeout=240)
    # What transformers has to say of the file system is not of the sweep's output.
    said = [line for line in errors.splitlines() if not line.startswith("[transformers]")]
    assert (process.returncode, said) == (0, [])
    assert len(table(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--seeds", "0", "1", "--workers", "2"]], ids=["one process", "two workers"])
def test_a_sweep_whose_terminal_goes_saves_and_the_next_start_ends_in_the_same_table(options, tmp_path):
    master, slave = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    terminal = {"stdin": slave, "stdout": slave, "stderr": slave}
    process = start(tmp_path / "lost", 4000, *options, **terminal, preexec_fn=own_terminal)
    os.close(slave)
    sweep = tmp_path / "lost/tiny"
    while not list(sweep.glob("depth-1/seed-*/checkpoint-400")):  # the other worker may be no further than its imports
        if select.select([master], [], [], 0.01)[0]:
            os.read(master, 4096)
        assert process.poll() is None
    os.close(master)  # the system sends SIGHUP, and writing is an error from now on
    assert process.wait(120) == 128 + signal.SIGHUP
    interrupted = {path.parent for path in sweep.glob("depth-1/seed-*/checkpoint-*")}
    assert interrupted
    for run in interrupted:
        saved = sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
        assert saved[-1] % 400  # of the step under way
    for name in ("lost", "undisturbed"):
        assert start(tmp_path / name, 4000, *options, stdout=subprocess.DEVNULL).wait(240) == 0
    pd.testing.assert_frame_equal(table(tmp_path / "lost"), table(tmp_path / "undisturbed"), check_exact=True)


@pytest.mark.slow
def test_nohup_is_respected(tmp_path):
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start(tmp_path, 3000, stdout=subprocess.DEVNULL, preexec_fn=ignore)
    wait_for(tmp_path / "tiny/depth-1/seed-0", process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(240) == 0


INTERRUPTED = """
import os, signal, sys
moment, *arguments = sys.argv[1:]
sys.addaudithook(
    lambda event, a: os.kill(os.getpid(), signal.SIGINT) if event == "import" and a[0] == moment else None
)
from hf_ncollapse.cli import main
sys.exit(main(arguments))
"""


@pytest.mark.parametrize("moment", ["hf_ncollapse.hub.publish", "hf_ncollapse.sweeps.estimate"])
def test_ctrl_c_before_a_run_begins_is_one_line(moment, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, moment, *TRAIN[3:], "5", "--output_dir", str(tmp_path)]
    ended = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "hf-ncollapse train: stopped by SIGINT before a run began\n"
    assert list(tmp_path.iterdir()) == []
