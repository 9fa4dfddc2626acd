"""What is the residual networks' own: their configuration and the images they take."""

import math

import pytest
import torch
from small_networks import new_network

from hf_ncollapse import CollapseResNetConfig


def test_the_defaults_are_the_papers_main_text():
    config = CollapseResNetConfig()
    assert (config.architecture_name, config.norm_placement, config.norm_scale) == ("L-RN1", "post", "sqrt")
    assert (config.hidden_act, config.loss, config.classifier_bias) == ("relu", "cross_entropy", False)
    assert (config.hidden_size, config.num_hidden_layers, config.l2_coefficient) == (64, 4, 0.005)


def test_the_name_says_how_many_linear_layers_a_branch_has():
    assert CollapseResNetConfig(linear_layers_per_block=2).architecture_name == "L-RN2"


@pytest.mark.parametrize(
    ("scaling", "classifier", "expected"),
    [
        ("constant", None, (0.4, 0.4)),
        ("constant", 0.8, (0.4, 0.8)),
        ("inverse", None, (0.05, 0.4)),
        ("inverse", 0.8, (0.05, 0.8)),
        ("inverse_all", None, (0.05, 0.05)),
        ("inverse_all", 0.8, (0.05, 0.1)),
        ("inverse", 0, (0.05, 0)),
    ],
)
def test_depth_scaling_divides_the_blocks_lambda_or_both_by_the_depth(scaling, classifier, expected):
    config = CollapseResNetConfig(
        num_hidden_layers=8, l2_coefficient=0.4, classifier_l2_coefficient=classifier, l2_depth_scaling=scaling
    )
    resolved = config.resolved_l2_coefficient, config.resolved_classifier_l2_coefficient
    assert resolved == pytest.approx(expected)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be at least 1"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"hidden_size": 1}, "hidden_size is 1; it must be at least 2"),
        ({"l2_coefficient": -0.1}, "l2_coefficient is -0.1; it must be a finite number"),
        ({"l2_coefficient": math.nan}, "l2_coefficient is nan; it must be a finite number"),
        ({"l2_coefficient": "0.005"}, "l2_coefficient"),
        ({"classifier_l2_coefficient": -0.1}, "classifier_l2_coefficient is -0.1; it must be a finite number"),
        ({"classifier_l2_coefficient": math.inf}, "classifier_l2_coefficient is inf; it must be a finite number"),
        ({"classifier_bias": "no"}, "classifier_bias"),
        ({"linear_layers_per_block": 3}, "linear_layers_per_block"),
        ({"norm_placement": "both"}, "norm_placement"),
        ({"norm_scale": 2}, "norm_scale"),
        ({"loss": "hinge"}, "loss"),
        ({"l2_depth_scaling": "log"}, "l2_depth_scaling"),
        ({"image_size": 0}, "image_size is 0; it takes one side or"),
        ({"image_size": [4, 5, 6]}, r"image_size is \[4, 5, 6\]; it takes one side or \[height, width\]"),
        ({"num_channels": 0}, "num_channels is 0; it must be at least 1"),
        ({"num_hiden_layers": 3}, "no field 'num_hiden_layers'; did you mean 'num_hidden_layers'"),
        ({"l2_coeficient": 0.1}, "no field 'l2_coeficient'; did you mean 'l2_coefficient'"),
        ({"hidden_act": "rellu"}, "hidden_act is 'rellu'; .* did you mean 'relu'"),
        ({"hidden_act": "prelu"}, "hidden_act is 'prelu', which has parameters; it takes a fixed function"),
    ],
)
def test_an_impossible_configuration_is_an_error_that_names_the_field(keywords, message):
    with pytest.raises(Exception, match=message):
        CollapseResNetConfig(**keywords)


@pytest.mark.parametrize("shape", [(1, 1, 2, 6), (1, 2, 6, 2), (2, 2, 6), (1, 24)])
def test_images_of_another_size_or_order_are_an_error_that_names_both(shape):
    with pytest.raises(ValueError, match=r"pixel_values has shape \(.*\); it takes \(N, 2, 2, 6\)"):
        new_network("L-RN1")(torch.zeros(shape))
