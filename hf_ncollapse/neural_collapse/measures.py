"""The neural collapse measures, NC1 to NC4: pure functions of class statistics and a classifier.

Notation: n_k, μ_k the count and mean of class k, N = Σ n_k, K classes, width d; M = class means (K×d); μ_G = the
global mean, Ṁ = M − μ_G; W the classifier (K×d), b its bias. `weighting="class"` counts every class the same (μ_G is
the mean of the μ_k), `"sample"` every sample (μ_G is the mean of all features). E_K = I − 11ᵀ/K is the Gram matrix of
the simplex equiangular tight frame (ETF), E* = E_K/√(K − 1) the same at unit Frobenius norm. Every measure is 0 at
exact collapse (`gnc2` at its simplex value, see there); `nc2_identity` and `nc2_orthogonal` at that of squared error
without a bias, whose frame is orthogonal.

Every function wants samples in every class and raises a `ValueError` naming those without; `compute` can leave them
out. A quotient whose denominator vanishes (class means that all coincide, W = 0) is inf, or NaN for 0/0.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from .class_statistics import ClassStatistics, HeldOutStatistics, drop_ignored

Statistics = ClassStatistics | HeldOutStatistics
Batches = Iterable[tuple[Tensor, Tensor]]

# Pair measures and NC4 work through K×K and N×K in pieces of at most this many entries (8 MiB of float64).
_TILE_ENTRIES = 2**20
# By how many units in the last place, of the features' own size, the float64 means of equal classes differ.
_ULPS = 8
# The error of a second moment's float32 products, relative to their factors' sizes: a quarter of ε, as was measured.
_SINGLE_ROUNDING = torch.finfo(torch.float32).eps / 4
_RELATIVE_ERROR = 1e-6
_NEEDS_CLASSIFIER = "classifier=W"


class SecondLookNeeded(ValueError):
    """A measure is no function of one pass over these samples; `reason` says why and what to do."""

    def __init__(self, measure: str, reason: str):
        self.reason = f"a second look at the features: {reason}"
        super().__init__(f"{measure} needs {self.reason}")


# --- NC1: features collapse to their class mean --------------------------------------------------------------------


def nc1(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""Within-class over between-class variability, tr Σ_W / tr Σ_B, in [0, ∞).

    tr Σ_W = Σ_k w_k v_k with v_k = mean ‖h − μ_k‖², tr Σ_B = Σ_k w_k ‖μ_k − μ_G‖², w_k = 1/K or n_k/N.
    Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239); Tirer, Huang & Niles-Weed 2023.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> nc1(statistics)
        0.25
    """
    within = _class_weights(statistics.counts, weighting) @ _class_variances(statistics)
    centred_means = _centred_means(statistics, weighting)
    between = _class_weights(statistics.mean_counts, weighting) @ centred_means.square().sum(1)
    return float(within / between)


def nc1_pinv(
    statistics: Statistics, *, weighting: str = "class", batches: Batches | None = None, return_rank: bool = False
) -> float | tuple[float, int]:
    r"""Within-class variability in units of the between-class one, by direction, tr(Σ_W Σ_B⁺)/K, in [0, ∞).

    With the thin SVD √w Ṁ = U S Vᵀ, Σ_B = V S² Vᵀ and the trace is Σ_r v_rᵀ Σ_W v_r / s_r², over the at most K − 1
    directions whose s_r exceeds max(K, d)·ε·s_1 (ε of float64): classes closer than that are one class. Where all
    class means coincide, it is inf, as nc1 is, or NaN for features that are all equal.
    Source: Papyan, Han & Donoho 2020 (arXiv:2008.08186); Zhu et al. 2021 (arXiv:2105.02375).

    Args:
        statistics: made with `second_moment=True`.
        weighting (`str`): "class" or "sample".
        batches: the same samples once more, `(features, labels)` at a time, for what one pass cannot say: with
            `weighting="class"` and unequal n_k, as a single d×d matrix cannot hold the 1/n_k that are known at the
            end; and where the scatter along the class means is so much smaller than across them that the one pass's
            float32 products lose it (features in float64 do not).
        return_rank (`bool`): return `(value, rank)`, with the number of directions used.

    Raises:
        SecondLookNeeded: `batches` are needed and not given.

    Example:
        >>> statistics = ClassStatistics(2, second_moment=True)
        >>> features = torch.tensor([[1.0, 5.0], [3.0, -5.0], [-1.0, 5.0], [-3.0, -5.0]])
        >>> statistics.update(features, torch.tensor([0, 0, 1, 1]))
        >>> value, rank = nc1_pinv(statistics, return_rank=True)
        >>> round(value, 6), rank
        (0.125, 1)
    """
    weights = _class_weights(statistics.counts, weighting)
    one_pass = weighting == "sample" or _is_balanced(statistics.counts)
    if not one_pass and batches is None:
        raise SecondLookNeeded("nc1_pinv", 'class counts differ; pass batches, or weighting="sample"')
    whitening = _between_class_whitening(statistics, weighting)
    if one_pass:
        within = statistics.within_class_second_moment / statistics.num_samples
        trace = ((within @ whitening) * whitening).sum()
        squares = statistics.single_precision_squares / statistics.num_samples
        one_pass = bool(_SINGLE_ROUNDING * (squares @ whitening.square()).sum() <= _RELATIVE_ERROR * trace)
    if not one_pass and batches is None:
        reason = "float32 rounds off their scatter along the class means; pass batches, or features in float64"
        raise SecondLookNeeded("nc1_pinv", reason)
    if not one_pass:
        means = statistics.class_means
        trace = torch.zeros((), dtype=torch.float64, device=statistics.device)
        for features, labels in _second_look(statistics, batches):
            whitened = (features.double() - means[labels]) @ whitening
            trace += (weights / statistics.counts)[labels] @ torch.linalg.vecdot(whitened, whitened)
    rank = whitening.shape[1]
    if rank == 0:  # the class means coincide: tr(Σ_W Σ_B⁺) of Σ_B → 0, not of Σ_B = 0, whose pseudo-inverse is 0
        trace = (weights @ _class_variances(statistics)) / 0.0
    value = float(trace) / statistics.num_classes
    return (value, rank) if return_rank else value


