"""Every architecture computes what arXiv:2505.15239 defines: features, objective, gradient, and who pays which λ."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import ARCHITECTURES, TRANSFORMERS, small_inputs, small_network

from hf_ncollapse.theory import gufm_optimum

PLACEMENTS = ("post", "pre")
SCALES = ("sqrt", "unit")
LABELS = torch.tensor([2, 0, 1])

# The definitions, for one sample x at a time: a vector in a residual network, a list of them in a transformer.


def reference_norm(config, x):
    radius = 1 if config.norm_scale == "unit" else math.sqrt(config.hidden_size)
    return radius * (x - x.mean()) / (x - x.mean()).norm()


def reference_mlp(block, x):
    """σ(W x + b), or W_2 σ(W_1 x + b_1) + b_2."""
    hidden = torch.relu(block["feed_forward.linear_1.weight"] @ x + block["feed_forward.linear_1.bias"])
    if "feed_forward.linear_2.weight" not in block:
        return hidden
    return block["feed_forward.linear_2.weight"] @ hidden + block["feed_forward.linear_2.bias"]


def reference_heads(config, block):
    """W_QK, W_VO and the dimension under the root, of every head."""
    for head in range(config.num_attention_heads):
        if config.attention_linear_layers == 1:
            size = config.hidden_size
            rows = slice(head * size, (head + 1) * size)
            yield block["attention.query_key.weight"][rows].T, block["attention.value_output.weight"][:, rows], size
        else:
            size = config.hidden_size // config.num_attention_heads
            rows = slice(head * size, (head + 1) * size)
            query, key, value = (block[f"attention.{name}.weight"][rows] for name in ("query", "key", "value"))
            yield query.T @ key, block["attention.output.weight"][:, rows] @ value, size


def reference_attention(config, block, z):
    """W_VO Σ_{j ≤ i} a_ij z_j with a_i = softmax_{j ≤ i}(z_iᵀ W_QK z_j/√d), summed over the heads, for every i."""
    results = []
    for i in range(len(z)):
        seen = range(i + 1) if config.is_causal else range(len(z))
        result = 0
        for w_qk, w_vo, size in reference_heads(config, block):
            weights = [torch.exp(z[i] @ w_qk @ z[j] / math.sqrt(size)) for j in seen]
            result = result + w_vo @ sum(a * z[j] for a, j in zip(weights, seen, strict=True)) / sum(weights)
        results.append(result)
    return results


def reference_embedding(parameters, config, x):
    """W_0 x + b_0 of an image; W_e · patch + position, or W_e[token] + position, of a sequence."""
    if config.model_type == "collapse_resnet":
        name = "network.embeddings.projection"
        return [parameters[f"{name}.weight"] @ x.flatten() + parameters[f"{name}.bias"]]
    if config.modality == "text":
        embedded = [parameters["network.embeddings.tokens.weight"][token] for token in x]
    else:
        side = config.patch_size
        corners = itertools.product(range(0, x.shape[1], side), range(0, x.shape[2], side))
        patches = [x[:, i : i + side, j : j + side].flatten() for i, j in corners]
        embedded = [parameters["network.embeddings.projection.weight"] @ patch for patch in patches]
    positions = parameters["network.embeddings.positions.weight"]
    return [vector + position for vector, position in zip(embedded, positions, strict=False)]


def reference_feature(parameters, config, x):
    """What the classifier sees of one sample."""

    def norm(stream):
        return [reference_norm(config, vector) for vector in stream]

    def add(stream, branch):
        return [vector + step for vector, step in zip(stream, branch, strict=True)]

    stream = reference_embedding(parameters, config, x)
    is_post = config.norm_placement == "post"
    is_resnet = config.model_type == "collapse_resnet"
    if is_resnet or not is_post:
        stream = norm(stream)
    for layer in range(config.num_hidden_layers):
        prefix = f"network.layers.{layer}."
        block = {name.removeprefix(prefix): p for name, p in parameters.items() if name.startswith(prefix)}
        branches = [lambda z, block=block: [reference_mlp(block, vector) for vector in z]]
        if not is_resnet:
            branches.insert(0, lambda z, block=block: reference_attention(config, block, z))
        for branch in branches:
            if not is_post:
                stream = add(stream, branch(norm(stream)))
            elif is_resnet:
                stream = norm(add(stream, branch(stream)))
            else:
                stream = norm(stream)
                stream = add(stream, branch(stream))
    return reference_norm(config, stream[-1] if is_resnet or config.pooling == "last" else sum(stream) / len(stream))


def reference_fit(parameters, config, inputs, labels):
    """(1/N) Σ ℓ(W x_i, y_i)."""
    losses = []
    for x, label in zip(inputs, labels, strict=True):
        logits = parameters["classifier.weight"] @ reference_feature(parameters, config, x)
        logits = logits + parameters.get("classifier.bias", 0)
        if config.loss == "cross_entropy":
            losses.append(logits.exp().sum().log() - logits[label])
        else:
            losses.append(sum((z - int(k == label)) ** 2 for k, z in enumerate(logits)) / 2)
    return sum(losses) / len(losses)


def reference_penalty(parameters, body, classifier):
    """(λ_L/2) ‖W_L‖² + (λ/2) Σ ‖W_l‖² over the blocks' weights."""
    weights = [p for name, p in parameters.items() if ".layers." in name and name.endswith("weight")]
    return classifier / 2 * (parameters["classifier.weight"] ** 2).sum() + body / 2 * sum(
        (w**2).sum() for w in weights
    )


