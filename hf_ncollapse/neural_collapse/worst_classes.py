"""The collapse of single classes: a table of all, and the worst of them, which a mean over classes hides."""

import torch
from torch import Tensor

from .moments import Statistics, as_classifier, between_class_trace, centred_means, class_variances
from .pairs import for_products, tiles


def per_class(
    statistics: Statistics, *, classifier: Tensor | None = None, weighting: str = "class"
) -> dict[str, Tensor]:
    r"""What each class contributes, as tensors of K values.

    Returns:
        `dict`: `count` n_k; `variance` v_k = mean ‖h − μ_k‖²; `nc1` v_k/tr Σ_B, whose weighted mean is `nc1`;
        `nearest_class`, the class whose centred mean has the largest cosine with ṁ_k, and `nearest_cosine`, that
        cosine (−1/(K − 1) at a simplex ETF); with a classifier `alignment`, cos(w_k, ṁ_k) (1 at exact collapse).

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))
        >>> {name: values.tolist() for name, values in per_class(statistics).items() if name in ("variance", "nc1")}
        {'variance': [1.0, 0.0], 'nc1': [0.4444444444444444, 0.0]}
    """
    nearest_cosines, nearest_classes = _nearest(centred_means(statistics, weighting))
    variances = class_variances(statistics)
    table = {
        "count": statistics.counts,
        "variance": variances,
        "nc1": variances / between_class_trace(statistics, weighting),
        "nearest_class": nearest_classes,
        "nearest_cosine": nearest_cosines,
    }
    if classifier is not None:
        table["alignment"] = _alignments(statistics, classifier, weighting)
    return table


def nc1_worst(
    statistics: Statistics, *, weighting: str = "class", return_class: bool = False
) -> float | tuple[float, int]:
    r"""`nc1` of the class that scatters most, max_k v_k/tr Σ_B, in [0, ∞).

    Args:
        return_class (`bool`): return `(value, k)`.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))
        >>> nc1_worst(statistics, return_class=True)
        (0.4444444444444444, 0)
    """
    value, worst = (class_variances(statistics) / between_class_trace(statistics, weighting)).max(0)
    return (float(value), int(worst)) if return_class else float(value)


def nc2_worst(
    statistics: Statistics, *, weighting: str = "class", return_pair: bool = False
) -> float | tuple[float, tuple[int, int]]:
    r"""`nc2_equiangular` of the two classes closest in angle, max over pairs of cos(ṁ_j, ṁ_k) + 1/(K − 1).

    In [0, K/(K − 1)]: no K centred vectors of equal weight can keep all cosines below −1/(K − 1).

    Args:
        return_pair (`bool`): return `(value, (j, k))` with j < k.

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, -1.0]]), torch.arange(3))
        >>> value, pair = nc2_worst(statistics, return_pair=True)
        >>> round(value, 4), pair
        (1.2071, (0, 1))
    """
    cosines, others = _nearest(centred_means(statistics, weighting))
    cosine, worst = cosines.max(0)
    value = max(0.0, float(cosine) + 1 / (len(cosines) - 1)) if cosine == cosine else float("nan")
    first, second = sorted((int(worst), int(others[worst])))
    return (value, (first, second)) if return_pair else value


def nc3_worst(
    statistics: Statistics, classifier: Tensor, *, weighting: str = "class", return_class: bool = False
) -> float | tuple[float, int]:
    r"""One minus the cosine of a class's row of W and its centred mean, at the worst class, in [0, 2].

    max_k 1 − cos(w_k, ṁ_k); the cosines whose variance is `nc3_uniformity` of Wu & Papyan 2024 (arXiv:2405.17767).

    Args:
        return_class (`bool`): return `(value, k)`.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.arange(2))
        >>> nc3_worst(statistics, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), return_class=True)
        (1.0, 1)
    """
    value, worst = (1 - _alignments(statistics, classifier, weighting)).clamp(min=0).max(0)
    return (float(value), int(worst)) if return_class else float(value)


def _alignments(statistics: Statistics, classifier: Tensor, weighting: str) -> Tensor:
    """cos(w_k, ṁ_k), K values."""
    classifier, means = as_classifier(classifier, statistics), centred_means(statistics, weighting)
    return torch.nn.functional.cosine_similarity(classifier, means, eps=0)


def _nearest(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """For each of K vectors the largest cosine with another, and which one that is."""
    directions = for_products(torch.nn.functional.normalize(vectors, eps=0))
    largest = torch.full((len(vectors),), -torch.inf, dtype=directions.dtype, device=vectors.device)
    nearest = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    for rows, columns in tiles(len(vectors)):
        cosines = directions[rows] @ directions[columns].T
        if rows == columns:
            cosines.fill_diagonal_(-torch.inf)
        for own, others, tile in ((rows, columns, cosines), (columns, rows, cosines.T))[: 1 + (rows != columns)]:
            # The largest value is found ten times faster than its position, which few rows need after the first tiles.
            closer = (~(tile.amax(1) <= largest[own])).nonzero().flatten()  # NaN, of a mean without direction, is told
            values, indices = tile[closer].max(1)
            largest[own.start + closer], nearest[own.start + closer] = values, indices + others.start
    exact = torch.nn.functional.cosine_similarity(vectors, vectors[nearest], eps=0)
    return exact, nearest