def nc1_cdnv(statistics: Statistics) -> float:
    r"""Class-distance normalised variance, mean over pairs j < k of (v_j + v_k) / (2 ‖μ_j − μ_k‖²), in [0, ∞).

    v_k = mean ‖h − μ_k‖². Source: Galanti, György & Hutter 2022 (arXiv:2112.15121).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> nc1_cdnv(statistics)
        0.0625
    """
    variances = _class_variances(statistics)
    centred_means = _centred_means(statistics, "class")
    return _mean_over_pairs(
        len(centred_means),
        lambda rows, columns: (
            (variances[rows].unsqueeze(1) + variances[columns])
            / (2 * _squared_distances(centred_means[rows], centred_means[columns]))
        ),
    )


# --- NC2: class means, and the classifier's rows, form a simplex ETF -----------------------------------------------


def nc2(classifier: Tensor) -> float:
    r"""Distance of the classifier's Gram matrix to the closest simplex ETF's, min_{c≥0} ‖W Wᵀ − c E_K‖_F/‖W Wᵀ‖_F.

    The sine of the angle between the two matrices, whose cosine ⟨W Wᵀ, E_K⟩/(‖W Wᵀ‖_F √(K − 1)) is never negative; in
    [0, 1]. The ETF is the optimum of cross-entropy, and of squared error with an unpenalised bias.
    Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239), Definition 3.4: NC2A.

    Example:
        >>> round(nc2(3 * torch.eye(4) - 0.75), 6)
        0.0
        >>> round(nc2(torch.eye(4)), 6)
        0.5
    """
    return _sine_to_frame(_as_classifier(classifier))


def nc2_identity(classifier: Tensor) -> float:
    r"""Distance of the classifier's Gram matrix to the closest orthogonal frame's, min_{c≥0} ‖W Wᵀ − c I‖_F/‖W Wᵀ‖_F.

    In [0, √(1 − 1/K)]; 1/√K at a simplex ETF. The frame is the optimum of squared error without a bias.
    Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239), Definition 3.4: NC2B.

    Example:
        >>> nc2_identity(3 * torch.eye(4))
        0.0
        >>> round(nc2_identity(torch.eye(4) - 0.25), 6)
        0.5
    """
    return _sine_to_frame(_as_classifier(classifier), centred=False)


def nc2_etf(classifier: Tensor) -> float:
    r"""Distance of the classifier's normalised Gram matrix to the simplex ETF's, ‖W Wᵀ/‖W Wᵀ‖_F − E*‖_F, in [0, √2].

    The chord s of the angle whose sine is `nc2` = s √(1 − s²/4): equal within 1% below 0.28.
    Source: Zhu et al. 2021 (arXiv:2105.02375).

    Example:
        >>> round(nc2_etf(3 * torch.eye(4) - 0.75), 6)
        0.0
        >>> round(nc2_etf(torch.eye(4)), 6)
        0.517638
    """
    classifier = _as_classifier(classifier)
    return _distance_to_frame(classifier, classifier)