@pytest.mark.parametrize(("architecture", "modality"), ARCHITECTURES)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("loss", "bias"), [("cross_entropy", False), ("mse", False), ("mse", True)])
@pytest.mark.parametrize(
    ("coefficients", "body", "classifier"),
    [
        ({"l2_coefficient": 0.3}, 0.3, 0.3),
        ({"l2_coefficient": 0.3, "classifier_l2_coefficient": 0.1}, 0.3, 0.1),
        ({"l2_coefficient": 0.3, "l2_depth_scaling": "inverse"}, 0.15, 0.3),
        ({"l2_coefficient": 0.3, "classifier_l2_coefficient": 0.1, "l2_depth_scaling": "inverse"}, 0.15, 0.1),
        ({"l2_coefficient": 0.3, "l2_depth_scaling": "inverse_all"}, 0.15, 0.15),
        ({"l2_coefficient": 0.3, "classifier_l2_coefficient": 0.1, "l2_depth_scaling": "inverse_all"}, 0.15, 0.05),
    ],
)
def test_the_objective_and_its_gradient_are_the_papers(
    architecture, modality, placement, scale, loss, bias, coefficients, body, classifier
):
    torch.manual_seed(0)
    model = small_network(
        architecture,
        modality,
        norm_placement=placement,
        norm_scale=scale,
        loss=loss,
        classifier_bias=bias,
        **coefficients,
    )
    inputs, parameters = small_inputs(modality), dict(model.named_parameters())

    fit, penalty = model(inputs, labels=LABELS).loss, model.regularization()

    expected_fit = reference_fit(parameters, model.config, inputs, LABELS)
    expected_penalty = reference_penalty(parameters, body, classifier)
    assert fit.item() == pytest.approx(expected_fit.item(), abs=1e-10)
    assert penalty.item() == pytest.approx(expected_penalty.item(), abs=1e-10)
    gradients = torch.autograd.grad(fit + penalty, list(parameters.values()))
    expected_gradients = torch.autograd.grad(
        expected_fit + expected_penalty, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("architecture", "modality"), TRANSFORMERS)
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_any_number_of_heads_mask_and_pooling_is_the_explicit_sum_over_positions(
    architecture, modality, heads, is_causal, pooling, implementation
):
    torch.manual_seed(0)
    model = small_network(architecture, modality, num_attention_heads=heads, is_causal=is_causal, pooling=pooling)
    model.set_attn_implementation(implementation)
    inputs, parameters = small_inputs(modality), dict(model.named_parameters())
    expected = torch.stack([reference_feature(parameters, model.config, x) for x in inputs])
    torch.testing.assert_close(model(inputs).features, expected, atol=1e-10, rtol=0)


