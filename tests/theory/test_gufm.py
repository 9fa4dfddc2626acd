"""The optimum J* of the unconstrained features model, and the dual that certifies it."""

import math
import pickle

import numpy as np
import pytest
import torch
from free_features import free_objective, minimum_over_free_features
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ncollapse.theory import expected_slopes, gufm_optimum, orthogonal_frame, simplex_etf

KNOWN = [
    # counts, λ, r, loss, bias, J*
    ([1] * 10, 0.005, 8, "cross_entropy", False, 0.0227593675),
    ([1] * 10, 0.005, 8, "cross_entropy", True, 0.0227593675),
    ([1] * 2, 0.005, 8, "cross_entropy", False, 0.00158469586),
    ([1] * 20, 0.005, 8, "cross_entropy", False, 0.0501130853),
    ([1] * 10, 0.005, 1, "cross_entropy", False, 0.4753171891),
    ([1] * 2, 0.005, 1, "cross_entropy", False, 0.0363576697),
    ([1] * 4, 0.05, 1, "cross_entropy", False, 0.5592323946),
    ([1] * 10, 0.1, 1, "cross_entropy", False, 1.8652576822),
    ([8, 4, 2, 2], 0.005, 1, "cross_entropy", False, 0.1374445919),
    ([1] * 10, 0.005, 8, "mse", False, 0.00039032006),
    ([1] * 10, 0.005, 1, "mse", False, 0.0238095238),
    ([8, 4, 2, 2], 0.005, 1, "mse", False, 0.0097339202),
    ([1] * 10, 0.005, 8, "mse", True, 0.00031618393),
    ([1] * 10, 0.005, 1, "mse", True, 0.0193779904),
    ([1] * 4, 0.05, 4, "mse", True, 0.0034829721),
]


@pytest.mark.parametrize(("counts", "l2_coefficient", "radius", "loss", "bias", "objective"), KNOWN)
def test_the_optimum_has_the_known_value_which_a_free_minimisation_finds_too(
    counts, l2_coefficient, radius, loss, bias, objective
):
    optimum = gufm_optimum(counts, l2_coefficient, radius=radius, loss=loss, classifier_bias=bias)
    assert optimum.objective == pytest.approx(objective, abs=1e-10)
    assert optimum.fit + optimum.regularization == pytest.approx(optimum.objective, abs=1e-15)
    assert optimum.is_numerical is (loss == "cross_entropy" and len(set(counts)) > 1)
    found = minimum_over_free_features(
        counts, l2_coefficient, radius, loss, len(counts) + 2, classifier_bias=bias, starts=1
    )
    assert found == pytest.approx(objective, abs=1e-9)


@pytest.mark.parametrize(
    ("num_classes", "l2_coefficient", "radius", "norm"),
    [(10, 0.005, 8, 0.8480074), (10, 0.005, 1, 3.4898554), (100, 0.005, 1, 1.8911654)],
)
def test_balanced_cross_entropy_has_the_known_classifier_norm(num_classes, l2_coefficient, radius, norm):
    optimum = gufm_optimum([3] * num_classes, l2_coefficient, radius=radius)
    assert optimum.classifier_norm == pytest.approx(norm, abs=1e-7)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize(
    ("counts", "l2_coefficient", "radius"),
    [
        ([2, 2], 0.05, 1.0),
        ([3, 2, 1], 0.02, 1.0),
        ([1, 1, 1, 1], 0.05, 2.5),
        ([4, 1], 0.1, 1),
        ([4, 2, 1, 1], 0.05, 4),
    ],
)
def test_the_optimum_equals_a_minimisation_over_free_features_of_every_sample(
    counts, l2_coefficient, radius, loss, bias
):
    found = minimum_over_free_features(
        counts, l2_coefficient, radius, loss, width=len(counts) + 2, classifier_bias=bias
    )
    optimum = gufm_optimum(counts, l2_coefficient, loss=loss, radius=radius, classifier_bias=bias)
    assert found == pytest.approx(optimum.objective, abs=1e-8)
    assert found >= optimum.lower_bound - 1e-13


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("radius", [1.0, 8.0])
@pytest.mark.parametrize("l2_coefficient", [1e-4, 0.005, 0.1])
@pytest.mark.parametrize("counts", [(8, 4, 2, 2), (5000, 500, 50, 5), (2, 2, 2)])
def test_the_dual_certifies_every_optimum(counts, l2_coefficient, radius, loss, bias):
    optimum = gufm_optimum(counts, l2_coefficient, loss=loss, radius=radius, classifier_bias=bias)
    assert optimum.objective - 1e-7 <= optimum.lower_bound <= optimum.objective + 1e-14
    if not optimum.is_numerical:
        assert optimum.lower_bound == pytest.approx(optimum.objective, rel=1e-12)
    # Feasible: Diag(δ) ⪰ M, probabilities, and no pull on a bias.
    shares, labels = optimum.problem.groups()
    targets = optimum.dual.targets()
    pulls = shares[:, None] * (labels - targets)
    slack = np.diag(optimum.dual.multipliers) - pulls @ pulls.T
    assert np.linalg.eigvalsh(slack)[0] >= -1e-15
    if loss == "cross_entropy":
        assert targets.min() >= 0
        np.testing.assert_allclose(targets.sum(1), np.ones(len(counts)), rtol=1e-7)
    if bias:
        assert abs(pulls.sum(0)).max() < 1e-15