def nc2_means(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""`nc2` of the centred class means, min_{c≥0} ‖Ṁ Ṁᵀ − c E_K‖_F/‖Ṁ Ṁᵀ‖_F, in [0, 1].

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3) + 7, torch.arange(3))
        >>> round(nc2_means(statistics), 6)
        0.0
    """
    return _sine_to_frame(_centred_means(statistics, weighting))


def nc2_orthogonal(statistics: Statistics) -> float:
    r"""Distance of the uncentred class means to an orthogonal frame, ‖M Mᵀ/‖M Mᵀ‖_F − I/√K‖_F, in [0, 2].

    The optimum of bias-free mean squared error. Source: Tirer & Bruna 2022 (arXiv:2202.08087).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(2 * torch.eye(3), torch.arange(3))
        >>> nc2_orthogonal(statistics)
        0.0
    """
    means = _class_means(statistics)
    return _distance_to_frame(means, means, centred=False)


def nc2_equinorm(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""Spread of the lengths of the centred class means, std_k ‖ṁ_k‖ / mean_k ‖ṁ_k‖, in [0, √(K − 1)].

    The standard deviation is over all K classes (divided by K, not K − 1).
    Source: Papyan, Han & Donoho 2020 (arXiv:2008.08186).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.tensor([[1.0], [3.0], [8.0]]), torch.arange(3))
        >>> round(nc2_equinorm(statistics), 6)
        0.467707
    """
    return _equinorm(_centred_means(statistics, weighting))


def nc2_equinorm_classifier(classifier: Tensor) -> float:
    r"""`nc2_equinorm` of the classifier's rows, std_k ‖w_k‖ / mean_k ‖w_k‖, in [0, √(K − 1)].

    Example:
        >>> nc2_equinorm_classifier(torch.tensor([[3.0, 4.0], [0.0, -15.0]]))
        0.5
    """
    return _equinorm(_as_classifier(classifier))


