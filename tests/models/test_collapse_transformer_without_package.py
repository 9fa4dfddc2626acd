"""Saved transformers, image processor and tokenizer work in a fresh process that cannot import the package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ncollapse import (
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
    CollapseTransformerForSequenceClassification,
)
from hf_ncollapse.data import DataArguments
from hf_ncollapse.data.images import fit_image_processor
from hf_ncollapse.data.texts import fit_tokenizer

PROGRAM = """
import json, sys
sys.modules["hf_ncollapse"] = None
from PIL import Image
from transformers import pipeline
images = pipeline("image-classification", model="images", trust_remote_code=True)
texts = pipeline("text-classification", model="texts", trust_remote_code=True)
long = "good " * 100
print("RESULT" + json.dumps({
    "image": images(Image.open("image.png"), function_to_apply="none"),
    "larger": images(Image.open("image.png").convert("RGBA").resize((50, 40))),
    "text": texts("a good film", top_k=None, function_to_apply="none"),
    "batch": texts(["a good film", "bad"], top_k=None, batch_size=2, function_to_apply="none"),
    "empty": texts("", top_k=None), "unknown": texts("xyz", top_k=None),
    "long": texts(long, top_k=None), "cut": texts(long[: 5 * 7], top_k=None),
}))
"""


def test_both_pipelines_work_from_the_saved_folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    processor = fit_image_processor([image, Image.new("L", (8, 8))], None, 255)
    names = {0: "cat", 1: "dog", 2: "hen"}
    classifier = CollapseTransformerForImageClassification(
        CollapseTransformerConfig(image_size=8, patch_size=4, mlp_linear_layers=2, id2label=names)
    )
    texts = ["a good film", "a bad film", "good acting", "bad music"]
    tokenizer = fit_tokenizer(texts, DataArguments("reviews", tokenizer="word", vocabulary_size=30, max_length=8))
    text_classifier = CollapseTransformerForSequenceClassification(
        CollapseTransformerConfig(vocab_size=len(tokenizer), max_position_embeddings=8, id2label={0: "bad", 1: "good"})
    )
    for name, model, preprocessor in (("images", classifier, processor), ("texts", text_classifier, tokenizer)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.2)
        model.save_pretrained(tmp_path / name)
        preprocessor.save_pretrained(tmp_path / name)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}

    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout.rpartition("RESULT")[2])
    with torch.no_grad():
        image_logits = classifier(processor(image, return_tensors="pt")["pixel_values"]).logits[0].tolist()
        text_logits = text_classifier(**tokenizer(["a good film"], return_tensors="pt")).logits[0].tolist()
    assert {row["label"]: row["score"] for row in result["image"]} == pytest.approx(
        dict(zip(names.values(), image_logits, strict=True)), abs=1e-5
    )
    assert {row["label"]: row["score"] for row in result["text"]} == pytest.approx(
        dict(zip(["bad", "good"], text_logits, strict=True)), abs=1e-5
    )
    assert len(result["larger"]) == 3
    assert np.allclose(
        [row["score"] for row in result["batch"][0]], [row["score"] for row in result["text"]], atol=1e-5
    )
    for name in ("empty", "unknown"):
        assert all(np.isfinite(row["score"]) for row in result[name])
    # [CLS] and 7 words fill the 8 positions.
    assert result["long"] == result["cut"]
