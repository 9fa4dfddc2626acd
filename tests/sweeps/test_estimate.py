"""A dry run shows what the sweep will do, and does none of it."""

import json
import re

import pytest

from hf_ncollapse.sweeps import parse_recipe, run_sweep
from hf_ncollapse.sweeps.estimate import print_plan

# 100 samples in steps of 2 · 15 are 4 steps an epoch, the last one of 10 samples: 6 steps in 1.5 epochs.
OPTIONS = [
    "--sweep=tiny", "--architecture=L-RN1", "--dataset=digits", "--train_samples=100", "--test_samples=50",
    "--hidden_size=16", "--depths", "2", "4", "--initialization=continuation", "--learning_rate_depth_exponent=1",
    "--learning_rate=0.01", "--num_train_epochs=1.5", "--per_device_train_batch_size=15",
    "--gradient_accumulation_steps=2", "--use_cpu",
]  # fmt: skip


def plan_of(folder, capsys, *options):
    (recipe,), _ = parse_recipe([*OPTIONS, "--output_dir", str(folder), *options])
    print_plan(recipe)
    shown = capsys.readouterr().out
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines() if re.match(r"\s+\d+\s{2,}\d", line)]
    return shown, rows, recipe


def test_a_dry_run_lists_steps_and_cost_of_every_run_and_writes_nothing(tmp_path, capsys):
    shown, rows, recipe = plan_of(tmp_path, capsys, "--seeds", "0", "1")
    starts = [row[:5] for row in rows]
    assert starts == [
        ["2", "0", "random weights", "6", "0.005"], ["4", "0", "depth 2", "6", "0.0025"],
        ["2", "1", "random weights", "6", "0.005"], ["4", "1", "depth 2", "6", "0.0025"],
    ]  # fmt: skip
    assert "4 runs, about" in shown
    assert str(recipe.folder) in shown
    assert not recipe.folder.exists()


@pytest.mark.parametrize(
    ("options", "steps"), [((), "6"), (("--full_batch", "true", "--gradient_accumulation_steps", "1"), "2")]
)
def test_the_steps_of_a_dry_run_are_those_of_the_sweep_and_finished_runs_cost_nothing(
    tmp_path, capsys, options, steps
):
    _, rows, recipe = plan_of(tmp_path, capsys, *options)
    assert [row[3] for row in rows] == [steps, steps]
    assert not run_sweep(recipe).failed
    for row in rows:
        folder = recipe.folder / f"depth-{row[0]}" / "seed-0"
        weights = (folder / "model.safetensors").stat().st_size
        assert json.loads((folder / "metrics.json").read_text())["steps"] == int(row[3])
        assert abs(float(row[6]) - weights / 1e6) < 0.01
    capsys.readouterr()
    _, rows, _ = plan_of(tmp_path, capsys, *options)
    assert [(row[2], row[5]) for row in rows] == [("finished", "0.0"), ("finished", "0.0")]
