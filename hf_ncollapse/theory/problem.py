"""The generalised unconstrained features model (GUFM): its data, checked."""

import math
import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOSSES = ("cross_entropy", "mse")


@dataclass(frozen=True, eq=False)
class GUFM:
    """minimise (1/N) Σ_i ℓ(W x_i + b, y_i) + (λ/2)‖W‖² over W, b and free features x_i with mean 0 and norm r.

    Args:
        counts: n_k, (K,) float64.
        l2_coefficient: λ > 0, the classifier's.
        loss: "cross_entropy" or "mse".
        radius: r > 0.
        classifier_bias: whether there is a b, which is not penalised; b = 0 otherwise.
        conflicts: (m, K) float64, the label counts of inputs that occur with several labels; m may be 0.
    """

    counts: np.ndarray
    l2_coefficient: float
    loss: str
    radius: float
    classifier_bias: bool
    conflicts: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    @property
    def shares(self) -> np.ndarray:
        """π_k = n_k/N, (K,)."""
        return self.counts / self.counts.sum()

    @property
    def is_balanced(self) -> bool:
        return bool((self.counts == self.counts[0]).all())

    @property
    def has_conflicts(self) -> bool:
        return len(self.conflicts) > 0

    @property
    def frame(self) -> str:
        """The frame of the balanced optimum: "simplex", or "orthogonal" for MSE without bias."""
        return "orthogonal" if self.loss == "mse" and not self.classifier_bias else "simplex"

    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the groups of samples that share one feature: shares ω (G,), label distributions T (G, K).

        Given W and b, all samples with one label distribution have the same best features, so they are one group: the
        samples of each class whose label is certain, and the conflicting inputs with the same proportions. Without
        conflicts, group k is class k.
        """
        if not self.has_conflicts:
            return self.shares, np.eye(self.num_classes)
        pure = self.counts - self.conflicts.sum(axis=0)
        counts = np.concatenate([np.diag(pure)[pure > 0], self.conflicts])
        sizes = counts.sum(axis=1)
        labels, group = np.unique(counts / sizes[:, None], axis=0, return_inverse=True)
        return np.bincount(group.ravel(), sizes / self.counts.sum()), labels  # numpy 2.0 has it as a column


def checked_gufm(
    class_counts: Sequence[int],
    l2_coefficient: float,
    *,
    loss: str,
    radius: float,
    hidden_size: int | None,
    classifier_bias: bool,
    conflicts: Sequence[Sequence[int]] | None,
) -> GUFM:
    """Return the problem with the arguments of `gufm_optimum`.

    Raises:
        TypeError: if a class count is not an integer.
        ValueError: if an argument is out of its range, or d is too small for J* to be attained.
    """
    counts = [operator.index(count) for count in class_counts]
    num_classes = len(counts)
    if num_classes < 2 or min(counts) < 1:
        raise ValueError(f"class_counts is {reprlib.repr(counts)}; it takes at least 2 classes of at least 1 sample")
    if not (math.isfinite(l2_coefficient) and l2_coefficient > 0):
        raise ValueError(f"l2_coefficient is {l2_coefficient}; it must be > 0, or the optimum is not attained")
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius is {radius}; it must be > 0")
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; it takes 'cross_entropy' or 'mse'")
    totals = np.array(counts, dtype=np.float64)
    problem = GUFM(totals, l2_coefficient, loss, radius, classifier_bias, _checked_conflicts(conflicts, totals))
    # Rows of W that sum to 0 span K − 1 dimensions, others K; an input whose labels balance out has its feature
    # inside the ball there, and one more dimension gives it the norm r. LN's mean-zero subspace has d − 1.
    frame, needed = (
        ("simplex ETF", num_classes) if problem.frame == "simplex" else ("orthogonal frame", num_classes + 1)
    )
    needed += problem.has_conflicts
    if hidden_size is not None and hidden_size < needed:
        raise ValueError(
            f"hidden_size is {hidden_size}; the {frame} of {num_classes} classes lies in the mean-zero subspace and "
            f"needs at least {needed}{' with conflicts' * problem.has_conflicts}, so there is no J* for this network"
        )
    return problem


def _checked_conflicts(conflicts: Sequence[Sequence[int]] | None, counts: np.ndarray) -> np.ndarray:
    if conflicts is None or len(conflicts) == 0:
        return np.zeros((0, len(counts)))
    labels = np.asarray(conflicts, dtype=np.float64)
    if labels.ndim != 2 or labels.shape[1] != len(counts):
        raise ValueError(f"conflicts has shape {labels.shape}; it takes (m, {len(counts)}), a column a class")
    if (labels < 0).any() or (labels != np.floor(labels)).any() or (labels.sum(axis=1) < 1).any():
        raise ValueError("conflicts takes rows of whole counts ≥ 0, each of at least 1 sample")
    if (labels.sum(axis=0) > counts).any():
        label = int(np.argmax(labels.sum(axis=0) > counts))
        raise ValueError(
            f"conflicts has {labels[:, label].sum():.0f} samples of class {label}; class_counts, which contains them, "
            f"has {counts[label]:.0f}"
        )
    return labels
