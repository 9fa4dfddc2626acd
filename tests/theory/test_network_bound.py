"""J ≥ J* for every network, trained or not, and its split."""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ncollapse import (
    CollapseResNetConfig,
    CollapseResNetForImageClassification,
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
)
from hf_ncollapse.models.residual_layers import feature_norm
from hf_ncollapse.theory import gufm_optimum, split_gap

RESNETS = [
    (CollapseResNetForImageClassification, CollapseResNetConfig, {"linear_layers_per_block": layers})
    for layers in (1, 2)
]
TRANSFORMERS = [
    (
        CollapseTransformerForImageClassification,
        CollapseTransformerConfig,
        {"patch_size": 2, "attention_linear_layers": attention, "mlp_linear_layers": mlp},
    )
    for attention, mlp in itertools.product((1, 2), (1, 2))
]

known_optimum = functools.cache(gufm_optimum)


def optimum_of(config, counts):
    return known_optimum(
        counts,
        config.resolved_classifier_l2_coefficient,
        loss=config.loss,
        radius=feature_norm(config.norm_scale, config.hidden_size),
        hidden_size=config.hidden_size,
        classifier_bias=config.classifier_bias,
    )


@given(
    family=st.sampled_from(RESNETS + TRANSFORMERS),
    placement=st.sampled_from(["pre", "post"]),
    scale=st.sampled_from(["unit", "sqrt"]),
    objective=st.sampled_from([("cross_entropy", False), ("cross_entropy", True), ("mse", False), ("mse", True)]),
    counts=st.sampled_from([(1, 1), (3, 1), (2, 2, 2), (4, 2, 1), (3, 2, 2, 1)]),
    l2_coefficients=st.sampled_from([(1e-3, None), (0.0, 0.01), (0.1, 0.01)]),
    depth=st.integers(1, 2),
    steps=st.sampled_from([0, 5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_no_network_trained_or_not_has_an_objective_below_the_optimum(
    family, placement, scale, objective, counts, l2_coefficients, depth, steps, seed
):
    torch.manual_seed(seed)
    model_class, config_class, fields = family
    config = config_class(
        hidden_size=8, num_hidden_layers=depth, image_size=4, norm_placement=placement, norm_scale=scale,
        loss=objective[0], classifier_bias=objective[1], l2_coefficient=l2_coefficients[0],
        classifier_l2_coefficient=l2_coefficients[1], num_labels=len(counts), **fields,
    )  # fmt: skip
    model = model_class(config).double()
    images = torch.randn(sum(counts), 1, 4, 4, dtype=torch.float64)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    lower_bound = optimum_of(config, counts).lower_bound

    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps + 1):
        objective = model(images, labels=labels).loss + model.regularization()
        assert objective.item() >= lower_bound - 1e-12
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()


@pytest.mark.parametrize(("loss", "bias"), [("cross_entropy", False), ("mse", False), ("mse", True)])
def test_a_network_trained_long_comes_near_the_optimum_and_its_gap_splits_exactly(loss, bias):
    torch.manual_seed(0)
    config = CollapseResNetConfig(
        hidden_size=16, num_hidden_layers=6, image_size=4, num_labels=4, norm_placement="pre", norm_scale="unit",
        l2_coefficient=0.005, loss=loss, classifier_bias=bias,
    )  # fmt: skip
    model = CollapseResNetForImageClassification(config).double()
    labels = torch.arange(12) % 4
    prototypes = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    images = prototypes[labels] + 0.1 * torch.randn(12, 1, 4, 4, dtype=torch.float64)
    optimum = optimum_of(config, (3,) * 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        objective = model(images, labels=labels).loss + model.regularization()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()

    with torch.no_grad():
        output, parts = model(images, labels=labels), model.regularization_parts()
        gap = output.loss + sum(parts.values()) - optimum.objective
        of_class = torch.nn.functional.one_hot(labels).double().T / 3
        means = of_class @ output.features
        deviations = (output.features - means[labels]).square().sum(1)
        scores = output.logits.log_softmax(1) if loss == "cross_entropy" else output.logits
    split = split_gap(
        optimum,
        classifier=model.classifier.weight,
        class_means=means,
        within_class_variances=of_class @ deviations,
        mean_scores=of_class @ scores,
        mean_squared_logits=output.logits.square().sum(1).mean(),
        body=parts["body"],
    )
    assert 0 < gap.item() < 0.05
    assert split.total == pytest.approx(gap.item(), abs=1e-10)
    nc1 = deviations.mean() / (means - means.mean(0)).square().sum(1).mean()
    nc3 = 1 - torch.nn.functional.cosine_similarity(output.features, model.classifier.weight[labels]).mean()
    assert split.nc1_bound is None or nc1.item() <= split.nc1_bound
    assert split.nc3_bound is None or nc3.item() <= split.nc3_bound
    assert math.isfinite(split.spread)
