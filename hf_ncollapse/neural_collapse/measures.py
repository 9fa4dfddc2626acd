"""The neural collapse measures, NC1 to NC4: pure functions of class statistics and a classifier.

Notation: n_k, μ_k the count and mean of class k, N = Σ n_k, K classes, width d; M = class means (K×d); μ_G = the
global mean, Ṁ = M − μ_G; W the classifier (K×d), b its bias. `weighting="class"` counts every class the same (μ_G is
the mean of the μ_k), `"sample"` every sample (μ_G is the mean of all features). E* = (I − 11ᵀ/K)/√(K − 1) is the Gram
matrix of the simplex equiangular tight frame (ETF) at unit Frobenius norm. Every measure is 0 at exact collapse.
"""

import math

import torch
from torch import Tensor

from .class_statistics import ClassStatistics


def nc1(statistics: ClassStatistics, *, weighting: str = "class") -> float:
    r"""Within-class over between-class variability, tr Σ_W / tr Σ_B, in [0, ∞).

    tr Σ_W = Σ_k w_k v_k with v_k = mean ‖h − μ_k‖², tr Σ_B = Σ_k w_k ‖μ_k − μ_G‖², w_k = 1/K or n_k/N.
    Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239); Tirer, Huang & Niles-Weed 2023.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> nc1(statistics)
        0.25
    """
    weights = _class_weights(statistics, weighting)
    variances = statistics.within_class_scatter / statistics.counts
    return _ratio(weights @ variances, weights @ _centred_means(statistics, weighting).square().sum(1))


def nc2(classifier: Tensor) -> float:
    r"""Distance of the classifier's Gram matrix to the simplex ETF's, ‖W Wᵀ/‖W Wᵀ‖_F − E*‖_F, in [0, 2].

    Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239); Zhu et al. 2021 (arXiv:2105.02375).

    Example:
        >>> round(nc2(3 * torch.eye(4) - 0.75), 6)
        0.0
        >>> round(nc2(torch.eye(4)), 6)
        0.517638
    """
    classifier = _as_classifier(classifier)
    return _distance_to_frame(classifier, classifier)


def nc3(statistics: ClassStatistics, classifier: Tensor) -> float:
    r"""One minus the mean cosine of a feature and its class's row of W, 1 − (1/N) Σ_i cos(h_i, w_{y_i}), in [0, 2].

    A zero feature counts as cosine 0. Source: Súkeník, Lampert & Mondelli 2025 (arXiv:2505.15239).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        >>> nc3(statistics, torch.tensor([[5.0, 0.0], [1.0, 0.0]]))
        0.5
    """
    classifier = _as_classifier(classifier, statistics)
    norms = torch.linalg.vector_norm(classifier, dim=1)
    cosines = torch.linalg.vecdot(statistics.direction_sums, classifier) / norms.masked_fill(norms == 0, 1)
    return float(1 - cosines.sum() / statistics.counts.sum())


def _class_weights(statistics: ClassStatistics, weighting: str) -> Tensor:
    """w_k: 1/K for "class", n_k/N for "sample"; every class must have samples."""
    if weighting not in ("class", "sample"):
        raise ValueError(f'weighting must be "class" or "sample", got {weighting!r}')
    absent = (statistics.counts == 0).nonzero().flatten().tolist()
    if absent:
        named = ", ".join(map(str, absent[:10])) + (", …" if len(absent) > 10 else "")
        raise ValueError(
            f"{len(absent)} of {statistics.num_classes} classes have no sample ({named}): "
            'pass absent="exclude" to measure the others alone'
        )
    if weighting == "sample":
        return statistics.counts / statistics.counts.sum(dtype=torch.float64)
    return torch.full_like(statistics.counts, 1 / statistics.num_classes, dtype=torch.float64)


def _centred_means(statistics: ClassStatistics, weighting: str) -> Tensor:
    """Ṁ = M − μ_G."""
    means = statistics.class_means
    return means - _class_weights(statistics, weighting) @ means


def _as_classifier(classifier: Tensor, statistics: ClassStatistics | None = None) -> Tensor:
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


def _distance_to_frame(left: Tensor, right: Tensor) -> float:
    """‖G/‖G‖_F − E*‖_F for G = left rightᵀ."""
    gram = left @ right.T
    num_classes = len(gram)
    gram /= torch.linalg.matrix_norm(gram)
    gram += 1 / (num_classes * math.sqrt(num_classes - 1))
    gram.diagonal().sub_(1 / math.sqrt(num_classes - 1))
    return float(torch.linalg.matrix_norm(gram))


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    """numerator / denominator, NaN for 0/0 and ∞ for x/0, as a number."""
    return float(numerator / denominator)
