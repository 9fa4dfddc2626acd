"""The optima of a GUFM that have a closed form, in time and memory linear in the number of classes.

All have q_k = e_k − c_k e_k (orthogonal frame) or e_k − c (e_k − 1/K) (simplex), hence δ_k = (π_k c_k)²; see
`theory.gap`.
"""

import math

import numpy as np

from .optimum import Dual, GUFMOptimum
from .problem import GUFM


def balanced_cross_entropy(problem: GUFM) -> GUFMOptimum:
    """min_{a≥0} log(1 + (K−1) e^{−a r K/(K−1)}) + (λ/2) K a²: strictly convex, bisected to machine precision.

    The features are r times a simplex ETF and W is a times the same frame; a bias would be 0.
    """
    num_classes, penalty = problem.num_classes, problem.l2_coefficient
    slope = problem.radius * num_classes / (num_classes - 1)

    def wrong_probability(a: float) -> float:
        wrong = math.exp(-a * slope)
        return wrong / (1 + (num_classes - 1) * wrong)

    low, high = 0.0, slope / (penalty * num_classes)
    while low < (middle := (low + high) / 2) < high:
        falls = penalty * num_classes * middle < slope * (num_classes - 1) * wrong_probability(middle)
        low, high = (middle, high) if falls else (low, middle)
    other = wrong_probability(middle)
    fit = math.log1p((num_classes - 1) * math.exp(-middle * slope))
    own = math.exp(-fit)
    # −log of another class's probability is the fit plus the margin.
    entropy = own * fit + (num_classes - 1) * other * (fit + middle * slope)
    return _simplex(problem, fit, middle, middle * slope, own, other, entropy)


def balanced_mse_with_bias(problem: GUFM) -> GUFMOptimum:
    """J* = (λ/2)(K−1)²/(K (r² + λ(K−1))), at a simplex ETF with b = 1/K."""
    num_classes, penalty = problem.num_classes, problem.l2_coefficient
    residual = penalty * (num_classes - 1) / (problem.radius**2 + penalty * (num_classes - 1))  # c
    norm = residual * problem.radius / (penalty * num_classes)
    fit = residual**2 * (1 - 1 / num_classes) / 2
    # ½ − ½‖q‖² with ‖q‖² = (1 − c)² + (1 − (1 − c)²)/K.
    constant = (1 - 1 / num_classes) * residual * (2 - residual) / 2
    own = 1 - residual * (1 - 1 / num_classes)
    return _simplex(problem, fit, norm, 1 - residual, own, residual / num_classes, constant)


def _simplex(
    problem: GUFM, fit: float, norm: float, margin: float, own: float, other: float, constant: float
) -> GUFMOptimum:
    """The optimum whose W is norm times a simplex ETF; q has `own` on the label and `other` elsewhere."""
    num_classes, penalty = problem.num_classes, problem.l2_coefficient
    multipliers = np.full(num_classes, other**2)  # c/K = q_other
    bound = constant - problem.radius**2 / (2 * penalty) * num_classes * other**2
    regularization = penalty / 2 * num_classes * norm**2
    dual = Dual(bound, multipliers, np.array(other), np.full(num_classes, own))
    return GUFMOptimum(
        fit + regularization, fit, regularization, bound, norm, margin,
        is_numerical=False, nc2=0.0, nc3=0.0, problem=problem, dual=dual,
    )  # fmt: skip


def mse(problem: GUFM) -> GUFMOptimum:
    """J* = (λ/2) Σ_k π_k/(π_k r² + λ), without bias: ridge regression on the orthogonal features of the classes.

    w_k = π_k r/(π_k r² + λ) along class k's feature, c_k = λ/(π_k r² + λ).
    """
    penalty, radius, shares = problem.l2_coefficient, problem.radius, problem.shares
    residuals = penalty / (shares * radius**2 + penalty)
    norms = shares * radius / (shares * radius**2 + penalty)
    multipliers = (shares * residuals) ** 2
    fit = float((shares * residuals**2).sum() / 2)
    powers = norms**2  # the diagonal of WWᵀ, which has nothing else
    regularization = float(penalty / 2 * powers.sum())
    constant = (shares * residuals * (2 - residuals)).sum() / 2
    bound = float(constant - radius**2 / (2 * penalty) * multipliers.sum())
    dual = Dual(bound, multipliers, np.zeros(()), 1 - residuals)
    return GUFMOptimum(
        fit + regularization, fit, regularization, bound, float(norms.mean()), float((1 - residuals).mean()),
        is_numerical=False, nc2=float(np.linalg.norm(powers - powers.mean()) / np.linalg.norm(powers)), nc3=0.0,
        problem=problem, dual=dual,
    )  # fmt: skip
