"""The transformers L-T11 ... L-T22: their function, their objective, and how they behave as Hugging Face models."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_ncollapse import (
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
    CollapseTransformerForSequenceClassification,
    CollapseTransformerModel,
)
from hf_ncollapse.models.residual_layers import feature_norm
from hf_ncollapse.theory import gufm_optimum

VARIANTS = list(itertools.product((1, 2), (1, 2), ("pre", "post"), ("unit", "sqrt")))


def image_classifier(**keywords):
    defaults = {"hidden_size": 12, "num_hidden_layers": 2, "image_size": [4, 6], "patch_size": 2, "num_labels": 3}
    return CollapseTransformerForImageClassification(CollapseTransformerConfig(**{**defaults, **keywords}))


def text_classifier(**keywords):
    defaults = {"hidden_size": 12, "num_hidden_layers": 2, "vocab_size": 20, "max_position_embeddings": 8}
    return CollapseTransformerForSequenceClassification(CollapseTransformerConfig(**{**defaults, **keywords}))


def reference_features(weights, config, tokens):
    """The architecture of arXiv:2505.15239 on one sequence of embedded tokens (T, d), written head by head."""
    size = config.hidden_size // config.num_attention_heads

    def norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return feature_norm(config.norm_scale, config.hidden_size) * centred / centred.norm(dim=-1, keepdim=True)

    def residual(x, branch):
        return x + branch(norm(x)) if config.norm_placement == "pre" else norm(x + branch(x))

    stream = norm(tokens)
    for layer in range(config.num_hidden_layers):
        block = {
            name.removeprefix(f"network.layers.{layer}."): weight
            for name, weight in weights.items()
            if name.startswith(f"network.layers.{layer}.")
        }

        def attention(u, block=block):
            heads = []
            for head in range(config.num_attention_heads):
                rows = slice(head * size, (head + 1) * size)
                query, key, value = (
                    u @ block[f"attention.branch.attention.{name}.weight"][rows].T
                    for name in ("query", "key", "value")
                )
                heads.append(torch.softmax(query @ key.T / math.sqrt(size), dim=-1) @ value)
            output = block.get("attention.branch.output_projection.weight")
            return torch.cat(heads, -1) if output is None else torch.cat(heads, -1) @ output.T

        def mlp(u, block=block):
            if "mlp.branch.input_projection.weight" in block:
                u = u @ block["mlp.branch.input_projection.weight"].T
            return torch.relu(u) @ block["mlp.branch.output_projection.weight"].T

        stream = residual(residual(stream, attention), mlp)
    return norm(stream.mean(0) if config.pooling == "mean" else stream[0])


@pytest.mark.parametrize(("attention", "mlp", "placement", "scale"), VARIANTS)
@pytest.mark.parametrize("heads", [1, 3])
def test_image_features_and_objective_equal_a_reference_written_sample_by_sample(
    attention, mlp, placement, scale, heads
):
    torch.manual_seed(0)
    model = image_classifier(
        attention_linear_layers=attention,
        mlp_linear_layers=mlp,
        norm_placement=placement,
        norm_scale=scale,
        num_attention_heads=heads,
        intermediate_size=7,
        pooling="cls" if heads == 3 else "mean",
        num_channels=2,
        loss="mse" if mlp == 2 else "cross_entropy",
    ).double()
    images, labels = torch.randn(4, 2, 4, 6, dtype=torch.float64), torch.tensor([0, 2, 1, 0])
    weights = model.state_dict()
    features = []
    for image in images:
        patches = [image[:, i : i + 2, j : j + 2].reshape(-1) for i in (0, 2) for j in (0, 2, 4)]
        tokens = torch.stack(patches) @ weights["network.embeddings.projection.weight"].T
        if model.config.pooling == "cls":
            tokens = torch.cat([weights["network.embeddings.class_token.weight"], tokens])
        tokens = tokens + weights["network.embeddings.positions.weight"]
        features.append(reference_features(weights, model.config, tokens))
    features = torch.stack(features)
    logits = features @ weights["classifier.weight"].T
    if mlp == 2:
        fit = sum(0.5 * ((z - torch.eye(3, dtype=torch.float64)[y]) ** 2).sum() for z, y in zip(logits, labels)) / 4  # noqa: B905
    else:
        fit = -torch.log_softmax(logits, -1)[range(4), labels].mean()
    penalty = 0.0025 * sum((w**2).sum() for w in weights.values())

    output = model(images, labels=labels)

    torch.testing.assert_close(output.features, features, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.loss + model.regularization(), fit + penalty, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("attention", "mlp", "placement", "scale"), VARIANTS)
def test_text_features_equal_the_same_reference_under_random_padding(attention, mlp, placement, scale):
    torch.manual_seed(0)
    model = text_classifier(
        attention_linear_layers=attention,
        mlp_linear_layers=mlp,
        norm_placement=placement,
        norm_scale=scale,
        num_attention_heads=2,
        pooling="cls" if attention == 2 else "mean",
    ).double()
    weights = model.state_dict()
    texts = [torch.tensor([3, 17, 5]), torch.tensor([4]), torch.tensor([9, 9, 2, 0, 1, 6])]
    expected = torch.stack(
        [
            reference_features(
                weights,
                model.config,
                weights["network.embeddings.tokens.weight"][text]
                + weights["network.embeddings.positions.weight"][: len(text)],
            )
            for text in texts
        ]
    )
    input_ids, attention_mask = torch.randint(20, (3, 8)), torch.zeros(3, 8, dtype=torch.int64)
    for row, text in enumerate(texts):
        kept = torch.randperm(8)[: len(text)].sort().values
        input_ids[row, kept], attention_mask[row, kept] = text, 1

    features = model(input_ids, attention_mask).features

    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    text=st.booleans(),
    two_layers=st.tuples(st.booleans(), st.booleans()),
    placement=st.sampled_from(["pre", "post"]),
    scale=st.sampled_from(["unit", "sqrt"]),
    loss=st.sampled_from(["cross_entropy", "mse"]),
    l2_coefficient=st.floats(1e-4, 0.3),
    steps=st.integers(0, 8),
)
@settings(max_examples=25, deadline=None)
def test_no_network_goes_below_the_global_optimum(
    seed, text, two_layers, placement, scale, loss, l2_coefficient, steps
):
    torch.manual_seed(seed)
    keywords = {
        "attention_linear_layers": 1 + two_layers[0],
        "mlp_linear_layers": 1 + two_layers[1],
        "norm_placement": placement,
        "norm_scale": scale,
        "loss": loss,
        "l2_coefficient": l2_coefficient,
        "num_labels": 3,
    }
    labels = torch.arange(12) % 3
    if text:
        model, inputs = text_classifier(**keywords), torch.randint(20, (12, 5))
    else:
        model, inputs = image_classifier(**keywords), torch.randn(12, 1, 4, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs, labels=labels).loss + model.regularization()).backward()
        optimizer.step()
    objective = model(inputs, labels=labels).loss + model.regularization()

    radius = feature_norm(scale, 12)
    optimum = gufm_optimum([4, 4, 4], l2_coefficient, loss=loss, radius=radius, hidden_size=12).objective

    assert objective.item() >= optimum - 1e-6


def test_eager_and_sdpa_attention_agree_and_eager_returns_the_weights():
    torch.manual_seed(0)
    model = text_classifier(num_attention_heads=2, norm_scale="sqrt")
    input_ids, attention_mask = torch.randint(20, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
    attention_mask[1, 4:] = 0
    sdpa = model(input_ids, attention_mask)

    model.set_attn_implementation("eager")
    eager = model(input_ids, attention_mask, output_attentions=True)

    torch.testing.assert_close(eager.features, sdpa.features, atol=1e-5, rtol=0)
    assert [weights.shape for weights in eager.attentions] == [(3, 2, 7, 7)] * 2
    torch.testing.assert_close(eager.attentions[0].sum(-1), torch.ones(3, 2, 7))
    assert eager.attentions[1][1, :, :, 4:].abs().max() == 0


def test_hidden_states_are_the_first_blocks_input_and_every_blocks_output():
    model = image_classifier(num_hidden_layers=3)
    images = torch.randn(2, 1, 4, 6)

    hidden_states = model(images, output_hidden_states=True).hidden_states

    assert len(hidden_states) == 4
    torch.testing.assert_close(hidden_states[0], model.network.embeddings(images))
    torch.testing.assert_close(hidden_states[2], model.network.layers[1](hidden_states[1]))


@pytest.mark.parametrize("make", [image_classifier, text_classifier])
def test_a_deeper_network_has_every_parameter_trained(make):
    torch.manual_seed(0)
    model = make(num_hidden_layers=20, attention_linear_layers=2, mlp_linear_layers=2, pooling="cls")
    inputs = torch.randn(3, 1, 4, 6) if make is image_classifier else torch.arange(1, 25).remainder(20).view(3, 8)

    model(inputs, labels=torch.tensor([0, 1, 0])).loss.backward()

    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_200_block_network_starts_finite():
    torch.manual_seed(0)
    for placement in ("pre", "post"):
        model = image_classifier(num_hidden_layers=200, norm_placement=placement, norm_scale="sqrt")
        model(torch.randn(3, 1, 4, 6), labels=torch.tensor([0, 1, 2])).loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradient_checkpointing_and_autocast_change_no_result():
    torch.manual_seed(0)
    model = text_classifier()
    input_ids, labels = torch.randint(20, (4, 8)), torch.tensor([0, 1, 1, 0])
    mask = torch.ones_like(input_ids)
    mask[0, 5:] = 0
    model(input_ids, mask, labels=labels).loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    model.gradient_checkpointing_enable()
    model.train()
    model(input_ids, mask, labels=labels).loss.backward()

    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    model.gradient_checkpointing_disable()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(input_ids, mask, labels=labels).loss
    torch.testing.assert_close(half, model(input_ids, mask, labels=labels).loss, atol=0.05, rtol=0)


def test_torch_compile_takes_the_whole_graph():
    torch.manual_seed(0)
    images, input_ids = torch.randn(2, 1, 4, 6), torch.randint(20, (2, 6))
    for model, inputs in (
        (image_classifier(), (images,)),
        (text_classifier(), (input_ids, torch.ones_like(input_ids))),
    ):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*inputs).logits, model(*inputs).logits)


def test_a_checkpoint_loads_through_the_auto_classes_bit_by_bit(tmp_path):
    torch.manual_seed(0)
    images, input_ids = torch.randn(2, 1, 4, 6), torch.randint(20, (2, 6))
    for model, auto, inputs in (
        (image_classifier(pooling="cls"), AutoModelForImageClassification, images),
        (text_classifier(), AutoModelForSequenceClassification, input_ids),
    ):
        folder = tmp_path / auto.__name__
        model.save_pretrained(folder)
        loaded = auto.from_pretrained(folder)
        assert type(loaded) is type(model)
        assert torch.equal(loaded(inputs).logits, model(inputs).logits)
        network = AutoModel.from_pretrained(folder)
        assert isinstance(network, CollapseTransformerModel)
        name = network.main_input_name
        assert torch.equal(network(**{name: inputs}).features, model(inputs).features)


def test_a_text_longer_than_the_positions_is_read_up_to_them_and_this_is_said_once(caplog):
    torch.manual_seed(0)
    model = text_classifier(max_position_embeddings=4)
    input_ids = torch.randint(20, (2, 9))
    mask = torch.ones_like(input_ids)
    mask[0, :3] = 0
    shortened = torch.stack([input_ids[0, 3:7], input_ids[1, :4]])

    with caplog.at_level("WARNING"):
        first, again = model(input_ids, mask).features, model(input_ids, mask).features

    torch.testing.assert_close(first, model(shortened).features)
    torch.testing.assert_close(again, first)
    assert sum("max_position_embeddings = 4" in message for message in caplog.messages) == 1


def test_a_text_without_a_token_gets_the_feature_zero():
    model = text_classifier()
    features = model(torch.tensor([[3, 4], [3, 4]]), torch.tensor([[1, 1], [0, 0]])).features
    assert features[1].abs().max() == 0
    assert features[0].norm().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"patch_size": 5}, "patch_size is 5; it must divide image_size = 28"),
        ({"image_size": [28, 20]}, "patch_size is 7; it must divide"),
        ({"image_size": [28, 28, 28]}, "image_size is"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5; it must divide hidden_size = 64"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"num_channels": 0}, "num_channels is 0"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": 5, "max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"attention_linear_layers": 3}, "attention_linear_layers"),
        ({"mlp_linear_layer": 2}, "did you mean 'mlp_linear_layers'"),
    ],
)
def test_an_impossible_configuration_is_an_error_that_names_the_field(keywords, message):
    with pytest.raises(Exception, match=message.replace("[", r"\[")):
        CollapseTransformerConfig(**keywords)


def test_a_model_of_the_other_modality_is_an_error():
    with pytest.raises(ValueError, match="vocab_size is 20; an image classifier takes none"):
        image_classifier(vocab_size=20)
    with pytest.raises(ValueError, match="vocab_size is None; a text classifier"):
        text_classifier(vocab_size=None)


def test_an_image_of_another_size_or_channel_count_is_an_error():
    model = image_classifier()
    for shape in ((2, 1, 6, 4), (2, 3, 4, 6), (1, 4, 6)):
        with pytest.raises(ValueError, match="pixel_values has shape"):
            model(torch.zeros(shape))


# Depth continuation


def penalty(model):
    return sum(parameter.square().sum() for parameter in model.parameters()).item()


def body_penalty(model):
    return sum(parameter.square().sum() for parameter in model.network.layers.parameters()).item()


@pytest.mark.parametrize(("attention", "mlp", "placement", "scale"), VARIANTS)
def test_a_deepened_network_has_no_larger_penalty_and_nearly_the_same_function(attention, mlp, placement, scale):
    torch.manual_seed(0)
    model = text_classifier(
        attention_linear_layers=attention, mlp_linear_layers=mlp, norm_placement=placement, norm_scale=scale
    ).double()
    input_ids = torch.randint(20, (5, 8))
    changes = []
    for step in (1e-2, 1e-3):
        small = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in small.network.layers.named_parameters():
                # A branch is linear in its last layer; attention is nearly uniform for small queries and keys.
                if "output_projection" in name or (attention == 1 and "value" in name):
                    parameter.mul_(step)
                if "query" in name or "key" in name:
                    parameter.mul_(math.sqrt(step))
        deeper = small.deepen(4)
        assert penalty(deeper) <= penalty(small) * (1 + 1e-12)
        changes.append((deeper(input_ids).features - small(input_ids).features).norm().item())

    for depth in (2, 3):
        assert penalty(model.deepen(depth)) <= penalty(model) * (1 + 1e-12)
    # Second order in the step: at a tenth of it, a hundredth of the change.
    assert changes[1] < changes[0] / 50


def test_splitting_every_block_of_t11_halves_the_bodys_penalty_when_attention_is_uniform_and_of_t22_keeps_it():
    torch.manual_seed(0)
    for linear_layers, factor in ((1, 0.5), (2, 1.0)):
        model = image_classifier(attention_linear_layers=linear_layers, mlp_linear_layers=linear_layers)
        with torch.no_grad():
            for layer in model.network.layers:
                layer.attention.branch.attention.query.weight.zero_()
                layer.attention.branch.attention.key.weight.zero_()
        assert body_penalty(model.deepen(4)) == pytest.approx(factor * body_penalty(model), rel=1e-6)


def test_light_query_and_key_are_kept_and_heavy_ones_shrink_as_far_as_the_penalty_needs():
    torch.manual_seed(0)
    for weight, expected in ((0.01, 1.0), (3.0, None)):
        model = image_classifier()
        with torch.no_grad():
            for layer in model.network.layers:
                layer.attention.branch.attention.query.weight.fill_(weight)
                layer.attention.branch.attention.key.weight.fill_(weight)
        deeper = model.deepen(4)
        factor = deeper.network.layers[0].attention.branch.attention.query.weight[0, 0].item() / weight
        if expected is None:
            assert math.sqrt(0.5) < factor < 1
            assert body_penalty(deeper) == pytest.approx(body_penalty(model), rel=1e-6)
        else:
            assert factor == pytest.approx(expected)
            assert body_penalty(deeper) < body_penalty(model)
