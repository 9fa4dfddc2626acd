"""Depth continuation: which blocks split, what a half block is, and what a deeper network keeps."""

import copy
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import ARCHITECTURES, TRANSFORMERS, small_inputs, small_network
from transformers.activations import ACT2FN

from hf_ncollapse.models.depth_continuation import blocks_to_split, is_homogeneous

every_architecture = pytest.mark.parametrize(("architecture", "modality"), ARCHITECTURES)
both_placements = pytest.mark.parametrize("placement", ["post", "pre"])

HALF, ROOT = 0.5, math.sqrt(0.5)
ONE_LAYER = {"feed_forward.linear_1.weight": HALF, "feed_forward.linear_1.bias": HALF}
TWO_LAYERS = {
    "feed_forward.linear_1.weight": ROOT,
    "feed_forward.linear_1.bias": ROOT,
    "feed_forward.linear_2.weight": ROOT,
    "feed_forward.linear_2.bias": HALF,
}
MERGED = {"attention.query_key.weight": 1, "attention.value_output.weight": HALF}
FOUR_MATRICES = {
    "attention.query.weight": 1,
    "attention.key.weight": 1,
    "attention.value.weight": ROOT,
    "attention.output.weight": ROOT,
}
# What splitting multiplies each parameter of a block by.
FACTORS = {
    "L-RN1": ONE_LAYER,
    "L-RN2": TWO_LAYERS,
    "L-T11": MERGED | ONE_LAYER,
    "L-T12": MERGED | TWO_LAYERS,
    "L-T21": FOUR_MATRICES | ONE_LAYER,
    "L-T22": FOUR_MATRICES | TWO_LAYERS,
}


def body_penalty(model):
    return model.regularization_parts()["body"].item()


# Which blocks split


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.data())
def test_the_blocks_that_split_are_the_largest_and_as_many_as_are_missing(penalties, data):
    depth = data.draw(st.integers(len(penalties), 2 * len(penalties)))
    splits = blocks_to_split(penalties, depth)
    assert len(splits) + sum(splits) == depth
    split = [p for p, s in zip(penalties, splits, strict=True) if s]
    kept = [p for p, s in zip(penalties, splits, strict=True) if not s]
    assert not split or not kept or min(split) >= max(kept)


@pytest.mark.parametrize("depth", [2, 7])
def test_a_depth_that_splitting_does_not_reach_is_an_error_that_says_what_to_do(depth):
    with pytest.raises(ValueError, match=f"num_hidden_layers is {depth}; .* from 3 to 6: deepen it repeatedly"):
        blocks_to_split([1.0, 2.0, 3.0], depth)


@every_architecture
def test_a_partial_split_takes_the_blocks_of_largest_norm_and_keeps_the_order(architecture, modality):
    model = small_network(architecture, modality, num_hidden_layers=5)
    marks = [1.0, 5.0, 2.0, 4.0, 3.0]
    with torch.no_grad():
        for layer, mark in zip(model.network.layers, marks, strict=True):
            layer.feed_forward.linear_1.weight.fill_(mark)
    factor = FACTORS[architecture]["feed_forward.linear_1.weight"]

    deeper = model.deepen(7)

    assert [layer.feed_forward.linear_1.weight[0, 0].item() for layer in deeper.network.layers] == pytest.approx(
        [1, 5 * factor, 5 * factor, 2, 4 * factor, 4 * factor, 3]
    )


def test_the_biases_do_not_decide_which_block_splits():
    model = small_network("L-RN1")
    with torch.no_grad():
        for layer, weight, bias in zip(model.network.layers, (2.0, 1.0), (0.0, 100.0), strict=True):
            layer.feed_forward.linear_1.weight.fill_(weight)
            layer.feed_forward.linear_1.bias.fill_(bias)
    assert [layer.feed_forward.linear_1.weight[0, 0].item() for layer in model.deepen(3).network.layers] == [1, 1, 1]


def test_splitting_climbs_the_fibonacci_depths():
    model = small_network("L-RN1")
    for depth in (3, 5, 8, 13, 21, 34):
        shallower, model = model, model.deepen(depth)
        assert model.config.num_hidden_layers == len(model.network.layers) == depth
        assert body_penalty(model) < body_penalty(shallower)


