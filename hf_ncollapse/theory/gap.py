"""The exact split of the gap J − J*, and what it proves about collapse.

Let groups g of equal samples have shares ω_g, label distributions T_g, mean features μ_g and within-group variances
v_g = r² − ‖μ_g‖². For any rows q_g (probabilities for cross-entropy, logits for MSE) let u_g = T_g − q_g; with a
classifier bias, Σ_g ω_g u_g = 0. The losses are

    cross-entropy  −⟨T, z⟩ + log Σ e^z           = H(q) − ⟨u, z⟩ + KL(q ‖ softmax z)
    MSE            ½‖z‖² − ⟨T, z⟩ + ½            = ½ − ½‖q‖² − ⟨u, z⟩ + ½‖z − q‖²

and Σ_g ω_g ⟨u_g, W μ_g⟩ = λ⟨W, W_ls⟩ with W_ls = (1/λ) Σ_g ω_g u_g μ_gᵀ completes a square with (λ/2)‖W‖². With
M_jk = ω_j ω_k ⟨u_j, u_k⟩, the Gram matrix G of the μ_g and any δ with Diag(δ) ⪰ M, ‖λ W_ls‖² = tr(MG) gives

    J = [const − (r²/2λ) Σ δ_g] + body + fit + classifier + spread,

    const       Σ_g ω_g H(q_g), or ½ − ½ Σ_g ω_g ‖q_g‖²
    body        the penalty of everything but the classifier
    fit         the mean of KL(q ‖ softmax z), or of ½‖z − q‖²
    classifier  (λ/2)‖W − W_ls‖²
    spread      (1/2λ) [Σ_g δ_g v_g + tr((Diag δ − M) G)]

Every term after the bracket is ≥ 0, so the bracket is a lower bound of every J, and equals J* at the optimum's q and
δ_g = (MG)_gg/r². Where collapse is the simplex, u_k = c (e_k − 1/K), δ_k = c²/K² and spread = (c²/2λK) (tr Σ_W +
‖μ_G‖²); MSE without bias has u_k = c_k e_k, δ_k = (π_k c_k)² and spread = (1/2λ) Σ (π_k c_k)² v_k.

**Bounds**, balanced. Let F = gap − body, t = 2λKF/(c²r²), α = c/(λK), W = W_ls + e, ε_k = e_k/(αr),
τ = tr Σ_W/r² = mean v_k/r², and g = μ_G/r for the simplex, 0 for the orthogonal frame. The split says
τ + ‖g‖² + mean ‖ε_k‖² ≤ t.

- NC1, simplex: tr Σ_B/r² = 1 − τ − ‖g‖², so NC1 ≤ t/(1 − t).
- NC1, orthogonal: tr Σ_B/r² = 1 − τ − ‖μ_G‖²/r² and ‖μ_G‖²/r² ≤ (1 + D)/K with D = ‖G/r² − I‖. As W μ_j is
  near q_j = αr² e_j, G/r² − I = (R − e U)/(αr²) where ‖R‖² ≤ 2K fit, ‖e‖² = 2 classifier/λ, ‖U‖² ≤ r²(1 + D): by
  Cauchy (αr²)² D² ≤ 2F (K + r²(1 + D)/λ), a quadratic in D.
- NC3: w_k/(αr) = m + h with m = μ_k/r and h = ε_k − g, and class k's share of NC3 is 1 − ⟨m, m + h⟩/‖m + h‖. Since m
  is at most ‖h‖ from that line, with s_k = v_k/r² + ‖h‖² it is at most 1 − √(‖m‖² − ‖h‖²) = 1 − √(1 − s_k) if
  s_k < 1, and 2 otherwise. Σ s_k ≤ S: S = K t for the orthogonal frame and 2K t for the simplex, where
  mean ‖ε_k − g‖² ≤ 2 (‖g‖² + mean ‖ε_k‖²). A function convex on [0, 1) that jumps to 2 at 1 has its largest sum with
  ⌊S⌋ of the s_k at 1 and one at the rest ρ = S − ⌊S⌋: **NC3 ≤ (2⌊S⌋ + 1 − √(1 − ρ))/K**, which is never above
  2S/K and tends to S/(2K).

NC2 has no bound here: from `fit`, by Pinsker, it needs KL < q_min²/2, below what training reaches.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .optimum import GUFMOptimum

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GapSplit:
    """The parts of J − lower_bound, each ≥ 0, and what they prove.

    Args:
        body: penalty of everything but the classifier.
        fit: mean of KL(q_y ‖ p), or for MSE of ½‖z − q_y‖²: distance of the outputs from the optimum's.
        classifier: (λ/2)‖W − W_ls‖²: distance of W from the one that fits these features.
        spread: within-class variance, and class means off their frame.
        total: their sum.
        nc1_bound: NC1 is at most this; None where nothing is proved.
        nc3_bound: NC3 is at most this; None where nothing is proved.
    """

    body: float
    fit: float
    classifier: float
    spread: float
    total: float
    nc1_bound: float | None
    nc3_bound: float | None


def split_gap(
    optimum: GUFMOptimum,
    *,
    classifier: "Tensor",
    class_means: "Tensor",
    within_class_variances: "Tensor",
    mean_scores: "Tensor",
    mean_squared_logits: "float | Tensor | None" = None,
    body: "float | Tensor",
) -> GapSplit:
    """Split a network's J − lower_bound into its parts: where it is lost to the global optimum.

    Args:
        optimum: of the network's own loss, λ, radius, bias and class counts.
        classifier: W, (K, d).
        class_means: μ_k, (K, d), of features of norm r.
        within_class_variances: v_k, the mean of ‖x − μ_k‖² over class k, (K,).
        mean_scores: (K, K); row k is the mean over class k of log softmax(z), for MSE of the logits z, bias included.
        mean_squared_logits: the mean of ‖z‖² over all samples, for MSE alone.
        body: the penalty of everything but the classifier, ≥ 0.

    Raises:
        ValueError: if a shape does not fit, mean_squared_logits is missing for MSE, or the optimum has conflicts: its
            groups are not the classes then.

    Source: module docstring.
    """
    import torch  # which J* can do without

    problem, dual = optimum.problem, optimum.dual
    if problem.has_conflicts:
        raise ValueError("optimum has conflicts; the gap is split for consistent labels only")
    if mean_squared_logits is None:
        if problem.loss == "mse":
            raise ValueError("mean_squared_logits is None; the fit of loss 'mse' takes the mean of ‖z‖²")
        mean_squared_logits = 0.0  # not read
    num_classes, width = problem.num_classes, classifier.shape[-1]
    tensors = {
        "classifier": (classifier, (num_classes, width)),
        "class_means": (class_means, (num_classes, width)),
        "within_class_variances": (within_class_variances, (num_classes,)),
        "mean_scores": (mean_scores, (num_classes, num_classes)),
    }
    for name, (tensor, shape) in tensors.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it takes {shape}")
    classifier, means, variances, scores = (tensor.detach().cpu().double() for tensor, _ in tensors.values())

    shares, targets, multipliers = map(torch.from_numpy, (problem.shares, dual.targets(), dual.multipliers))
    penalty = problem.l2_coefficient
    weighted_targets = shares[:, None] * targets
    if problem.loss == "cross_entropy":
        fit = -(torch.special.entr(targets).sum(dim=1) @ shares) - (weighted_targets * scores).sum()
    else:
        fit = (float(mean_squared_logits) + (weighted_targets * (targets - 2 * scores)).sum()) / 2
    scaled_least_squares = (torch.diag(shares) - weighted_targets).T @ means  # λ W_ls
    distance = penalty / 2 * (classifier - scaled_least_squares / penalty).square().sum()
    off_frame = multipliers @ means.square().sum(dim=1) - scaled_least_squares.square().sum()
    spread = (multipliers @ variances + off_frame.clamp(min=0)) / (2 * penalty)
    # Only rounding makes a part negative.
    parts = [float(body), *(max(float(part), 0.0) for part in (fit, distance, spread))]
    nc1_bound, nc3_bound = _collapse_bounds(optimum, sum(parts[1:]))
    return GapSplit(
        body=parts[0],
        fit=parts[1],
        classifier=parts[2],
        spread=parts[3],
        total=sum(parts),
        nc1_bound=nc1_bound,
        nc3_bound=nc3_bound,
    )


def _collapse_bounds(optimum: GUFMOptimum, excess: float) -> tuple[float | None, float | None]:
    """Bounds of NC1 and NC3 by the excess F = gap − body; None where the optimum is no frame or they say nothing."""
    problem = optimum.problem
    if optimum.is_numerical or not problem.is_balanced:
        return None, None
    num_classes, penalty, radius = problem.num_classes, problem.l2_coefficient, problem.radius
    pull = math.sqrt(dual_multiplier := float(optimum.dual.multipliers[0]))  # c/K
    t = 2 * penalty * excess / (num_classes * dual_multiplier * radius**2)
    mean_share = 0.0  # of ‖μ_G‖²/r² beyond the part that t bounds
    if problem.frame == "orthogonal":
        a, b = (pull / penalty * radius**2) ** 2, 2 * excess * radius**2 / penalty
        deviation = (b + math.sqrt(b**2 + 4 * a * (b + 2 * excess * num_classes))) / (2 * a)
        mean_share = (1 + deviation) / num_classes
    nc1_bound = t / (1 - t - mean_share) if t + mean_share < 1 else None
    total = num_classes * t * (2 if problem.frame == "simplex" else 1)  # S
    whole, rest = math.floor(total), total - math.floor(total)
    nc3_bound = (2 * whole + 1 - math.sqrt(1 - rest)) / num_classes if total < num_classes else None
    return nc1_bound, nc3_bound
