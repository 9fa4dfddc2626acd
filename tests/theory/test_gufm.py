"""The optimum J* of the unconstrained features model, and the bound J ≥ J* for every network."""

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
from hf_ncollapse.theory import gufm_optimum, orthogonal_frame, simplex_etf


@pytest.mark.parametrize(
    ("counts", "l2_coefficient", "radius", "cross_entropy", "classifier_norm", "mse"),
    [
        ([7] * 10, 0.005, 1, 0.4753171891, 3.4898554, 0.0238095238),
        ([1] * 2, 0.005, 1, 0.0363576697, 2.2402359, 0.0049504950),
        ([3] * 4, 0.05, 1, 0.5592323946, 1.6549594, 0.0833333333),
        ([5] * 10, 0.005, 8, 0.0227593675, 0.8480074, 0.0003903201),
        ([5] * 10, 0.1, 1, 1.8652576822, 0.8616961, 0.25),
        ([2] * 100, 0.005, 1, 3.6449827087, 1.8911654, 0.1666666667),
        ([8, 4, 2, 2], 0.005, 1, 0.1374445919, None, 0.0097339202),
    ],
)
def test_the_optimum_has_the_known_values(counts, l2_coefficient, radius, cross_entropy, classifier_norm, mse):
    by_cross_entropy = gufm_optimum(counts, l2_coefficient, radius=radius)
    by_mse = gufm_optimum(counts, l2_coefficient, loss="mse", radius=radius)
    assert by_cross_entropy.objective == pytest.approx(cross_entropy, abs=1e-10)
    assert by_mse.objective == pytest.approx(mse, abs=1e-10)
    if classifier_norm is not None:
        assert by_cross_entropy.classifier_norm == pytest.approx(classifier_norm, abs=1e-7)
    assert by_cross_entropy.is_numerical is (len(set(counts)) > 1)
    assert by_mse.is_numerical is False


def free_objective(features, classifier, labels, l2_coefficient, loss):
    """The GUFM's objective at given features and classifier."""
    logits = features @ classifier.T
    if loss == "cross_entropy":
        fit = torch.nn.functional.cross_entropy(logits, labels)
    else:
        fit = (logits - torch.eye(logits.shape[1], dtype=logits.dtype)[labels]).square().sum(1).mean() / 2
    return fit + l2_coefficient / 2 * classifier.square().sum()


