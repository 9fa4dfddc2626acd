"""What is the transformers' own: which positions a feature sees, attention weights, padding, configuration."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import TRANSFORMERS, new_network, small_inputs, small_network

from hf_ncollapse import CollapseTransformerConfig

every_transformer = pytest.mark.parametrize(("architecture", "modality"), TRANSFORMERS)
every_text_transformer = pytest.mark.parametrize("architecture", ["L-T11", "L-T12", "L-T21", "L-T22"])
both_implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
both_placements = pytest.mark.parametrize("placement", ["post", "pre"])

PADDED = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def network(architecture, modality="text", implementation="sdpa", **keywords):
    model = small_network(architecture, modality, **keywords)
    model.set_attn_implementation(implementation)
    return model


# Positions


@every_transformer
@both_placements
def test_the_feature_is_the_norm_of_the_last_positions_state(architecture, modality, placement):
    torch.manual_seed(0)
    model = network(architecture, modality, norm_placement=placement)
    output = model(small_inputs(modality), output_hidden_states=True)
    last = output.hidden_states[-1][:, -1]
    centred = last - last.mean(-1, keepdim=True)
    expected = 6**0.5 * centred / centred.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(output.features, expected)


@every_transformer
@both_placements
@both_implementations
@pytest.mark.parametrize("heads", [1, 3])
def test_a_later_position_changes_no_state_before_it(architecture, modality, placement, implementation, heads):
    torch.manual_seed(0)
    model = network(architecture, modality, implementation, norm_placement=placement, num_attention_heads=heads)
    inputs = small_inputs(modality)
    changed = inputs.clone()
    if modality == "image":
        changed[..., 4:] += 1
    else:
        changed[:, -1] = (changed[:, -1] + 1) % 7
    before, after = (model(x, output_hidden_states=True).hidden_states[-1] for x in (inputs, changed))
    torch.testing.assert_close(after[:, :-1], before[:, :-1], atol=1e-12, rtol=0)
    assert (after[:, -1] - before[:, -1]).norm(dim=-1).min() > 1e-3


@every_text_transformer
@both_implementations
def test_the_state_at_a_position_is_that_of_the_text_that_ends_there(architecture, implementation):
    torch.manual_seed(0)
    model, text = network(architecture, implementation=implementation), small_inputs("text", 1)
    states = model(text, output_hidden_states=True).hidden_states[-1]
    for length in range(1, 5):
        prefix = model(text[:, :length]).features
        torch.testing.assert_close(model.network.norm(states[:, length - 1]), prefix, atol=1e-12, rtol=0)


@every_transformer
@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_weights_are_a_distribution_over_the_positions_that_are_seen(architecture, modality, is_causal):
    torch.manual_seed(0)
    model = network(architecture, modality, "eager", num_attention_heads=2, is_causal=is_causal)
    attentions = model(small_inputs(modality), output_attentions=True).attentions
    length = 3 if modality == "image" else 4
    assert len(attentions) == 2
    for weights in attentions:
        assert weights.shape == (3, 2, length, length)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, length, dtype=torch.float64))
        assert (weights.triu(1) == 0).all() == is_causal


# Padding


@given(
    texts=st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=4),
    padding=st.integers(0, 4),
    architecture=st.sampled_from(["L-T11", "L-T12", "L-T21", "L-T22"]),
    placement=st.sampled_from(["post", "pre"]),
    implementation=st.sampled_from(["sdpa", "eager"]),
    pooling=st.sampled_from(["last", "mean"]),
    is_causal=st.booleans(),
    heads=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_padding_never_changes_a_feature_wherever_it_is_and_whatever_it_holds(
    texts, padding, architecture, placement, implementation, pooling, is_causal, heads, data
):
    torch.manual_seed(0)
    model = network(
        architecture,
        implementation=implementation,
        norm_placement=placement,
        pooling=pooling,
        is_causal=is_causal,
        num_attention_heads=heads,
    )
    width = max(1, *map(len, texts)) + padding
    input_ids, attention_mask = (
        torch.randint(7, (len(texts), width)),
        torch.zeros(len(texts), width, dtype=torch.int64),
    )
    for row, text in enumerate(texts):
        kept = sorted(data.draw(st.permutations(range(width)))[: len(text)])
        input_ids[row, kept], attention_mask[row, kept] = torch.tensor(text, dtype=torch.int64), 1

    features = model(input_ids, attention_mask).features

    for feature, text in zip(features, texts, strict=True):
        alone = model(torch.tensor([text])).features[0] if text else torch.zeros(6, dtype=torch.float64)
        torch.testing.assert_close(feature, alone, atol=1e-10, rtol=0)


@every_text_transformer
@both_implementations
@both_placements
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_a_text_without_a_token_has_the_feature_zero_and_spoils_no_gradient(
    architecture, implementation, placement, pooling, is_causal
):
    torch.manual_seed(0)
    model = network(
        architecture, implementation=implementation, norm_placement=placement, pooling=pooling, is_causal=is_causal
    )
    input_ids, attention_mask = torch.tensor([[3, 4], [3, 4]]), torch.tensor([[1, 1], [0, 0]])
    output = model(input_ids, attention_mask, labels=torch.tensor([0, 1]), output_hidden_states=True)
    output.loss.backward()
    assert not output.features[1].any()
    assert all(states.isfinite().all() for states in output.hidden_states)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_text_transformer
@both_placements
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_eager_and_sdpa_attention_have_the_same_gradients_under_padding(architecture, placement, pooling, is_causal):
    gradients = []
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = network(
            architecture,
            implementation=implementation,
            norm_placement=placement,
            pooling=pooling,
            is_causal=is_causal,
            num_attention_heads=2,
        )
        model(torch.randint(7, (4, 5)), PADDED, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for sdpa, eager in zip(*gradients, strict=True):
        torch.testing.assert_close(sdpa, eager, atol=1e-10, rtol=0)


def test_attention_gives_padding_no_weight():
    torch.manual_seed(0)
    model = network("L-T11", implementation="eager", is_causal=False)
    for weights in model(torch.randint(7, (4, 5)), PADDED, output_attentions=True).attentions:
        assert not weights.masked_select(PADDED[:, None, None] == 0).any()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_text_longer_than_the_positions_is_read_up_to_them(pooling):
    torch.manual_seed(0)
    model, input_ids = network("L-T11", pooling=pooling), torch.randint(7, (2, 9))
    mask = torch.ones_like(input_ids)
    mask[0, :3] = 0
    shortened = torch.stack([input_ids[0, 3:8], input_ids[1, :5]])
    torch.testing.assert_close(model(input_ids, mask).features, model(shortened).features)
    torch.testing.assert_close(model(input_ids[1:]).features, model(shortened[1:]).features)


def test_that_a_text_is_too_long_is_said_once(caplog):
    model = network("L-T11", max_position_embeddings=3)
    with caplog.at_level("WARNING"):
        for _ in range(2):
            model(torch.zeros(1, 9, dtype=torch.int64))
    assert sum("max_position_embeddings = 3" in message for message in caplog.messages) == 1


# Configuration and input


def test_the_defaults_are_the_papers_main_text():
    config = CollapseTransformerConfig()
    assert (config.architecture_name, config.norm_placement, config.norm_scale) == ("L-T11", "post", "sqrt")
    assert (config.num_attention_heads, config.is_causal, config.pooling) == (1, True, "last")
    assert (config.hidden_size, config.num_hidden_layers, config.num_patches) == (64, 4, 16)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"patch_size": 5}, "patch_size is 5; it must divide image_size = 28"),
        ({"patch_size": 0}, "patch_size is 0; it must divide image_size = 28"),
        ({"image_size": [28, 20]}, "patch_size is 7; it must divide"),
        ({"image_size": [28, 28, 28]}, "image_size is"),
        (
            {"num_attention_heads": 5, "attention_linear_layers": 2},
            "num_attention_heads is 5; it must divide hidden_size = 64",
        ),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be at least 1"),
        ({"num_channels": 0}, "num_channels is 0"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": 5, "max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"attention_linear_layers": 3}, "attention_linear_layers"),
        ({"pooling": "cls"}, "pooling"),
        ({"is_causal": "yes"}, "is_causal"),
        ({"mlp_linear_layer": 2}, "did you mean 'mlp_linear_layers'"),
    ],
)
def test_an_impossible_configuration_is_an_error_that_names_the_field(keywords, message):
    with pytest.raises(Exception, match=message):
        CollapseTransformerConfig(**keywords)


def test_merged_heads_are_as_wide_as_the_stream_so_any_number_of_them_is_possible():
    assert CollapseTransformerConfig(num_attention_heads=5).num_attention_heads == 5


def test_an_image_classifier_of_a_text_configuration_is_an_error():
    with pytest.raises(ValueError, match="vocab_size is 20; an image classifier takes none"):
        new_network("L-T11", "image", vocab_size=20)


def test_a_text_classifier_of_an_image_configuration_is_an_error():
    with pytest.raises(ValueError, match="vocab_size is None; a text classifier"):
        new_network("L-T11", "text", vocab_size=None)


@pytest.mark.parametrize("shape", [(2, 2, 6, 2), (2, 1, 2, 6), (2, 2, 6)])
def test_an_image_of_another_size_or_channel_count_is_an_error(shape):
    with pytest.raises(ValueError, match=r"pixel_values has shape .* = \(N, 2, 2, 6\)"):
        new_network("L-T11")(torch.zeros(shape))


@pytest.mark.parametrize(("modality", "message"), [("image", "pixel_values is None"), ("text", "input_ids is None")])
def test_a_network_without_its_input_is_an_error_that_names_it(modality, message):
    with pytest.raises(ValueError, match=message):
        new_network("L-T11", modality).network()
