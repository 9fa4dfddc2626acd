"""The global optimum J* of the generalised unconstrained features model (GUFM).

    minimise (1/N) Σ_i ℓ(W x_i + b, y_i) + (λ/2)‖W‖²  over W, b and over free features x_i with mean 0 and norm r.

Every network of the package, trained or not, on any data, has J(θ) ≥ J*: its features are feasible here and its
penalty contains the classifier's. The gap J(θ) − J* therefore bounds from above how far the network is from the
global optimum of its own objective; `split_gap` says where it is lost.

Source: arXiv:2505.15239, definition 3.5, lemmas 4.1 and 4.2, theorem 4.3; the closed forms are derived from them.
"""

from collections.abc import Sequence

from . import closed_forms
from .optimum import GUFMOptimum
from .problem import checked_gufm


def gufm_optimum(
    class_counts: Sequence[int],
    l2_coefficient: float,
    *,
    loss: str = "cross_entropy",
    radius: float,
    hidden_size: int | None = None,
    classifier_bias: bool = False,
    conflicts: Sequence[Sequence[int]] | None = None,
) -> GUFMOptimum:
    """Return J*, what it is made of, and a certified lower bound.

    In closed form, linear in K: balanced cross-entropy, where a bias changes nothing; MSE without bias, with any
    shares; balanced MSE with bias. Everything else is minimised in float64 over at most (G + K)(K + 2) numbers for G
    groups of equal samples, and certified from below by its dual: to about 1e-10 in seconds up to 1,500 numbers, above
    to about 1e-6. The certificate is exact but for the rounding of its own evaluation.

    Args:
        class_counts: n_k, positive integers, of the K ≥ 2 classes; only their shares matter.
        l2_coefficient: λ > 0, the classifier's λ_L at this depth.
        loss: "cross_entropy" or "mse" (½‖z − e_y‖²).
        radius: r > 0, the norm of a feature: √d for norm_scale "sqrt", 1 for "unit".
        hidden_size: d, checked when given: features have mean 0, so the simplex needs d ≥ K, the orthogonal frame of
            MSE without bias d ≥ K + 1, and conflicts one more: an input whose labels balance out has its best feature
            inside the ball in W's row space, and a dimension that W does not see gives it the norm r.
        classifier_bias: whether the classifier has a bias, which is not penalised.
        conflicts: (m, K) label counts of the inputs that occur with several labels. Equal inputs have equal features,
            so they raise J*. Their samples are among those of class_counts.

    Raises:
        TypeError: if a class count is not an integer.
        ValueError: if an argument is out of its range, or d is too small for J* to be attained.

    Example:

        >>> from hf_ncollapse.theory import gufm_optimum
        >>> round(gufm_optimum([200] * 10, 0.005, radius=8).objective, 10)
        0.0227593675
    """
    problem = checked_gufm(
        class_counts,
        l2_coefficient,
        loss=loss,
        radius=radius,
        hidden_size=hidden_size,
        classifier_bias=classifier_bias,
        conflicts=conflicts,
    )
    if problem.frame == "orthogonal" and not problem.has_conflicts:
        return closed_forms.mse(problem)
    if problem.is_balanced and not problem.has_conflicts:
        balanced = closed_forms.balanced_mse_with_bias if loss == "mse" else closed_forms.balanced_cross_entropy
        return balanced(problem)
    from .numerical import numerical  # torch takes longer to import than a closed form to compute

    return numerical(problem)
