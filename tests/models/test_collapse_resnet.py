"""The residual networks L-RN1 and L-RN2: function, objective, and how they behave as Hugging Face models."""

import itertools
import math

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification, CollapseResNetModel

VARIANTS = list(itertools.product((1, 2), ("pre", "post"), ("unit", "sqrt")))


def classifier(**keywords):
    defaults = {"hidden_size": 12, "num_hidden_layers": 3, "image_size": [4, 5], "num_channels": 2, "num_labels": 4}
    return CollapseResNetForImageClassification(CollapseResNetConfig(**{**defaults, **keywords}))


def images_and_labels(count=6):
    return torch.randn(count, 2, 4, 5), torch.arange(count) % 4


def reference(weights, config, image, label):
    """One sample through the architecture of arXiv:2505.15239: its feature and its loss."""
    radius = 1 if config.norm_scale == "unit" else math.sqrt(config.hidden_size)

    def norm(x):
        return radius * (x - x.mean()) / (x - x.mean()).norm()

    stream = weights["network.embeddings.projection.weight"] @ image.flatten()
    stream = norm(stream) if config.normalize_embeddings else stream
    for layer in range(config.num_hidden_layers):
        name = f"network.layers.{layer}.residual.branch.%s_projection.weight"
        u = norm(stream) if config.norm_placement == "pre" else stream
        u = weights[name % "input"] @ u if config.linear_layers_per_block == 2 else u
        stream = stream + weights[name % "output"] @ torch.relu(u)
        stream = norm(stream) if config.norm_placement == "post" else stream
    logits = weights["classifier.weight"] @ norm(stream)
    if config.loss == "cross_entropy":
        return norm(stream), logits.exp().sum().log() - logits[label]
    return norm(stream), (logits - torch.eye(len(logits), dtype=logits.dtype)[label]).square().sum() / 2


@pytest.mark.parametrize(("layers", "placement", "scale"), VARIANTS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("normalize_embeddings", [True, False])
def test_features_and_objective_equal_a_reference_written_sample_by_sample(
    layers, placement, scale, loss, normalize_embeddings
):
    torch.manual_seed(0)
    model = classifier(
        linear_layers_per_block=layers,
        norm_placement=placement,
        norm_scale=scale,
        loss=loss,
        normalize_embeddings=normalize_embeddings,
        l2_coefficient=0.03,
        l2_depth_scaling="inverse",
    ).double()
    images, labels = images_and_labels()
    weights = model.state_dict()

    output = model(images.double(), labels=labels)

    samples = [
        reference(weights, model.config, image, label) for image, label in zip(images.double(), labels, strict=True)
    ]
    fit = sum(sample[1] for sample in samples) / len(samples)
    penalty = 0.03 / 3 / 2 * sum(weight.square().sum() for weight in weights.values())
    torch.testing.assert_close(output.features, torch.stack([sample[0] for sample in samples]), atol=1e-12, rtol=0)
    assert output.loss.item() == pytest.approx(fit.item(), abs=1e-12)
    assert (output.loss + model.regularization()).item() == pytest.approx((fit + penalty).item(), abs=1e-12)


def test_the_three_parts_of_the_penalty_are_those_of_embedding_blocks_and_classifier():
    torch.manual_seed(0)
    model = classifier(l2_coefficient=0.2)
    weights = model.state_dict()
    expected = {
        "embedding": sum(w.square().sum() for name, w in weights.items() if "embeddings" in name) * 0.1,
        "body": sum(w.square().sum() for name, w in weights.items() if ".layers." in name) * 0.1,
        "classifier": weights["classifier.weight"].square().sum() * 0.1,
    }
    parts = model.regularization_parts()
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {name: part.item() for name, part in expected.items()}
    )
    assert model.regularization().item() == pytest.approx(sum(part.item() for part in parts.values()))


def test_every_parameter_is_a_weight_matrix_and_gets_a_gradient():
    torch.manual_seed(0)
    for layers in (1, 2):
        model = classifier(linear_layers_per_block=layers)
        images, labels = images_and_labels()
        model(images, labels=labels).loss.backward()
        assert all(p.ndim == 2 and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_micro_batch_is_divided_by_the_number_of_samples_of_the_whole_step():
    torch.manual_seed(0)
    images, labels = images_and_labels()
    for loss in ("cross_entropy", "mse"):
        model = classifier(loss=loss).double()
        parts = [
            model(images[rows].double(), labels=labels[rows], num_items_in_batch=6).loss
            for rows in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 6))
        ]
        assert sum(parts).item() == pytest.approx(model(images.double(), labels=labels).loss.item(), abs=1e-12)


@pytest.mark.parametrize(("layers", "placement", "scale"), VARIANTS)
def test_a_200_block_network_starts_finite_and_moves_the_stream_as_little_as_a_shallow_one(layers, placement, scale):
    torch.manual_seed(0)
    images, labels = images_and_labels()
    distances = {}
    for depth in (2, 200):
        model = classifier(
            num_hidden_layers=depth,
            linear_layers_per_block=layers,
            norm_placement=placement,
            norm_scale=scale,
            hidden_size=64,
        )
        output = model(images, labels=labels, output_hidden_states=True)
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        start = output.hidden_states[0]
        distances[depth] = ((output.hidden_states[-1] - start).norm() / start.norm()).item()
    assert distances[200] < 3 * distances[2]


