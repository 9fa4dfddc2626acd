"""Training arguments: the exact objective by default, and no other without its name."""

import pytest
import torch

from hf_ncollapse.training.arguments import CollapseTrainingArguments


def test_the_defaults_clip_nothing_and_smooth_nothing():
    arguments = CollapseTrainingArguments(output_dir="unused")
    assert (arguments.optim, arguments.weight_decay, arguments.max_grad_norm) == ("adam", None, 0.0)
    assert (arguments.label_smoothing_factor, arguments.neftune_noise_alpha) == (0.0, None)
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.use_cpu == (not torch.accelerator.is_available())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"optim": "adamw_torch"}, "optim is 'adamw_torch'; for the exact objective it takes one of adam, sgd, lbfgs"),
        ({"max_grad_norm": 1.0}, "max_grad_norm is 1.0; for the exact objective it takes 0: clipping"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1; .* smoothed labels"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is 5.0; .* noise"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices is False; .* weigh samples"),
    ],
)
def test_an_argument_that_changes_the_objective_is_refused_unless_it_is_named(keywords, message):
    (name,) = keywords
    with pytest.raises(ValueError, match=message):
        CollapseTrainingArguments(output_dir="unused", **keywords)
    with pytest.raises(ValueError, match=message):
        CollapseTrainingArguments(output_dir="unused", changed_objective=["weight_decay"], **keywords)
    allowed = CollapseTrainingArguments(output_dir="unused", changed_objective=[name], **keywords)
    assert getattr(allowed, name) == keywords[name]


@pytest.mark.parametrize("changed_objective", [None, ["weight_decay"]])
def test_a_weight_decay_is_refused_because_the_config_says_it(changed_objective):
    message = "weight_decay is 0.1; the penalty is l2_coefficient and classifier_l2_coefficient of the model's config"
    with pytest.raises(ValueError, match=message):
        CollapseTrainingArguments(output_dir="unused", weight_decay=0.1, changed_objective=changed_objective)
    assert CollapseTrainingArguments(output_dir="unused", weight_decay=0.0).weight_decay == 0


def test_a_full_batch_takes_no_accumulation_of_the_users_own():
    message = "gradient_accumulation_steps is 2; with full_batch it follows from per_device_train_batch_size"
    with pytest.raises(ValueError, match=message):
        CollapseTrainingArguments(output_dir="unused", full_batch=True, gradient_accumulation_steps=2)


@pytest.mark.parametrize(
    ("num_samples", "size", "num_processes", "expected"),
    [(17, 17, 1, 1), (17, 16, 1, 2), (17, 5, 1, 4), (17, 5, 2, 2), (20, 5, 2, 2), (21, 5, 2, 3), (1, 5, 2, 1)],
)
def test_a_full_batch_takes_as_many_micro_batches_as_hold_all_samples(
    monkeypatch, num_samples, size, num_processes, expected
):
    monkeypatch.setattr(CollapseTrainingArguments, "world_size", num_processes)
    arguments = CollapseTrainingArguments(output_dir="unused", full_batch=True, per_device_train_batch_size=size)
    assert arguments.micro_batches(num_samples) == expected
    assert (expected - 1) * size * num_processes < num_samples <= expected * size * num_processes


def test_without_a_full_batch_the_micro_batches_are_the_users():
    arguments = CollapseTrainingArguments(output_dir="unused", gradient_accumulation_steps=3)
    assert arguments.micro_batches(17) == 3


def test_a_full_batch_has_a_larger_default_size_and_a_given_one_stays():
    def size(**keywords):
        return CollapseTrainingArguments(output_dir="unused", **keywords).per_device_train_batch_size

    assert (size(), size(full_batch=True)) == (128, 10_000)
    assert size(per_device_train_batch_size=7) == size(full_batch=True, per_device_train_batch_size=7) == 7


def test_options_of_the_optimiser_are_numbers_by_name():
    def options(text):
        return CollapseTrainingArguments(output_dir="unused", optim="sgd", optim_args=text).optimizer_options()

    assert options(None) == {}
    assert options("momentum=0.9, dampening=1e-1") == {"momentum": 0.9, "dampening": 0.1}
    with pytest.raises(ValueError, match="optim_args is 'momentum'; it takes key=value pairs"):
        options("momentum")
    with pytest.raises(ValueError, match="optim_args names weight_decay; λ is l2_coefficient"):
        options("weight_decay=0.1")
    with pytest.raises(ValueError, match="optim_args is 'momentum=high'; it takes numbers"):
        options("momentum=high")
    with pytest.raises(ValueError, match=r"optim_args names momentun; sgd takes dampening, .* lr, .* momentum"):
        options("momentun=0.9")


def test_the_coupled_optimisers_survive_the_dictionary_and_json():
    for name in ("adam", "sgd"):
        arguments = CollapseTrainingArguments(output_dir="unused", optim=name)
        assert arguments.to_dict()["optim"] == name
        assert f'"optim": "{name}"' in arguments.to_json_string()