# What a half block is


@every_architecture
def test_both_halves_of_a_block_have_its_parameters_times_the_factors_of_the_rule(architecture, modality):
    torch.manual_seed(0)
    model = small_network(architecture, modality)
    deeper = model.deepen(4)
    for index, block in enumerate(model.network.layers):
        for half in deeper.network.layers[2 * index : 2 * index + 2]:
            parameters = dict(half.named_parameters())
            assert parameters.keys() == FACTORS[architecture].keys()
            for name, parameter in block.named_parameters():
                torch.testing.assert_close(parameters[name], FACTORS[architecture][name] * parameter)


@pytest.mark.parametrize(("architecture", "tolerance"), [("L-RN1", 0), ("L-RN2", 1e-14)])
def test_a_half_branch_is_half_the_branch_as_a_function(architecture, tolerance):
    torch.manual_seed(0)
    branch = small_network(architecture).network.layers[0].feed_forward
    half, x = copy.deepcopy(branch), torch.randn(50, 6, dtype=torch.float64)
    with torch.no_grad():
        half.halve()
    torch.testing.assert_close(half(x), branch(x) / 2, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("architecture", "modality"), TRANSFORMERS)
def test_half_an_attention_has_the_same_weights_and_half_the_output(architecture, modality):
    torch.manual_seed(0)
    model = small_network(architecture, modality, num_attention_heads=2)
    model.set_attn_implementation("eager")
    attention = model.network.layers[0].attention
    half, x = copy.deepcopy(attention), torch.randn(3, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        half.halve()
    torch.testing.assert_close(half(x)[0], attention(x)[0] / 2)
    assert torch.equal(half(x)[1], attention(x)[1])


@both_placements
@pytest.mark.parametrize(("architecture", "factor"), [("L-RN1", 0.5), ("L-RN2", 1.0)])
def test_splitting_every_block_halves_the_penalty_of_rn1_and_keeps_that_of_rn2(architecture, factor, placement):
    torch.manual_seed(0)
    model = small_network(architecture, norm_placement=placement, num_hidden_layers=3)
    assert body_penalty(model.deepen(6)) == pytest.approx(factor * body_penalty(model), rel=1e-14)


@pytest.mark.parametrize("scaling", ["inverse", "inverse_all"])
def test_a_penalty_that_falls_with_depth_is_that_of_the_new_depth(scaling):
    torch.manual_seed(0)
    model = small_network("L-RN2", num_hidden_layers=3, l2_depth_scaling=scaling)
    assert body_penalty(model.deepen(6)) == pytest.approx(body_penalty(model) / 2, rel=1e-14)


@every_architecture
@both_placements
def test_splitting_changes_the_function_only_to_second_order(architecture, modality, placement):
    torch.manual_seed(0)
    model, inputs = small_network(architecture, modality, norm_placement=placement), small_inputs(modality, 50)
    mlp = "feed_forward.linear_1." if architecture[-1] == "1" else "feed_forward.linear_2."
    # A branch of ReLU is homogeneous of degree 1 in its last layer.
    last = ("attention.value_output.", "attention.output.", mlp)
    differences = []
    for step in (1 / 64, 1 / 128):
        small = copy.deepcopy(model)
        with torch.no_grad():
            for layer in small.network.layers:
                for name, parameter in layer.named_parameters():
                    parameter.mul_(step if name.startswith(last) else 1)
        differences.append((small.deepen(4)(inputs).features - small(inputs).features).norm().item())
    assert differences[0] / differences[1] == pytest.approx(4, rel=0.1)


# Blocks of zeros


@every_architecture
@both_placements
def test_inserted_blocks_change_no_logit_and_no_penalty(architecture, modality, placement):
    torch.manual_seed(0)
    model, inputs = small_network(architecture, modality, norm_placement=placement), small_inputs(modality)
    deeper = model.deepen(5, rule="insert")
    assert len(deeper.network.layers) == 5
    assert body_penalty(deeper) == body_penalty(model)
    # A post-LN block of zeros still normalises, which rounds.
    torch.testing.assert_close(
        deeper(inputs).logits, model(inputs).logits, atol=1e-14 if placement == "post" else 0, rtol=0
    )


def test_an_inserted_block_of_l_rn1_stays_at_zero_under_training():
    torch.manual_seed(0)
    model = small_network("L-RN1").deepen(3, rule="insert")
    model(small_inputs(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(not parameter.grad.any() for parameter in model.network.layers[2].parameters())


def test_an_activation_that_is_not_zero_at_zero_takes_no_inserted_one_layer_branch():
    with pytest.raises(ValueError, match=r"hidden_act is 'sigmoid', which is 0.5 at 0: .* takes another activation"):
        small_network("L-RN1", hidden_act="sigmoid").deepen(3, rule="insert")


def test_with_two_layers_a_block_of_zeros_is_the_identity_for_any_activation():
    torch.manual_seed(0)
    model, inputs = small_network("L-RN2", hidden_act="sigmoid", norm_placement="pre"), small_inputs()
    assert torch.equal(model.deepen(3, rule="insert")(inputs).logits, model(inputs).logits)


# What is refused or warned of


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "linear"])
def test_these_activations_are_homogeneous(name):
    assert is_homogeneous(ACT2FN[name])


@pytest.mark.parametrize("name", ["gelu", "tanh", "sigmoid", "silu", "relu6", "relu2"])
def test_these_activations_are_not_homogeneous(name):
    assert not is_homogeneous(ACT2FN[name])


def test_splitting_warns_where_a_half_block_is_only_approximate():
    with pytest.warns(UserWarning, match=r"hidden_act 'gelu' is not homogeneous, .* rule='insert' is exact"):
        small_network("L-RN1", hidden_act="gelu").deepen(4)


@pytest.mark.parametrize(
    ("activation", "rule"), [("relu", "split"), ("leaky_relu", "split"), ("relu", "insert"), ("gelu", "insert")]
)
def test_nothing_is_warned_of_where_the_rule_is_exact(activation, rule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_network("L-RN1", hidden_act=activation).deepen(4, rule=rule)


@pytest.mark.parametrize(
    ("depth", "rule", "message"),
    [
        (4, "double", "rule is 'double'; it takes one of split, insert"),
        (1, "split", "num_hidden_layers is 1; .* from 2 to 4"),
        (5, "split", "num_hidden_layers is 5; .* from 2 to 4"),
        (1, "insert", "num_hidden_layers is 1; it must be at least 2, the depth now"),
    ],
)
def test_a_rule_or_depth_out_of_range_is_an_error_that_names_it(depth, rule, message):
    with pytest.raises(ValueError, match=message):
        small_network("L-RN1").deepen(depth, rule=rule)


# What a deeper network keeps


@every_architecture
@pytest.mark.parametrize("rule", ["split", "insert"])
def test_everything_but_the_blocks_is_copied(architecture, modality, rule):
    model = small_network(architecture, modality, classifier_bias=True)
    deeper = model.deepen(4, rule=rule).state_dict()
    for name, value in model.state_dict().items():
        assert ".layers." in name or torch.equal(deeper[name], value)


def test_the_depth_it_has_gives_the_same_network():
    model, inputs = small_network("L-T22"), small_inputs()
    assert torch.equal(model.deepen(2)(inputs).logits, model(inputs).logits)


@pytest.mark.parametrize("rule", ["split", "insert"])
def test_a_deeper_network_keeps_mode_type_names_and_attention(rule):
    model = small_network("L-T11", "text", id2label={0: "a", 1: "b", 2: "c"})
    model.set_attn_implementation("eager")
    for mode in (True, False):
        deeper = model.train(mode).deepen(3, rule=rule)
        assert deeper.training is mode
        assert deeper.dtype == torch.float64
        assert deeper.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert deeper.config._attn_implementation == "eager"


@pytest.mark.parametrize("rule", ["split", "insert"])
def test_a_deeper_network_shares_no_memory_and_leaves_the_shallower_one_alone(rule):
    model = small_network("L-RN2")
    before = copy.deepcopy(model.state_dict())
    deeper = model.deepen(4, rule=rule)
    with torch.no_grad():
        for parameter in deeper.parameters():
            parameter.zero_()
    assert model.config.num_hidden_layers == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