def test_a_dual_point_far_from_the_optimum_is_certified_too():
    from hf_ncollapse.theory.numerical import certified_dual

    generator = torch.Generator().manual_seed(0)
    for loss in ("cross_entropy", "mse"):
        optimum = gufm_optimum([4, 2, 1], 0.01, radius=2.0, loss=loss, classifier_bias=True)
        shares, labels = map(torch.from_numpy, optimum.problem.groups())
        for scale in (0.0, 1e-3, 1.0, 100.0):
            logits, classifier = (scale * torch.randn(3, n, dtype=torch.float64, generator=generator) for n in (3, 5))
            bound = certified_dual(optimum.problem, shares, labels, logits, classifier).value
            assert bound <= optimum.objective + 1e-12


def test_the_geometry_of_an_optimum_is_collapsed_where_the_theory_says_so():
    for loss, bias in (("cross_entropy", False), ("cross_entropy", True), ("mse", False), ("mse", True)):
        balanced = gufm_optimum([3] * 4, 0.005, radius=8, loss=loss, classifier_bias=bias)
        assert (balanced.nc2, balanced.nc3) == (pytest.approx(0, abs=1e-15), 0)
        imbalanced = gufm_optimum([8, 4, 2, 2], 0.1, radius=1, loss=loss, classifier_bias=bias)
        assert imbalanced.nc2 > 0.1
        assert 0 <= imbalanced.nc3 < 0.01
    norms = torch.tensor([n / 16 / (n / 16 + 0.1) for n in (8, 4, 2, 2)])  # of MSE's rows of W at r = 1
    gram = torch.diag(norms**2)
    nearest = gram - (norms**2).mean() * torch.eye(4)
    found = gufm_optimum([8, 4, 2, 2], 0.1, radius=1, loss="mse").nc2
    assert found == pytest.approx((nearest.norm() / gram.norm()).item(), abs=1e-6)


def test_the_numerical_optimum_of_equal_classes_is_the_collapsed_one():
    from hf_ncollapse.theory.numerical import numerical

    for loss, bias in (("cross_entropy", False), ("mse", False), ("mse", True)):
        expected = gufm_optimum([3] * 4, 0.01, radius=2, loss=loss, classifier_bias=bias)
        found = numerical(expected.problem)
        for name in ("objective", "fit", "regularization", "lower_bound", "classifier_norm", "logit_margin"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-7)
        assert (found.nc2, found.nc3) == (pytest.approx(0, abs=1e-5), pytest.approx(0, abs=1e-7))


@pytest.mark.parametrize(("loss", "bias"), [("cross_entropy", False), ("mse", False), ("mse", True)])
def test_closed_forms_take_memory_linear_in_the_number_of_classes(loss, bias):
    optimum = gufm_optimum([1] * 200_000, 1e-6, radius=8, loss=loss, classifier_bias=bias)
    assert optimum.lower_bound == pytest.approx(optimum.objective, rel=1e-9)
    arrays = (optimum.problem.counts, optimum.dual.multipliers, optimum.dual.other_targets, optimum.dual.own_targets)
    assert sum(array.size for array in arrays) <= 3 * 200_000 + 1


def test_an_optimum_can_be_pickled():
    optimum = pickle.loads(pickle.dumps(gufm_optimum([2, 1], 0.1, radius=1)))  # noqa: S301
    assert optimum.objective == gufm_optimum([2, 1], 0.1, radius=1).objective


def test_the_rates_are_those_of_quantities_quadratic_or_linear_in_the_distance():
    assert expected_slopes() == {"gap": -1.0, "nc1": -1.0, "nc2": -0.5, "nc3": -1.0}


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
        (([5, 5], 0.1), {"conflicts": [[1, 1, 0]]}, r"conflicts has shape \(1, 3\); it takes \(m, 2\)"),
        (([5, 5], 0.1), {"conflicts": [1, 1]}, r"conflicts has shape \(2,\)"),
        (([5, 5], 0.1), {"conflicts": [[1.5, 1]]}, "conflicts takes rows of whole counts"),
        (([5, 5], 0.1), {"conflicts": [[2, -1]]}, "conflicts takes rows of whole counts"),
        (([5, 5], 0.1), {"conflicts": [[0, 0]]}, "each of at least 1 sample"),
        (([5, 5], 0.1), {"conflicts": [[3, 1], [3, 1]]}, "conflicts has 6 samples of class 0; class_counts, .* has 5"),
        (([5, 5], 0.1), {"conflicts": [[1, 1]], "hidden_size": 2}, "needs at least 3 with conflicts"),
        (([5] * 10, 0.1), {"hidden_size": 9}, r"hidden_size is 9; the simplex ETF of 10 classes .* needs at least 10"),
        (([5] * 10, 0.1), {"hidden_size": 10, "loss": "mse"}, r"the orthogonal frame of 10 .* needs at least 11"),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_names_it(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        gufm_optimum(*arguments, **{"radius": 1.0} | keywords)


def test_the_smallest_feasible_width_is_accepted_and_is_enough():
    gufm_optimum([5] * 4, 0.1, radius=1, hidden_size=4)
    gufm_optimum([5] * 4, 0.1, radius=1, hidden_size=5, loss="mse")
    gufm_optimum([5] * 4, 0.1, radius=1, hidden_size=4, loss="mse", classifier_bias=True)
    for loss, width in (("cross_entropy", 3), ("mse", 4)):
        found = minimum_over_free_features([1, 1, 1], 0.02, 1.0, loss, width)
        expected = gufm_optimum([1, 1, 1], 0.02, radius=1, loss=loss, hidden_size=width).objective
        assert found == pytest.approx(expected, abs=1e-8)