def nc2_equiangular(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""Mean over pairs of |cos(ṁ_j, ṁ_k) + 1/(K − 1)|, in [0, K/(K − 1)].

    Source: Papyan, Han & Donoho 2020 (arXiv:2008.08186).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(nc2_equiangular(statistics), 6)
        0.0
    """
    return _equiangular(_centred_means(statistics, weighting))


def nc2_equiangular_classifier(classifier: Tensor) -> float:
    r"""`nc2_equiangular` of the classifier's rows, mean over pairs of |cos(w_j, w_k) + 1/(K − 1)|.

    Example:
        >>> nc2_equiangular_classifier(torch.eye(3))
        0.5
    """
    return _equiangular(_as_classifier(classifier))


def gnc2(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""Hyperspherical uniformity of the class means, mean over pairs of −log ‖m̂_j − m̂_k‖ with m̂_k = ṁ_k/‖ṁ_k‖.

    Defined for K > d + 1 too, where no ETF exists; in [−log 2, ∞]. At a simplex ETF it is −½ log(2K/(K − 1)), which
    `gnc2_excess` subtracts. Source: Liu et al. 2023 (arXiv:2303.06484).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[5.0], [1.0]]), torch.arange(2))
        >>> round(gnc2(statistics), 6)
        -0.693147
    """
    directions = torch.nn.functional.normalize(_centred_means(statistics, weighting), eps=0)
    return _mean_over_pairs(
        len(directions),
        lambda rows, columns: -0.5 * _squared_distances(directions[rows], directions[columns]).log(),
    )


def gnc2_excess(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""`gnc2` above the simplex ETF's value −½ log(2K/(K − 1)): 0 at exact collapse.

    The ETF is the minimum where it exists (K ≤ d + 1), so the excess is then non-negative.
    Source: Liu et al. 2023 (arXiv:2303.06484).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> abs(round(gnc2_excess(statistics), 6))
        0.0
    """
    return gnc2(statistics, weighting=weighting) - _gnc2_of_etf(statistics.num_classes)


# --- NC3: features and classifier align ----------------------------------------------------------------------------


def nc3(statistics: Statistics, classifier: Tensor) -> float:
    r"""One minus the mean cosine of a feature and its class's row of W, 1 − (1/N) Σ_i cos(h_i, w_{y_i}), in [0, 2].

    A zero feature counts as cosine 0. Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        >>> nc3(statistics, torch.tensor([[5.0, 0.0], [1.0, 0.0]]))
        0.5
    """
    directions = torch.nn.functional.normalize(_as_classifier(classifier, statistics), eps=0).nan_to_num_(nan=0)
    mean_cosine = torch.linalg.vecdot(statistics.direction_sums, directions).sum() / statistics.num_samples
    return float((1 - mean_cosine).clamp(min=0))  # at exact collapse rounding would leave −4e-16


def nc3_self_duality(statistics: Statistics, classifier: Tensor, *, weighting: str = "class") -> float:
    r"""Distance of the classifier to the centred class means, ‖W/‖W‖_F − Ṁ/‖Ṁ‖_F‖_F, in [0, 2].

    Source: Papyan, Han & Donoho 2020 (arXiv:2008.08186), who square it.

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(nc3_self_duality(statistics, torch.eye(3) - 1 / 3), 6)
        0.0
    """
    classifier, centred_means = _as_classifier(classifier, statistics), _centred_means(statistics, weighting)
    return float((classifier / classifier.norm() - centred_means / centred_means.norm()).norm())


def nc3_etf(statistics: Statistics, classifier: Tensor, *, weighting: str = "class") -> float:
    r"""Distance of the classifier's products with the class means to an ETF's, ‖W Ṁᵀ/‖W Ṁᵀ‖_F − E*‖_F, in [0, 2].

    Source: Zhu et al. 2021 (arXiv:2105.02375).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(nc3_etf(statistics, torch.eye(3)), 6)
        0.0
    """
    return _distance_to_frame(_as_classifier(classifier, statistics), _centred_means(statistics, weighting))


def nc3_uniformity(statistics: Statistics, classifier: Tensor, *, weighting: str = "class") -> float:
    r"""Variance over classes of cos(w_k, ṁ_k), in [0, 1]; divided by K, not K − 1.

    Source: Wu & Papyan 2024 (arXiv:2405.17767).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.arange(2))
        >>> nc3_uniformity(statistics, torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        0.25
    """
    classifier, centred_means = _as_classifier(classifier, statistics), _centred_means(statistics, weighting)
    cosines = torch.nn.functional.cosine_similarity(classifier, centred_means, eps=0)
    return float(cosines.var(correction=0))


# --- NC4: the classifier decides by the nearest class mean ---------------------------------------------------------


def nc4(statistics: Statistics, classifier: Tensor, batches: Batches, *, bias: Tensor | None = None) -> float:
    r"""Share of samples where argmax(W h + b) is not the nearest class mean, argmin_k ‖h − μ_k‖, in [0, 1].

    A *mismatch*: others report one minus this. Source: Papyan, Han & Donoho 2020 (arXiv:2008.08186).

    Args:
        statistics: of the same samples; the means must be final before the first comparison.
        classifier (`Tensor`): K×d.
        batches: the samples once more, `(features, labels)` at a time.
        bias (`Tensor`, *optional*): K values.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> batch = (torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> statistics.update(*batch)
        >>> nc4(statistics, torch.tensor([[1.0], [-1.0]]), [batch], bias=torch.tensor([0.0, 3.0]))
        0.25
    """
    classifier, bias = _as_classifier(classifier, statistics), _as_bias(bias, statistics)
    # argmin ‖h − μ_k‖ = argmax (h − μ_G)·ṁ_k − ½‖ṁ_k‖², whose small numbers lose nothing to a distant origin.
    global_mean = statistics.class_means.mean(0)
    centred_means = _class_means(statistics) - global_mean
    offsets = 0.5 * centred_means.square().sum(1)
    mismatches = 0
    for features, _ in _second_look(statistics, batches):
        for piece in features.split(max(1, _TILE_ENTRIES // statistics.num_classes)):
            exact = piece.double()
            nearest = ((exact - global_mean) @ centred_means.T - offsets).argmax(1)
            mismatches += int(((exact @ classifier.T + bias).argmax(1) != nearest).sum())
    return mismatches / statistics.num_samples


def bias_collapse(
    statistics: Statistics, classifier: Tensor, *, bias: Tensor | None = None, weighting: str = "class"
) -> float:
    r"""Norm of the logits at the global mean, ‖W μ_G + b‖₂, in [0, ∞). Source: Zhu et al. 2021 (arXiv:2105.02375).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[3.0], [1.0]]), torch.arange(2))
        >>> bias_collapse(statistics, torch.tensor([[1.0], [-1.0]]), bias=torch.tensor([-2.0, 5.0]))
        3.0
    """
    classifier, bias = _as_classifier(classifier, statistics), _as_bias(bias, statistics)
    global_mean = _class_weights(statistics.mean_counts, weighting) @ _class_means(statistics)
    return float((classifier @ global_mean + bias).norm())


# --- all at once ---------------------------------------------------------------------------------------------------

# Name -> (function, the convention where packages differ). The order is the order of the result.
MEASURES: dict[str, tuple[Callable[..., float], str]] = {
    "nc1": (nc1, "tr Σ_W / tr Σ_B"),
    "nc1_pinv": (nc1_pinv, "tr(Σ_W Σ_B⁺)/K, divided by K"),
    "nc1_cdnv": (nc1_cdnv, "mean over pairs of (v_j + v_k)/(2‖μ_j − μ_k‖²), distance to the power 2"),
    "nc2": (nc2, "min over c ≥ 0 of ‖WWᵀ − cE_K‖_F/‖WWᵀ‖_F, E_K = I − 11ᵀ/K: NC2A, not squared"),
    "nc2_identity": (nc2_identity, "min over c ≥ 0 of ‖WWᵀ − cI‖_F/‖WWᵀ‖_F: NC2B, not squared"),
    "nc2_etf": (nc2_etf, "‖WWᵀ/‖WWᵀ‖_F − E*‖_F, not squared"),
    "nc2_means": (nc2_means, "min over c ≥ 0 of ‖ṀṀᵀ − cE_K‖_F/‖ṀṀᵀ‖_F, E_K = I − 11ᵀ/K, not squared"),
    "nc2_orthogonal": (nc2_orthogonal, "‖MMᵀ/‖MMᵀ‖_F − I/√K‖_F, M not centred"),
    "nc2_equinorm": (nc2_equinorm, "std/mean of ‖ṁ_k‖, std divided by K"),
    "nc2_equinorm_classifier": (nc2_equinorm_classifier, "std/mean of ‖w_k‖, std divided by K"),
    "nc2_equiangular": (nc2_equiangular, "mean over pairs of |cos(ṁ_j, ṁ_k) + 1/(K − 1)|"),
    "nc2_equiangular_classifier": (nc2_equiangular_classifier, "mean over pairs of |cos(w_j, w_k) + 1/(K − 1)|"),
    "gnc2": (gnc2, "mean over pairs of −log‖m̂_j − m̂_k‖, natural logarithm"),
    "gnc2_excess": (gnc2_excess, "gnc2 + ½ log(2K/(K − 1))"),
    "nc3": (nc3, "1 − mean over samples of cos(h_i, w_{y_i})"),
    "nc3_self_duality": (nc3_self_duality, "‖W/‖W‖_F − Ṁ/‖Ṁ‖_F‖_F, not squared"),
    "nc3_etf": (nc3_etf, "‖WṀᵀ/‖WṀᵀ‖_F − E*‖_F, not squared"),
    "nc3_uniformity": (nc3_uniformity, "variance over classes of cos(w_k, ṁ_k), divided by K"),
    "nc4": (nc4, "share of samples where argmax(Wh + b) ≠ nearest class mean: mismatch, 0 is collapsed"),
    "bias_collapse": (bias_collapse, "‖Wμ_G + b‖₂"),
}
GROUPS: dict[str, tuple[str, ...]] = {"paper": ("nc1", "nc2", "nc3"), "all": tuple(MEASURES)}
# Of the distances to a frame: those to the orthogonal one, and those with a free scale.
_ORTHOGONAL, _SINES = ("nc2_identity", "nc2_orthogonal"), ("nc2", "nc2_identity", "nc2_means")


def measure_names(measures: str | Iterable[str]) -> list[str]:
    """The names that "paper", "all", one name or several stand for; a `ValueError` for an unknown one."""
    if isinstance(measures, str):
        measures = GROUPS.get(measures, (measures,))
    names = list(dict.fromkeys(measures))
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise ValueError(f'measures must be "paper", "all" or among {", ".join(MEASURES)}; got {unknown or names}')
    return names


def compute(
    statistics: ClassStatistics,
    *,
    classifier: Tensor | None = None,
    bias: Tensor | None = None,
    measures: str | Iterable[str] = "paper",
    weighting: str = "class",
    absent: str = "error",
    training_statistics: ClassStatistics | None = None,
    batches: Batches | None = None,
    ignore_index: int | None = None,
) -> dict:
    """Several measures at once, with the conventions, counts and ranks that make them comparable.

    Args:
        statistics (`ClassStatistics`): of the samples to measure.
        classifier (`Tensor`, *optional*): W, K×d; the measures of W need it.
        bias (`Tensor`, *optional*): b, K values; `nc4` and `bias_collapse` use it.
        measures: "paper" (nc1, nc2, nc3), "all", or names.
        weighting (`str`): "class" (every class counts the same) or "sample" (every sample does).
        absent (`str`): what classes without samples get: "error", or "exclude" to measure the others alone.
        training_statistics (`ClassStatistics`, *optional*): measure test samples about the training set's means.
        batches (*optional*): the same samples once more, an iterable of `(features, labels)`: `nc4` needs them, and
            `nc1_pinv` for unequal class counts under `weighting="class"` or much less scatter along the means.
        ignore_index (`int`, *optional*): skip samples with this label in `batches`, as in `update`.

    Returns:
        `dict`: every measure under its name, and `weighting`, `class_means` ("own" or "training"), `num_samples`,
        `num_classes` (those measured), `num_absent_classes`, `absent_classes`, `conventions` (name to formula),
        `left_out` (name to reason; only "all" leaves anything out), `nc1_pinv_rank` with `nc1_pinv`, and for more
        classes than an ETF has room for (K > d + 1; K > d for the orthogonal frame) `<name>_best_attainable`.

    Raises:
        ValueError: an argument is not among its values or has another shape, a named measure lacks what it needs, or
            classes are absent and `absent="error"`.
    """
    names = measure_names(measures)
    if absent not in ("error", "exclude"):
        raise ValueError(f'absent must be "error" or "exclude", got {absent!r}')
    if training_statistics is not None:
        statistics = HeldOutStatistics(statistics, training_statistics.class_means, training_statistics.counts)
    present = statistics.present_classes
    classifier = None if classifier is None else _as_classifier(classifier, statistics)
    bias = _as_bias(bias, statistics)
    if absent == "error":
        _require_every_class(statistics.counts)
    elif not present.all():
        if int(present.sum()) < 2:
            raise ValueError(f"at least 2 classes must have samples, got {int(present.sum())} of {len(present)}")
        statistics = statistics.select_classes(present)
        classifier = None if classifier is None else classifier[present]
        bias = bias[present]
    if batches is not None:
        batches = _Renumbered(batches, present, ignore_index)

    arguments = {
        "statistics": statistics, "classifier": classifier, "bias": bias, "weighting": weighting, "batches": batches
    }  # fmt: skip
    values, left_out = {}, {}
    for name in names:
        function, _ = MEASURES[name]
        reason = _missing(name, statistics, classifier, weighting, batches)
        if reason and measures != "all":
            hint = '; without one, name other measures, such as measures="nc1"' if reason == _NEEDS_CLASSIFIER else ""
            raise ValueError(f"{name} needs {reason}{hint}")
        if reason:
            left_out[name] = f"needs {reason}"
            continue
        taken = inspect.signature(function).parameters
        chosen = {key: value for key, value in arguments.items() if key in taken}
        if name == "nc1_pinv":
            try:
                values[name], values["nc1_pinv_rank"] = nc1_pinv(**chosen, return_rank=True)
            except SecondLookNeeded as error:
                if measures != "all":
                    raise
                left_out[name] = f"needs {error.reason}"
        elif name == "gnc2_excess" and "gnc2" in values:
            values[name] = values["gnc2"] - _gnc2_of_etf(statistics.num_classes)
        else:
            values[name] = function(**chosen)
    return (
        values
        | _best_attainable(values, statistics)
        | {
            "weighting": weighting,
            "class_means": "own" if training_statistics is None else "training",
            "num_samples": statistics.num_samples,
            "num_classes": statistics.num_classes,
            "num_absent_classes": int((~present).sum()),
            "absent_classes": (~present).nonzero().flatten().tolist(),
            "conventions": {name: MEASURES[name][1] for name in values if name in MEASURES},
            "left_out": left_out,
        }
    )


# --- inside --------------------------------------------------------------------------------------------------------


class _Renumbered:
    """Batches whose labels count the present classes only, without the samples to ignore."""

    def __init__(self, batches: Batches, present: Tensor, ignore_index: int | None):
        self.batches, self.present, self.ignore_index = batches, present, ignore_index

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        new_labels = self.present.cumsum(0) - 1
        for batch in self.batches:
            features, labels = drop_ignored(*batch, len(self.present), self.ignore_index)
            yield features, new_labels[labels.to(new_labels.device)]


def _second_look(statistics: Statistics, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches on the statistics' device; raises at the end unless they held the samples of the statistics."""
    counts = torch.zeros_like(statistics.counts)
    for batch in batches:
        features, labels = drop_ignored(*batch, statistics.num_classes)
        features, labels = features.to(statistics.device), labels.to(statistics.device, torch.int64)
        counts.index_add_(0, labels, torch.ones_like(labels))
        yield features, labels
    if not torch.equal(counts, statistics.counts):
        raise ValueError(
            f"batches must give the samples of the statistics once more, all {statistics.num_samples} with their "
            f"labels; got {int(counts.sum())} (a generator can be iterated only once)"
        )


