"""The callback adds collapse to the log of a stock `Trainer`, and nothing else to its training."""

import pytest
import torch
from datasets import Dataset
from sklearn.datasets import load_digits
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_ncollapse.inspection import NeuralCollapseCallback, measure_collapse


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, labels, strict=True)]
    return rows[:800], rows[800:1200]


def make_trainer(folder, train, steps, test=None, **options):
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=10,
        hidden_dropout_prob=0.1,
    )
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=2e-3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **{"logging_strategy": "no", **options},
    )
    return Trainer(model=ViTForImageClassification(config), args=arguments, train_dataset=train, eval_dataset=test)


def logged(trainer, key):
    return {entry["step"]: entry[key] for entry in trainer.state.log_history if key in entry}


def test_collapse_of_a_vit_on_digits_falls_while_a_stock_trainer_trains_it(tmp_path, digits):
    train, test = digits
    trainer = make_trainer(tmp_path, train, 250)
    trainer.add_callback(NeuralCollapseCallback(trainer, test_dataset=test, every=50, layers="all"))
    trainer.train()
    nc1 = logged(trainer, "train_collapse_nc1")
    assert list(nc1) == [50, 100, 150, 200, 250]
    assert nc1[250] < 0.5 * nc1[50]
    held_out = logged(trainer, "test_collapse_nc1")
    assert held_out[250] > nc1[250]
    assert list(logged(trainer, "train_collapse_nc1/vit.layers.1")) == list(nc1)

    training = measure_collapse(trainer.model, train)
    assert nc1[250] == pytest.approx(training["nc1"], rel=1e-4)
    assert held_out[250] == pytest.approx(measure_collapse(trainer.model, test, training=training)["nc1"], rel=1e-4)


def test_training_takes_the_same_path_with_and_without_the_callback(tmp_path, digits):
    train, _ = digits
    weights = []
    for with_callback in (False, True):
        trainer = make_trainer(tmp_path, train[:200], 8)
        if with_callback:
            trainer.add_callback(NeuralCollapseCallback(trainer, every=3))
        trainer.train()
        assert trainer.model.training
        weights.append(nn.utils.parameters_to_vector(trainer.model.parameters()).detach())
    assert torch.equal(*weights)


TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "eval_runtime",
         "eval_samples_per_second", "eval_steps_per_second")  # fmt: skip


def trainers_own_entries(trainer):
    """The log without the callback's entries and without what a clock says."""
    own = [entry for entry in trainer.state.log_history if "train_collapse_nc1" not in entry]
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in own]


@pytest.mark.parametrize("evaluating", [{}, {"eval_strategy": "steps", "eval_steps": 2}, {"eval_strategy": "epoch"}])
@pytest.mark.parametrize(
    "logging",
    [
        {"logging_strategy": "steps", "logging_steps": 1},
        {"logging_strategy": "steps", "logging_steps": 2},
        {"logging_strategy": "steps", "logging_steps": 3, "logging_first_step": True},
        {"logging_strategy": "epoch"},
    ],
)
def test_the_trainer_logs_the_same_entries_with_and_without_the_callback(tmp_path, digits, logging, evaluating):
    train, test = digits[0][:64], digits[1][:32]
    entries = {}
    for every in (None, 1, 2, "epoch"):
        trainer = make_trainer(tmp_path, train, -1, test, num_train_epochs=2, **logging, **evaluating)
        if every is not None:
            trainer.add_callback(NeuralCollapseCallback(trainer, train[:30], every=every))
        trainer.train()
        assert bool(logged(trainer, "train_collapse_nc1")) == (every is not None)
        entries[every] = trainers_own_entries(trainer)
    assert sum("loss" in entry for entry in entries[None]) >= 2
    for every in (1, 2, "epoch"):
        assert entries[every] == entries[None], every


def test_the_trainers_default_interval_is_no_exception(tmp_path, digits):
    trainer = make_trainer(tmp_path, digits[0][:40], 500, logging_strategy="steps")
    assert trainer.args.logging_steps == 500
    trainer.add_callback(NeuralCollapseCallback(trainer, every=500))
    trainer.train()
    assert list(logged(trainer, "loss")) == list(logged(trainer, "train_collapse_nc1")) == [500]


def test_every_epoch_is_measured_once(tmp_path, digits):
    trainer = make_trainer(tmp_path, digits[0][:96], -1, num_train_epochs=2)
    trainer.add_callback(NeuralCollapseCallback(trainer, measures="paper"))
    trainer.train()
    assert list(logged(trainer, "train_collapse_nc3")) == [3, 6]


class Adapted(nn.Module):
    """Tells where the model is that it was put into, as PEFT's models do."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def get_base_model(self):
        return self.base_model

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        return self.base_model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def test_an_adapted_language_models_classes_are_its_next_tokens(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=6, n_embd=16, n_layer=1, n_head=2, n_positions=12))
    tokens = torch.randint(0, 6, (16, 12)).tolist()
    rows = Dataset.from_dict({"input_ids": tokens, "labels": tokens})
    arguments = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", save_strategy="no")
    trainer = Trainer(model=Adapted(model), args=arguments, train_dataset=rows)
    trainer.add_callback(NeuralCollapseCallback(trainer))
    trainer.train()
    expected = measure_collapse(model, rows)
    assert "next token" in expected.head
    assert logged(trainer, "train_collapse_nc1")[1] == pytest.approx(expected["nc1"], rel=1e-5)


def test_columns_that_the_model_does_not_take_are_left_out_as_the_trainer_leaves_them_out(tmp_path, digits):
    train = digits[0][:64]
    columns = {name: [row[name] for row in train] for name in train[0]}
    table = Dataset.from_dict({**columns, "source": ["a scan"] * 64}).with_format("torch")
    found = []
    for dataset in (table, train):
        trainer = make_trainer(tmp_path, dataset, 2)
        trainer.add_callback(NeuralCollapseCallback(trainer, every=2))
        trainer.train()
        found.append(logged(trainer, "train_collapse_nc1")[2])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("every", ["step", 0, True])
def test_an_unknown_interval_is_an_error(tmp_path, digits, every):
    trainer = make_trainer(tmp_path, digits[0], 1)
    with pytest.raises(ValueError, match='every must be "epoch" or a number of steps'):
        NeuralCollapseCallback(trainer, every=every)


def test_a_trainer_without_a_training_set_needs_one_to_be_given(tmp_path):
    trainer = make_trainer(tmp_path, None, 1)
    with pytest.raises(ValueError, match="train_dataset must be given"):
        NeuralCollapseCallback(trainer)
