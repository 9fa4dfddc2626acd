"""The global optimum J* of the generalised unconstrained features model (GUFM).

    minimise (1/N) Σ_i ℓ(W x_i, y_i) + (λ/2) ‖W‖²  over W and over free features x_i with mean 0 and norm r.

Every network of the package, trained or not, on any data, has J(θ) ≥ J*: its features are feasible here and its
penalty contains the classifier's. The gap J(θ) − J* therefore bounds from above how far the network is from the
global optimum of its own objective.

Source: arXiv:2505.15239, lemmas 4.1 and 4.2 and theorem 4.3; the closed forms are derived from them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GUFMOptimum:
    """The optimum of a GUFM.

    Args:
        objective: J*, the fit plus the penalty.
        fit: its part (1/N) Σ ℓ.
        regularization: its part (λ/2)‖W‖².
        classifier_norm: norm of a class's row of W at the optimum, a* for balanced cross-entropy; the mean over the
            classes when their shares differ.
        logit_margin: own-class logit minus the others' mean; the mean over the classes when their shares differ.
        is_numerical: whether a numerical minimiser found it. A closed form is a certified lower bound of every
            network's objective; a numerical value is above it by the minimiser's error.
    """

    objective: float
    fit: float
    regularization: float
    classifier_norm: float
    logit_margin: float
    is_numerical: bool


def gufm_optimum(
    class_counts: Sequence[int],
    l2_coefficient: float,
    *,
    loss: str = "cross_entropy",
    radius: float = 1.0,
    hidden_size: int | None = None,
) -> GUFMOptimum:
    """Return J* and what it is made of.

    Balanced cross-entropy: J* = min_{a≥0} log(1 + (K−1) e^{−a r K/(K−1)}) + (λ/2) K a², one-dimensional and strictly
    convex; the features are r times a simplex ETF and W is a times the same frame. MSE with class shares π_k:
    J* = (λ/2) Σ_k π_k/(π_k r² + λ), at an orthogonal frame. Imbalanced cross-entropy: L-BFGS over one feature a class.

    Args:
        class_counts: n_k, positive, of the K ≥ 2 classes; only their shares matter.
        l2_coefficient: λ > 0, the one of the network at its depth.
        loss: "cross_entropy" or "mse" (½‖z − e_y‖²).
        radius: r > 0, the norm of a feature: 1 for norm_scale "unit", √d for "sqrt".
        hidden_size: d, checked when given: features have mean 0, so the simplex needs d ≥ K, the orthogonal frame of
            MSE d ≥ K + 1.

    Raises:
        ValueError: if an argument is out of its range, or d is too small, where J* has no known closed form.

    Example:

        >>> from hf_ncollapse.theory import gufm_optimum
        >>> round(gufm_optimum([200] * 10, 0.005).objective, 10)
        0.4753171891
    """
    counts = [int(count) for count in class_counts]
    num_classes = len(counts)
    if num_classes < 2 or min(counts) < 1:
        raise ValueError(f"class_counts is {counts}; it takes at least 2 classes of at least 1 sample")
    if not (math.isfinite(l2_coefficient) and l2_coefficient > 0):
        raise ValueError(f"l2_coefficient is {l2_coefficient}; it must be > 0, or the optimum is not attained")
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius is {radius}; it must be > 0")
    if loss not in ("cross_entropy", "mse"):
        raise ValueError(f"loss is {loss!r}; it takes 'cross_entropy' or 'mse'")
    frame, needed = ("simplex ETF", num_classes) if loss == "cross_entropy" else ("orthogonal frame", num_classes + 1)
    if hidden_size is not None and hidden_size < needed:
        raise ValueError(
            f"hidden_size is {hidden_size}; the {frame} of {num_classes} classes lies in the mean-zero subspace and "
            f"needs at least {needed}, so there is no J* for this network"
        )
    shares = [count / sum(counts) for count in counts]
    if loss == "mse":
        return _mse_optimum(shares, l2_coefficient, radius)
    if len(set(counts)) == 1:
        return _balanced_cross_entropy_optimum(num_classes, l2_coefficient, radius)
    return _numerical_cross_entropy_optimum(shares, l2_coefficient, radius)


def _balanced_cross_entropy_optimum(num_classes: int, l2_coefficient: float, radius: float) -> GUFMOptimum:
    """Bisect the derivative of the strictly convex one-dimensional problem to machine precision."""
    slope = radius * num_classes / (num_classes - 1)

    def derivative(a: float) -> float:
        wrong = (num_classes - 1) * math.exp(-a * slope)
        return -slope * wrong / (1 + wrong) + l2_coefficient * num_classes * a

    low, high = 0.0, slope / (l2_coefficient * num_classes)
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if derivative(middle) < 0 else (low, middle)
    fit = math.log1p((num_classes - 1) * math.exp(-middle * slope))
    regularization = l2_coefficient / 2 * num_classes * middle**2
    return GUFMOptimum(fit + regularization, fit, regularization, middle, middle * slope, is_numerical=False)


def _mse_optimum(shares: list[float], l2_coefficient: float, radius: float) -> GUFMOptimum:
    """Ridge regression on orthogonal class features: w_k = π_k r/(π_k r² + λ) along class k's direction."""
    norms = [share * radius / (share * radius**2 + l2_coefficient) for share in shares]
    fit = sum(share * (1 - norm * radius) ** 2 / 2 for share, norm in zip(shares, norms, strict=True))
    regularization = l2_coefficient / 2 * sum(norm**2 for norm in norms)
    mean_norm = sum(norms) / len(norms)
    return GUFMOptimum(fit + regularization, fit, regularization, mean_norm, mean_norm * radius, is_numerical=False)


def _numerical_cross_entropy_optimum(shares: list[float], l2_coefficient: float, radius: float) -> GUFMOptimum:
    """Minimise over one feature a class, which is enough: given W, a class's samples share their best feature.

    One start is enough as well. In the logits Z and the features' Gram matrix G the problem is convex, since the
    smallest ‖W‖² is tr(Zᵀ G⁻¹ Z), and K dimensions hold every G: no local minimum is above the global one.
    """
    num_classes = len(shares)
    weights = torch.tensor(shares, dtype=torch.float64)
    labels = torch.arange(num_classes)
    directions = torch.eye(num_classes, dtype=torch.float64, requires_grad=True)
    classifier = torch.zeros_like(directions, requires_grad=True)

    def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = radius * torch.nn.functional.normalize(directions) @ classifier.T
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return weights @ losses, l2_coefficient / 2 * classifier.square().sum(), logits

    optimizer = torch.optim.LBFGS(
        [directions, classifier],
        max_iter=5000,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        fit, regularization, _ = parts()
        # The length of a direction is free. Left so, it can grow until the gradient vanishes far from the optimum.
        lengths = directions.square().sum(dim=1)
        objective = fit + regularization + l2_coefficient / 10 * (lengths - 1).square().sum()
        objective.backward()
        return objective

    optimizer.step(closure)
    with torch.no_grad():
        fit, regularization, logits = parts()
        own = logits.diagonal()
        others = (logits.sum(dim=1) - own) / (num_classes - 1)
        norm, margin = classifier.norm(dim=1).mean(), (own - others).mean()
    values = (fit + regularization, fit, regularization, norm, margin)
    return GUFMOptimum(*(float(value) for value in values), is_numerical=True)
