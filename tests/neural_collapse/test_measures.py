"""Every measure equals its formula, written out over the whole data in float64."""

import pytest
import torch

from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics

COUNTS = {"balanced": [40, 40, 40, 40, 40], "imbalanced": [90, 60, 30, 15, 5]}
WIDTH = 12


def make_data(counts, dtype=torch.float64, mean=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(len(counts), WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), WIDTH, generator=generator, dtype=torch.float64)
    classifier = centres + 0.3 * torch.randn(len(counts), WIDTH, generator=generator, dtype=torch.float64)
    features = (mean + scale * (centres[labels] + noise)).to(dtype)
    return features, labels, classifier


def collect(features, labels, num_classes, batch_size=64, **options):
    statistics = ClassStatistics(num_classes, **options)
    for features_batch, labels_batch in zip(features.split(batch_size), labels.split(batch_size), strict=True):
        statistics.update(features_batch, labels_batch)
    return statistics


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("weighting", ["class", "sample"])
def test_the_papers_measures_equal_their_formulas(counts, weighting):
    features, labels, classifier = make_data(counts)
    statistics = collect(features, labels, len(counts))

    means = torch.stack([features[labels == k].mean(0) for k in range(len(counts))])
    variances = torch.stack([(features[labels == k] - means[k]).square().sum(1).mean() for k in range(len(counts))])
    weights = torch.tensor(counts).double() / sum(counts) if weighting == "sample" else torch.full((5,), 0.2).double()
    between = (weights * (means - weights @ means).square().sum(1)).sum()
    assert measures.nc1(statistics, weighting=weighting) == pytest.approx(float(weights @ variances / between), 1e-9)

    gram = classifier @ classifier.T
    frame = (torch.eye(5) - torch.ones(5, 5) / 5) / 2
    assert measures.nc2(classifier) == pytest.approx(float((gram / gram.norm() - frame).norm()), 1e-6)

    cosines = torch.nn.functional.cosine_similarity(features, classifier[labels])
    assert measures.nc3(statistics, classifier) == pytest.approx(float(1 - cosines.mean()), 1e-9)
