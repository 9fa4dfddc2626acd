"""Every measure equals its formula, written out over the whole data in two passes and in float64."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from hf_ncollapse.neural_collapse import measures, pairs, softmax_code, spectra, uniformity
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.neural_collapse.compute import compute
from hf_ncollapse.neural_collapse.held_out_statistics import HeldOutStatistics
from hf_ncollapse.neural_collapse.linear_choice import Agreement, LinearChoice
from hf_ncollapse.neural_collapse.moments import SecondLookNeeded
from hf_ncollapse.neural_collapse.registry import MEASURES
from hf_ncollapse.theory import simplex_etf

COUNTS = {"balanced": [40, 40, 40, 40, 40], "imbalanced": [90, 60, 30, 15, 5]}
WIDTH = 12
OUTSIDE = 1 + torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
FRAME_DISTANCES = ["nc2", "nc2_identity", "nc2_etf", "nc2_means", "nc2_orthogonal", "nc3_etf"]
FAR_AND_NARROW = [(0.0, 1.0), (1e4, 1.0), (10.0, 1e-3)]


def make_data(counts, dtype=torch.float64, mean=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(len(counts), WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), WIDTH, generator=generator, dtype=torch.float64)
    classifier = centres + 0.3 * torch.randn(len(counts), WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(len(counts), generator=generator, dtype=torch.float64)
    features = (mean + scale * (centres[labels] + noise)).to(dtype)
    return features, labels, classifier, bias


def split(features, labels, batch_size=64):
    return list(zip(features.split(batch_size), labels.split(batch_size), strict=True))


def collect(features, labels, num_classes, **options):
    statistics = ClassStatistics(num_classes, **({"second_moment": True} | options))
    for batch in split(features, labels):
        statistics.update(*batch)
    return statistics


def measure_everything(features, labels, classifier, bias=None, **options):
    statistics = collect(features, labels, len(classifier))
    batches = split(features, labels)
    options = {"out_of_distribution": OUTSIDE} | options
    return compute(statistics, classifier=classifier, bias=bias, measures="all", batches=batches, **options)


def reference(features, labels, classifier, bias, weighting, training=None):
    """The formulas, with numpy, on d×d and K×K matrices."""
    H, y = features.double().numpy(), labels.numpy()
    W, b = classifier.numpy(), bias.numpy()
    K = len(W)
    mean_H, mean_y = (H, y) if training is None else (training[0].double().numpy(), training[1].numpy())
    M = np.stack([mean_H[mean_y == k].mean(0) for k in range(K)])
    mean_weights = np.bincount(mean_y) / len(mean_y) if weighting == "sample" else np.full(K, 1 / K)
    weights = np.full(K, 1 / K) if weighting == "class" else np.bincount(y) / len(y)
    global_mean = mean_weights @ M
    C = M - global_mean
    covariances = [(H[y == k] - M[k]).T @ (H[y == k] - M[k]) / (y == k).sum() for k in range(K)]
    within = sum(w * covariance for w, covariance in zip(weights, covariances, strict=True))
    between = sum(w * np.outer(c, c) for w, c in zip(mean_weights, C, strict=True))
    variances = [np.trace(covariance) for covariance in covariances]
    frame = (np.eye(K) - 1 / K) / math.sqrt(K - 1)
    pairs = [(j, k) for j in range(K) for k in range(j)]

    def unit(matrix):
        return matrix / np.linalg.norm(matrix)

    def distance_to_multiples(gram, target):
        closest = max(0, (gram * target).sum() / (target * target).sum()) * target
        return np.linalg.norm(gram - closest) / np.linalg.norm(gram)

    def rows(matrix):
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def equinorm(matrix):
        return np.linalg.norm(matrix, axis=1).std() / np.linalg.norm(matrix, axis=1).mean()

    def equiangular(matrix):
        return np.mean([abs(rows(matrix)[j] @ rows(matrix)[k] + 1 / (K - 1)) for j, k in pairs])

    cosines = rows(C) @ rows(C).T
    counts = np.bincount(mean_y)
    rare = [pair for pair in pairs if max(counts[list(pair)]) <= np.sort(counts)[1]]
    # The simplex-encoded labels, a column a sample: their SVD factors are the geometry of W and of the features.
    labels_matrix = (np.eye(K) - 1 / K)[:, mean_y]
    left, sizes, right = np.linalg.svd(labels_matrix, full_matrices=False)
    left, sizes, right = left[:, : K - 1], sizes[: K - 1], right[: K - 1]
    one_hot = np.eye(K)[:, mean_y] / counts[:, None]
    deviations = np.sqrt(weights / np.bincount(y))[y, None] * (H - M[y])
    total = np.concatenate([deviations, np.sqrt(mean_weights)[:, None] * C])

    def distance_from_others(k):
        # The nearest point Σ x_j (ŵ_j − ŵ_k)/Σ x_j of the hull, from scipy's non-negative least squares.
        points = np.delete(rows(W), k, axis=0) - rows(W)[k]
        x, _ = nnls(np.concatenate([points.T, np.ones((1, K - 1))]), np.eye(len(W[0]) + 1)[-1])
        return np.linalg.norm(x @ points) / x.sum()

    def stable_rank(matrix):
        return (np.linalg.norm(matrix) / np.linalg.norm(matrix, 2)) ** 2

    def effective_rank(matrix):
        singular_values = np.linalg.svd(matrix, compute_uv=False)
        shares = singular_values[singular_values > 1e-12 * singular_values[0]]
        shares = shares / shares.sum()
        return np.exp(-(shares * np.log(shares)).sum())

    gnc2 = np.mean([-np.log(np.linalg.norm(rows(C)[j] - rows(C)[k])) for j, k in pairs])
    nearest = ((H[:, None] - M[None]) ** 2).sum(2).argmin(1)
    return {
        "nc0": np.linalg.norm(W.sum(0)),
        "nc0_relative": np.linalg.norm(W.sum(0)) / np.linalg.norm(W),
        "nc1_worst": max(variances) / np.trace(between),
        "vci": 1 - np.trace(np.linalg.pinv(within + between) @ between) / np.linalg.matrix_rank(between),
        "nc2_worst": max(cosines[j, k] for j, k in pairs) + 1 / (K - 1),
        "nc2_seli": distance_to_multiples(W @ W.T, left * sizes @ left.T),
        "nc2_means_seli": distance_to_multiples(
            (M - M.mean(0)) @ (M - M.mean(0)).T, one_hot @ right.T * sizes @ right @ one_hot.T
        ),
        "minority_cosine": np.mean([(rows(M - M.mean(0)) @ rows(M - M.mean(0)).T)[pair] for pair in rare]),
        "minority_cosine_classifier": np.mean([(rows(W) @ rows(W).T)[pair] for pair in rare]),
        "softmax_code_margin": min(distance_from_others(k) for k in range(K)),
        "stable_rank": stable_rank(total),
        "effective_rank": effective_rank(total),
        "stable_rank_classifier": stable_rank(W),
        "effective_rank_classifier": effective_rank(W),
        "nc3_worst": 1 - min((rows(W) * rows(C)).sum(1)),
        "nc5": np.mean(np.abs(rows(M) @ rows(OUTSIDE.numpy().mean(0, keepdims=True)).T)),
        "nc1": np.trace(within) / np.trace(between),
        "nc1_pinv": np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / K,
        "nc1_cdnv": np.mean([(variances[j] + variances[k]) / 2 / ((M[j] - M[k]) ** 2).sum() for j, k in pairs]),
        "nc2": distance_to_multiples(W @ W.T, np.eye(K) - 1 / K),
        "nc2_identity": distance_to_multiples(W @ W.T, np.eye(K)),
        "nc2_etf": np.linalg.norm(unit(W @ W.T) - frame),
        "nc2_means": distance_to_multiples(C @ C.T, np.eye(K) - 1 / K),
        "nc2_orthogonal": np.linalg.norm(unit(M @ M.T) - np.eye(K) / math.sqrt(K)),
        "nc2_equinorm": equinorm(C),
        "nc2_equinorm_classifier": equinorm(W),
        "nc2_equiangular": equiangular(C),
        "nc2_equiangular_classifier": equiangular(W),
        "gnc2": gnc2,
        "gnc2_excess": gnc2 + 0.5 * math.log(2 * K / (K - 1)),
        "nc3": 1 - np.mean((rows(H) * rows(W)[y]).sum(1)),
        "nc3_self_duality": np.linalg.norm(unit(W) - unit(C)),
        "nc3_etf": np.linalg.norm(unit(W @ C.T) - frame),
        "nc3_uniformity": np.var((rows(W) * rows(C)).sum(1)),
        "nc4": np.mean((H @ W.T + b).argmax(1) != nearest),
        "bias_collapse": np.linalg.norm(W @ global_mean + b),
    }


def assert_equals_reference(result, expected, relative=1e-6):
    assert {name for name in result if name in MEASURES} == set(expected)
    assert result["left_out"] == {}
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=relative, abs=1e-12), name


@pytest.mark.parametrize(
    ("dtype", "mean", "scale"),
    [
        *((dtype, mean, scale) for dtype in (torch.float64, torch.float32) for mean, scale in FAR_AND_NARROW),
        (torch.bfloat16, 0.0, 1.0),
        (torch.bfloat16, 1e4, 100.0),
        (torch.bfloat16, 10.0, 0.1),
        (torch.float16, 0.0, 1.0),
        (torch.float16, 1e4, 10.0),
        (torch.float16, 10.0, 0.01),
    ],
)
@pytest.mark.parametrize(
    ("counts", "weighting"),
    [("balanced", "class"), ("imbalanced", "class"), ("imbalanced", "sample"), ("imbalanced", "hybrid")],
)
def test_every_measure_equals_two_passes_in_float64(counts, weighting, dtype, mean, scale):
    features, labels, classifier, bias = make_data(COUNTS[counts], dtype, mean, scale)
    result = measure_everything(features, labels, classifier, bias, weighting=weighting)
    assert_equals_reference(result, reference(features, labels, classifier, bias, weighting))


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_by_itself_weighs_classes_equally_unless_told_otherwise(name):
    features, labels, classifier, bias = make_data(COUNTS["imbalanced"])
    classifier, bias = classifier.float(), bias.float()
    statistics = collect(features, labels, 5)
    # Labels of 32 bits, as some collators make them.
    given = {"statistics": statistics, "classifier": classifier, "bias": bias}
    given["out_of_distribution"] = OUTSIDE
    given["batches"] = [(piece, targets.int()) for piece, targets in split(features, labels)]
    function, taken = MEASURES[name].function, MEASURES[name].arguments
    expected = reference(features, labels, classifier.double(), bias.double(), "class")[name]
    own = {key: value for key, value in given.items() if key in taken}
    assert function(**own) == pytest.approx(expected, rel=1e-9)
    assert compute(measures=name, **given)[name] == pytest.approx(expected, rel=1e-9)
    if "weighting" in taken:
        expected = reference(features, labels, classifier.double(), bias.double(), "sample")[name]
        one_pass = {key: value for key, value in own.items() if key != "batches"}
        assert function(**one_pass, weighting="sample") == pytest.approx(expected, rel=1e-9)
    if "classifier" in taken and "statistics" in taken:
        with pytest.raises(ValueError, match=r"classifier must have the class means' shape \(5, 12\), got \(4, 12\)"):
            function(**(own | {"classifier": classifier[1:]}))


@pytest.mark.parametrize("weighting", ["class", "sample", "hybrid"])
def test_held_out_samples_are_measured_about_the_training_means(weighting):
    train, train_labels, classifier, bias = make_data(COUNTS["imbalanced"], seed=1)
    test, test_labels, _, _ = make_data([20, 9, 8, 7, 6], seed=2)
    result = compute(
        collect(test, test_labels, 5),
        classifier=classifier,
        bias=bias,
        measures="all",
        weighting=weighting,
        training_statistics=collect(train, train_labels, 5),
        batches=split(test, test_labels),
        out_of_distribution=OUTSIDE,
    )
    assert result["class_means"] == "training"
    expected = reference(test, test_labels, classifier, bias, weighting, training=(train, train_labels))
    assert_equals_reference(result, expected)


def test_held_out_statistics_refuse_classes_without_a_training_mean():
    features, labels, _, _ = make_data(COUNTS["balanced"])
    test = collect(features, labels, 5)
    with pytest.raises(ValueError, match=r"1 classes have test samples but no training mean, the first: \[3\]"):
        HeldOutStatistics(test, test.class_means, torch.tensor([1, 1, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"classes and width \(5, 12\), got shape \(5, 11\)"):
        HeldOutStatistics(test, test.class_means[:, 1:], test.counts)


def test_held_out_statistics_name_ten_classes_and_compute_in_float64():
    features, labels = torch.eye(11), torch.arange(11)
    test = collect(features, labels, 11)
    with pytest.raises(ValueError, match=re.escape(f"the first: {list(range(10))}")):
        HeldOutStatistics(test, test.class_means, torch.zeros(11, dtype=torch.int64))
    assert HeldOutStatistics(test, features, test.counts).class_means.dtype == torch.float64


def test_a_held_out_class_of_one_sample_counts_and_an_absent_one_can_be_left_out():
    train, train_labels, classifier, bias = make_data(COUNTS["imbalanced"], seed=1)
    test, test_labels, _, _ = make_data([20, 9, 8, 7, 1], seed=2)
    options = {"classifier": classifier, "bias": bias, "measures": "all", "out_of_distribution": OUTSIDE}
    training = collect(train, train_labels, 5)
    whole = compute(
        collect(test, test_labels, 5), training_statistics=training, batches=split(test, test_labels), **options
    )
    expected = reference(test, test_labels, classifier, bias, "class", training=(train, train_labels))
    assert_equals_reference(whole, expected)

    kept, kept_train = test_labels != 0, train_labels != 0
    test, test_labels = test[kept], test_labels[kept]
    without = compute(
        collect(test, test_labels, 5),
        training_statistics=training,
        absent="exclude",
        batches=split(test, test_labels),
        **options,
    )
    assert without["absent_classes"] == [0]
    others = (train[kept_train], train_labels[kept_train] - 1)
    expected = reference(test, test_labels - 1, classifier[1:], bias[1:], "class", training=others)
    assert_equals_reference(without, expected)


def test_exact_collapse_is_zero_in_every_measure():
    frame = 3 * (torch.eye(4, dtype=torch.float64) - 0.25)
    features, labels = frame.repeat(5, 1), torch.arange(4).repeat(5)
    result = measure_everything(features, labels, 2 * frame, out_of_distribution=torch.ones(1, 4))
    assert result["nc1"] == 0.0
    assert result["nc1_pinv_rank"] == 3
    assert result["softmax_code_margin"] == pytest.approx(4 / 3)
    assert result["softmax_code_margin_best_attainable"] == pytest.approx(4 / 3)
    elsewhere = {"gnc2", "nc2_identity", "nc2_orthogonal", "nc5", "minority_cosine", "minority_cosine_classifier"}
    elsewhere |= {"softmax_code_margin"}
    ranks = {"stable_rank", "effective_rank", "stable_rank_classifier", "effective_rank_classifier"}
    zero = set(MEASURES) - elsewhere - ranks
    assert {name: result[name] for name in zero if abs(result[name]) > 1e-15} == {}
    assert {name: result[name] for name in ranks} == pytest.approx(dict.fromkeys(ranks, 3))
    assert result["minority_cosine"] == pytest.approx(-1 / 3)
    assert result["gnc2"] == pytest.approx(-0.5 * math.log(8 / 3), abs=1e-15)
    assert result["nc2_identity"] == pytest.approx(1 / math.sqrt(4), abs=1e-15)
    orthogonal = collect(torch.eye(4).repeat(5, 1), labels, 4)
    assert measures.nc2_orthogonal(orthogonal) == 0.0
    assert measures.nc2_identity(3 * torch.eye(4)) == 0.0


def golden_section(function, upper):
    """The least value of a unimodal function on [0, upper]."""
    lower, ratio = 0.0, (math.sqrt(5) - 1) / 2
    for _ in range(100):
        left, right = upper - ratio * (upper - lower), lower + ratio * (upper - lower)
        lower, upper = (lower, right) if function(left) < function(right) else (left, upper)
    return function((lower + upper) / 2)


@pytest.mark.parametrize("shape", [(2, 1), (2, 6), (5, 12), (6, 5), (9, 4), (30, 3)])
def test_nc2_is_the_least_distance_over_all_scales_of_the_frame(shape):
    num_classes, _ = shape
    W = np.random.default_rng(0).normal(0.3, 1, shape)
    gram = W @ W.T
    identity = np.eye(num_classes)
    for measure, target in ((measures.nc2, identity - 1 / num_classes), (measures.nc2_identity, identity)):
        least = golden_section(
            lambda c, target=target: np.linalg.norm(gram - c * target) / np.linalg.norm(gram),
            2 * np.linalg.norm(gram) / np.linalg.norm(target),
        )
        assert measure(W) == pytest.approx(least, rel=1e-12, abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(2, 12),
    width=st.integers(1, 12),
    common=st.sampled_from([0, 0.1, 1, 1e3, 1e9]),
)
def test_nc2_is_a_sine_whose_chord_is_nc2_etf(seed, num_classes, width, common):
    generator = torch.Generator().manual_seed(seed)
    classifier = common + torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    nc2, chord = measures.nc2(classifier), measures.nc2_etf(classifier)
    assert 0 <= nc2 <= 1
    assert 0 <= chord <= math.sqrt(2) + 1e-15
    assert nc2 == pytest.approx(chord * math.sqrt(1 - chord**2 / 4), rel=1e-12, abs=1e-15)
    assert 0 <= measures.nc2_identity(classifier) <= math.sqrt(1 - 1 / num_classes) + 1e-15
    means = collect(classifier, torch.arange(num_classes), num_classes)
    assert 0 <= measures.nc2_means(means) <= 1
    differences = classifier - classifier[0]  # exact, which the distance to a mean of 1e9 is not
    assert measures.nc2_means(means) == pytest.approx(measures.nc2(differences - differences.mean(0)), rel=1e-9)


def test_equal_rows_are_the_farthest_from_a_frame():
    equal = torch.ones(4, 3, dtype=torch.float64)
    assert measures.nc2(equal) == pytest.approx(1, abs=1e-15)
    assert measures.nc2_etf(equal) == pytest.approx(math.sqrt(2), abs=1e-15)
    assert measures.nc2_identity(equal) == pytest.approx(math.sqrt(1 - 1 / 4), abs=1e-15)


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
def test_small_distances_from_a_frame_keep_their_digits(distance):
    num_classes = 5
    identity = np.vectorize(Fraction)(np.eye(num_classes, dtype=int))
    simplex = identity - Fraction(1, num_classes)
    noise = distance * np.random.default_rng(0).normal(size=(num_classes, num_classes))
    for measure, target in ((measures.nc2, simplex), (measures.nc2_identity, identity)):
        W = target.astype(float) + noise
        exact = np.vectorize(Fraction)(W)
        gram = exact @ exact.T
        residual = gram - (gram * target).sum() / (target * target).sum() * target
        expected = math.sqrt((residual * residual).sum() / (gram * gram).sum())
        assert 0.1 * distance < expected < 10 * distance
        assert measure(W) == pytest.approx(expected, rel=1e-15 / distance)


@pytest.mark.parametrize("num_classes", [2, 3, 8])
def test_the_smallest_room_for_a_simplex_is_room_enough(num_classes):
    frame = torch.from_numpy(simplex_etf(num_classes))
    assert frame.shape == (num_classes, num_classes - 1)
    assert measures.nc2(frame) < 1e-14
    result = compute(collect(frame, torch.arange(num_classes), num_classes), measures="all", classifier=frame)
    assert result["nc2_means"] < 1e-14
    best = {name: value for name, value in result.items() if name.endswith("_best_attainable")}
    # K orthogonal vectors have no room in K − 1 dimensions: the closest Gram matrix is a projection's.
    attainable = {
        "nc2_identity": math.sqrt(1 / num_classes),
        "nc2_orthogonal": math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes)),
        "softmax_code_margin": num_classes / (num_classes - 1),
    }
    assert best == {f"{name}_best_attainable": pytest.approx(value) for name, value in attainable.items()}
    assert {name: result[name] for name in attainable} == pytest.approx(attainable)


def test_class_means_on_a_line_or_in_a_point_have_one_direction_or_none():
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = torch.eye(WIDTH, dtype=torch.float64)[:2]
    for places, rank in (((1.0, 2.0, 7.0), 1), ((0.0, 0.0, 0.0), 0)):
        means = torch.tensor(places, dtype=torch.float64).unsqueeze(1) * direction
        statistics = collect(torch.cat([means.repeat_interleave(4, 0)]) + torch.cat([spread, -spread]).repeat(3, 1),
                             torch.arange(3).repeat_interleave(4), 3)  # fmt: skip
        value, found = measures.nc1_pinv(statistics, return_rank=True)
        assert found == rank
        if rank == 0:
            assert value == math.inf


def make_close_pairs(num_classes=10, width=512, gap=0.004, value=6.2407e-4):
    """Classes in pairs whose distance is `gap` times that between pairs, with a closed form for NC1 by pinv.

    Pair p has its means at e_p ± (gap/√2) e_{P+p}, P = K/2 pairs. Σ_B has P − 1 eigenvalues 2/K along the e_p and P
    eigenvalues gap²/K along the e_{P+p}. Every class varies by σ² along each of these, so that
    tr(Σ_W Σ_B⁺)/K = (σ²/K) ((P − 1) K/2 + P K/gap²), which σ² sets to `value`.
    """
    num_pairs = num_classes // 2
    means = torch.zeros(num_classes, width, dtype=torch.float64)
    for pair in range(num_pairs):
        means[2 * pair : 2 * pair + 2, pair] = 1
        means[2 * pair, num_pairs + pair], means[2 * pair + 1, num_pairs + pair] = gap * 0.5**0.5, -gap * 0.5**0.5
    variance = value / ((num_pairs - 1) / 2 + num_pairs / gap**2)
    axes = (variance * num_classes) ** 0.5 * torch.eye(num_classes, width, dtype=torch.float64)
    features = means.unsqueeze(1) + torch.cat([axes, -axes])
    return features.flatten(0, 1), torch.arange(num_classes).repeat_interleave(2 * num_classes)


def test_close_class_pairs_keep_their_directions_in_the_pseudo_inverse():
    features, labels = make_close_pairs()
    for dtype, relative in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        statistics = collect(features.to(dtype), labels, 10)
        value, rank = measures.nc1_pinv(statistics, return_rank=True)
        assert rank == 9
        assert value == pytest.approx(6.2407e-4, rel=relative)
    # What a float32 pseudo-inverse of the d×d matrix makes of it: the pairs' directions fall below its cutoff.
    exact = collect(features, labels, 10)
    centred = (exact.class_means - exact.class_means.mean(0)).float()
    pinv = torch.linalg.pinv(centred.T @ centred / 10)
    within = (exact.within_class_second_moment / len(labels)).float()
    assert float((within @ pinv).trace() / 10) == pytest.approx(3.99e-9, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-40, 1e-3, 7.0, 1e40]),
    weighting=st.sampled_from(["class", "sample"]),
    name=st.sampled_from(list(COUNTS)),
)
def test_measures_ignore_rotation_scale_and_the_order_of_classes(seed, scale, weighting, name):
    features, labels, classifier, _ = make_data(COUNTS[name], seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64))
    relabelling = torch.randperm(5, generator=generator)
    moved_classifier = torch.empty_like(classifier)
    moved_classifier[relabelling] = classifier @ rotation / scale
    before = measure_everything(features, labels, classifier, weighting=weighting)
    outside = OUTSIDE @ rotation
    after = measure_everything(
        scale * features @ rotation,
        relabelling[labels],
        moved_classifier,
        weighting=weighting,
        out_of_distribution=outside,
    )
    for measure in MEASURES.keys() - {"nc0"}:
        assert after[measure] == pytest.approx(before[measure], rel=1e-9, abs=1e-12), measure


def test_pair_measures_agree_across_tiles(monkeypatch):
    features, labels, classifier, _ = make_data([6] * 23)
    whole = measure_everything(features, labels, classifier)
    monkeypatch.setattr(pairs, "_TILE", 4)
    monkeypatch.setattr(measures, "_SCORES", 16)
    tiled = measure_everything(features, labels, classifier)
    for name in MEASURES:
        assert tiled[name] == pytest.approx(whole[name], rel=1e-12), name


def test_distances_of_nearly_equal_means_do_not_cancel():
    centre = torch.full((WIDTH,), 3.0, dtype=torch.float64)
    means = torch.stack([centre, centre + 1e-9, -centre])
    statistics = collect(torch.cat([means + 1e-10, means - 1e-10]), torch.arange(3).repeat(2), 3)
    distances = torch.pdist(statistics.class_means).square()
    variance = float(statistics.within_class_scatter[0] / 2)
    assert measures.nc1_cdnv(statistics) == pytest.approx(float((variance / distances).mean()), rel=1e-6)


def test_distances_of_many_large_and_close_means_do_not_cancel():
    generator = torch.Generator().manual_seed(0)
    means = 1e4 * torch.randn(40, WIDTH, generator=generator, dtype=torch.float64)
    means[1] = means[0] + 1
    statistics = collect(torch.cat([means + 0.25, means - 0.25]), torch.arange(40).repeat(2), 40)
    distances = torch.pdist(statistics.class_means).square()
    assert measures.nc1_cdnv(statistics) == pytest.approx(float((WIDTH / 16 / distances).mean()), rel=1e-10)


@pytest.mark.parametrize("num_classes", [14, 30])
def test_more_classes_than_an_etf_has_room_for_need_no_k_by_k_matrix_and_give_the_best_attainable(num_classes):
    features, labels, classifier, bias = make_data([5] * num_classes)
    result = measure_everything(features, labels, classifier, bias)
    expected = reference(features, labels, classifier, bias, "class")
    for name in FRAME_DISTANCES:
        assert result[name] == pytest.approx(expected[name], rel=1e-9)
        assert 0 < result[f"{name}_best_attainable"] < result[name]


@pytest.mark.parametrize("num_classes", [7, 50_257])
def test_the_best_attainable_distance_is_attained_by_a_tight_frame(num_classes):
    angles = torch.arange(num_classes, dtype=torch.float64) * (2 * math.pi / num_classes)
    frame = torch.stack([angles.cos(), angles.sin()], dim=1)
    statistics = collect(frame, torch.arange(num_classes), num_classes)
    result = compute(statistics, classifier=frame, measures=FRAME_DISTANCES)
    for name in FRAME_DISTANCES:
        assert result[name] == pytest.approx(result[f"{name}_best_attainable"], rel=1e-10), name


@pytest.mark.parametrize("name", ["nc2", "nc2_identity", "nc2_etf"])
def test_no_classifier_found_by_gradient_descent_beats_the_best_attainable(name):
    num_classes, width = 6, 3
    classifier = torch.randn(num_classes, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = compute(collect(classifier, torch.arange(num_classes), num_classes), classifier=classifier, measures=name)[
        f"{name}_best_attainable"
    ]
    centre = torch.eye(num_classes, dtype=torch.float64) - (1 / num_classes if name != "nc2_identity" else 0)
    classifier.requires_grad_()
    optimizer = torch.optim.LBFGS([classifier], max_iter=200, line_search_fn="strong_wolfe")

    def negative_cosine():
        optimizer.zero_grad()
        gram = classifier @ classifier.T
        loss = -(gram * centre).sum() / (gram.norm() * centre.norm())
        loss.backward()
        return loss

    optimizer.step(negative_cosine)
    function = MEASURES[name].function
    assert best * (1 - 1e-12) <= function(classifier) <= best * (1 + 1e-6)


def test_absent_classes_are_named_or_left_out_and_counted():
    features, labels, classifier, bias = make_data(COUNTS["imbalanced"])
    present = torch.tensor([0, 2, 3, 5, 6])
    statistics = collect(features, present[labels], 7)
    wide_classifier = torch.ones(7, WIDTH, dtype=torch.float64)
    wide_classifier[present] = classifier
    wide_bias = torch.zeros(7, dtype=torch.float64)
    wide_bias[present] = bias
    options = {"classifier": wide_classifier, "bias": wide_bias, "measures": "all", "out_of_distribution": OUTSIDE}
    with pytest.raises(ValueError, match=r"2 of 7 classes have no sample \(1, 4\)"):
        compute(statistics, **options)
    with pytest.raises(ValueError, match=r"2 of 7 classes have no sample \(1, 4\)"):
        measures.nc1(statistics)
    with pytest.raises(ValueError, match=r"classifier must have the class means' shape \(7, 12\), got \(5, 12\)"):
        compute(statistics, absent="exclude", classifier=classifier)
    without_classifier = compute(statistics, absent="exclude", measures="nc1")
    assert without_classifier["nc1"] == pytest.approx(reference(features, labels, classifier, bias, "class")["nc1"])
    result = compute(statistics, absent="exclude", batches=split(features, present[labels]), **options)
    assert (result["num_classes"], result["num_absent_classes"], result["absent_classes"]) == (5, 2, [1, 4])
    assert_equals_reference(result, reference(features, labels, classifier, bias, "class"))


@pytest.mark.parametrize(("num_absent", "end"), [(10, ", 9): absent"), (11, ", 9, …): absent")])
def test_at_most_ten_absent_classes_are_named(num_absent, end):
    num_classes = num_absent + 2
    statistics = collect(torch.eye(2, WIDTH), torch.tensor([num_classes - 1, num_classes - 2]), num_classes)
    with pytest.raises(ValueError, match=re.escape(f"no sample (0, 1, 2, 3, 4, 5, 6, 7, 8{end}")):
        measures.nc1(statistics)


def test_excluding_absent_classes_must_leave_two():
    two = collect(torch.eye(2, WIDTH), torch.tensor([1, 3]), 4)
    assert compute(two, measures="nc1", absent="exclude")["num_classes"] == 2
    statistics = collect(torch.ones(3, WIDTH), torch.tensor([1, 1, 1]), 4)
    with pytest.raises(ValueError, match="at least 2 classes must have samples, got 1 of 4"):
        compute(statistics, measures="nc1", absent="exclude")


def test_what_is_missing_is_said():
    features, labels, classifier, _ = make_data(COUNTS["imbalanced"])
    plain = collect(features, labels, 5, second_moment=False, directions=False)
    everything = compute(plain, measures="all", classifier=classifier)
    of_second_moment = {"nc1_pinv", "vci", "stable_rank", "effective_rank"}
    assert set(everything["left_out"]) == {*of_second_moment, "nc3", "nc4", "nc5"}
    assert "nc1" in everything
    without_classifier = compute(plain, measures="all")["left_out"]
    assert without_classifier["nc2"] == "needs classifier=W"
    needs = {
        "nc2": "nc2 needs classifier=W",
        "nc3": "nc3 needs classifier=W",
        "nc4": "nc4 needs classifier=W",
        "nc1_pinv": "nc1_pinv needs statistics made with second_moment=True",
        "nc5": "nc5 needs out_of_distribution=features",
    }
    for name, message in needs.items():
        with pytest.raises(ValueError, match=message):
            compute(plain, measures=[name])
    with pytest.raises(ValueError, match="nc3 needs statistics made with directions=True"):
        compute(plain, measures="nc3", classifier=classifier)
    with pytest.raises(ValueError, match=r"^nc4 needs a second look at the features: batches$"):
        compute(plain, measures="nc4", classifier=classifier)
    with pytest.raises(
        ValueError, match=r'^nc1_pinv needs a second .*; pass batches, or another weighting than "class"$'
    ):
        measures.nc1_pinv(collect(features, labels, 5))


def anisotropic_data(along, counts=(40,) * 5, seed=0):
    """float32 features with the scatter `along` the class means and 1 across them, and NC1 by pinv in long double."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    scatter = generator.standard_normal((len(labels), WIDTH))
    for k in range(len(counts)):  # or the sample means would take their directions from the scatter across
        scatter[labels == k] -= scatter[labels == k].mean(0)
    scatter[:, : len(counts) - 1] *= along
    means = np.zeros((len(counts), WIDTH))
    means[:, : len(counts) - 1] = 3 * generator.standard_normal((len(counts), len(counts) - 1))
    rotation = np.linalg.qr(generator.standard_normal((WIDTH, WIDTH)))[0]
    features = ((means[labels] + scatter) @ rotation).astype(np.float32)

    exact = features.astype(np.longdouble)
    means = np.stack([exact[labels == k].mean(0) for k in range(len(counts))])
    centred = ((means - means.mean(0)) / np.sqrt(np.longdouble(len(counts)))).astype(np.float64)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    whitening = (directions[: len(counts) - 1].T / sizes[: len(counts) - 1]).astype(np.longdouble)
    squares = (((exact - means[labels]) @ whitening) ** 2).sum(1)
    expected = np.mean([squares[labels == k].mean() for k in range(len(counts))]) / len(counts)
    return torch.from_numpy(features), torch.from_numpy(labels), float(expected)


