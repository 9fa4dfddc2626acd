"""What more classes than an ETF has room for collapse to: a softmax code, of the largest one-vs-rest margin."""

import math

import torch
from torch import Tensor

from .moments import as_classifier


def softmax_code_margin(classifier: Tensor, *, return_class: bool = False) -> float | tuple[float, int]:
    r"""Least distance of a unit row of W to the convex hull of the others, min_k dist(ŵ_k, conv{ŵ_j : j ≠ k}).

    In [0, K/(K − 1)], *large* at collapse: K/(K − 1) is the simplex ETF's, where d ≥ K − 1; 1 is the largest for
    d + 1 < K ≤ 2d. 0 where a row is a mixture of others, which no logit can then single out. One quadratic programme a
    class, of K − 1 variables. NaN for a zero row.
    Source: Jiang et al. 2024 (arXiv:2310.05351), the one-vs-rest distance.

    Args:
        classifier (`Tensor`): W, K×d.
        return_class (`bool`): return `(value, k)`, with the class whose margin it is.

    Example:
        >>> round(softmax_code_margin(torch.eye(4) - 0.25), 6)
        1.333333
        >>> round(softmax_code_margin(torch.cat([torch.eye(2), -torch.eye(2)])), 6)
        1.0
    """
    directions = torch.nn.functional.normalize(as_classifier(classifier), eps=0)
    if directions.isnan().any():
        return (math.nan, int(directions.isnan().any(1).nonzero()[0])) if return_class else math.nan
    others = ~torch.eye(len(directions), dtype=torch.bool, device=directions.device)
    margins = [_distance_from_origin(directions[others[k]] - directions[k]) for k in range(len(directions))]
    least = min(margins)
    return (least, margins.index(least)) if return_class else least


def largest_margin(num_classes: int, num_features: int) -> float:
    """The largest `softmax_code_margin`; for K > 2d > 4, where it is not known, an upper bound.

    Source: Jiang et al. 2024 (arXiv:2310.05351). Fewer classes never have a smaller one, so it is at most 1 from
    K = d + 2 on.
    """
    if num_classes <= num_features + 1:
        return num_classes / (num_classes - 1)
    if num_features == 1:
        return 0.0
    if num_features == 2:
        return 1 - math.cos(2 * math.pi / num_classes)
    logarithm = math.log(2 * math.sqrt(math.pi) / num_classes)
    logarithm += math.lgamma((num_features + 1) / 2) - math.lgamma(num_features / 2)
    return min(1.0, 2 * math.exp(logarithm / (num_features - 1)))


def _distance_from_origin(points: Tensor) -> float:
    """Norm of the smallest point of the convex hull of m points, m×d.

    It is Pᵀx/Σx for the x ≥ 0 that minimises ‖Pᵀx‖² + (Σx − 1)², which Lawson & Hanson's active sets find exactly.
    """
    rows = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    target = torch.zeros_like(rows[0])
    target[-1] = 1
    tolerance = 100 * torch.finfo(torch.float64).eps
    passive = rows.square().sum(1).argmin().view(1)
    weights = _least_squares(rows[passive], target)
    # Every round lowers the objective, so that no set of rows comes twice.
    while True:
        gains = rows @ (target - weights @ rows[passive])
        gains[passive] = -torch.inf
        entering = gains.argmax()
        if gains[entering] <= tolerance:
            break
        passive, weights = torch.cat([passive, entering.view(1)]), torch.cat([weights, weights.new_zeros(1)])
        while True:
            solution = _least_squares(rows[passive], target)
            if (solution > 0).all():
                break
            falling = solution <= 0
            steps = torch.where(falling, weights / (weights - solution), 1.0)
            weights = weights + steps.min() * (solution - weights)
            kept = (weights > tolerance) & ~(falling & (steps <= steps.min()))
            passive, weights = passive[kept], weights[kept]
        weights = solution
    return float(torch.linalg.vector_norm(weights @ points[passive]) / weights.sum())


def _least_squares(rows: Tensor, target: Tensor) -> Tensor:
    return torch.linalg.lstsq(rows.T, target.unsqueeze(1), driver="gelsd").solution.squeeze(1)