@given(
    architecture=st.sampled_from(ARCHITECTURES),
    placement=st.sampled_from(PLACEMENTS),
    scale=st.sampled_from(SCALES),
    size=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_a_feature_has_mean_zero_and_norm_root_d_or_one(architecture, placement, scale, size, seed):
    torch.manual_seed(seed)
    model = small_network(*architecture, norm_placement=placement, norm_scale=scale, hidden_size=size)
    features = model(small_inputs(architecture[1])).features
    radius = {"sqrt": math.sqrt(size), "unit": 1.0}[scale]
    torch.testing.assert_close(features.mean(-1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(features.norm(dim=-1), torch.full((3,), radius, dtype=torch.float64))


@given(
    architecture=st.sampled_from(ARCHITECTURES),
    placement=st.sampled_from(PLACEMENTS),
    scale=st.sampled_from(SCALES),
    loss=st.sampled_from(["cross_entropy", "mse"]),
    scaling=st.sampled_from(["constant", "inverse", "inverse_all"]),
    l2_coefficient=st.floats(1e-4, 0.3),
    steps=st.integers(0, 8),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_no_network_goes_below_the_global_optimum(
    architecture, placement, scale, loss, scaling, l2_coefficient, steps, seed
):
    torch.manual_seed(seed)
    model = small_network(
        *architecture,
        norm_placement=placement,
        norm_scale=scale,
        loss=loss,
        l2_coefficient=l2_coefficient,
        l2_depth_scaling=scaling,
    )
    inputs, labels = small_inputs(architecture[1], 12), torch.arange(12) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs, labels=labels).loss + model.regularization()).backward()
        optimizer.step()
    objective = model(inputs, labels=labels).loss + model.regularization()

    radius = {"sqrt": math.sqrt(6), "unit": 1.0}[scale]
    classifier_l2 = l2_coefficient / (2 if scaling == "inverse_all" else 1)
    optimum = gufm_optimum([4, 4, 4], classifier_l2, loss=loss, radius=radius, hidden_size=6).objective

    assert objective.item() >= optimum - 1e-9


@pytest.mark.parametrize(("architecture", "modality"), ARCHITECTURES)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_the_blocks_weights_pay_lambda_the_classifiers_lambda_l_and_nothing_else_pays(architecture, modality, prefix):
    model = small_network(
        architecture,
        modality,
        num_hidden_layers=3,
        l2_coefficient=0.3,
        classifier_l2_coefficient=0.7,
        l2_depth_scaling="inverse",
        classifier_bias=True,
    )
    coefficients = {name: model.l2_coefficient_of(prefix + name) for name, _ in model.named_parameters()}
    for name, coefficient in coefficients.items():
        if name == "classifier.weight":
            assert coefficient == 0.7
        elif name.startswith("network.layers.") and name.endswith(".weight"):
            assert coefficient == 0.3 / 3
        else:
            assert coefficient == 0


@pytest.mark.parametrize(("architecture", "modality"), ARCHITECTURES)
def test_the_two_parts_of_the_penalty_are_the_blocks_and_the_classifiers(architecture, modality):
    model = small_network(architecture, modality, l2_coefficient=0.3, classifier_l2_coefficient=0.7)
    body = sum(p.square().sum() for name, p in model.network.layers.named_parameters() if name.endswith("weight"))
    parts = model.regularization_parts()
    assert set(parts) == {"body", "classifier"}
    torch.testing.assert_close(parts["body"], 0.15 * body)
    torch.testing.assert_close(parts["classifier"], 0.35 * model.classifier.weight.square().sum())
    torch.testing.assert_close(model.regularization(), parts["body"] + parts["classifier"])


def test_a_network_without_penalty_pays_nothing():
    assert small_network("L-RN1", l2_coefficient=0).regularization().item() == 0


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_classifiers_bias_is_added_to_the_logits_and_is_free(loss):
    torch.manual_seed(0)
    model, inputs = small_network("L-RN1", loss=loss, classifier_bias=True), small_inputs()
    before, penalty = model(inputs).logits, model.regularization()
    shift = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    with torch.no_grad():
        model.classifier.bias += shift
    torch.testing.assert_close(model(inputs).logits, before + shift)
    assert torch.equal(model.regularization(), penalty)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_micro_batch_is_divided_by_the_number_of_samples_of_the_whole_step(loss):
    torch.manual_seed(0)
    model, inputs = small_network("L-RN1", loss=loss), small_inputs(count=6)
    labels = torch.arange(6) % 3
    parts = [
        model(inputs[rows], labels=labels[rows], num_items_in_batch=6).loss
        for rows in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 6))
    ]
    torch.testing.assert_close(sum(parts), model(inputs, labels=labels).loss)
