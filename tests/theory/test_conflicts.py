"""Equal inputs with different labels share one feature, which raises J*."""

import pytest
import torch
from free_features import minimum_over_free_features

from hf_ncollapse.theory import gufm_optimum

# Counts, the conflicting inputs' labels, and the number of the input of every sample, sorted by label.
CASES = [
    ((3, 3), [[1, 1]], [0, 1, 2, 0, 3, 4]),
    ((2, 2, 2), [[2, 0, 1], [0, 1, 1]], [0, 0, 1, 2, 0, 1]),
    ((3, 1, 1), [[1, 1, 1]], [0, 1, 2, 0, 0]),
    ((2, 2), [[2, 2]], [0, 0, 0, 0]),  # no input is certain, and W = 0
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize(("counts", "conflicts", "inputs"), CASES)
def test_shared_features_raise_the_optimum_to_that_of_a_free_minimisation(counts, conflicts, inputs, loss, bias):
    arguments = {"l2_coefficient": 0.02, "radius": 2.0, "loss": loss, "classifier_bias": bias}
    optimum = gufm_optimum(counts, **arguments, conflicts=conflicts, hidden_size=len(counts) + 2)
    found = minimum_over_free_features(counts, width=len(counts) + 3, inputs=inputs, **arguments)
    assert optimum.is_numerical
    assert optimum.objective == pytest.approx(found, abs=1e-8)
    assert optimum.objective - 1e-8 <= optimum.lower_bound <= optimum.objective + 1e-13
    assert optimum.objective > gufm_optimum(counts, **arguments).objective


def test_no_random_point_with_shared_features_is_below_the_bound():
    generator = torch.Generator().manual_seed(0)
    optimum = gufm_optimum([3, 2, 2], 0.02, radius=2.0, conflicts=[[1, 1, 0], [1, 0, 2]])
    shares, labels = map(torch.from_numpy, optimum.problem.groups())
    for scale in torch.logspace(-2, 1, 300):
        features = torch.randn(len(shares), 6, generator=generator, dtype=torch.float64)
        features = 2.0 * torch.nn.functional.normalize(features - features.mean(1, keepdim=True))
        classifier = scale * labels.T @ features + 0.1 * torch.randn(3, 6, generator=generator, dtype=torch.float64)
        fit = -(shares[:, None] * labels * (features @ classifier.T).log_softmax(1)).sum()
        assert fit + 0.01 * classifier.square().sum() >= optimum.lower_bound


def test_inputs_with_the_same_proportions_are_one_group_and_consistent_ones_change_nothing():
    few = gufm_optimum([9, 9], 0.02, radius=2.0, conflicts=[[3, 6]])
    many = gufm_optimum([9, 9], 0.02, radius=2.0, conflicts=[[1, 2]] * 3)
    assert len(many.problem.groups()[0]) == 3
    assert many.objective == pytest.approx(few.objective, abs=1e-13)
    consistent = gufm_optimum([4, 2], 0.02, radius=2.0, conflicts=[[3, 0], [0, 1]])
    assert consistent.objective == pytest.approx(gufm_optimum([4, 2], 0.02, radius=2.0).objective, abs=1e-13)


def test_conflicts_may_be_an_array_and_an_empty_one_is_none():
    given = gufm_optimum([4, 2], 0.02, radius=2.0, conflicts=torch.tensor([[1, 1]]))
    assert given.objective == gufm_optimum([4, 2], 0.02, radius=2.0, conflicts=[[1, 1]]).objective
    assert not gufm_optimum([4, 4], 0.02, radius=2.0, conflicts=torch.zeros(0, 2)).is_numerical
