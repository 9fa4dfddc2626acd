"""Networks of finite depth whose body costs next to nothing, and points that meet without any penalty."""

import math

import pytest
import torch

from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification
from hf_ncollapse.models.relaxation import relaxed_network, tightened_network
from hf_ncollapse.theory import gufm_optimum


def config(blocks=3, layers=1, **keywords):
    defaults = {
        "hidden_size": 12, "num_hidden_layers": blocks, "image_size": 3, "num_labels": 3, "norm_placement": "pre",
        "linear_layers_per_block": layers,
    }  # fmt: skip
    return CollapseResNetConfig(**{**defaults, **keywords})


@pytest.mark.parametrize("norm_scale", ["sqrt", "unit"])
@pytest.mark.parametrize(("layers", "power"), [(1, 2), (2, 1)])
def test_a_tightened_network_does_what_the_relaxed_one_does_for_a_vanishing_body(layers, power, norm_scale):
    torch.manual_seed(0)
    sought = config(layers=layers, norm_scale=norm_scale)
    relaxed = relaxed_network(sought).double()
    with torch.no_grad():
        for name, parameter in relaxed.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    images = torch.randn(20, 1, 3, 3).double()
    features = relaxed(images).features
    blocks = sum(p.square().sum() for p in relaxed.network.layers.parameters() if p.ndim == 2).item()
    errors = []
    for scale in (1e-3, 1e-4):
        network = tightened_network(relaxed, sought, scale)
        assert type(network) is CollapseResNetForImageClassification
        assert len(network.network.layers) == 3
        errors.append((network(images).features - features).abs().max().item())
        expected = sought.l2_coefficient / 2 * blocks * scale**power
        assert network.regularization_parts()["body"].item() == pytest.approx(expected, rel=1e-9)
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.3)


@pytest.mark.slow
def test_random_labels_are_within_a_hair_of_the_optimum_at_three_blocks():
    # A bound on the body that grew with what the data ask for would be above this network's.
    torch.manual_seed(0)
    sought = config(blocks=3, l2_coefficient=0.01)
    relaxed = relaxed_network(sought).double()
    images, labels = torch.randn(24, 1, 3, 3).double(), torch.arange(24) % 3
    optimizer = torch.optim.LBFGS(
        relaxed.parameters(), max_iter=2000, max_eval=2500, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-10, tolerance_change=1e-14,
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        objective = relaxed(images, labels=labels).loss + relaxed.regularization()
        objective.backward()
        return objective

    optimizer.step(closure)
    optimum = gufm_optimum([8, 8, 8], 0.01, radius=math.sqrt(12), hidden_size=12).objective
    network = tightened_network(relaxed, sought, 1e-5)
    gap = (network(images, labels=labels).loss + network.regularization()).item() - optimum
    assert 0 <= gap < 1e-5


def test_samples_of_a_post_ln_network_meet_by_biases_alone():
    # N = 6 samples, K = 2 classes: N − K blocks with W = 0, each of which makes two of a class meet.
    torch.manual_seed(0)
    network = CollapseResNetForImageClassification(
        config(blocks=4, num_labels=2, norm_placement="post", hidden_size=8)
    ).double()
    images, labels = torch.randn(6, 1, 3, 3).double(), torch.tensor([0, 0, 0, 1, 1, 1])
    pairs = iter([(0, 1), (0, 2), (3, 4), (3, 5)])
    with torch.no_grad():
        stream = network.network.embeddings(images)
        for block in network.network.layers:
            one, other = (stream[i] for i in next(pairs))
            shift = one - 2 * other
            block.feed_forward.linear_1.weight.zero_()
            block.feed_forward.linear_1.bias.copy_(shift - shift.min())
            stream = block(stream)
    features = network(images).features
    assert network.regularization_parts()["body"] == 0
    for k in (0, 1):
        assert (features[labels == k] - features[labels == k][0]).abs().max() < 1e-6
    assert (features[0] - features[3]).norm() > 0.1


def test_only_pre_ln_with_a_block_to_spare_can_be_relaxed():
    with pytest.raises(ValueError, match="norm_placement is 'post'; only the stream of 'pre' can be scaled"):
        relaxed_network(config(norm_placement="post"))
    with pytest.raises(ValueError, match="num_hidden_layers is 1; it takes at least 2: one sets the scale"):
        relaxed_network(config(blocks=1))
