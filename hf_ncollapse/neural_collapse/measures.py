"""The neural collapse measures, NC0 to NC5: pure functions of class statistics and a classifier.

Notation: n_k, μ_k the count and mean of class k, N = Σ n_k, K classes, width d; M = class means (K×d); μ_G = the
global mean, Ṁ = M − μ_G; W the classifier (K×d), b its bias. `weighting="class"` counts every class the same (μ_G is
the mean of the μ_k), `"sample"` every sample (μ_G is the mean of all features), `"hybrid"` every sample in Σ_W and
every class in μ_G and Σ_B, as published code does. E_K = I − 11ᵀ/K is the Gram matrix of the simplex equiangular tight
frame (ETF), E* = E_K/√(K − 1) the same at unit Frobenius norm. Every measure here is 0 at exact collapse (`gnc2` at
its simplex value, see there; `nc5` is of other inputs); `nc2_identity` and `nc2_orthogonal` at that of squared error
without a bias, whose frame is orthogonal.

Every function wants samples in every class and raises a `ValueError` naming those without; `compute` can leave them
out. A quotient whose denominator vanishes (class means that all coincide, W = 0) is inf, or NaN for 0/0.
"""

import torch
from torch import Tensor

from .batch_checks import require_finite
from .frames import distance_to_frame, power_of_two, scaled, sine_to_frame
from .linear_choice import Agreement, LinearChoice
from .moments import (
    Batches,
    SecondLookNeeded,
    Statistics,
    as_bias,
    as_classifier,
    between_class_trace,
    between_class_whitening,
    between_weights,
    centred_means,
    class_means,
    class_variances,
    is_one_pass,
    rounding_error,
    second_look,
    within_class_covariance,
    within_weights,
)
from .pairs import for_products, mean_over_pairs, squared_distances

_RELATIVE_ERROR = 1e-6
# NC4 works through N×K in pieces of at most this many scores (4 MiB of float32).
_SCORES = 2**20


# --- NC0: the classifier's rows sum to zero ------------------------------------------------------------------------


def nc0(classifier: Tensor) -> float:
    r"""Norm of the sum of the classifier's rows, ‖Σ_k w_k‖₂, in [0, ∞): necessary for a simplex ETF.

    Gradients of cross-entropy keep the sum as it was; coupled weight decay brings it to 0, decoupled decay need not.
    Source: arXiv:2602.16642, as its code logs it.

    Example:
        >>> nc0(torch.tensor([[3.0, 1.0], [0.0, 3.0]]))
        5.0
    """
    return float(torch.linalg.vector_norm(as_classifier(classifier).sum(0)))


def nc0_relative(classifier: Tensor) -> float:
    r"""`nc0` of the classifier in units of its norm, ‖Σ_k w_k‖₂/‖W‖_F, in [0, √K]; NaN for W = 0.

    1 on average for rows that are independent and centred, √K for equal ones.

    Example:
        >>> round(nc0_relative(torch.ones(4, 3)), 6)
        2.0
    """
    classifier = scaled(as_classifier(classifier))
    return float(torch.linalg.vector_norm(classifier.sum(0)) / torch.linalg.matrix_norm(classifier))


# --- NC1: features collapse to their class mean --------------------------------------------------------------------


def nc1(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""Within-class over between-class variability, tr Σ_W / tr Σ_B, in [0, ∞).

    tr Σ_W = Σ_k w_k v_k with v_k = mean ‖h − μ_k‖², tr Σ_B = Σ_k w_k ‖μ_k − μ_G‖², w_k = 1/K or n_k/N. The paper's own
    weights are "hybrid"; for classes of equal size all three agree.
    Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239); Tirer, Huang & Niles-Weed 2023.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> nc1(statistics)
        0.25
    """
    within = within_weights(statistics, weighting) @ class_variances(statistics)
    return float(within / between_class_trace(statistics, weighting))


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
        weighting (`str`): "class", "sample" or "hybrid".
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
    one_pass = is_one_pass(statistics, weighting)
    if not one_pass and batches is None:
        raise SecondLookNeeded("nc1_pinv", 'class counts differ; pass batches, or another weighting than "class"')
    whitening = between_class_whitening(statistics, weighting)
    if one_pass:
        within = within_class_covariance(statistics, weighting)
        trace = ((within @ whitening) * whitening).sum()
        one_pass = rounding_error(statistics, whitening) <= _RELATIVE_ERROR * float(trace)
    if not one_pass and batches is None:
        reason = "float32 rounds off their scatter along the class means; pass batches, or features in float64"
        raise SecondLookNeeded("nc1_pinv", reason)
    if not one_pass and batches is not None:
        means, weights = statistics.class_means, within_weights(statistics, weighting) / statistics.counts
        trace = torch.zeros((), dtype=torch.float64, device=statistics.device)
        for features, labels in second_look(statistics, batches):
            whitened = (features.double() - means[labels]) @ whitening
            trace += weights[labels] @ torch.linalg.vecdot(whitened, whitened)
    rank = whitening.shape[1]
    if rank == 0:  # the class means coincide: tr(Σ_W Σ_B⁺) of Σ_B → 0, not of Σ_B = 0, whose pseudo-inverse is 0
        trace = (within_weights(statistics, weighting) @ class_variances(statistics)) / 0.0
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
    means, variances = centred_means(statistics, "class"), class_variances(statistics)
    unit, variance_unit = power_of_two(means), power_of_two(variances)
    distances = squared_distances(means / unit)
    shares = (variances / variance_unit).to(for_products(means).dtype)
    mean = mean_over_pairs(
        len(means),
        lambda rows, columns: (shares[rows].unsqueeze(1) + shares[columns]).div_(distances(rows, columns)),
    )
    return mean * float(variance_unit / unit / unit) / 2


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
    return sine_to_frame(as_classifier(classifier))


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
    return sine_to_frame(as_classifier(classifier), centred=False)


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
    classifier = as_classifier(classifier)
    return distance_to_frame(classifier, classifier)


def nc2_means(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""`nc2` of the centred class means, min_{c≥0} ‖Ṁ Ṁᵀ − c E_K‖_F/‖Ṁ Ṁᵀ‖_F, in [0, 1].

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3) + 7, torch.arange(3))
        >>> round(nc2_means(statistics), 6)
        0.0
    """
    return sine_to_frame(centred_means(statistics, weighting))


