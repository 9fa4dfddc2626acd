"""A saved residual network works in a fresh process that cannot import the package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification
from hf_ncollapse.data.images import fit_image_processor

PROGRAM = """
import json, sys
sys.modules["hf_ncollapse"] = None
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageClassification, pipeline
pixels = load_file("pixels.safetensors")["pixels"]
model = AutoModelForImageClassification.from_pretrained("checkpoint", trust_remote_code=True)
network = AutoModel.from_pretrained("checkpoint", trust_remote_code=True)
output = model(pixels, labels=torch.tensor([0, 1]))
classify = pipeline("image-classification", model="checkpoint", trust_remote_code=True)
print("RESULT" + json.dumps({
    "logits": output.logits.tolist(), "loss": output.loss.item(), "penalty": model.regularization().item(),
    "features": network(pixels).features.tolist(),
    "deepened": model.deepen(4).config.num_hidden_layers,
    "image": classify(Image.open("image.png"), function_to_apply="none"),
    "larger": classify(Image.open("image.png").convert("RGBA").resize((50, 40))),
}))
"""


def test_model_penalty_and_pipeline_work_from_the_saved_folder(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (8, 6, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    processor = fit_image_processor([image, Image.new("RGB", (6, 8))], None, 255)
    names = {0: "cat", 1: "dog", 2: "hen"}
    model = CollapseResNetForImageClassification(
        CollapseResNetConfig(
            image_size=[8, 6], num_channels=3, linear_layers_per_block=2, norm_placement="pre", id2label=names,
            num_hidden_layers=3, l2_depth_scaling="inverse", classifier_bias=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    pixels = torch.randn(2, 3, 8, 6)
    save_file({"pixels": pixels}, tmp_path / "pixels.safetensors")

    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={
            **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"),
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout.rpartition("RESULT")[2])
    with torch.no_grad():
        output = model(pixels, labels=torch.tensor([0, 1]))
        image_logits = model(processor(image, return_tensors="pt")["pixel_values"]).logits[0].tolist()
    assert result["logits"] == output.logits.tolist()
    assert result["loss"] == output.loss.item()
    assert result["penalty"] == model.regularization().item()
    assert result["features"] == output.features.tolist()
    assert result["deepened"] == 4
    assert {row["label"]: row["score"] for row in result["image"]} == pytest.approx(
        dict(zip(names.values(), image_logits, strict=True)), abs=1e-5
    )
    assert len(result["larger"]) == 3
