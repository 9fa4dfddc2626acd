"""A sweep of many finished runs costs time in proportion to their number: a run's files are read a few times."""

from collections import Counter
from pathlib import Path

import pytest
from constructed import table

from hf_ncollapse.sweeps import parse_recipe, run_sweep
from hf_ncollapse.sweeps.files import write_json
from hf_ncollapse.sweeps.plan import claim_folder

DEPTHS, SEEDS = (2, 4, 8), tuple(range(7))
OPTIONS = [
    "--sweep", "s", "--architecture", "L-RN1", "--dataset", "digits", "--train_samples", "100", "--max_steps", "10",
    "--depths", *map(str, DEPTHS), "--seeds", *map(str, SEEDS), "--initialization", "continuation", "--use_cpu",
]  # fmt: skip


@pytest.fixture
def reads(monkeypatch) -> Counter:
    """How often each file was read as text, by its name."""
    counted = Counter()
    read_text = Path.read_text

    def counting(path, *arguments, **keywords):
        counted[path.name] += 1
        return read_text(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "read_text", counting)
    return counted


def test_a_finished_sweep_that_is_started_again_reads_each_run_twice(tmp_path, reads):
    (recipe,), _ = parse_recipe([*OPTIONS, "--output_dir", str(tmp_path)])
    for row in table(depths=DEPTHS, seeds=SEEDS).to_dict("records"):
        folder = recipe.folder / f"depth-{row['depth']}" / f"seed-{row['seed']}"
        folder.mkdir(parents=True)
        write_json(folder / "metrics.json", row | {"processes": 1, "environment": {"threads": 1}})
    claim_folder(recipe)
    outcome = run_sweep(recipe)
    assert len(outcome.finished) == len(DEPTHS) * len(SEEDS)
    assert reads["metrics.json"] == 2 * len(outcome.finished)  # for the table, and for where they were computed
    assert (recipe.folder / "results.csv").read_text().count("\n") == 1 + len(outcome.finished)
