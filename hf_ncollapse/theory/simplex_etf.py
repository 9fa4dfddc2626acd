"""The two configurations that collapse leads to: the simplex equiangular tight frame and the orthogonal frame."""

import numpy as np


def simplex_etf(num_classes: int, dimension: int | None = None) -> np.ndarray:
    """Return K unit vectors with mean 0 and pairwise cosine −1/(K − 1), as rows of a (K, dimension) float64 array.

    Args:
        num_classes: K ≥ 2.
        dimension: at least K − 1, and K − 1 by default; more are filled with zeros.

    Raises:
        ValueError: if K < 2 or the dimension cannot hold the frame.

    Source: Papyan, Han & Donoho 2020, definition 1.

    Example:

        >>> import numpy as np
        >>> from hf_ncollapse.theory import simplex_etf
        >>> frame = simplex_etf(4, 8)
        >>> np.allclose(frame @ frame.T, (np.eye(4) - 1 / 4) * 4 / 3)
        True
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a simplex ETF needs at least 2")
    dimension = num_classes - 1 if dimension is None else dimension
    if dimension < num_classes - 1:
        raise ValueError(
            f"dimension is {dimension}; a simplex ETF of {num_classes} classes needs at least {num_classes - 1}"
        )
    # Helmert's orthonormal basis of the hyperplane orthogonal to 1; its rows' coordinates are the simplex.
    basis = orthogonal_frame(num_classes - 1).T
    frame = np.zeros((num_classes, dimension))
    frame[:, : num_classes - 1] = basis * np.sqrt(num_classes / (num_classes - 1))
    return frame


def orthogonal_frame(num_classes: int, dimension: int | None = None) -> np.ndarray:
    """Return K orthonormal vectors, each with coordinates that sum to 0, as rows of a (K, dimension) float64 array.

    Args:
        num_classes: K ≥ 1.
        dimension: at least K + 1, and K + 1 by default, since mean-zero vectors have one dimension less.

    Raises:
        ValueError: if K < 1 or the dimension cannot hold the frame.

    Source: the optimum of the bias-free MSE problem, Tirer & Bruna 2022, on LN's mean-zero sphere.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; an orthogonal frame needs at least 1")
    dimension = num_classes + 1 if dimension is None else dimension
    if dimension < num_classes + 1:
        raise ValueError(
            f"dimension is {dimension}; {num_classes} orthogonal mean-zero vectors need at least {num_classes + 1}"
        )
    frame = np.zeros((num_classes, dimension))
    for row in range(num_classes):
        frame[row, : row + 1] = 1.0
        frame[row, row + 1] = -(row + 1)
        frame[row] /= np.sqrt((row + 1) * (row + 2))
    return frame