@pytest.mark.parametrize("counts", [(40,) * 5, (3,) * 5, (50, 20, 40, 33, 7)], ids=["balanced", "few", "imbalanced"])
@pytest.mark.parametrize("along", [1.0, 0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-6])
def test_nc1_pinv_sees_a_scatter_that_is_small_along_the_means_only(along, counts):
    for seed in range(5):
        features, labels, expected = anisotropic_data(along, counts, seed)
        statistics = collect(features, labels, 5)
        batches = list(zip(features.split(37), labels.split(37), strict=True))
        assert measures.nc1_pinv(statistics, batches=batches) == pytest.approx(expected, rel=1e-6)
        in_double = collect(features.double(), labels, 5)
        if len(set(counts)) == 1:
            assert measures.nc1_pinv(in_double) == pytest.approx(expected, rel=1e-6)


def whole_and_merged(features, labels):
    merged = ClassStatistics(5, second_moment=True)
    for part in range(3):
        merged.merge(collect(features[part::3], labels[part::3], 5))
    return collect(features, labels, 5), merged


@pytest.mark.parametrize("along", [3.0, 1.0, 0.5, 0.3, 0.2])
def test_nc1_pinv_of_features_with_ordinary_scatter_takes_one_pass(along):
    features, labels, expected = anisotropic_data(along)
    for statistics in whole_and_merged(features, labels):
        assert measures.nc1_pinv(statistics) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("along", [0.1, 0.03, 1e-2, 1e-4])