def nc2_orthogonal(statistics: Statistics) -> float:
    r"""Distance of the uncentred class means to an orthogonal frame, ‖M Mᵀ/‖M Mᵀ‖_F − I/√K‖_F, in [0, 2].

    The optimum of bias-free mean squared error. Source: Tirer & Bruna 2022 (arXiv:2202.08087).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(2 * torch.eye(3), torch.arange(3))
        >>> nc2_orthogonal(statistics)
        0.0
    """
    means = class_means(statistics)
    return distance_to_frame(means, means, centred=False)


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
    directions = torch.nn.functional.normalize(as_classifier(classifier, statistics), eps=0).nan_to_num_(nan=0)
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
    classifier, means = as_classifier(classifier, statistics), centred_means(statistics, weighting)
    return float((classifier / classifier.norm() - means / means.norm()).norm())


def nc3_etf(statistics: Statistics, classifier: Tensor, *, weighting: str = "class") -> float:
    r"""Distance of the classifier's products with the class means to an ETF's, ‖W Ṁᵀ/‖W Ṁᵀ‖_F − E*‖_F, in [0, 2].

    Source: Zhu et al. 2021 (arXiv:2105.02375).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(nc3_etf(statistics, torch.eye(3)), 6)
        0.0
    """
    return distance_to_frame(as_classifier(classifier, statistics), centred_means(statistics, weighting))


def nc3_uniformity(statistics: Statistics, classifier: Tensor, *, weighting: str = "class") -> float:
    r"""Variance over classes of cos(w_k, ṁ_k), in [0, 1]; divided by K, not K − 1.

    Source: Wu & Papyan 2024 (arXiv:2405.17767).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.arange(2))
        >>> nc3_uniformity(statistics, torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        0.25
    """
    classifier, means = as_classifier(classifier, statistics), centred_means(statistics, weighting)
    cosines = torch.nn.functional.cosine_similarity(classifier, means, eps=0)
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
    classifier, bias = as_classifier(classifier, statistics), as_bias(bias, statistics)
    means = class_means(statistics)
    # About the means' mean, so that small numbers lose nothing to a distant origin: argmin ‖h − μ_k‖ is
    # argmax h·ṁ_k − ½‖ṁ_k‖² for h − μ_G, and W h + b is W (h − μ_G) + (W μ_G + b).
    global_mean = means.mean(0)
    means = means - global_mean
    nearest = LinearChoice(means, -0.5 * means.square().sum(1))
    agreement = Agreement(LinearChoice(classifier, classifier @ global_mean + bias), nearest)
    mismatches = torch.zeros((), dtype=torch.int64, device=statistics.device)
    for features, _ in second_look(statistics, batches):
        for piece in features.split(max(1, _SCORES // statistics.num_classes)):
            mismatches += (~agreement(piece.double() - global_mean)).sum()
    return int(mismatches) / statistics.num_samples


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
    classifier, bias = as_classifier(classifier, statistics), as_bias(bias, statistics)
    global_mean = between_weights(statistics, weighting) @ class_means(statistics)
    return float((classifier @ global_mean + bias).norm())


# --- NC5: what belongs to no class is orthogonal -------------------------------------------------------------------


def nc5(statistics: Statistics, out_of_distribution: Tensor) -> float:
    r"""Mean over classes of |cos(μ_k, μ_O)|, μ_O the mean of out-of-distribution features, in [0, 1].

    The means are not centred. NaN if one of them is 0.
    Source: Ammar et al. 2024 (arXiv:2310.06823), equation 5.

    Args:
        statistics: of the classes' samples.
        out_of_distribution (`Tensor`): M×d, features of inputs that belong to no class.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.eye(2), torch.arange(2))
        >>> round(nc5(statistics, torch.tensor([[5.0, 0.0], [3.0, 0.0]])), 6)
        0.5
    """
    features = torch.as_tensor(out_of_distribution).detach()
    if features.ndim != 2 or len(features) == 0 or features.shape[1] != statistics.num_features:
        raise ValueError(
            f"out_of_distribution must be samples × width {statistics.num_features}, got shape {tuple(features.shape)}"
        )
    require_finite(features)
    mean = features.to(statistics.device, torch.float64).mean(0)
    return float(torch.nn.functional.cosine_similarity(class_means(statistics), mean, eps=0).abs().mean())