def _missing(name: str, statistics: Statistics, classifier, weighting: str, batches) -> str | None:
    """What the measure needs and was not given."""
    parameters = inspect.signature(MEASURES[name][0]).parameters
    if "classifier" in parameters and classifier is None:
        return _NEEDS_CLASSIFIER
    if name == "nc3" and not statistics.has_directions:
        return "statistics made with directions=True"
    if name == "nc4" and batches is None:
        return "a second look at the features: batches"
    one_pass = weighting == "sample" or _is_balanced(statistics.counts)
    if name == "nc1_pinv" and one_pass and not statistics.has_second_moment:
        return "statistics made with second_moment=True"
    return None


def _best_attainable(values: dict, statistics: Statistics) -> dict[str, float]:
    """The least distance that rank d allows, for the frames that d dimensions have no room for.

    A frame's Gram matrix is a multiple of a projection of rank r: K − 1 for the ETF, K for the orthogonal frame. A
    matrix of rank d < r is at best at the cosine √(d/r) with it, as a projection onto d of the r dimensions is. Then
    the sine is √(1 − d/r) and the chord √(2 − 2√(d/r)).
    """
    best = {}
    for name in ("nc2", "nc2_identity", "nc2_etf", "nc2_means", "nc2_orthogonal", "nc3_etf"):
        share = statistics.num_features / (statistics.num_classes - (name not in _ORTHOGONAL))
        if name in values and share < 1:
            best[f"{name}_best_attainable"] = math.sqrt(1 - share if name in _SINES else 2 - 2 * math.sqrt(share))
    return best