def test_nc1_pinv_that_one_pass_rounded_off_is_no_number(along):
    features, labels, _ = anisotropic_data(along)
    message = "nc1_pinv needs a second look at the features: float32 rounds off"
    for statistics in whole_and_merged(features, labels):
        with pytest.raises(SecondLookNeeded, match=message):
            compute(statistics, measures="nc1_pinv")
        left_out = compute(statistics, measures="all")["left_out"]
        assert left_out["nc1_pinv"].endswith("pass batches, or features in float64")


def test_the_second_look_must_see_the_same_samples():
    features, labels, classifier, _ = make_data(COUNTS["balanced"])
    exhausted = iter(split(features, labels))
    list(exhausted)
    with pytest.raises(
        ValueError, match=r"all 200 with their labels; got 0 \(a generator can be iterated only once\)"
    ):
        measures.nc4(collect(features, labels, 5), classifier, exhausted)


def test_ignored_samples_are_skipped_in_the_second_look_too():
    features, labels, classifier, bias = make_data(COUNTS["imbalanced"])
    padding = torch.full((3, WIDTH), 99.0, dtype=torch.float64)
    batches = [*split(features, labels), (padding, torch.full((3,), -100))]
    options = {"classifier": classifier, "bias": bias, "measures": "all", "out_of_distribution": OUTSIDE}
    result = compute(collect(features, labels, 5), batches=batches, ignore_index=-100, **options)
    assert_equals_reference(result, reference(features, labels, classifier, bias, "class"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": "nc6"}, "measures must be .* among nc0, nc0_relative, .* got \\['nc6'\\]"),
        ({"measures": ["nc1", "nc6"]}, "measures must be .* got \\['nc6'\\]"),
        ({"measures": []}, "measures must be"),
        ({"weighting": "equal"}, "weighting must be 'class', 'sample', 'hybrid', got 'equal'"),
        ({"absent": "skip"}, 'absent must be "error" or "exclude", got \'skip\''),
        ({"classifier": torch.ones(5, 3)}, r"classifier must have the class means' shape \(5, 12\), got \(5, 3\)"),
        ({"classifier": torch.ones(12)}, r"classifier must be classes × width \(K×d\) .* got \(12,\)"),
        ({"classifier": torch.full((5, 12), math.nan)}, "classifier must be finite, got 60 NaN or infinite values"),
        ({"out_of_distribution": torch.ones(4, 3), "measures": "nc5"}, r"samples × width 12, got shape \(4, 3\)"),
        ({"standard_errors": True}, "standard_errors need a second look at the features: batches"),
        ({"bias": torch.ones(4)}, r"bias must be 5 finite values, got shape \(4,\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    features, labels, classifier, _ = make_data(COUNTS["balanced"])
    with pytest.raises(ValueError, match=message):
        compute(collect(features, labels, 5), **({"classifier": classifier} | arguments))


def test_vanishing_denominators_give_infinity_not_an_arbitrary_number():
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    coinciding = ClassStatistics(2)
    coinciding.update(features, torch.tensor([0, 0, 1, 1]))
    assert measures.nc1(coinciding) == math.inf
    assert measures.nc1_cdnv(coinciding) == math.inf
    for shape in ((3, 4), (9, 4)):
        for measure in (measures.nc2, measures.nc2_identity, measures.nc2_etf):
            assert math.isnan(measure(torch.zeros(shape)))
    assert math.isnan(measures.nc2_means(coinciding))
    # A zero row of W, as a zero feature, has cosine 0 with everything.
    assert measures.nc3(collect(torch.eye(2), torch.arange(2), 2), torch.tensor([[0.0, 0.0], [0.0, 1.0]])) == 0.5


def test_the_result_says_which_conventions_it_used():
    features, labels, classifier, _ = make_data(COUNTS["balanced"])
    result = compute(collect(features, labels, 5), classifier=classifier)
    assert list(result)[:3] == ["nc1", "nc2", "nc3"]
    assert set(result["conventions"]) == {"nc1", "nc2", "nc3"}
    assert (result["weighting"], result["class_means"], result["num_samples"]) == ("class", "own", 200)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_a_dead_network_has_no_collapse(counts, dtype):
    features, labels, _, _ = make_data(counts)
    features = (0.1 + torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))).to(dtype).expand(*features.shape)
    statistics = collect(features, labels, len(counts))
    assert not statistics.within_class_scatter.any()
    for measure in (measures.nc1, measures.nc1_cdnv, measures.nc2_means, uniformity.nc2_equinorm, uniformity.gnc2):
        assert math.isnan(measure(statistics)), measure
    value, rank = measures.nc1_pinv(statistics, batches=[(features, labels)], return_rank=True)
    assert math.isnan(value)
    assert rank == 0


@pytest.mark.parametrize("mean", [0.0, 0.1, 1e3])
def test_class_means_that_coincide_are_infinitely_far_from_collapse(mean):
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(4, 9, WIDTH, generator=generator, dtype=torch.float64)
    half *= torch.tensor([1.0, 3.0, 0.2, 7.0]).view(4, 1, 1)
    third = -half[:, :6:2] - half[:, 1:6:2]  # three that sum to 0, but for rounding, besides the pairs that do
    features = mean + torch.cat([half, -half, half[:, :6], third], dim=1)
    labels = torch.arange(4).repeat_interleave(features.shape[1])
    statistics = collect(features.flatten(0, 1), labels, 4)
    assert measures.nc1(statistics) == math.inf
    assert measures.nc1_cdnv(statistics) == math.inf
    assert measures.nc1_pinv(statistics, return_rank=True) == (math.inf, 0)
    assert math.isnan(measures.nc2_means(statistics))


@pytest.mark.parametrize("scale", [1e-80, 1e80])
@pytest.mark.parametrize("num_classes", [5, 30])
def test_very_small_and_very_large_features_give_the_same(scale, num_classes):
    features, labels, classifier, _ = make_data([6] * num_classes)
    expected = measure_everything(features, labels, classifier)
    scaled = measure_everything(scale * features, labels, scale * classifier)
    for name in MEASURES.keys() - {"bias_collapse", "nc0"}:
        assert scaled[name] == pytest.approx(expected[name], rel=1e-9), name


def test_autocast_around_the_measures_changes_nothing():
    features, labels, _, _ = make_data([12, 7, 3, 9, 5], torch.float32)
    batches = [(features, labels)]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(measures.nc1_pinv(collect(features, labels, 5), batches=batches))
    assert found[0] == found[1]


def test_which_class_is_worst_is_told_in_the_callers_numbers():
    features, labels, classifier, _ = make_data(COUNTS["imbalanced"])
    present = torch.tensor([0, 2, 3, 5, 6])
    wide = torch.ones(7, WIDTH, dtype=torch.float64)
    wide[present] = classifier
    statistics = collect(features, present[labels], 7)
    names = ["nc1_worst", "nc2_worst", "nc3_worst"]
    result = compute(statistics, classifier=wide, measures=names, absent="exclude", per_class=True)
    table = result["per_class"]
    assert table["class"] == present.tolist()
    assert table["count"] == COUNTS["imbalanced"]

    means = torch.stack([features[labels == k].mean(0) for k in range(5)])
    directions = torch.nn.functional.normalize(means - means.mean(0))
    cosines = (directions @ directions.T).fill_diagonal_(-2)
    assert table["nearest_class"] == present[cosines.argmax(1)].tolist()
    assert table["nearest_cosine"] == pytest.approx(cosines.amax(1).tolist())
    assert table["alignment"] == pytest.approx(torch.cosine_similarity(classifier, means - means.mean(0)).tolist())
    variances = [float((features[labels == k] - means[k]).square().sum(1).mean()) for k in range(5)]
    assert table["variance"] == pytest.approx(variances)
    assert sum(table["nc1"]) / 5 == pytest.approx(measures.nc1(collect(features, labels, 5)))

    assert result["nc1_worst"] == max(table["nc1"])
    assert result["nc1_worst_class"] == table["class"][table["nc1"].index(max(table["nc1"]))]
    assert result["nc3_worst_class"] == table["class"][table["alignment"].index(min(table["alignment"]))]
    j, k = divmod(int(cosines.argmax()), 5)
    assert result["nc2_worst_pair"] == sorted([int(present[j]), int(present[k])])


def leave_one_out(features, labels, classifier, measure):
    """The jackknife's variance and bias over classes as strata, by computing everything anew for every sample."""
    value, variance, bias = measure(features, labels), 0.0, 0.0
    for k in labels.unique():
        left = [
            measure(features[torch.arange(len(labels)) != i], labels[torch.arange(len(labels)) != i])
            for i in (labels == k).nonzero().flatten()
        ]
        variance += (len(left) - 1) / len(left) * sum((x - sum(left) / len(left)) ** 2 for x in left)
        bias += (len(left) - 1) * (sum(left) / len(left) - value)
    return math.sqrt(variance), bias


@pytest.mark.parametrize("weighting", ["class", "sample", "hybrid"])
def test_standard_errors_are_those_of_leaving_out_every_sample(weighting):
    features, labels, classifier, _ = make_data([9, 6, 4, 3, 2])
    statistics, batches = collect(features, labels, 5), split(features, labels, 7)
    options = {"classifier": classifier, "measures": ["nc1", "nc3"], "weighting": weighting}
    found = compute(statistics, batches=batches, standard_errors=True, **options)

    def nc1(features, labels):
        return measures.nc1(collect(features, labels, 5), weighting=weighting)

    error, bias = leave_one_out(features, labels, classifier, nc1)
    assert found["nc1_standard_error"] == pytest.approx(error, rel=1e-9)
    assert found["nc1_bias"] == pytest.approx(bias, rel=1e-9)

    # Class shares stay n_k/N when a sample goes.
    cosines = torch.cosine_similarity(features, classifier[labels])
    shares = torch.bincount(labels) / len(labels)

    def nc3(cosines, labels):
        return 1 - float(sum(shares[k] * cosines[labels == k].mean() for k in range(5)))

    error, bias = leave_one_out(cosines, labels, classifier, nc3)
    assert found["nc3_standard_error"] == pytest.approx(error, rel=1e-6)
    assert abs(bias) < 1e-6
    assert "nc3_bias" not in found

    training = collect(*make_data([9, 6, 4, 3, 2], seed=1)[:2], 5)
    held_out = compute(statistics, batches=batches, standard_errors=True, training_statistics=training, **options)

    def about_training(features, labels):
        return compute(collect(features, labels, 5), training_statistics=training, measures="nc1", weighting="class")[
            "nc1"
        ]

    if weighting == "class":
        error, bias = leave_one_out(features, labels, classifier, about_training)
        assert held_out["nc1_standard_error"] == pytest.approx(error, rel=1e-9)
        assert abs(bias) < 1e-9
    assert "nc1_bias" not in held_out
    one = (labels != 3) | (torch.arange(len(labels)) == (labels == 3).nonzero()[0])
    features, labels = features[one], labels[one]
    with pytest.raises(ValueError, match="standard errors need 2 samples of every class; 1 have one, first 3"):
        compute(collect(features, labels, 5), batches=[(features, labels)], standard_errors=True, **options)


def test_the_bias_corrects_nc1_of_few_samples():
    means = 8**0.5 * torch.eye(4, 8, dtype=torch.float64)
    truth = (8 / 2) / (8 * 3 / 4)  # tr Σ_W of σ² = 1/2 in 8 dimensions, tr Σ_B of the means about their centre
    few = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(4).repeat(6)
        features = means[labels] + 0.5**0.5 * torch.randn(24, 8, generator=generator, dtype=torch.float64)
        result = compute(
            collect(features, labels, 4), measures="nc1", batches=[(features, labels)], standard_errors=True
        )
        few.append((result["nc1"], result["nc1"] - result["nc1_bias"], result["nc1_standard_error"]))
    plain, corrected, error = (sum(column) / len(few) for column in zip(*few, strict=True))
    assert abs(plain - truth) > 0.15 * truth
    assert abs(corrected - truth) < 0.03 * truth
    spread = float(torch.tensor([row[0] for row in few]).std())
    assert error == pytest.approx(spread, rel=0.15)


def test_the_hybrid_is_the_papers_definition():
    features, labels, _, _ = make_data(COUNTS["imbalanced"])
    means = torch.stack([features[labels == k].mean(0) for k in range(5)])
    within = (features - means[labels]).square().sum() / len(labels)
    between = (means - means.mean(0)).square().sum() / 5
    statistics = collect(features, labels, 5)
    assert measures.nc1(statistics, weighting="hybrid") == pytest.approx(float(within / between))


def test_many_classes_are_compared_in_single_precision_and_close_ones_are_not(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    means = 1e60 * torch.randn(40, WIDTH, generator=generator, dtype=torch.float64)
    means[1] = means[0] * (1 + 1e-9)
    means[2:30] = means[2] * (1 + 1e-3 * torch.rand(28, 1, generator=generator, dtype=torch.float64))
    features = torch.cat([means * (1 + 1e-10), means * (1 - 1e-10)])
    statistics = collect(features, torch.arange(40).repeat(2), 40)
    of_pairs = (measures.nc1_cdnv, uniformity.gnc2, uniformity.nc2_equiangular)
    expected = [measure(statistics) for measure in of_pairs]
    monkeypatch.setattr(pairs, "_MANY_CLASSES", 20)
    assert pairs.for_products(means).dtype == torch.float32
    for limit in (4096, 5):
        monkeypatch.setattr(pairs, "_MANY_CLOSE_PAIRS", limit)
        for measure, value in zip(of_pairs, expected, strict=True):
            assert measure(statistics) == pytest.approx(value, rel=1e-6), measure


@pytest.mark.parametrize("gap", [1.0, 1e-4, 1e-6, 1e-9, 0.0])
def test_a_choice_that_single_precision_cannot_make_is_made_in_double(gap):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 32, generator=generator, dtype=torch.float64)
    vectors[1::2] = vectors[::2] + gap * torch.randn(25, 32, generator=generator, dtype=torch.float64)
    points = 100 * torch.randn(500, 32, generator=generator, dtype=torch.float64)
    offsets = torch.randn(25, generator=generator, dtype=torch.float64).repeat_interleave(2)
    assert torch.equal(LinearChoice(vectors, offsets)(points), (points @ vectors.T + offsets).argmax(1))
    assert torch.equal(LinearChoice(1e50 * vectors, offsets)(points), (points @ vectors.T + offsets / 1e50).argmax(1))


@pytest.mark.parametrize("along", [1e-3, 1e-5])
def test_spectra_that_one_pass_rounded_off_are_no_numbers(along):
    features, labels, _ = anisotropic_data(along)
    statistics, batches = collect(features, labels, 5), split(features, labels)
    with pytest.raises(SecondLookNeeded, match="vci needs a second look at the features: float32 rounds off"):
        spectra.vci(statistics)
    exact = collect(features.double(), labels, 5)
    assert spectra.vci(statistics, batches=batches) == pytest.approx(spectra.vci(exact), rel=1e-6)
    expected = spectra.effective_rank(exact)
    assert spectra.effective_rank(statistics, batches=batches) == pytest.approx(expected, rel=1e-3)


def test_the_largest_margins_are_those_of_regular_figures():
    angles = 2 * math.pi * torch.arange(9, dtype=torch.float64) / 9
    orthoplex = torch.cat([torch.eye(5), -torch.eye(5)])
    figures = [
        torch.stack([angles.cos(), angles.sin()], 1),
        orthoplex,
        orthoplex[:7],
        torch.from_numpy(simplex_etf(4)),
    ]
    for figure in figures:
        margin = softmax_code.softmax_code_margin(figure)
        assert margin == pytest.approx(softmax_code.largest_margin(*figure.shape), rel=1e-12)
    generator = torch.Generator().manual_seed(0)
    many = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator, dtype=torch.float64))
    for step in range(3):  # pushed apart from their nearest, towards a code
        assert softmax_code.softmax_code_margin(many) < softmax_code.largest_margin(40, 3) < 1, step
        distances = torch.cdist(many, many).fill_diagonal_(math.inf)
        many = torch.nn.functional.normalize(many + 0.1 * (many - many[distances.argmin(1)]))
    mixture = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7], [-1.0, -1.0], [1.0, 0.0]])
    assert softmax_code.softmax_code_margin(mixture, return_class=True) == (0.0, 0)
    assert math.isnan(softmax_code.softmax_code_margin(torch.tensor([[1.0, 0.0], [0.0, 0.0]])))