def test_the_initialisation_has_the_scale_that_is_written_down():
    torch.manual_seed(0)
    model = classifier(hidden_size=128, num_hidden_layers=16, linear_layers_per_block=2, image_size=16, num_labels=50)
    layers = model.network.layers
    for weights, expected in (
        ([model.network.embeddings.projection.weight], 1 / math.sqrt(512)),
        ([model.classifier.weight], 1 / math.sqrt(128)),
        ([layer.residual.branch.input_projection.weight for layer in layers], 1 / math.sqrt(128)),
        ([layer.residual.branch.output_projection.weight for layer in layers], 1 / math.sqrt(128) / 4),
    ):
        values = torch.cat([weight.flatten() for weight in weights])
        assert values.std().item() == pytest.approx(expected, rel=0.03)
        assert abs(values.mean().item()) < 4 * expected / math.sqrt(values.numel())


# Hugging Face behaviours


def test_a_checkpoint_loads_through_the_auto_classes_bit_by_bit(tmp_path):
    torch.manual_seed(0)
    images, _ = images_and_labels()
    model = classifier(norm_scale="sqrt", linear_layers_per_block=2, id2label={0: "a", 1: "b", 2: "c", 3: "d"})
    model.save_pretrained(tmp_path)

    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    network = AutoModel.from_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)

    assert (tmp_path / "model.safetensors").is_file()
    assert type(loaded) is CollapseResNetForImageClassification
    assert isinstance(network, CollapseResNetModel)
    assert torch.equal(loaded(images).logits, model(images).logits)
    assert torch.equal(network(pixel_values=images).features, model(images).features)
    assert {**config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    assert (config.num_labels, config.id2label[2], config.architecture_name) == (4, "c", "L-RN2")


def test_a_missing_weight_is_initialised_as_the_model_says(tmp_path):
    torch.manual_seed(0)
    model = classifier(hidden_size=64)
    model.network.save_pretrained(tmp_path)

    loaded = CollapseResNetForImageClassification.from_pretrained(tmp_path, num_labels=40)

    assert torch.equal(loaded.network.layers[1].residual.branch.output_projection.weight,
                       model.network.layers[1].residual.branch.output_projection.weight)  # fmt: skip
    assert loaded.classifier.weight.std().item() == pytest.approx(1 / 8, rel=0.1)


def test_hidden_states_are_the_first_blocks_input_and_every_blocks_output():
    torch.manual_seed(0)
    images, _ = images_and_labels()
    for placement in ("pre", "post"):
        model = classifier(norm_placement=placement)
        output = model(images, output_hidden_states=True)
        assert len(output.hidden_states) == 4
        torch.testing.assert_close(output.hidden_states[0], model.network.embeddings(images))
        for layer, (before, after) in zip(model.network.layers, itertools.pairwise(output.hidden_states), strict=True):
            torch.testing.assert_close(layer(before), after)
        torch.testing.assert_close(model.network.norm(output.hidden_states[-1]), output.features)
        assert model(images).hidden_states is None


def test_a_tuple_is_returned_on_request():
    images, labels = images_and_labels()
    model = classifier()
    loss, logits, features = model(images, labels=labels, return_dict=False)
    assert loss.ndim == 0
    assert logits.shape == (6, 4)
    assert features.shape == (6, 12)


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    images, labels = images_and_labels()
    model = classifier(linear_layers_per_block=2).train()
    model(images, labels=labels).loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.network.layers)
    model(images, labels=labels).loss.backward()

    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize(("layers", "placement", "scale"), VARIANTS)
def test_bf16_autocast_stays_near_float32_and_computes_the_loss_in_float32(layers, placement, scale):
    torch.manual_seed(0)
    images, labels = images_and_labels()
    model = classifier(linear_layers_per_block=layers, norm_placement=placement, norm_scale=scale)
    expected = model(images, labels=labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, labels=labels)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.loss.item(), abs=0.05)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_torch_compile_takes_the_whole_graph_and_changes_no_output():
    torch.manual_seed(0)
    images, labels = images_and_labels()
    for keywords in ({"loss": "mse"}, {"linear_layers_per_block": 2, "norm_placement": "post", "norm_scale": "sqrt"}):
        model = classifier(**keywords)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        output, expected = compiled(images, labels=labels), model(images, labels=labels)
        torch.testing.assert_close(output.logits, expected.logits)
        torch.testing.assert_close(output.loss, expected.loss)
        output.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        expected.loss.backward()
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def test_images_of_another_size_or_order_are_an_error_that_names_both():
    for shape in ((1, 1, 4, 5), (1, 4, 5, 2), (2, 4, 5), (1, 40)):
        with pytest.raises(ValueError, match=r"pixel_values has shape \(.*\); it takes \(N, 2, 4, 5\)"):
            classifier()(torch.zeros(shape))