def _is_balanced(counts: Tensor) -> bool:
    return bool((counts == counts[0]).all())


def _require_every_class(counts: Tensor) -> None:
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        named = ", ".join(map(str, absent[:10])) + (", …" if len(absent) > 10 else "")
        raise ValueError(
            f'{len(absent)} of {len(counts)} classes have no sample ({named}): absent="exclude" leaves them out'
        )


def _class_weights(counts: Tensor, weighting: str) -> Tensor:
    """w_k: 1/K for "class", n_k/N for "sample"."""
    if weighting not in ("class", "sample"):
        raise ValueError(f'weighting must be "class" or "sample", got {weighting!r}')
    _require_every_class(counts)
    weights = counts.double() if weighting == "sample" else torch.ones_like(counts, dtype=torch.float64)
    return weights / weights.sum()


def _class_variances(statistics: Statistics) -> Tensor:
    """v_k = mean ‖h − μ_k‖² over the samples of class k."""
    _require_every_class(statistics.counts)
    return statistics.within_class_scatter / statistics.counts


def _class_means(statistics: Statistics) -> Tensor:
    _require_every_class(statistics.counts)
    return statistics.class_means


def _centred_means(statistics: Statistics, weighting: str) -> Tensor:
    """Ṁ = M − μ_G; what is within the rounding of class means that are equal is 0."""
    means = _class_means(statistics)
    differences = means - means[0]  # exact for means that are close, so that equal ones give exact zeros
    rounding = means.abs().amax(0) + _class_variances(statistics).max().sqrt()
    rounding *= _ULPS * torch.finfo(torch.float64).eps
    differences = differences.masked_fill((differences.amax(0) - differences.amin(0)) <= rounding, 0)
    return differences - _class_weights(statistics.mean_counts, weighting) @ differences


