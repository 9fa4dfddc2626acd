"""The geometry of imbalanced classes: the frame that class counts call for, and minority collapse.

With cross-entropy, features that are free but penalised, and a penalty that vanishes, W and the class means take the
geometry of the simplex-encoded labels (SELI): with D = diag(n_k) and E = I − 11ᵀ/K, W Wᵀ is a multiple of
S = (E D E)^½ and M Mᵀ of its pseudo-inverse S⁺. For equal counts both are the simplex ETF.
"""

import torch
from torch import Tensor

from .frames import scaled
from .moments import Statistics, as_classifier, centred_means


def nc2_seli(statistics: Statistics, classifier: Tensor) -> float:
    r"""Distance of the classifier's Gram matrix to that of its class counts, min_{c≥0} ‖W Wᵀ − c S‖_F/‖W Wᵀ‖_F.

    In [0, 1]; `nc2` for equal counts. K×K matrices.
    Source: Thrampoulidis, Kini, Vakilian & Behnia 2022 (arXiv:2208.05512), Definition 2.

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3), torch.arange(3))
        >>> round(nc2_seli(statistics, torch.eye(3) - 1 / 3), 6)
        0.0
    """
    return _sine(as_classifier(classifier, statistics), _seli(statistics, 0.5))


def nc2_means_seli(statistics: Statistics) -> float:
    r"""`nc2_seli` of the centred class means, min_{c≥0} ‖Ṁ Ṁᵀ − c S⁺‖_F/‖Ṁ Ṁᵀ‖_F, in [0, 1].

    Every class counts the same in μ_G, as S⁺ has it. K×K matrices.
    Source: Thrampoulidis, Kini, Vakilian & Behnia 2022 (arXiv:2208.05512), Definition 2.

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.eye(3) + 7, torch.arange(3))
        >>> round(nc2_means_seli(statistics), 6)
        0.0
    """
    return _sine(centred_means(statistics, "class"), _seli(statistics, -0.5))


def minority_cosine(statistics: Statistics) -> float:
    r"""Mean cosine between the centred class means of the rarest classes, in [−1, 1]; 1 is minority collapse.

    The rarest classes are all that have no more samples than the second rarest; μ_G counts every class the same.
    −1/(K − 1) for classes of equal size at a simplex ETF.
    Source: Fang, He, Long & Su 2021 (arXiv:2101.12699), of the classifier's rows; Dang et al. 2024 (arXiv:2401.02058).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.tensor([[1.0], [-2.0], [0.9], [-2.0]]), torch.tensor([0, 1, 2, 1]))
        >>> round(minority_cosine(statistics), 6)
        1.0
    """
    return _mean_cosine(centred_means(statistics, "class")[_rarest(statistics.mean_counts)])


def minority_cosine_classifier(statistics: Statistics, classifier: Tensor) -> float:
    r"""`minority_cosine` of the classifier's rows, in [−1, 1]; 1 is minority collapse.

    Source: Fang, He, Long & Su 2021 (arXiv:2101.12699).

    Example:
        >>> statistics = ClassStatistics(3)
        >>> statistics.update(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]))
        >>> minority_cosine_classifier(statistics, torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.0, 1.0]]))
        0.0
    """
    return _mean_cosine(as_classifier(classifier, statistics)[_rarest(statistics.mean_counts)])


def _seli(statistics: Statistics, power: float) -> Tensor:
    """(E D E)^power on the complement of 1, K×K."""
    counts = statistics.mean_counts.double() / statistics.mean_counts.max()
    # E D E = D − (n 1ᵀ + 1 nᵀ)/K + (Σn) 11ᵀ/K², whose null space is that of E.
    sums = (counts.unsqueeze(1) + counts) / len(counts)
    eigenvalues, directions = torch.linalg.eigh(torch.diag(counts) - sums + counts.mean() / len(counts))
    powers = eigenvalues[1:].pow(power)
    return (directions[:, 1:] * powers) @ directions[:, 1:].T


def _sine(vectors: Tensor, frame: Tensor) -> float:
    """min_{c≥0} ‖G − cF‖_F/‖G‖_F for G = vectors vectorsᵀ, which has no negative product with a positive F."""
    vectors = scaled(vectors)
    gram = vectors @ vectors.T
    gram, frame = gram / torch.linalg.matrix_norm(gram), frame / torch.linalg.matrix_norm(frame)
    return float(torch.linalg.matrix_norm(gram - (gram * frame).sum() * frame))


def _rarest(counts: Tensor) -> Tensor:
    return counts <= counts.sort().values[1]


def _mean_cosine(vectors: Tensor) -> float:
    """Over the pairs, which (‖Σ unit vectors‖² − m)/2 sums up."""
    directions = torch.nn.functional.normalize(vectors, eps=0)
    number = len(directions)
    return float((directions.sum(0).square().sum() - number) / (number * (number - 1)))