# Configuration


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be at least 1"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"hidden_size": 1}, "hidden_size is 1; it must be at least 2"),
        ({"l2_coefficient": -0.1}, "l2_coefficient is -0.1; it must be a finite number"),
        ({"l2_coefficient": math.nan}, "l2_coefficient is nan; it must be a finite number"),
        ({"l2_coefficient": "0.005"}, "l2_coefficient"),
        ({"linear_layers_per_block": 3}, "linear_layers_per_block"),
        ({"norm_placement": "both"}, "norm_placement"),
        ({"norm_scale": 2}, "norm_scale"),
        ({"loss": "hinge"}, "loss"),
        ({"l2_depth_scaling": "log"}, "l2_depth_scaling"),
        ({"normalize_embeddings": "no"}, "normalize_embeddings"),
        ({"image_size": 0}, "image_size is 0; it takes one side or"),
        ({"image_size": [4, 5, 6]}, r"image_size is \[4, 5, 6\]; it takes one side or \[height, width\]"),
        ({"num_channels": 0}, "num_channels is 0; it must be at least 1"),
        ({"num_hiden_layers": 3}, "no field 'num_hiden_layers'; did you mean 'num_hidden_layers'"),
        ({"l2_coeficient": 0.1}, "no field 'l2_coeficient'; did you mean 'l2_coefficient'"),
        ({"hidden_act": "rellu"}, "hidden_act is 'rellu'"),
    ],
)
def test_an_impossible_configuration_is_an_error_that_names_the_field(keywords, message):
    with pytest.raises(Exception, match=message):
        CollapseResNetConfig(**keywords)


def test_depth_scaling_divides_lambda_by_the_depth():
    assert CollapseResNetConfig(num_hidden_layers=8, l2_coefficient=1).resolved_l2_coefficient == 1
    config = CollapseResNetConfig(num_hidden_layers=8, l2_coefficient=0.4, l2_depth_scaling="inverse")
    assert config.resolved_l2_coefficient == pytest.approx(0.05)


# Depth continuation


def body_penalty(model):
    return sum(parameter.square().sum() for parameter in model.network.layers.parameters()).item()


@pytest.mark.parametrize(("layers", "placement", "scale"), VARIANTS)
def test_splitting_every_block_halves_the_penalty_of_rn1_and_keeps_that_of_rn2(layers, placement, scale):
    torch.manual_seed(0)
    model = classifier(linear_layers_per_block=layers, norm_placement=placement, norm_scale=scale).double()
    deeper = model.deepen(6)
    assert deeper.config.num_hidden_layers == 6
    assert model.config.num_hidden_layers == 3
    assert body_penalty(deeper) == pytest.approx(body_penalty(model) / (2 if layers == 1 else 1), rel=1e-12)
    assert torch.equal(deeper.classifier.weight, model.classifier.weight)
    # LN takes the embedding's scale away, so halving it costs nothing and lowers its penalty.
    assert torch.equal(deeper.network.embeddings.projection.weight, model.network.embeddings.projection.weight / 2)


@pytest.mark.parametrize(("layers", "placement", "scale"), VARIANTS)
def test_splitting_changes_the_function_only_to_second_order(layers, placement, scale):
    torch.manual_seed(0)
    model = classifier(linear_layers_per_block=layers, norm_placement=placement, norm_scale=scale).double()
    images = images_and_labels(50)[0].double()
    differences = []
    for _ in range(2):
        with torch.no_grad():
            for layer in model.network.layers:
                layer.residual.branch.output_projection.weight.mul_(1 / 16 if not differences else 1 / 2)
        differences.append((model.deepen(6)(images).features - model(images).features).norm().item())
    assert differences[0] / differences[1] == pytest.approx(4, rel=0.15)


def test_any_depth_up_to_twice_is_reached_by_splitting_the_blocks_of_largest_norm():
    torch.manual_seed(0)
    model = classifier(num_hidden_layers=5)
    with torch.no_grad():
        for layer, size in zip(model.network.layers, (1.0, 5.0, 2.0, 4.0, 3.0), strict=True):
            layer.residual.branch.output_projection.weight.fill_(size)

    def sizes(depth):
        layers = model.deepen(depth).network.layers
        return [layer.residual.branch.output_projection.weight[0, 0].item() for layer in layers]

    assert sizes(5) == [1, 5, 2, 4, 3]
    assert sizes(6) == [1, 2.5, 2.5, 2, 4, 3]
    assert sizes(8) == [1, 2.5, 2.5, 2, 2, 2, 1.5, 1.5]
    assert len(sizes(10)) == 10
    for depth in (4, 11):
        with pytest.raises(ValueError, match=f"num_hidden_layers is {depth}; .* from 5 to 10"):
            model.deepen(depth)


def test_a_deepened_network_keeps_mode_type_and_shares_no_memory():
    model = classifier().double().train()
    deeper = model.deepen(4)
    assert deeper.training
    assert deeper.dtype == torch.float64
    before = model.classifier.weight.clone()
    with torch.no_grad():
        for parameter in deeper.parameters():
            parameter.zero_()
    assert torch.equal(model.classifier.weight, before)
    assert body_penalty(model) > 0
