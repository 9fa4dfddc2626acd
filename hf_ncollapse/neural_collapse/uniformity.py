"""How evenly class means and the classifier's rows spread: equal lengths, equal angles, and hyperspherical uniformity.

All are of NC2, 0 at exact collapse; `gnc2` is at its simplex value there. Notation as in `measures`.
"""

import math

import torch
from torch import Tensor

from .moments import Statistics, as_classifier, centred_means
from .pairs import for_products, mean_over_pairs, squared_distances


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
    return _equinorm(centred_means(statistics, weighting))


def nc2_equinorm_classifier(classifier: Tensor) -> float:
    r"""`nc2_equinorm` of the classifier's rows, std_k ‖w_k‖ / mean_k ‖w_k‖, in [0, √(K − 1)].

    Example:
        >>> nc2_equinorm_classifier(torch.tensor([[3.0, 4.0], [0.0, -15.0]]))
        0.5
    """
    return _equinorm(as_classifier(classifier))


def nc2_equiangular(statistics: Statistics, *, weighting: str = "class") -> float:
    r"""Mean over pairs of |cos(ṁ_j, ṁ_k) + 1/(K − 1)|, in [0, K/(K − 1)].

    Source: Papyan, Han & Donoho 2020 (arXiv:2008.08186).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(nc2_equiangular(statistics), 6)
        0.0
    """
    return _equiangular(centred_means(statistics, weighting))


def nc2_equiangular_classifier(classifier: Tensor) -> float:
    r"""`nc2_equiangular` of the classifier's rows, mean over pairs of |cos(w_j, w_k) + 1/(K − 1)|.

    Example:
        >>> nc2_equiangular_classifier(torch.eye(3))
        0.5
    """
    return _equiangular(as_classifier(classifier))


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
    directions = torch.nn.functional.normalize(centred_means(statistics, weighting), eps=0)
    distances = squared_distances(directions)
    return -0.5 * mean_over_pairs(len(directions), lambda rows, columns: distances(rows, columns).log_())


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
    return above_etf(gnc2(statistics, weighting=weighting), statistics.num_classes)


def above_etf(gnc2: float, num_classes: int) -> float:
    """`gnc2_excess`, for those who have `gnc2` already."""
    return gnc2 + 0.5 * math.log(2 * num_classes / (num_classes - 1))


def _equinorm(vectors: Tensor) -> float:
    norms = torch.linalg.vector_norm(vectors, dim=1)
    return float(norms.std(correction=0) / norms.mean())


def _equiangular(vectors: Tensor) -> float:
    directions = for_products(torch.nn.functional.normalize(vectors, eps=0))
    target = 1 / (len(vectors) - 1)
    return mean_over_pairs(
        len(vectors), lambda rows, columns: (directions[rows] @ directions[columns].T).add_(target).abs_()
    )