def test_what_costs_much_is_measured_only_if_it_is_named():
    features = torch.randn(101, 60, generator=torch.Generator().manual_seed(0))
    statistics = collect(features, torch.arange(101), 101)
    left_out = compute(statistics, classifier=features, measures="all")["left_out"]
    assert left_out["softmax_code_margin"] == "for more than 100 classes it costs much: name it"
    named = compute(statistics, classifier=features, measures="softmax_code_margin")
    assert 0 < named["softmax_code_margin"] < named["softmax_code_margin_best_attainable"] == 1.0


def test_the_inverse_of_many_classes_scatter_is_the_pseudo_inverse():
    """More classes than dimensions are measured by a triangular inverse, and by an SVD where that would be inexact."""
    torch.manual_seed(0)
    for flat in (0.0, 1e-3, 1.0):
        features = torch.randn(400, 6, dtype=torch.float64)
        features[:, 5] = features[:, :5].sum(1) + flat * features[:, 5]
        labels = torch.arange(400) % 20
        statistics = ClassStatistics(20, second_moment=True)
        statistics.update(features, labels)
        means = torch.stack([features[labels == k].mean(0) for k in range(20)])
        within = (
            sum((features[labels == k] - means[k]).T @ (features[labels == k] - means[k]) for k in range(20)) / 400
        )
        centred = (means - means.mean(0)) / 20**0.5
        _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
        rank = 5 if flat == 0 else 6
        expected = sum(float(axes[r] @ within @ axes[r] / sizes[r] ** 2) for r in range(rank)) / 20
        value, found = measures.nc1_pinv(statistics, return_rank=True)
        assert found == rank
        assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 0.03, 1.0, -1.0])