def _between_class_whitening(statistics: Statistics, weighting: str) -> Tensor:
    """V S⁻¹, d×rank, with √w Ṁ = U S Vᵀ: its columns' outer products sum to Σ_B⁺."""
    weights = _class_weights(statistics.mean_counts, weighting)
    weighted_means = weights.sqrt().unsqueeze(1) * _centred_means(statistics, weighting)
    _, singular_values, directions = torch.linalg.svd(weighted_means, full_matrices=False)
    cutoff = max(weighted_means.shape) * torch.finfo(torch.float64).eps * singular_values[0]
    rank = min(int((singular_values > cutoff).sum()), statistics.num_classes - 1)
    return directions[:rank].T / singular_values[:rank]


def _as_classifier(classifier: Tensor, statistics: Statistics | None = None) -> Tensor:
    """W in float64, on the statistics' device, after a look at its shape and values."""
    classifier = torch.as_tensor(classifier).detach()
    if classifier.ndim != 2 or len(classifier) < 2:
        raise ValueError(f"classifier must be classes × width (K×d) with K at least 2, got {tuple(classifier.shape)}")
    bad = int((~classifier.isfinite()).sum())
    if bad:
        raise ValueError(f"classifier must be finite, got {bad} NaN or infinite values")
    if statistics is None:
        return classifier.double()
    expected = (statistics.num_classes, statistics.num_features)
    if classifier.shape != expected:
        raise ValueError(f"classifier must have the class means' shape {expected}, got {tuple(classifier.shape)}")
    return classifier.to(statistics.device, torch.float64)


