"""Every architecture as a Hugging Face model: how it starts, is saved and loaded, what it returns, and ways to run."""

import itertools
import math

import pytest
import torch
from small_networks import ARCHITECTURES, new_network, small_inputs, small_network
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForSequenceClassification

every_architecture = pytest.mark.parametrize(("architecture", "modality"), ARCHITECTURES)
both_placements = pytest.mark.parametrize("placement", ["post", "pre"])
LABELS = torch.tensor([2, 0, 1])
AUTO_CLASSES = {"image": AutoModelForImageClassification, "text": AutoModelForSequenceClassification}


def gradients(model, *inputs):
    model.zero_grad()
    model(*inputs, labels=LABELS).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


# Initialisation


@every_architecture
@both_placements
@pytest.mark.parametrize("scale", ["sqrt", "unit"])
def test_200_blocks_start_with_finite_logits_and_gradients(architecture, modality, placement, scale):
    torch.manual_seed(0)
    model = new_network(architecture, modality, num_hidden_layers=200, norm_placement=placement, norm_scale=scale)
    inputs = small_inputs(modality, dtype=torch.float32)
    assert model(inputs).logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model, inputs))


@every_architecture
@both_placements
def test_200_blocks_move_the_stream_about_as_far_as_2(architecture, modality, placement):
    torch.manual_seed(0)
    inputs = small_inputs(modality, 50, dtype=torch.float32)
    distances = {}
    for depth in (2, 200):
        model = new_network(architecture, modality, num_hidden_layers=depth, norm_placement=placement, hidden_size=32)
        output = model(inputs, output_hidden_states=True)
        start = output.hidden_states[0] if output.hidden_states[0].ndim == 2 else output.hidden_states[0][:, -1]
        distances[depth] = torch.dist(model.network.layers[0].norm(start), output.features).item()
    assert distances[200] < 2 * distances[2]


@every_architecture
def test_every_bias_starts_at_zero(architecture, modality):
    model = new_network(architecture, modality, classifier_bias=True)
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


@every_architecture
def test_every_weight_starts_with_the_scale_that_is_written_down(architecture, modality):
    torch.manual_seed(0)
    model = new_network(architecture, modality, num_hidden_layers=16, hidden_size=128)
    last = ("value_output.weight", "output.weight", f"linear_{architecture[-1]}.weight")
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            continue
        if "tokens" in name or "positions" in name:
            expected = 0.02
        elif ".layers." in name and name.endswith(last):
            expected = 1 / math.sqrt(weight.shape[1]) / 4
        else:
            expected = 1 / math.sqrt(weight.shape[1])
        error = expected / math.sqrt(weight.numel())
        assert abs(weight.mean().item()) < 5 * error, name
        assert abs(weight.std().item() - expected) < 5 * error, name


# Checkpoints


@every_architecture
def test_a_checkpoint_loads_through_the_auto_classes_bit_by_bit(architecture, modality, tmp_path):
    torch.manual_seed(0)
    inputs, names = small_inputs(modality), {0: "a", 1: "b", 2: "c"}
    model = small_network(
        architecture, modality, norm_placement="pre", norm_scale="unit", classifier_bias=True, id2label=names
    )
    model.save_pretrained(tmp_path)

    loaded = AUTO_CLASSES[modality].from_pretrained(tmp_path)
    network = AutoModel.from_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)

    assert (tmp_path / "model.safetensors").is_file()
    assert type(loaded) is type(model)
    assert type(network) is type(model.network)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(loaded(inputs).logits, model(inputs).logits)
    assert torch.equal(network(**{network.main_input_name: inputs}).features, model(inputs).features)
    assert {**config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    assert (config.num_labels, config.id2label, config.architecture_name) == (3, names, architecture)


@every_architecture
def test_a_missing_classifier_is_initialised_as_a_new_one_is(architecture, modality, tmp_path):
    torch.manual_seed(0)
    small_network(architecture, modality, hidden_size=64).network.save_pretrained(tmp_path)
    loaded = AUTO_CLASSES[modality].from_pretrained(tmp_path, num_labels=40, classifier_bias=True)
    assert loaded.classifier.weight.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert not loaded.classifier.bias.any()


# Outputs


@every_architecture
@both_placements
def test_hidden_states_are_the_first_blocks_input_and_every_blocks_output(architecture, modality, placement):
    torch.manual_seed(0)
    model = small_network(architecture, modality, norm_placement=placement, num_hidden_layers=3)
    inputs_and_outputs = []
    for layer in model.network.layers:
        layer.register_forward_hook(lambda _, args, output: inputs_and_outputs.append((args[0], output)))

    hidden_states = model(small_inputs(modality), output_hidden_states=True).hidden_states

    assert len(hidden_states) == 4
    for (before, after), (given, returned) in zip(itertools.pairwise(hidden_states), inputs_and_outputs, strict=True):
        assert torch.equal(before, given)
        assert torch.equal(after, returned)


@every_architecture
def test_hidden_states_and_attentions_come_only_on_request(architecture, modality):
    output = small_network(architecture, modality)(small_inputs(modality))
    assert output.hidden_states is None
    assert output.attentions is None


@every_architecture
def test_a_tuple_is_returned_on_request(architecture, modality):
    torch.manual_seed(0)
    model, inputs = small_network(architecture, modality), small_inputs(modality)
    output = model(inputs, labels=LABELS)
    loss, logits, features = model(inputs, labels=LABELS, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    assert torch.equal(features, output.features)


# Ways to run


@every_architecture
@both_placements
def test_gradient_checkpointing_changes_no_gradient(architecture, modality, placement):
    torch.manual_seed(0)
    model, inputs = small_network(architecture, modality, norm_placement=placement).train(), small_inputs(modality)
    expected = gradients(model, inputs)

    model.gradient_checkpointing_enable()

    assert all(layer.gradient_checkpointing for layer in model.network.layers)
    assert all(torch.equal(*pair) for pair in zip(gradients(model, inputs), expected, strict=True))


@every_architecture
@both_placements
@pytest.mark.parametrize("scale", ["sqrt", "unit"])
def test_bf16_autocast_stays_near_float32_and_computes_the_loss_in_float32(architecture, modality, placement, scale):
    torch.manual_seed(0)
    model = new_network(architecture, modality, norm_placement=placement, norm_scale=scale)
    inputs = small_inputs(modality, dtype=torch.float32)
    expected = model(inputs, labels=LABELS).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(inputs, labels=LABELS).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), abs=0.1)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "modality", "placement"),
    [
        ("L-RN2", "image", "pre"),
        ("L-T12", "text", "post"),
        pytest.param("L-RN1", "image", "post", marks=pytest.mark.slow),
        pytest.param("L-T11", "image", "post", marks=pytest.mark.slow),
        pytest.param("L-T22", "image", "pre", marks=pytest.mark.slow),
        pytest.param("L-T21", "text", "pre", marks=pytest.mark.slow),
    ],
)
def test_torch_compile_takes_the_whole_graph_and_changes_no_output(architecture, modality, placement):
    torch.manual_seed(0)
    model, inputs = small_network(architecture, modality, norm_placement=placement), [small_inputs(modality)]
    if modality == "text":
        inputs.append(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]]))
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs).logits, model(*inputs).logits)
    for gradient, expected in zip(gradients(compiled, *inputs), gradients(model, *inputs), strict=True):
        torch.testing.assert_close(gradient, expected)
