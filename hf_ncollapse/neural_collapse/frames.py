"""How far vectors are from a frame: the simplex equiangular tight frame (ETF) or an orthogonal one.

The Gram matrices of unit Frobenius norm are E* = (I − 11ᵀ/K)/√(K − 1) and I/√K.
"""

import math

import torch
from torch import Tensor


def distance_to_frame(left: Tensor, right: Tensor, *, centred: bool = True) -> float:
    """‖G/‖G‖_F − T‖_F for G = left rightᵀ and T the unit-norm Gram matrix of an ETF (centred) or orthogonal frame."""
    is_gram = right is left
    left = scaled(left)
    right = left if is_gram else scaled(right)
    num_classes, num_features = left.shape
    rank = num_classes - 1 if centred else num_classes
    shift = 1 / num_classes if centred else 0.0
    if num_classes <= num_features + 1:
        gram = left @ right.T
        gram /= torch.linalg.matrix_norm(gram)
        gram += shift / math.sqrt(rank)
        gram.diagonal().sub_(1 / math.sqrt(rank))
        return float(torch.linalg.matrix_norm(gram))
    # More classes than dimensions: no K×K matrix. The distance is then far from 0, and 2 − 2⟨G/‖G‖, T⟩ loses nothing.
    left_moment = left.T @ left
    right_moment = left_moment if is_gram else right.T @ right
    norm = (left_moment * right_moment).sum().sqrt()
    inner_product = (left * right).sum() - shift * (left.sum(0) @ right.sum(0))
    return float((2 - 2 * inner_product / (norm * math.sqrt(rank))).clamp(min=0).sqrt())


def sine_to_frame(vectors: Tensor, *, centred: bool = True) -> float:
    """min_{c≥0} ‖G − cT‖_F/‖G‖_F for G = vectors vectorsᵀ and T as in `distance_to_frame`."""
    return sine_of_chord(distance_to_frame(vectors, vectors, centred=centred))


def sine_of_chord(chord: float) -> float:
    """The sine of the angle with that chord.

    1 − cos² would lose every digit below 1e-8; with x = 1 − cos, half the chord's square, it is x (2 − x), which keeps
    them and never exceeds 1.
    """
    versine = chord**2 / 2
    return math.sqrt(versine * (2 - versine))


def chord_of_sine(sine: float, num_classes: int) -> float:
    """The inverse of `sine_of_chord`, up to a right angle, for any number of classes."""
    return sine * math.sqrt(2 / (1 + math.sqrt((1 - sine) * (1 + sine))))


def scaled(vectors: Tensor) -> Tensor:
    """The vectors with the largest entry near 1: no fourth power vanishes or overflows."""
    return vectors / power_of_two(vectors)


def power_of_two(vectors: Tensor) -> Tensor:
    """The power of 2 that is next to the largest magnitude, to divide by without rounding."""
    _, exponent = torch.frexp(vectors.abs().max())
    return torch.ldexp(torch.ones_like(vectors.flatten()[0]), exponent)


# The least distances that d dimensions allow where a frame of K vectors has no room. A frame's Gram matrix is a
# multiple of a projection of rank r: K − 1 for the ETF, K for the orthogonal frame. A matrix of rank d < r is at best
# at the cosine √(d/r) with it, as a projection onto d of the r dimensions is. None where there is room.


def least_sine_to_etf(num_classes: int, num_features: int) -> float | None:
    """√(1 − d/(K − 1))."""
    return _least_sine(num_features / (num_classes - 1))


def least_sine_to_orthogonal(num_classes: int, num_features: int) -> float | None:
    """√(1 − d/K)."""
    return _least_sine(num_features / num_classes)


def least_chord_to_etf(num_classes: int, num_features: int) -> float | None:
    """√(2 − 2√(d/(K − 1)))."""
    return _least_chord(num_features / (num_classes - 1))


def least_chord_to_orthogonal(num_classes: int, num_features: int) -> float | None:
    """√(2 − 2√(d/K))."""
    return _least_chord(num_features / num_classes)


def _least_sine(share: float) -> float | None:
    return math.sqrt(1 - share) if share < 1 else None


def _least_chord(share: float) -> float | None:
    return math.sqrt(2 - 2 * math.sqrt(share)) if share < 1 else None
