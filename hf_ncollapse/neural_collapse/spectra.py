"""Measures of eigenvalues: the variability collapse index, and the ranks of features and classifier.

Σ_T = Σ_W + Σ_B; under `weighting="sample"` it is the covariance of all features.
"""

import torch
from torch import Tensor

from .moments import (
    Batches,
    SecondLookNeeded,
    Statistics,
    as_classifier,
    between_class_factor,
    between_class_whitening,
    is_one_pass,
    rounding_error,
    single_rounding,
    within_class_covariance,
)

_RELATIVE_ERROR = 1e-6
# Nobody compares ranks to more than this.
_RELATIVE_ERROR_OF_RANKS = 1e-3


def vci(statistics: Statistics, *, weighting: str = "class", batches: Batches | None = None) -> float:
    r"""Variability collapse index, 1 − tr(Σ_T⁺ Σ_B)/rank Σ_B, in [0, 1].

    The share of the scatter along the class means that is within classes; no invertible linear map of the features
    changes it. Eigenvalues of Σ_T below d·ε of the largest count as 0 (ε of float64). NaN where all class means
    coincide. Source: Xu & Liu 2023 (arXiv:2306.03440).

    Args:
        statistics: made with `second_moment=True`.
        weighting (`str`): "class", "sample" or "hybrid".
        batches: the samples once more, as for `nc1_pinv`.

    Raises:
        SecondLookNeeded: `batches` are needed and not given.

    Example:
        >>> statistics = ClassStatistics(2, second_moment=True)
        >>> features = torch.tensor([[1.0, 5.0], [3.0, -5.0], [-1.0, 5.0], [-3.0, -5.0]])
        >>> statistics.update(features, torch.tensor([0, 0, 1, 1]))
        >>> round(vci(statistics), 6)
        0.2
    """
    rank = between_class_whitening(statistics, weighting).shape[1]
    if rank == 0:
        return float("nan")
    factor = between_class_factor(statistics, weighting)

    def of(within: Tensor) -> tuple[float, float]:
        """1 − tr(Σ_T⁺ Σ_B)/rank, and how much float32 products may have changed it."""
        eigenvalues, directions = _spectrum(within + factor.T @ factor)
        components = factor @ directions / eigenvalues.sqrt()
        value = max(0.0, 1 - float(components.square().sum()) / rank)
        error = rounding_error(statistics, directions @ (components / eigenvalues.sqrt()).T) / rank
        return value, error

    if is_one_pass(statistics, weighting):
        value, error = of(within_class_covariance(statistics, weighting))
        if error <= _RELATIVE_ERROR * value:
            return value
    _require(batches, "vci", statistics, weighting)
    return of(within_class_covariance(statistics, weighting, batches))[0]


def stable_rank(statistics: Statistics, *, weighting: str = "class", batches: Batches | None = None) -> float:
    r"""Stable rank of the features about their mean, tr Σ_T/λ_1(Σ_T) = ‖H‖_F²/‖H‖₂², in [1, d]; NaN for constant ones.

    K − 1 at exact collapse to a simplex ETF. Source: Rudelson & Vershynin 2007 (arXiv:math/0503442).

    Args:
        statistics: made with `second_moment=True`.
        weighting (`str`): "class", "sample" or "hybrid".
        batches: the samples once more, needed for unequal class counts under `weighting="class"`.

    Raises:
        SecondLookNeeded: `batches` are needed and not given.

    Example:
        >>> statistics = ClassStatistics(3, second_moment=True)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(stable_rank(statistics), 6)
        2.0
    """
    if not is_one_pass(statistics, weighting):
        _require(batches, "stable_rank", statistics, weighting)
    else:
        batches = None
    eigenvalues = torch.linalg.eigvalsh(_total_covariance(statistics, weighting, batches))
    return _stable_rank(_significant(eigenvalues).sqrt())


