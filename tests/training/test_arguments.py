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
        ({"optim": "adamw_torch"}, "optim is 'adamw_torch'; for the exact objective it takes one of adam, sgd"),
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
    with pytest.raises(ValueError, match="optim_args names momentun; sgd takes params, lr, momentum"):
        options("momentun=0.9")


def test_the_coupled_optimisers_survive_the_dictionary_and_json():
    for name in ("adam", "sgd"):
        arguments = CollapseTrainingArguments(output_dir="unused", optim=name)
        assert arguments.to_dict()["optim"] == name
        assert f'"optim": "{name}"' in arguments.to_json_string()
