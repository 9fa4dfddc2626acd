"""The optimum of a GUFM that has no closed form, by a minimiser, and the dual point that certifies it."""

import torch

from .closed_forms import balanced_cross_entropy, balanced_mse_with_bias
from .minimize import minimize
from .optimum import Dual, GUFMOptimum
from .problem import GUFM


def numerical(problem: GUFM) -> GUFMOptimum:
    """Minimise over one feature a group, which is enough: given W and b, a group's samples share their best features.

    One start is enough as well. In the logits Z and the features' Gram matrix G the problem is convex, since the
    smallest ‖W‖² is tr(Zᵀ G⁻¹ Z); features in more dimensions than W has rows leave no local minimum above the global
    one, and the dual shows that the minimiser has found it.
    """
    shares, labels = map(torch.from_numpy, problem.groups())
    num_groups, num_classes, width = len(shares), problem.num_classes, problem.num_classes + 2
    radius, penalty, is_mse = problem.radius, problem.l2_coefficient, problem.loss == "mse"
    # Of a row of W for equal classes, the unit of W: without one the problem is badly conditioned.
    scale = (balanced_mse_with_bias if is_mse else balanced_cross_entropy)(problem).classifier_norm
    sizes = [num_groups * width, 0 if is_mse else num_classes * width, 0 if is_mse else num_classes]

    def unpack(variables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Directions of the features (G, p), W (K, p) and logits (G, K)."""
        directions, rows, bias = variables.split(sizes)
        directions = directions.view(num_groups, width)
        features = radius * torch.nn.functional.normalize(directions)
        if is_mse:
            classifier, bias = _ridge_regression(problem, shares, labels, features)
        else:
            classifier = scale * rows.view(num_classes, width)
        logits = features @ classifier.T
        return directions, classifier, logits + bias if problem.classifier_bias else logits

    def parts(classifier: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return shares @ losses(logits, labels, problem.loss), penalty / 2 * classifier.square().sum()

    def function(variables: torch.Tensor) -> torch.Tensor:
        directions, classifier, logits = unpack(variables)
        # The length of a direction is free. Left so, it can grow until the gradient vanishes far from the optimum.
        lengths = directions.square().sum(dim=1)
        return sum(parts(classifier, logits)) + penalty * scale**2 / 10 * (lengths - 1).square().sum()

    # Noise in every dimension: gradients alone would never leave the span of the labels.
    generator = torch.Generator().manual_seed(0)
    start = torch.nn.functional.pad(torch.nn.functional.normalize(labels), (0, 2))
    start += 0.01 * torch.randn(start.shape, dtype=torch.float64, generator=generator)
    start = torch.cat([start.flatten(), start.new_zeros(sum(sizes[1:]))])
    directions, classifier, logits = unpack(minimize(function, start))

    fit, regularization = (float(part) for part in parts(classifier, logits))
    dual = certified_dual(problem, shares, labels, logits, classifier)
    weights = shares[:, None] * labels  # of label k in group g, over all samples
    class_shares = torch.from_numpy(problem.shares)
    margins = (num_classes * logits - logits.sum(dim=1, keepdim=True)) / (num_classes - 1)
    cosines = torch.nn.functional.normalize(directions) @ torch.nn.functional.normalize(classifier).T
    return GUFMOptimum(
        objective=fit + regularization,
        fit=fit,
        regularization=regularization,
        lower_bound=dual.value,
        classifier_norm=float(classifier.norm(dim=1).mean()),
        logit_margin=float(((weights * margins).sum(dim=0) / class_shares).mean()),
        is_numerical=True,
        nc2=_distance_from_frame(classifier, problem.frame),
        nc3=float(1 - (weights * cosines).sum()),
        problem=problem,
        dual=dual,
    )


def _ridge_regression(
    problem: GUFM, shares: torch.Tensor, labels: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best W (K, p) and b (K,) of MSE for given features (G, p)."""
    centre = shares @ features * problem.classifier_bias
    prior = torch.from_numpy(problem.shares * problem.classifier_bias)
    centred = features - centre
    weighted = shares[:, None] * centred
    gram = weighted.T @ centred + problem.l2_coefficient * torch.eye(features.shape[1], dtype=torch.float64)
    classifier = torch.linalg.solve(gram, weighted.T @ (labels - prior)).T
    return classifier, prior - classifier @ centre


def losses(logits: torch.Tensor, labels: torch.Tensor, loss: str) -> torch.Tensor:
    """Σ_k T_gk ℓ(z_g, k) of groups with label distributions T (G, K), (G,)."""
    if loss == "cross_entropy":
        return -(labels * logits.log_softmax(dim=1)).sum(dim=1)
    return logits.square().sum(dim=1) / 2 - (labels * logits).sum(dim=1) + 0.5


def certified_dual(
    problem: GUFM, shares: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, classifier: torch.Tensor
) -> Dual:
    """Make a feasible point of the dual out of the minimiser's point, however far from the optimum that is.

    Feasible is a q with Σ_g ω_g u_g = 0 if there is a bias, and a δ with Diag(δ) ⪰ M = BBᵀ, B = Diag(ω)(T − q).

    Args:
        shares: ω, (G,).
        labels: T, (G, K).
        logits: (G, K).
        classifier: W, (K, p).
    """
    targets = logits.softmax(dim=1) if problem.loss == "cross_entropy" else logits
    if problem.classifier_bias:
        # At the optimum the bias' gradient Σ ω_g u_g is 0; what the minimiser left of it is spread evenly.
        targets = targets + shares @ (labels - targets)
        if problem.loss == "cross_entropy":
            # Moved towards the shares, which satisfy the constraint as well, until no probability is negative.
            class_shares, missing = torch.from_numpy(problem.shares), (-targets).clamp(min=0)
            targets = targets.lerp(class_shares, float((missing / (class_shares + missing)).max()))
    factors = shares[:, None] * (labels - targets)  # B
    # At the optimum Wᵀ B_g = η_g x_g with δ_g = λ η_g, so this δ is optimal there. By Schur's complement
    # Diag(δ) ⪰ BBᵀ where Bᵀ Diag(δ)⁻¹ B ⪯ I, which a factor makes true anywhere. The floor keeps δ > 0.
    multipliers = problem.l2_coefficient / problem.radius * (factors @ classifier).norm(dim=1)
    multipliers = multipliers + 1e-12 * multipliers.mean() + torch.finfo(torch.float64).tiny
    scaled = factors / multipliers.sqrt()[:, None]
    multipliers = multipliers * torch.linalg.eigvalsh(scaled.T @ scaled)[-1]
    constants = (torch.special.entr(targets) if problem.loss == "cross_entropy" else -targets.square() / 2).sum(dim=1)
    constant = shares @ constants + (0.5 if problem.loss == "mse" else 0.0)
    bound = constant - problem.radius**2 / (2 * problem.l2_coefficient) * multipliers.sum()
    return Dual(float(bound), multipliers.numpy(), targets.numpy())


def _distance_from_frame(classifier: torch.Tensor, frame: str) -> float:
    """min_{c≥0} ‖WWᵀ − cE‖_F/‖WWᵀ‖_F."""
    gram = classifier @ classifier.T
    goal = torch.eye(len(gram), dtype=gram.dtype) - (1 / len(gram) if frame == "simplex" else 0)
    scale = ((gram * goal).sum() / goal.square().sum()).clamp(min=0)
    return float((gram - scale * goal).norm() / gram.norm())
