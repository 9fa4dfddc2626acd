"""Sweeps of the transformers, on images and on texts, through the same recipes as the residual networks'."""

import math

import datasets
import pytest
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from hf_ncollapse.data import load_classification_data
from hf_ncollapse.sweeps import parse_recipe, run_sweep
from hf_ncollapse.sweeps.architectures import ARCHITECTURES, build_config, build_model
from hf_ncollapse.sweeps.arguments import ModelArguments

SMALL = {"sweep": "small", "hidden_size": 16, "max_steps": 3, "warmup_steps": 1, "report_to": "none", "use_cpu": True}


def run(folder, **options):
    arguments = ["--output_dir", str(folder)]
    for name, value in {**SMALL, **options}.items():
        arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    (recipe,), _ = parse_recipe(arguments)
    outcome = run_sweep(recipe)
    assert not outcome.failed
    return outcome


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("L-T")])
def test_the_papers_names_stand_for_the_number_of_linear_layers(name):
    data = load_classification_data("digits", train_samples=100)
    config = build_config(name, 2, ModelArguments(hidden_size=16, patch_size=4), data)
    model = build_model(name, config, data)
    block = model.network.layers[0]
    assert config.architecture_name == name
    matrices = {"1": {"query_key", "value_output"}, "2": {"query", "key", "value", "output"}}[name[3]]
    assert {key.partition(".")[0] for key in block.attention.state_dict()} == matrices
    assert (block.feed_forward.linear_2 is not None) == (name[4] == "2")
    assert config.num_labels == 10


def test_an_image_sweep_continues_from_depth_to_depth_and_leaves_checkpoints(tmp_path):
    outcome = run(
        tmp_path,
        architecture="L-T11",
        patch_size=4,
        dataset="digits",
        train_samples=100,
        test_samples=50,
        depths=[1, 2],
        initialization="continuation",
        per_device_train_batch_size=50,
        gradient_accumulation_steps=2,
    )
    assert [finished.depth for finished in outcome.finished] == [1, 2]
    model = AutoModelForImageClassification.from_pretrained(outcome.finished[1].folder)
    assert model.config.num_hidden_layers == 2
    assert model.config.image_size == 8


def test_a_text_sweep_saves_the_tokenizer_with_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {"text": ["a fine film", "a dreadful film"] * 10, "label": [1, 0] * 10}
    for split in ("train", "test"):
        path = tmp_path / "some-user" / "reviews" / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows).to_parquet(path)

    outcome = run(
        tmp_path / "runs",
        architecture="L-T12",
        num_attention_heads=2,
        pooling="mean",
        dataset="some-user/reviews",
        tokenizer="word",
        max_length=6,
        depths=[2],
        per_device_train_batch_size=8,
    )

    folder = outcome.finished[0].folder
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert math.isfinite(model(**tokenizer(["a fine film"], return_tensors="pt")).logits.sum().item())


def test_a_transformers_option_on_a_residual_network_is_an_error():
    data = load_classification_data("digits", train_samples=100)
    with pytest.raises(ValueError, match="pooling cannot be set for L-RN1"):
        build_config("L-RN1", 2, ModelArguments(pooling="mean"), data)
