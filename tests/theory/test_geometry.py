"""The geometry of the optimum for any class counts, and how far a network's is from it."""

import math

import numpy as np
import pytest
import torch

from hf_ncollapse.theory import gufm_optimum, optimum_geometry, orthogonal_frame, simplex_etf


def optimum_over_free_features(counts, l2_coefficient, radius, loss):
    """W and one feature a class, by L-BFGS from noise: the objective as it is defined, with nothing of the package."""
    number, shares = len(counts), torch.tensor(counts, dtype=torch.float64) / sum(counts)
    generator = torch.Generator().manual_seed(0)
    shape = (number, number + 3)
    directions, classifier = (torch.randn(shape, generator=generator, dtype=torch.float64) / 4 for _ in range(2))
    bias = torch.zeros(number, dtype=torch.float64)
    variables = [tensor.requires_grad_() for tensor in (directions, classifier, bias)[: 2 + (loss == "mse")]]

    def objective():
        logits = radius * torch.nn.functional.normalize(directions) @ classifier.T + bias
        if loss == "mse":
            losses = (logits - torch.eye(number)).square().sum(1) / 2
        else:
            losses = torch.nn.functional.cross_entropy(logits, torch.arange(number), reduction="none")
        return shares @ losses + l2_coefficient / 2 * classifier.square().sum()

    for _ in range(2):  # a fresh history each time
        optimizer = torch.optim.LBFGS(
            variables, max_iter=3000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            value = objective()
            value.backward()
            return value

        optimizer.step(closure)
    return classifier.detach(), radius * torch.nn.functional.normalize(directions.detach())


@pytest.mark.parametrize(
    ("counts", "l2_coefficient", "radius", "loss"),
    [
        ([40, 40, 40, 10, 10, 10], 0.005, 8, "cross_entropy"),
        ([9, 5, 2, 1], 0.05, 1, "cross_entropy"),
        ([100, 100, 1, 1], 0.05, 1, "cross_entropy"),
        ([8, 4, 2, 2], 0.05, 2, "mse"),
    ],
)
def test_the_geometry_is_that_of_a_minimisation_over_free_features(counts, l2_coefficient, radius, loss):
    optimum = gufm_optimum(counts, l2_coefficient, radius=radius, loss=loss, classifier_bias=loss == "mse")
    geometry = optimum_geometry(optimum)
    classifier, features = optimum_over_free_features(counts, l2_coefficient, radius, loss)
    for gram, vectors in ((geometry.classifier_gram, classifier), (geometry.class_means_gram, features)):
        np.testing.assert_allclose(gram, vectors @ vectors.T, rtol=0, atol=1e-4 * np.linalg.norm(gram))
    assert geometry.nc2(classifier) < 1e-4
    assert geometry.nc2_means(features) < 1e-4
    rows = torch.nn.functional.normalize(classifier[-2:])
    if counts[-1] == counts[-2]:
        assert geometry.minority_cosine_classifier == pytest.approx(float(rows[0] @ rows[1]), abs=1e-4)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_equal_counts_have_a_simplex_etf(loss):
    geometry = optimum_geometry(gufm_optimum([7] * 5, 0.01, radius=3, loss=loss, classifier_bias=True))
    frame = simplex_etf(5) @ simplex_etf(5).T
    np.testing.assert_allclose(geometry.class_means_gram, 9 * frame, atol=1e-10)
    np.testing.assert_allclose(geometry.classifier_gram / geometry.classifier_gram[0, 0], frame, atol=1e-10)
    assert geometry.minority_cosine == pytest.approx(-1 / 4)


def test_squared_error_without_a_bias_has_orthogonal_rows_of_their_own_norms():
    counts, penalty, radius = [8, 4, 2, 2], 0.05, 2.0
    geometry = optimum_geometry(gufm_optimum(counts, penalty, radius=radius, loss="mse"))
    shares = np.array(counts) / sum(counts)
    norms = shares * radius / (shares * radius**2 + penalty)  # of ridge regression on orthogonal features
    np.testing.assert_allclose(geometry.classifier_gram, np.diag(norms**2), atol=1e-12)
    np.testing.assert_allclose(geometry.class_means_gram, radius**2 * np.eye(4), atol=1e-12)
    assert geometry.nc2(torch.from_numpy(norms[:, None] * orthogonal_frame(4))) < 1e-12


@pytest.mark.parametrize("counts", [[1, 1], [3, 1], [1000, 1]])
def test_two_classes_are_opposite_whatever_their_counts(counts):
    geometry = optimum_geometry(gufm_optimum(counts, 0.05, radius=1))
    opposite = [[1, -1], [-1, 1]]
    np.testing.assert_allclose(geometry.classifier_gram / geometry.classifier_gram[0, 0], opposite, atol=1e-6)
    np.testing.assert_allclose(geometry.class_means_gram, opposite, atol=1e-6)


def test_rare_classes_coincide_from_the_ratio_on_where_the_multiplier_reaches_the_square_of_the_share():
    for ratio, coincide in ((5, False), (15, False), (40, True), (100, True)):
        optimum = gufm_optimum([ratio] * 3 + [1] * 3, 0.05, radius=1)
        geometry = optimum_geometry(optimum)
        assert (float(optimum.dual.multipliers[-1]) >= float(optimum.problem.shares[-1]) ** 2) == coincide
        for cosine in (geometry.minority_cosine_classifier, geometry.minority_cosine):
            assert (cosine > 1 - 1e-6) == coincide


def test_the_distance_ignores_rotations_and_scales_and_is_a_sine():
    geometry = optimum_geometry(gufm_optimum([20, 20, 2, 2], 0.005, radius=8))
    generator = torch.Generator().manual_seed(0)
    classifier = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q
    value = geometry.nc2(classifier)
    assert 0 < value < 1
    assert geometry.nc2(1e-3 * classifier @ rotation) == pytest.approx(value, rel=1e-9)
    assert geometry.nc2_means(classifier + 5) == pytest.approx(geometry.nc2_means(classifier), rel=1e-9)
    assert geometry.nc2(torch.ones(4, 1)) == pytest.approx(1)  # W*'s rows sum to 0
    gram = simplex_etf(4) @ simplex_etf(4).T
    of_both = np.linalg.norm(gram) * np.linalg.norm(geometry.classifier_gram)
    cosine = (gram * geometry.classifier_gram).sum() / of_both
    assert geometry.nc2(torch.from_numpy(simplex_etf(4))) == pytest.approx(math.sqrt(1 - cosine**2), rel=1e-6)
    with pytest.raises(ValueError, match=r"classifier has shape \(3, 9\); it takes \(4, d\)"):
        geometry.nc2(classifier[:3])


def test_conflicting_labels_leave_class_means_inside_the_sphere():
    optimum = gufm_optimum([20, 20, 20], 0.005, radius=8, conflicts=[[10, 10, 0]])
    geometry = optimum_geometry(optimum)
    assert float(geometry.class_means_gram[2, 2]) == pytest.approx(64, rel=1e-4)
    assert float(geometry.class_means_gram[0, 0]) < 60
    assert optimum.regularization == pytest.approx(0.0025 * float(geometry.classifier_gram.trace()), rel=1e-4)
