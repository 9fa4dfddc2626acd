"""The geometry of a GUFM's optimum, for any class counts: read off the dual point, so no minimiser's W is needed.

With B = Diag(ω)(T − q) and logits Z, both known from q, the optimum's stationarity in W is λW = BᵀX and in the
features Diag(δ) X = λBW, see `theory.gap`. Hence

    W Wᵀ = BᵀZ/λ    and    X Xᵀ = λ² Diag(δ)⁻¹ B (W Wᵀ) Bᵀ Diag(δ)⁻¹.

The dual is strictly concave in q, so q, and with it W Wᵀ, is the same at every optimum. Rows of Z are centred for
cross-entropy, whose q does not know their mean: the rows of W sum to 0 there, as those of Bᵀ do. A bias falls out,
since Bᵀ1 = 0 with one.

**Minority collapse.** Let m classes have one share π and, by symmetry, one δ. Along differences of their features B is
π (1 − q_own + q_other), so that Diag(δ) X = BBᵀX leaves them apart only if δ = π² (1 − q_own + q_other)² < π²: their
rows of W and their means coincide from δ = π² on.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .optimum import GUFMOptimum

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class OptimumGeometry:
    """Angles and lengths at the optimum, which are its NC2 whatever the class counts.

    Args:
        classifier_gram: W Wᵀ, (K, K).
        class_means_gram: M Mᵀ, (K, K), of features of norm r, not centred.
        minority_cosine_classifier: mean cosine of the rows of W of the rarest classes, those that have no more samples
            than the second rarest, in [−1, 1]; 1 is minority collapse, −1/(K − 1) a simplex ETF.
        minority_cosine: the same of the class means less their mean over the classes.
    """

    classifier_gram: np.ndarray
    class_means_gram: np.ndarray
    minority_cosine_classifier: float
    minority_cosine: float

    def nc2(self, classifier: "Tensor") -> float:
        """min_{c≥0} ‖W Wᵀ − c W*W*ᵀ‖_F/‖W Wᵀ‖_F in [0, 1], of a network's W, (K, d): 0 at the optimum.

        The paper's NC2A or NC2B for balanced classes. Rotations and scales of W change nothing.

        Raises:
            ValueError: if W does not have K rows.
        """
        return _sine(_gram(classifier, self.classifier_gram, "classifier"), self.classifier_gram)

    def nc2_means(self, class_means: "Tensor") -> float:
        """`nc2` of a network's class means, (K, d), centred as the optimum's are: less their mean over the classes.

        Raises:
            ValueError: if there are not K class means.
        """
        gram = _gram(class_means, self.class_means_gram, "class_means")
        return _sine(_centred(gram), _centred(self.class_means_gram))


def optimum_geometry(optimum: GUFMOptimum) -> OptimumGeometry:
    """Return W Wᵀ and M Mᵀ at the optimum of a GUFM.

    They are functions of the dual point, whose distance from the optimum `objective − lower_bound` certifies: exact in
    closed form, else with an error of the order of that difference's root. Costs K×K matrices.

    Source: module docstring.

    Example:

        >>> from hf_ncollapse.theory import gufm_optimum, optimum_geometry
        >>> geometry = optimum_geometry(gufm_optimum([100, 100, 100], 0.005, radius=8))
        >>> round(geometry.minority_cosine_classifier, 6)
        -0.5
        >>> skewed = optimum_geometry(gufm_optimum([1000, 1000, 10, 10], 0.005, radius=8))
        >>> skewed.minority_cosine_classifier > -1 / 3
        True
    """
    problem, dual = optimum.problem, optimum.dual
    shares, labels = problem.groups()
    targets, penalty = dual.targets(), problem.l2_coefficient
    factors = shares[:, None] * (labels - targets)  # B
    logits = targets
    if problem.loss == "cross_entropy":
        logits = np.log(targets)
        logits = logits - logits.mean(axis=1, keepdims=True)
    classifier_gram = factors.T @ logits / penalty
    classifier_gram = (classifier_gram + classifier_gram.T) / 2
    pull = penalty * factors / dual.multipliers[:, None]
    of_class = (shares[:, None] * labels / problem.shares).T  # which share of a class is in which group
    mixed = of_class @ pull
    class_means_gram = mixed @ classifier_gram @ mixed.T
    rarest = problem.counts <= np.sort(problem.counts)[1]
    return OptimumGeometry(
        classifier_gram=classifier_gram,
        class_means_gram=class_means_gram,
        minority_cosine_classifier=_mean_cosine(classifier_gram[rarest][:, rarest]),
        minority_cosine=_mean_cosine(_centred(class_means_gram)[rarest][:, rarest]),
    )


def _gram(vectors: "Tensor", goal: np.ndarray, name: str) -> np.ndarray:
    if vectors.ndim != 2 or len(vectors) != len(goal):
        raise ValueError(f"{name} has shape {tuple(vectors.shape)}; it takes ({len(goal)}, d)")
    rows = vectors.detach().cpu().double().numpy()
    return rows @ rows.T


def _centred(gram: np.ndarray) -> np.ndarray:
    gram = gram - gram.mean(axis=0)
    return gram - gram.mean(axis=1, keepdims=True)


def _sine(gram: np.ndarray, goal: np.ndarray) -> float:
    """min_{c≥0} ‖gram − c goal‖_F/‖gram‖_F; two positive semidefinite matrices have no negative product."""
    gram, goal = gram / np.linalg.norm(gram), goal / np.linalg.norm(goal)
    return float(np.linalg.norm(gram - (gram * goal).sum() * goal))


def _mean_cosine(gram: np.ndarray) -> float:
    lengths = np.sqrt(gram.diagonal())
    cosines = gram / lengths / lengths[:, None]
    number = len(gram)
    return float((cosines.sum() - number) / (number * (number - 1)))