@pytest.mark.parametrize("spread", [1e-6, 0.3, 3.0])
def test_two_choices_agree_where_both_computed_in_full_do(noise, spread):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    others = 3 * vectors + noise * torch.randn(40, 12, generator=generator, dtype=torch.float64)
    if noise < 0:
        others = -vectors
    offsets, other_offsets = -0.5 * vectors.square().sum(1), -1.5 * vectors.square().sum(1)
    points = vectors.repeat(20, 1) + spread * torch.randn(800, 12, generator=generator, dtype=torch.float64)
    points[::7] = (points[::7] + points[::7].roll(1, 0)) / 2  # between two
    points[5] = 1e200
    agree = Agreement(LinearChoice(vectors, offsets), LinearChoice(others, other_offsets))(points)
    first = (points @ vectors.T + offsets).argmax(1)
    assert torch.equal(agree, first == (points @ others.T + other_offsets).argmax(1))


def test_a_classifier_of_zeros_agrees_where_the_first_class_is_nearest():
    features, labels = torch.eye(3, dtype=torch.float64).repeat(2, 1), torch.arange(3).repeat(2)
    statistics = collect(features, labels, 3)
    assert measures.nc4(statistics, torch.zeros(3, 3), [(features, labels)]) == pytest.approx(2 / 3)
