"""A small sweep, really trained, to publish."""

import shutil
from pathlib import Path

import pytest

from hf_ncollapse.sweeps import parse_recipe, run_sweep

_SMALL = [
    "--sweep", "digits-rn1", "--architecture", "L-RN1", "--norm_placement", "post", "--dataset", "digits",
    "--train_samples", "200", "--test_samples", "100", "--hidden_size", "16", "--depths", "2", "4", "--seeds", "0",
    "1", "--max_steps", "10", "--eval_steps", "10", "--per_device_train_batch_size", "200", "--use_cpu",
]  # fmt: skip


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory) -> Path:
    """L-RN1 on digits, depths 2 and 4, seeds 0 and 1; not to be written to."""
    (recipe,), _ = parse_recipe([*_SMALL, "--output_dir", str(tmp_path_factory.mktemp("runs"))])
    return run_sweep(recipe).folder


@pytest.fixture
def sweep_copy(finished_sweep, tmp_path) -> Path:
    """A copy of it that a test may write to."""
    return Path(shutil.copytree(finished_sweep, tmp_path / finished_sweep.name))