def minimum_over_free_features(counts, l2_coefficient, radius, loss, width, starts=3):
    """min over W and one free feature a *sample*, mean 0 and norm r, by L-BFGS from several starts."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(starts):
        x = torch.randn(len(labels), width, dtype=torch.float64, generator=generator, requires_grad=True)
        w = torch.randn(len(counts), width, dtype=torch.float64, generator=generator, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [x, w], max_iter=3000, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure(x=x, w=w, optimizer=optimizer):
            optimizer.zero_grad()
            centred = x - x.mean(1, keepdim=True)
            features = radius * centred / centred.norm(dim=1, keepdim=True)
            objective = free_objective(features, w, labels, l2_coefficient, loss)
            objective.backward()
            return objective

        optimizer.step(closure)
        values.append(closure().item())
    return min(values)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize(
    ("counts", "l2_coefficient", "radius"),
    [([2, 2], 0.05, 1.0), ([2, 2, 2], 0.01, 1.0), ([3, 2, 1], 0.02, 1.0), ([1, 1, 1, 1], 0.05, 2.5), ([4, 1], 0.1, 1)],
)
def test_the_optimum_equals_a_minimisation_over_free_features_of_every_sample(counts, l2_coefficient, radius, loss):
    found = minimum_over_free_features(counts, l2_coefficient, radius, loss, width=len(counts) + 2)
    expected = gufm_optimum(counts, l2_coefficient, loss=loss, radius=radius).objective
    assert found == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("l2_coefficient", "radius"), [(1e-6, 1.0), (0.01, 0.5), (1.0, 4.0)])
def test_two_classes_have_the_same_optimum_whatever_their_shares(l2_coefficient, radius):
    # Their features are ±r along w_1 − w_2, so both classes have the same margin and the same loss.
    by_shares = gufm_optimum([9, 1], l2_coefficient, radius=radius)
    balanced = gufm_optimum([1, 1], l2_coefficient, radius=radius)
    assert by_shares.is_numerical
    assert by_shares.objective == pytest.approx(balanced.objective, rel=1e-9)
    assert by_shares.classifier_norm == pytest.approx(balanced.classifier_norm, rel=1e-5)


@pytest.mark.parametrize(
    ("majority", "minorities", "l2_coefficient", "radius"), [(500, 9, 0.3, 1.0), (1000, 3, 0.1, 1.0), (5, 2, 1.0, 0.3)]
)
def test_classes_too_rare_for_the_penalty_share_one_feature(majority, minorities, l2_coefficient, radius):
    # Minority collapse: n rare classes have the feature −r q and the row −b q, the other one has r q and n b q; what
    # is left is a strictly convex function of b, minimised here by thirds.
    share, n = majority / (majority + minorities), minorities

    def objective(b):
        wrong = math.exp(-(n + 1) * b * radius)
        fit = share * math.log1p(n * wrong) + (1 - share) * math.log(n + wrong)
        return fit + l2_coefficient / 2 * n * (n + 1) * b * b

    low, high = 0.0, 10.0
    for _ in range(200):
        left, right = (2 * low + high) / 3, (low + 2 * high) / 3
        low, high = (low, right) if objective(left) < objective(right) else (left, high)

    optimum = gufm_optimum([majority] + [1] * n, l2_coefficient, radius=radius)
    assert optimum.objective == pytest.approx(objective(low), abs=1e-10)
    assert optimum.regularization == pytest.approx(l2_coefficient / 2 * n * (n + 1) * low**2, abs=1e-7)
    assert optimum.fit + optimum.regularization == pytest.approx(optimum.objective, abs=1e-15)
    assert optimum.classifier_norm == pytest.approx(2 * n * low / (n + 1), abs=1e-6)
    assert optimum.logit_margin == pytest.approx(2 * low * radius, abs=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_frame_and_norm_that_are_reported_attain_the_optimum(loss):
    num_classes, width, radius, l2_coefficient = 5, 9, 1.5, 0.01
    optimum = gufm_optimum([4] * num_classes, l2_coefficient, loss=loss, radius=radius)
    frame = torch.from_numpy((simplex_etf if loss == "cross_entropy" else orthogonal_frame)(num_classes, width))
    value = free_objective(
        radius * frame, optimum.classifier_norm * frame, torch.arange(num_classes), l2_coefficient, loss
    )
    logits = radius * optimum.classifier_norm * frame @ frame.T
    margin = logits.diagonal().mean() - (logits.sum() - logits.trace()) / num_classes / (num_classes - 1)
    assert value.item() == pytest.approx(optimum.objective, abs=1e-12)
    assert optimum.fit + optimum.regularization == pytest.approx(optimum.objective, abs=1e-15)
    assert optimum.regularization == pytest.approx(
        l2_coefficient / 2 * num_classes * optimum.classifier_norm**2, abs=1e-14
    )
    assert optimum.logit_margin == pytest.approx(margin.item(), abs=1e-12)


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=8),
    st.floats(1e-5, 1.0),
    st.floats(0.3, 20),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_mse_depends_on_shares_alone_falls_with_the_radius_and_rises_with_lambda(
    counts, l2_coefficient, radius, times
):
    def optimum(counts=counts, l2_coefficient=l2_coefficient, radius=radius):
        return gufm_optimum(counts, l2_coefficient, loss="mse", radius=radius).objective

    assert optimum(counts=[times * count for count in counts]) == pytest.approx(optimum(), rel=1e-12)
    assert optimum(counts=counts[::-1]) == pytest.approx(optimum(), rel=1e-12)
    assert optimum(radius=1.5 * radius) < optimum() < optimum(l2_coefficient=1.5 * l2_coefficient)
    # W = 0 is feasible: its objective is ½.
    assert 0 < optimum() < 0.5


@given(st.integers(2, 1000), st.floats(1e-7, 10), st.floats(0.3, 30))
@settings(max_examples=100, deadline=None)
def test_balanced_cross_entropy_is_stationary_and_below_a_zero_classifier(num_classes, l2_coefficient, radius):
    optimum = gufm_optimum([1] * num_classes, l2_coefficient, radius=radius)
    slope = radius * num_classes / (num_classes - 1)

    def objective(a):
        wrong = (num_classes - 1) * math.exp(-a * slope)
        return math.log1p(wrong) + l2_coefficient / 2 * num_classes * a * a

    a = optimum.classifier_norm
    assert optimum.objective == pytest.approx(objective(a), rel=1e-12)
    assert optimum.objective <= math.log(num_classes) + 1e-12
    for other in (0.99 * a, 1.01 * a):
        assert objective(other) >= optimum.objective * (1 - 1e-13)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (([5], 0.1), {}, r"class_counts is \[5\]; it takes at least 2 classes"),
        (([5, 0], 0.1), {}, r"class_counts is \[5, 0\]; .* at least 1 sample"),
        (([5, 5], 0.0), {}, r"l2_coefficient is 0.0; it must be > 0"),
        (([5, 5], math.nan), {}, r"l2_coefficient is nan"),
        (([5, 5], 0.1), {"radius": 0}, r"radius is 0; it must be > 0"),
        (([5, 5], 0.1), {"loss": "hinge"}, r"loss is 'hinge'; it takes 'cross_entropy' or 'mse'"),
        (([5] * 10, 0.1), {"hidden_size": 9}, r"hidden_size is 9; the simplex ETF of 10 classes .* needs at least 10"),
        (([5] * 10, 0.1), {"hidden_size": 10, "loss": "mse"}, r"the orthogonal frame of 10 .* needs at least 11"),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_names_it(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        gufm_optimum(*arguments, **keywords)


def test_the_smallest_feasible_width_is_accepted_and_is_enough():
    gufm_optimum([5] * 4, 0.1, hidden_size=4)
    gufm_optimum([5] * 4, 0.1, hidden_size=5, loss="mse")
    for loss, width in (("cross_entropy", 3), ("mse", 4)):
        found = minimum_over_free_features([1, 1, 1], 0.02, 1.0, loss, width)
        expected = gufm_optimum([1, 1, 1], 0.02, loss=loss, hidden_size=width).objective
        assert found == pytest.approx(expected, abs=1e-8)


# The bound on networks

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


@given(
    family=st.sampled_from(RESNETS + TRANSFORMERS),
    placement=st.sampled_from(["pre", "post"]),
    scale=st.sampled_from(["unit", "sqrt"]),
    loss=st.sampled_from(["cross_entropy", "mse"]),
    counts=st.sampled_from([(1, 1), (3, 1), (2, 2, 2), (4, 2, 1), (1, 1, 1, 1), (3, 2, 2, 1)]),
    l2_coefficient=st.sampled_from([1e-4, 0.01, 0.3]),
    depth=st.integers(1, 2),
    steps=st.sampled_from([0, 5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_no_network_trained_or_not_has_an_objective_below_the_optimum(
    family, placement, scale, loss, counts, l2_coefficient, depth, steps, seed
):
    torch.manual_seed(seed)
    model_class, config_class, fields = family
    config = config_class(
        hidden_size=8, num_hidden_layers=depth, image_size=4, norm_placement=placement, norm_scale=scale, loss=loss,
        l2_coefficient=l2_coefficient, num_labels=len(counts), **fields,
    )  # fmt: skip
    model = model_class(config).double()
    images = torch.randn(sum(counts), 1, 4, 4, dtype=torch.float64)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    radius = 1.0 if scale == "unit" else math.sqrt(8)
    optimum = known_optimum(counts, l2_coefficient, loss=loss, radius=radius, hidden_size=8).objective

    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps + 1):
        objective = model(images, labels=labels).loss + model.regularization()
        assert objective.item() >= optimum - 1e-12
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_network_trained_long_comes_near_the_optimum_and_stays_above_it(loss):
    torch.manual_seed(0)
    model = CollapseResNetForImageClassification(
        CollapseResNetConfig(
            hidden_size=16, num_hidden_layers=6, image_size=4, num_labels=4, l2_coefficient=0.005, loss=loss
        )
    ).double()
    labels = torch.arange(12) % 4
    prototypes = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    images = prototypes[labels] + 0.1 * torch.randn(12, 1, 4, 4, dtype=torch.float64)
    optimum = gufm_optimum([3] * 4, 0.005, loss=loss, hidden_size=16).objective
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    smallest = math.inf
    for _ in range(200):
        objective = model(images, labels=labels).loss + model.regularization()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
        smallest = min(smallest, objective.item())
    assert optimum < smallest < optimum + 0.05
