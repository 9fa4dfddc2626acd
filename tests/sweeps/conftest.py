"""Real sweeps, small enough to train in the tests."""

import shutil
from pathlib import Path

import pytest

from hf_ncollapse.sweeps import parse_recipe, run_sweep

_SMALL = [
    "--architecture", "L-RN1", "--norm_placement", "post", "--dataset", "digits", "--train_samples", "500",
    "--test_samples", "200", "--depths", "2", "4", "--seeds", "0", "1", "--initialization", "continuation",
    "--max_steps", "20", "--eval_steps", "10", "--per_device_train_batch_size", "500", "--use_cpu",
]  # fmt: skip


def train(folder: Path, *options: str) -> Path:
    (recipe,), _ = parse_recipe([*_SMALL, "--output_dir", str(folder), *options])
    return run_sweep(recipe).folder


@pytest.fixture(scope="session")
def trained_sweep(tmp_path_factory) -> Path:
    """L-RN1 on digits, depths 2 and 4, seeds 0 and 1; not to be written to."""
    return train(tmp_path_factory.mktemp("runs"), "--sweep", "digits-rn1")


@pytest.fixture(scope="session")
def trained_mse_sweep(tmp_path_factory) -> Path:
    """The same with MSE and one seed; not to be written to."""
    return train(tmp_path_factory.mktemp("runs"), "--sweep", "digits-rn1-mse", "--loss", "mse", "--seeds", "0")


@pytest.fixture
def sweep(trained_sweep, tmp_path) -> Path:
    """A copy of the trained sweep that a test may write to."""
    return Path(shutil.copytree(trained_sweep, tmp_path / trained_sweep.name))


@pytest.fixture
def mse_sweep(trained_mse_sweep, tmp_path) -> Path:
    """A copy of the trained MSE sweep that a test may write to."""
    return Path(shutil.copytree(trained_mse_sweep, tmp_path / trained_mse_sweep.name))
