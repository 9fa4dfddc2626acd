"""Sums over pairs of classes, a tile of the K×K matrix at a time."""

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement

import torch
from torch import Tensor

# Pair measures work through K×K in tiles of this many rows and columns: many of them, for only those on and above the
# diagonal are made.
_TILE = 256
# From so many classes on, if they have no room for a frame in whose exactness digits could be lost, products are
# float32's, at half the price: an entry is then wrong by 1e-7, the mean of all by less.
_MANY_CLASSES = 512
# A difference of sizes and products is computed anew if it is less than this share of the sizes.
_CLOSE = {torch.float32: 0.25, torch.float64: 1e-6}
# Up to so many pairs of a tile are gathered for that; of a tile with more, all.
_MANY_CLOSE_PAIRS = 4096


def tiles(num_classes: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles on and above the diagonal."""
    slices = [slice(start, start + _TILE) for start in range(0, num_classes, _TILE)]
    return combinations_with_replacement(slices, 2)


def mean_over_pairs(num_classes: int, pair_values: Callable[[slice, slice], Tensor]) -> float:
    """Mean over pairs j < k of a symmetric K×K array that is only ever made a tile at a time."""
    total = 0.0
    for rows, columns in tiles(num_classes):
        values = pair_values(rows, columns)
        sums = (values.triu_(1) if rows == columns else values).sum(1)
        total += float(sums.sum(dtype=torch.float64))
    return total / (num_classes * (num_classes - 1) / 2)


def for_products(vectors: Tensor) -> Tensor:
    """The vectors, K×d, in the precision that products of their pairs need."""
    num_classes, num_features = vectors.shape
    return vectors.float() if num_classes > max(_MANY_CLASSES, num_features + 1) else vectors


def squared_distances(vectors: Tensor) -> Callable[[slice, slice], Tensor]:
    """‖x_j − x_k‖² for tiles of pairs, by a gemm; pairs so close that it would cancel are computed anew."""
    factors = for_products(vectors)
    sizes, share = factors.square().sum(1), _CLOSE[factors.dtype]

    def of_tile(rows: slice, columns: slice) -> Tensor:
        tile_sizes = sizes[rows].unsqueeze(1) + sizes[columns]
        squared = torch.addmm(tile_sizes, factors[rows], factors[columns].T, alpha=-2)
        if rows != columns and squared.amin() >= share * (sizes[rows].max() + sizes[columns].max()):
            return squared
        close = squared < tile_sizes.mul_(share)
        if rows == columns:
            close.triu_(1)
        num_close = int(close.sum())
        if num_close > _MANY_CLOSE_PAIRS:
            return torch.cdist(vectors[rows], vectors[columns], compute_mode="donot_use_mm_for_euclid_dist").square_()
        if num_close:
            first, second = close.nonzero(as_tuple=True)
            differences = vectors[rows][first] - vectors[columns][second]
            squared[first, second] = differences.square().sum(1).to(squared.dtype)
        return squared

    return of_tile
