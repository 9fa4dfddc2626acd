"""A sweep of the paper's size, seven depths and five seeds, goes to the Hub in one command."""

import os
import subprocess
import sys

import pytest

from hf_ncollapse.sweeps import parse_recipe, run_sweep

DEPTHS, SEEDS = (2, 3, 5, 8, 13, 21, 34), (0, 1, 2, 3, 4)
TINY = [
    "--sweep", "paper-sized", "--architecture", "L-RN1", "--dataset", "digits", "--train_samples", "100",
    "--depths", *map(str, DEPTHS), "--seeds", *map(str, SEEDS), "--max_steps", "2",
    "--per_device_train_batch_size", "100", "--use_cpu",
]  # fmt: skip
PUBLISH = "import sys; from hf_ncollapse import cli; sys.exit(cli.main(sys.argv[1:]))"


@pytest.mark.slow
def test_thirty_five_networks_are_published_within_three_minutes(hub, tmp_path):
    (recipe,), _ = parse_recipe([*TINY, "--output_dir", str(tmp_path / "runs")])
    folder = run_sweep(recipe).folder
    finished = subprocess.run(
        [sys.executable, "-c", PUBLISH, "publish", str(folder), "--namespace", "my-org"],
        env=os.environ | hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert finished.returncode == 0, finished.stderr
    for depth in DEPTHS:
        repository = hub.repository(f"my-org/paper-sized-depth-{depth}")
        assert repository.files("main") == repository.files("seed-0")
        weights = {repository.files(f"seed-{seed}")["model.safetensors"] for seed in SEEDS}
        assert len(weights) == len(SEEDS)
        assert f"my-org/paper-sized-depth-{depth}@seed-4: " in finished.stdout
