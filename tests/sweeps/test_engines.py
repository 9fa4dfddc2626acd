"""Every engine ends in the same table to the last bit, whatever is killed in between; with real processes."""

import contextlib
import functools
import gc
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from hf_ncollapse.sweeps import EngineArguments, make_engine, parse_recipe, run_sweep
from hf_ncollapse.sweeps.engines.engine import Sweep, check_shared, folder_mark
from hf_ncollapse.sweeps.engines.this_process import ThisProcess
from hf_ncollapse.sweeps.engines.workers import Workers, worker_environment
from hf_ncollapse.sweeps.plan import plan_runs

SCRIPT = Path(__file__).parents[2] / "recipes" / "train.py"
ARGUMENTS = [
    "--sweep=tiny", "--architecture=L-RN1", "--dataset=digits", "--train_samples=100", "--test_samples=50",
    "--hidden_size=16", "--depths", "2", "4", "--seeds", "0", "1", "--initialization=continuation",
    "--max_steps=60", "--per_device_train_batch_size=20", "--use_cpu",
]  # fmt: skip
RUNS = tuple(f"depth-{depth}/seed-{seed}" for seed in (0, 1) for depth in (2, 4))


@pytest.fixture(autouse=True)
def same_threads(monkeypatch):
    """Sums over another number of threads are rounded another way."""
    for name, value in (("OMP_NUM_THREADS", "1"), ("HF_HUB_OFFLINE", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
        monkeypatch.setenv(name, value)


def recipe_in(folder, *options):
    (recipe,), _ = parse_recipe([*ARGUMENTS, *options, "--output_dir", str(folder)])
    return recipe


def start(folder, *options):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *ARGUMENTS, *options, "--output_dir", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process, code=0):
    output, errors = process.communicate(timeout=400)
    assert process.returncode == code, errors
    return output + errors


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def trains(pid, run):
    """Whether a process holds the lock of a run's folder."""
    with contextlib.suppress(OSError):  # it has ended, or is nobody's to look into
        return any(os.readlink(link) == str(run / ".lock") for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def wait_for_checkpoint_of_one_of(parent, folder, process):
    """Until a child of a process trains a run from which a checkpoint is there already."""
    deadline = time.monotonic() + 300
    runs = [folder / run for run in RUNS]
    while not any(
        (run / "checkpoint-12" / "sha256.json").exists() and trains(pid, run)
        for run in runs
        for pid in children(parent)
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def table(folder):
    return pd.read_csv(folder / "tiny" / "results.csv").drop(columns="seconds")


def assert_same(folder, undisturbed):
    pd.testing.assert_frame_equal(table(folder), table(undisturbed), check_exact=True)
    for run in RUNS:
        files = {path.name for path in (folder / "tiny" / run).iterdir()}
        assert files == {path.name for path in (undisturbed / "tiny" / run).iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        finish(start(folder))
    return folder


@pytest.mark.slow
def test_two_workers_write_the_table_of_one_process(undisturbed, tmp_path):
    assert "finished before" not in finish(start(tmp_path, "--workers=2"))
    assert_same(tmp_path, undisturbed)
    metrics = [tmp_path / "tiny" / run / "metrics.json" for run in RUNS]
    before = [path.stat().st_ino for path in metrics]
    assert finish(start(tmp_path, "--workers=2")).count("finished before") == len(RUNS)
    assert [path.stat().st_ino for path in metrics] == before


@pytest.mark.slow
def test_ray_writes_the_table_of_one_process(undisturbed, tmp_path):
    pytest.importorskip("ray")
    finish(start(tmp_path, "--engine=ray"))
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("is_lost", [False, True], ids=["", "one of them is lost"])
def test_a_ray_cluster_of_two_nodes_writes_the_table_of_one_process(is_lost, undisturbed, tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = cluster.add_node(num_cpus=1)
        process = start(tmp_path, "--engine=ray", f"--address={cluster.address}")
        if is_lost:
            (raylet,) = (started.process for started in other.all_processes["raylet"])
            wait_for_checkpoint_of_one_of(raylet, tmp_path / "tiny", process)
            cluster.remove_node(other, allow_graceful=False)
        said = finish(process)
    finally:
        cluster.shutdown()
    assert "Ray: 2 cores and 0 GPUs, 1 and 0 a run" in said
    assert ("it goes on from its last checkpoint" in said) == is_lost
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_slurms_jobs_write_the_table_of_one_process(undisturbed, tmp_path):
    jobs = pytest.importorskip("hf_ncollapse.sweeps.engines.slurm_jobs").SlurmJobs
    engine = functools.partial(jobs, arguments=EngineArguments("slurm", workers=2), cluster="local")
    outcome = run_sweep(recipe_in(tmp_path), engine)
    assert len(outcome.finished) == len(RUNS)
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [["--workers=2"], ["--engine=ray"]], ids=["local", "ray"])
def test_a_killed_worker_loses_one_attempt_of_one_run(engine, undisturbed, tmp_path):
    if "--engine=ray" in engine:
        pytest.importorskip("ray")
    run = tmp_path / "tiny" / "depth-4" / "seed-0"
    process = start(tmp_path, *engine)
    wait_for(run / "checkpoint-12" / "sha256.json", process)
    everyone = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    (worker,) = [pid for pid in everyone if trains(pid, run)]
    os.kill(worker, signal.SIGKILL)
    said = finish(process)
    assert said.count("it goes on from its last checkpoint") == 1
    assert "depth 4, seed 0: its " in said
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_workers_of_a_killed_schedule_save_and_end_and_the_next_start_continues(undisturbed, tmp_path):
    run = tmp_path / "tiny" / "depth-2" / "seed-0"
    process = start(tmp_path, "--workers=2")
    wait_for(run / "checkpoint-12" / "sha256.json", process)
    workers = children(process)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(run.glob("checkpoint-*/sha256.json"))
    finish(start(tmp_path, "--workers=2"))
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [["--workers=2"], ["--engine=ray"]], ids=["local", "ray"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_engine_that_is_asked_to_stop_saves_every_run_and_continues(engine, number, code, undisturbed, tmp_path):
    if "--engine=ray" in engine:
        pytest.importorskip("ray")
    run = tmp_path / "tiny" / "depth-2" / "seed-1"
    process = start(tmp_path, *engine)
    wait_for(run / "checkpoint-12" / "sha256.json", process)
    process.send_signal(number)
    said = finish(process, code)
    # The runs are short: the signal may come when this one has just ended.
    assert re.search(rf"stopped by {signal.Signals(number).name} (at|before) depth ", said)
    if stopped := re.search(r"depth 2, seed 1, step (\d+)", said):
        assert (run / f"checkpoint-{stopped[1]}" / "sha256.json").is_file()
    else:
        assert (run / "metrics.json").is_file()
    finish(start(tmp_path, *engine))
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_two_commands_on_one_folder_share_its_runs(undisturbed, tmp_path):
    both = [start(tmp_path), start(tmp_path)]
    said = [finish(process) for process in both]
    assert sum(output.count(" steps in ") for output in said) == len(RUNS)
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_command_takes_over_the_run_of_another_that_is_killed(undisturbed, tmp_path):
    run = tmp_path / "tiny" / "depth-2" / "seed-0"
    first = start(tmp_path, "--seeds", "0")
    wait_for(run / "checkpoint-12" / "sha256.json", first)
    first.send_signal(signal.SIGSTOP)
    second = start(tmp_path)
    assert any("other commands train the runs that are left; waiting for them" in line for line in second.stdout)
    first.kill()
    first.communicate()
    finish(second)
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_the_garbage_collector_passes_over_what_outlives_a_run_until_the_sweep_ends(tmp_path):
    frozen = []

    class Watched(ThisProcess):
        def ended(self, patience):
            ends = super().ended(patience)
            frozen.append(gc.get_freeze_count())
            return ends

    run_sweep(recipe_in(tmp_path, "--max_steps=2", "--seeds", "0"), Watched)
    assert min(frozen) > 10_000
    assert gc.get_freeze_count() == 0


def test_a_mistake_in_a_worker_is_that_of_the_sweep(tmp_path, capsys):
    mistake = ["--changed_objective=optim", "--optim=adamw_torch", '--lr_scheduler_kwargs={"cycles": 1}']
    recipe = recipe_in(tmp_path, *mistake, "--depths=2", "--seeds=0")
    with pytest.raises(RuntimeError, match="cycles"):
        run_sweep(recipe, functools.partial(Workers, count=2))
    assert not (recipe.folder / "sweep.json").exists()


@pytest.mark.parametrize(("index", "gpu"), [(0, "4"), (1, "GPU-a"), (2, "4")])
def test_workers_share_the_gpus_and_threads_that_their_command_sees(monkeypatch, index, gpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a")
    assert worker_environment(index, 3) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": gpu}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert worker_environment(index, 3) == {"OMP_NUM_THREADS": "1"}


def test_threads_are_divided_among_workers_unless_they_are_said(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("torch.get_num_threads", lambda: 13)
    assert worker_environment(0, 4)["OMP_NUM_THREADS"] == "3"
    assert worker_environment(0, 64)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; it takes at least 1"),
        ({"gpus_per_run": -1}, "gpus_per_run is -1; it takes at least 0"),
        ({"address": "auto"}, "address is 'auto' and engine 'local'; it takes 'ray'"),
        ({"engine": "ray", "partition": "gpu"}, "partition is 'gpu' and engine 'ray'; it takes 'slurm'"),
        ({"engine": "slurm", "slurm_options": ["account"]}, "slurm_options has 'account'; it takes name=value"),
    ],
)
def test_an_engines_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EngineArguments(**options)


def test_a_package_that_an_engine_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "hf_ncollapse.sweeps.engines.ray_tasks", raising=False)
    with pytest.raises(ImportError, match=r"engine is 'ray', .* pip install 'hf_ncollapse\[ray\]'"):
        make_engine(EngineArguments("ray"))


def test_a_machine_that_sees_another_folder_is_named(tmp_path):
    mark = folder_mark(tmp_path)
    check_shared(tmp_path, mark)
    assert folder_mark(tmp_path) == mark
    (tmp_path / "other").mkdir()
    for seen in (tmp_path / "other", tmp_path / "missing"):
        with pytest.raises(OSError, match=f"{seen} on .* is not the folder of the machine that started the sweep"):
            check_shared(seen, mark)
    folder_mark(tmp_path / "other")
    with pytest.raises(OSError, match="is not the folder"):
        check_shared(tmp_path / "other", mark)


# What sbatch gets


SBATCH = """#!/bin/sh
eval last=\\${$#}
number=$(ls "$JOBS" | wc -l)
cp "$last" "$JOBS/$number"
echo "Submitted batch job $number"
"""


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A command that keeps the scripts it gets, numbered from 0."""
    for name, content in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n")):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(content)
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("JOBS", str(jobs))
    return jobs


@pytest.mark.parametrize(
    ("options", "finished", "dependencies", "arrays"),
    [
        ([], [], [None, "aftercorr:0", "aftercorr:1"], ["0-1%2", "0-1%2", "0-1%2"]),
        (["--initialization=scratch"], [], [None], ["0-5%2"]),
        (["--seeds=3"], [], [None, "afterok:0", "afterok:1"], [None, None, None]),
        ([], ["depth-1/seed-0"], [None, "afterok:0_1", "afterok:0_0:1"], ["0-1%2", None, "0-1%2"]),
    ],
)
def test_slurm_gets_arrays_whose_jobs_wait_for_their_parents(
    sbatch, tmp_path, options, finished, dependencies, arrays
):
    jobs = pytest.importorskip("hf_ncollapse.sweeps.engines.slurm_jobs").SlurmJobs
    recipe = recipe_in(tmp_path, "--depths", "1", "2", "4", *options)
    recipe.folder.mkdir(parents=True)
    arguments = EngineArguments(
        "slurm", workers=2, partition="gpu", minutes=90, gpus_per_run=0.5, slurm_options=["account=me"]
    )
    runs = plan_runs(recipe, learning_rate=0.01, max_steps=6)
    engine = jobs(Sweep(recipe, None, None, None), arguments)
    starting = [run for run in runs if str(run.folder.relative_to(recipe.folder)) not in finished]
    engine.start(starting)
    scripts = [dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in (sbatch / str(number)).read_text().splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    ) for number in range(len(list(sbatch.iterdir())))]  # fmt: skip
    assert [script.get("dependency") for script in scripts] == dependencies
    assert [script.get("array") for script in scripts] == arrays
    for script in scripts:
        expected = {"partition": "gpu", "time": "90", "gpus-per-node": "1", "account": "me", "job-name": "tiny"}
        assert script.items() >= expected.items()
