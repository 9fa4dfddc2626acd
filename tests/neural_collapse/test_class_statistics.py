"""Class statistics: one pass over any batches gives what two passes over all the data give."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics

NUM_CLASSES, WIDTH = 4, 6


def make_data(seed=0, num_samples=60, dtype=torch.float64, mean=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat(
        [torch.arange(NUM_CLASSES), torch.randint(NUM_CLASSES, (num_samples - 4,), generator=generator)]
    )
    centres = torch.randn(NUM_CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_samples, WIDTH, generator=generator, dtype=torch.float64)
    return (mean + scale * (centres[labels] + noise)).to(dtype), labels


def collect(features, labels, sizes=(None,), **options):
    statistics = ClassStatistics(NUM_CLASSES, **({"second_moment": True} | options))
    for features_batch, labels_batch in zip(features.split(sizes), labels.split(sizes), strict=True):
        statistics.update(features_batch, labels_batch)
    return statistics


def assert_same_statistics(actual, expected, tolerance=1e-9):
    assert torch.equal(actual.counts, expected.counts)
    for name in ("class_means", "within_class_scatter", "within_class_second_moment", "direction_sums"):
        ours, theirs = getattr(actual, name), getattr(expected, name)
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max(), name


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e4, 1.0), (10.0, 1e-3), (0.0, 1e-30), (0.0, 1e18)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_pass_gives_the_two_pass_statistics_of_the_rounded_features(dtype, mean, scale):
    if dtype == torch.float16 and scale in (1e-30, 1e18):
        pytest.skip("outside float16's range")
    features, labels = make_data(num_samples=300, dtype=dtype, mean=mean, scale=scale)
    statistics = collect(features, labels, [64, 64, 1, 171])

    exact = features.double()
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).double()
    means = one_hot.T @ exact / one_hot.sum(0).unsqueeze(1)
    centred = exact - means[labels]
    assert torch.allclose(statistics.class_means, means, rtol=1e-12, atol=0)
    assert torch.allclose(statistics.within_class_scatter, one_hot.T @ centred.square().sum(1), rtol=1e-10, atol=0)
    second_moment = statistics.within_class_second_moment
    assert (second_moment - centred.T @ centred).norm() <= 1e-6 * (centred.T @ centred).norm()
    directions = torch.nn.functional.normalize(exact, eps=0)
    assert torch.allclose(statistics.direction_sums, one_hot.T @ directions, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 59), max_size=6), mean=st.sampled_from([0.0, 1e4]))
def test_neither_sample_order_nor_batch_splits_nor_merge_order_matter(seed, cuts, mean):
    features, labels = make_data(seed, mean=mean)
    whole = collect(features, labels, [60])
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    ends = [0, *sorted(cuts), 60]
    sizes = [end - start for start, end in pairwise(ends)]
    assert_same_statistics(collect(features[order], labels[order], sizes), whole)

    parts = [collect(f, y, [len(y)]) for f, y in zip(features.split(sizes), labels.split(sizes), strict=True)]
    forwards, backwards = (ClassStatistics(NUM_CLASSES, second_moment=True) for _ in range(2))
    for part in parts:
        forwards.merge(part)
    for part in reversed(parts):
        backwards.merge(part)
    assert_same_statistics(forwards, whole)
    assert_same_statistics(backwards, whole)
