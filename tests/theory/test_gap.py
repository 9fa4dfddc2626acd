"""The gap's split adds up, its parts are distances, and its bounds of NC1 and NC3 hold."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ncollapse.theory import gufm_optimum, simplex_etf, split_gap
from hf_ncollapse.theory.simplex_etf import orthogonal_frame

LOSSES = [("cross_entropy", False), ("cross_entropy", True), ("mse", False), ("mse", True)]
COUNTS = [(3, 3), (2, 2, 2), (5, 2, 1), (2, 2, 2, 2, 2)]

known_optimum = functools.cache(gufm_optimum)


def on_the_sphere(features, radius):
    return radius * torch.nn.functional.normalize(features - features.mean(1, keepdim=True))


def split(optimum, features, classifier, bias, labels, body=0.25):
    """The split of features, W and b, and J − lower_bound computed directly."""
    loss, num_classes = optimum.problem.loss, len(classifier)
    logits = features @ classifier.T + bias
    one_hot = torch.eye(num_classes, dtype=torch.float64)[labels]
    means_of = one_hot.T / one_hot.sum(0)[:, None]
    if loss == "cross_entropy":
        scores = logits.log_softmax(1)
        fit = -(one_hot * scores).sum(1).mean()
    else:
        scores = logits
        fit = (logits - one_hot).square().sum(1).mean() / 2
    means = means_of @ features
    parts = split_gap(
        optimum,
        classifier=classifier,
        class_means=means,
        within_class_variances=means_of @ (features - means[labels]).square().sum(1),
        mean_scores=means_of @ scores,
        mean_squared_logits=logits.square().sum(1).mean(),
        body=body,
    )
    objective = body + fit + optimum.problem.l2_coefficient / 2 * classifier.square().sum()
    return parts, objective.item() - optimum.lower_bound


def measured(features, classifier, labels):
    """NC1 and NC3 by their definitions."""
    means = torch.stack([features[labels == k].mean(0) for k in range(len(classifier))])
    within = (features - means[labels]).square().sum(1).mean()
    between = (means - means.mean(0)).square().sum(1).mean()
    cosine = torch.nn.functional.cosine_similarity(features, classifier[labels])
    return (within / between).item(), 1 - cosine.mean().item()


@given(
    loss=st.sampled_from(LOSSES),
    counts=st.sampled_from(COUNTS),
    problem=st.sampled_from([(1e-3, 4.0), (0.05, 1.0)]),
    scale=st.floats(0.01, 3),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_the_parts_of_any_features_and_classifier_are_positive_and_sum_to_the_gap(loss, counts, problem, scale, seed):
    (loss, has_bias), (l2_coefficient, radius) = loss, problem
    optimum = known_optimum(counts, l2_coefficient, radius=radius, loss=loss, classifier_bias=has_bias)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    random = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    features = on_the_sphere(random(len(labels), len(counts) + 4), radius)
    bias = random(len(counts)) * has_bias
    parts, gap = split(optimum, features, scale * random(len(counts), len(counts) + 4), bias, labels)
    assert parts.total == pytest.approx(gap, abs=1e-10, rel=1e-10)
    assert parts.total == pytest.approx(parts.body + parts.fit + parts.classifier + parts.spread, rel=1e-14)
    assert min(parts.body, parts.fit, parts.classifier, parts.spread) >= 0


@given(
    loss=st.sampled_from(LOSSES),
    counts=st.sampled_from([(6, 6), (4, 4, 4), (3,) * 5, (2,) * 12]),
    l2_coefficient=st.sampled_from([1e-3, 0.05, 0.3]),
    radius=st.sampled_from([1.0, 4.0]),
    size=st.floats(-4, 1),
    shift=st.floats(-4, 1),
    turn=st.floats(-4, 1),
    aligned=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=400, deadline=None)
def test_the_bounds_hold_at_perturbations_of_the_optimum_of_every_size(
    loss, counts, l2_coefficient, radius, size, shift, turn, aligned, seed
):
    loss, has_bias = loss
    num_classes = len(counts)
    optimum = known_optimum(counts, l2_coefficient, radius=radius, loss=loss, classifier_bias=has_bias)
    make = simplex_etf if optimum.problem.frame == "simplex" else orthogonal_frame
    frame = torch.from_numpy(make(num_classes, num_classes + 2))
    frame = torch.nn.functional.pad(frame, (0, 1)) @ torch.from_numpy(orthogonal_frame(num_classes + 3))
    labels = torch.arange(num_classes).repeat_interleave(torch.tensor(counts))
    random = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # Within classes, of the global mean, and of W: against the global mean's shift or at random.
    direction = torch.nn.functional.normalize(random(1, frame.shape[1]), dim=1)
    features = frame[labels] + 10**size * random(len(labels), frame.shape[1]) + 10**shift * direction
    features = on_the_sphere(features, radius)
    noise = direction if aligned else random(frame.shape)
    classifier = optimum.classifier_norm * (frame + 10**turn * noise)
    bias = torch.full((num_classes,), float(loss == "mse") / num_classes) * has_bias
    parts, gap = split(optimum, features, classifier, bias, labels)
    nc1, nc3 = measured(features, classifier, labels)
    assert parts.total == pytest.approx(gap, abs=1e-10, rel=1e-10)
    for value, bound in ((nc1, parts.nc1_bound), (nc3, parts.nc3_bound)):
        assert bound is None or bound >= 0
        assert bound is None or value <= bound + 1e-12


@pytest.mark.parametrize(("loss", "has_bias"), LOSSES)
@pytest.mark.parametrize("counts", COUNTS)
def test_at_the_optimum_every_part_and_bound_is_zero(counts, loss, has_bias):
    optimum = gufm_optimum(counts, 0.01, radius=3.0, loss=loss, classifier_bias=has_bias)
    if optimum.is_numerical:
        return
    shares = torch.tensor(counts) / sum(counts)
    norms = torch.full((len(counts),), optimum.classifier_norm, dtype=torch.float64)
    if loss == "mse" and not has_bias:
        norms = (shares * 3 / (shares * 9 + 0.01)).double()
    frame = simplex_etf if optimum.problem.frame == "simplex" else orthogonal_frame
    frame = torch.from_numpy(frame(len(counts), len(counts) + 1))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    bias = 1 / len(counts) if loss == "mse" and has_bias else 0.0
    parts, _ = split(optimum, 3.0 * frame[labels], norms[:, None] * frame, bias, labels, body=0.0)
    assert parts.total < 1e-13
    if len(set(counts)) == 1:
        assert parts.nc1_bound < 1e-7
        assert parts.nc3_bound < 1e-7


@pytest.mark.parametrize(("loss", "has_bias"), LOSSES)
def test_the_bounds_hold_all_along_a_descent_and_are_small_at_its_end(loss, has_bias):
    num_classes, radius, labels = 4, 1.0, torch.arange(4).repeat_interleave(5)
    optimum = gufm_optimum([5] * 4, 0.05, radius=radius, loss=loss, classifier_bias=has_bias)
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((20, 8), (4, 8), (4,)))
    variables = [x.requires_grad_(), w.requires_grad_(), b.requires_grad_()]
    optimizer = torch.optim.Adam(variables, lr=0.03)
    for step in range(601):
        features, bias = on_the_sphere(x, radius), b * has_bias
        logits = features @ w.T + bias
        target = torch.nn.functional.one_hot(labels, num_classes)
        fit = (
            torch.nn.functional.cross_entropy(logits, labels)
            if loss == "cross_entropy"
            else (logits - target).square().sum(1).mean() / 2
        )
        optimizer.zero_grad()
        (fit + 0.025 * w.square().sum()).backward()
        if step % 20 == 0:
            parts, gap = split(optimum, features.detach(), w.detach(), bias.detach(), labels)
            assert parts.total == pytest.approx(gap, abs=1e-10)
            nc1, nc3 = measured(features.detach(), w.detach(), labels)
            assert parts.nc1_bound is None or nc1 <= parts.nc1_bound + 1e-12
            assert parts.nc3_bound is None or nc3 <= parts.nc3_bound + 1e-12
        optimizer.step()
    assert parts.nc1_bound < 0.05
    assert parts.nc3_bound < 0.05


def test_imbalanced_classes_have_a_split_and_no_bounds():
    optimum = gufm_optimum([4, 2], 0.05, radius=2.0)
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    features = on_the_sphere(torch.randn(6, 5, dtype=torch.float64), 2.0)
    parts, gap = split(optimum, features, torch.eye(2, 5, dtype=torch.float64), 0.0, labels)
    assert parts.total == pytest.approx(gap, abs=1e-12)
    assert (parts.nc1_bound, parts.nc3_bound) == (None, None)


@pytest.mark.parametrize(
    ("optimum", "changes", "message"),
    [
        ({"conflicts": [[1, 1]]}, {}, "optimum has conflicts"),
        ({"loss": "mse"}, {}, "mean_squared_logits is None"),
        ({}, {"classifier": torch.zeros(3, 5)}, r"classifier has shape \(3, 5\); it takes \(2, 5\)"),
        ({}, {"class_means": torch.zeros(2, 4)}, r"class_means has shape \(2, 4\); it takes \(2, 5\)"),
        ({}, {"within_class_variances": torch.zeros(2, 1)}, r"within_class_variances has shape \(2, 1\)"),
        ({}, {"mean_scores": torch.zeros(2)}, r"mean_scores has shape \(2,\); it takes \(2, 2\)"),
    ],
)
def test_what_cannot_be_split_is_an_error_that_names_it(optimum, changes, message):
    arguments = {
        "classifier": torch.zeros(2, 5),
        "class_means": torch.zeros(2, 5),
        "within_class_variances": torch.zeros(2),
        "mean_scores": torch.zeros(2, 2),
        "body": 0.0,
    }
    with pytest.raises(ValueError, match=message):
        split_gap(gufm_optimum([3, 3], 0.1, radius=1.0, **optimum), **arguments | changes)
