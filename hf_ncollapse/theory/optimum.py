"""What `gufm_optimum` returns: the optimum J* of a GUFM, and the dual point that certifies it."""

from dataclasses import dataclass, field

import numpy as np

from .problem import GUFM


@dataclass(frozen=True, eq=False)
class Dual:
    """A feasible point of the dual, which proves J ≥ value for every network; the derivation is in `theory.gap`.

    Args:
        value: the lower bound, const − (r²/2λ) Σ_g δ_g.
        multipliers: δ, (G,).
        other_targets: q, (G, K); or the one value that q_k takes off label k, shape (), which is all that a balanced
            optimum needs, so that no K×K matrix is held.
        own_targets: q_kk where `other_targets` is one value, (K,).
    """

    value: float
    multipliers: np.ndarray
    other_targets: np.ndarray
    own_targets: np.ndarray | None = None

    def targets(self) -> np.ndarray:
        """q, (G, K): the optimum's probabilities (cross-entropy) or logits (MSE) of each group."""
        if self.own_targets is None:
            return self.other_targets
        targets = np.full((len(self.own_targets), len(self.own_targets)), self.other_targets)
        np.fill_diagonal(targets, self.own_targets)
        return targets


@dataclass(frozen=True, eq=False)
class GUFMOptimum:
    """The optimum of a GUFM.

    Args:
        objective: J*, the fit plus the penalty. A closed form to rounding; otherwise a minimiser found it, and it is
            above the true one by at most objective − lower_bound.
        fit: its part (1/N) Σ ℓ.
        regularization: its part (λ/2)‖W‖².
        lower_bound: certified by duality: no network's J is below it. The objective itself, to rounding, in closed
            form.
        classifier_norm: norm of a class's row of W; the mean over the classes when they differ.
        logit_margin: own-class logit minus the others' mean; the mean over the classes when they differ.
        is_numerical: whether a minimiser found it.
        nc2: min_{c≥0} ‖WWᵀ − cE‖_F/‖WWᵀ‖_F in [0, 1], with E = I − 11ᵀ/K, for MSE without bias E = I: 0 when balanced.
        nc3: 1 − mean over samples of cos(x, w_y), in [0, 2]: 0 in closed form.
        problem: the GUFM.
        dual: the point that certifies the bound.
    """

    objective: float
    fit: float
    regularization: float
    lower_bound: float
    classifier_norm: float
    logit_margin: float
    is_numerical: bool
    nc2: float
    nc3: float
    problem: GUFM = field(repr=False)
    dual: Dual = field(repr=False)
