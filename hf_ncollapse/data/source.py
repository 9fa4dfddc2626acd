"""A data set before subsets are drawn: labels, and raw images or texts by their indices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Part:
    """A training or test part: `labels`, int64 (N,), and `take(indices)`, the images or texts at these indices."""

    labels: np.ndarray
    take: Callable[[np.ndarray], Sequence[Any]]


@dataclass(frozen=True)
class Source:
    """A data set before subsets are drawn.

    Args:
        modality: "image" or "text".
        train, test: its parts; `test` is None when the set has none of its own.
        label_names: name of each class, in the order of the labels.
        largest_pixel: raw value of a white pixel.
    """

    modality: str
    train: Part
    test: Part | None
    label_names: list[str]
    largest_pixel: int = 255