def effective_rank(statistics: Statistics, *, weighting: str = "class", batches: Batches | None = None) -> float:
    r"""Effective rank of the features about their mean, exp(−Σ_i p_i log p_i), p_i = σ_i/Σ_j σ_j, in [1, d].

    σ_i² are the eigenvalues of Σ_T, those below d·ε of the largest left out; NaN for constant features. K − 1 at exact
    collapse to a simplex ETF. Source: Roy & Vetterli 2007 (EUSIPCO).

    Args:
        statistics: made with `second_moment=True`.
        weighting (`str`): "class", "sample" or "hybrid".
        batches: the samples once more, needed for unequal class counts under `weighting="class"`, and where float32
            products would change the rank by more than 0.1%.

    Raises:
        SecondLookNeeded: `batches` are needed and not given.

    Example:
        >>> statistics = ClassStatistics(3, second_moment=True)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(effective_rank(statistics), 6)
        2.0
    """
    if is_one_pass(statistics, weighting):
        eigenvalues = torch.linalg.eigvalsh(_total_covariance(statistics, weighting, None))
        value = _effective_rank(_significant(eigenvalues).sqrt())
        error = single_rounding(statistics)
        shifted = [_effective_rank(_significant(eigenvalues + shift).sqrt()) for shift in (-error, error)]
        if not max(abs(rank - value) for rank in shifted) > _RELATIVE_ERROR_OF_RANKS * value:
            return value
    _require(batches, "effective_rank", statistics, weighting)
    eigenvalues = torch.linalg.eigvalsh(_total_covariance(statistics, weighting, batches))
    return _effective_rank(_significant(eigenvalues).sqrt())


def stable_rank_classifier(classifier: Tensor) -> float:
    r"""`stable_rank` of the classifier, ‖W‖_F²/‖W‖₂², in [1, min(K, d)]; NaN for W = 0. K − 1 at a simplex ETF.

    Source: Rudelson & Vershynin 2007 (arXiv:math/0503442).

    Example:
        >>> round(stable_rank_classifier(torch.eye(4) - 0.25), 6)
        3.0
    """
    return _stable_rank(torch.linalg.svdvals(as_classifier(classifier)))


def effective_rank_classifier(classifier: Tensor) -> float:
    r"""`effective_rank` of the classifier, of W's singular values, in [1, min(K, d)]; NaN for W = 0. K − 1 at an ETF.

    Source: Roy & Vetterli 2007 (EUSIPCO).

    Example:
        >>> round(effective_rank_classifier(torch.eye(4) - 0.25), 6)
        3.0
    """
    return _effective_rank(torch.linalg.svdvals(as_classifier(classifier)))


def _total_covariance(statistics: Statistics, weighting: str, batches: Batches | None) -> Tensor:
    factor = between_class_factor(statistics, weighting)
    return within_class_covariance(statistics, weighting, batches) + factor.T @ factor


def _spectrum(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues that are not rounding, and their eigenvectors as columns."""
    eigenvalues, directions = torch.linalg.eigh(covariance)
    kept = len(_significant(eigenvalues))
    return eigenvalues[len(eigenvalues) - kept :], directions[:, len(eigenvalues) - kept :]


def _significant(eigenvalues: Tensor) -> Tensor:
    """Of ascending eigenvalues those above d·ε of the largest."""
    return eigenvalues[eigenvalues > len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues[-1]]


def _stable_rank(singular_values: Tensor) -> float:
    if len(singular_values) == 0:
        return float("nan")
    return float((singular_values / singular_values.max()).square().sum())


def _effective_rank(singular_values: Tensor) -> float:
    if len(singular_values) == 0:
        return float("nan")
    shares = singular_values / singular_values.sum()
    return float(torch.special.entr(shares).sum().exp())


def _require(batches: Batches | None, name: str, statistics: Statistics, weighting: str) -> None:
    if batches is not None:
        return
    if is_one_pass(statistics, weighting):
        raise SecondLookNeeded(name, "float32 rounds off small eigenvalues; pass batches, or features in float64")
    raise SecondLookNeeded(name, 'class counts differ; pass batches, or another weighting than "class"')