def _as_bias(bias: Tensor | None, statistics: Statistics) -> Tensor:
    """b in float64, zeros for none, on the statistics' device."""
    if bias is None:
        return torch.zeros(statistics.num_classes, dtype=torch.float64, device=statistics.device)
    bias = torch.as_tensor(bias).detach()
    if bias.shape != (statistics.num_classes,) or not bias.isfinite().all():
        raise ValueError(f"bias must be {statistics.num_classes} finite values, got shape {tuple(bias.shape)}: {bias}")
    return bias.to(statistics.device, torch.float64)


def _distance_to_frame(left: Tensor, right: Tensor, *, centred: bool = True) -> float:
    """‖G/‖G‖_F − T‖_F for G = left rightᵀ and T the unit-norm Gram matrix of an ETF (centred) or orthogonal frame."""
    is_gram = right is left
    left = _scaled(left)
    right = left if is_gram else _scaled(right)
    num_classes, num_features = left.shape
    rank = num_classes - 1 if centred else num_classes
    shift = 1 / num_classes if centred else 0.0
    if num_classes <= num_features + 1:
        gram = left @ right.T
        gram /= torch.linalg.matrix_norm(gram)
        gram += shift / math.sqrt(rank)
        gram.diagonal().sub_(1 / math.sqrt(rank))
        return float(torch.linalg.matrix_norm(gram))
    # More classes than dimensions: no K×K matrix. The distance is then far from 0, and 2 − 2⟨G/‖G‖, T⟩ loses nothing.
    left_moment = left.T @ left
    right_moment = left_moment if is_gram else right.T @ right
    norm = (left_moment * right_moment).sum().sqrt()
    inner_product = (left * right).sum() - shift * (left.sum(0) @ right.sum(0))
    return float((2 - 2 * inner_product / (norm * math.sqrt(rank))).clamp(min=0).sqrt())


def _scaled(vectors: Tensor) -> Tensor:
    """The vectors times a power of 2 that brings the largest entry near 1: no fourth power vanishes or overflows."""
    _, exponent = torch.frexp(vectors.abs().max())
    return torch.ldexp(vectors, -exponent.double())


def _sine_to_frame(vectors: Tensor, *, centred: bool = True) -> float:
    """min_{c≥0} ‖G − cT‖_F/‖G‖_F for G = vectors vectorsᵀ and T as in `_distance_to_frame`.

    1 − cos² would lose every digit below 1e-8; with x = 1 − cos, half the chord's square, it is x (2 − x), which keeps
    them and never exceeds 1.
    """
    versine = _distance_to_frame(vectors, vectors, centred=centred) ** 2 / 2
    return math.sqrt(versine * (2 - versine))


def _gnc2_of_etf(num_classes: int) -> float:
    return -0.5 * math.log(2 * num_classes / (num_classes - 1))


def _equinorm(vectors: Tensor) -> float:
    norms = torch.linalg.vector_norm(vectors, dim=1)
    return float(norms.std(correction=0) / norms.mean())


def _equiangular(vectors: Tensor) -> float:
    directions = torch.nn.functional.normalize(vectors, eps=0)
    target = 1 / (len(vectors) - 1)
    return _mean_over_pairs(
        len(vectors), lambda rows, columns: (directions[rows] @ directions[columns].T + target).abs_()
    )


def _mean_over_pairs(num_classes: int, pair_values: Callable[[slice, slice], Tensor]) -> float:
    """Mean over pairs j < k of a symmetric K×K array that is only ever made a tile at a time."""
    tile = math.isqrt(_TILE_ENTRIES)
    slices = [slice(start, start + tile) for start in range(0, num_classes, tile)]
    total = 0.0
    for rows, columns in combinations_with_replacement(slices, 2):
        values = pair_values(rows, columns)
        total += float((values.triu(1) if rows == columns else values).sum())
    return total / (num_classes * (num_classes - 1) / 2)


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """‖l_i − r_j‖², by a gemm unless a pair is so close that it would cancel."""
    sizes = left.square().sum(1).unsqueeze(1) + right.square().sum(1)
    squared = torch.addmm(sizes, left, right.T, alpha=-2)
    close = squared < 1e-6 * sizes
    if left.data_ptr() == right.data_ptr():
        close.fill_diagonal_(False)
    if close.any():
        squared = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square_()
    return squared
