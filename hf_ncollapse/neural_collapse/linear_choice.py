"""The class with the largest score, a linear function of a feature: in float32 where that decides, else in float64."""

import torch
from torch import Tensor


class LinearChoice:
    """argmax_k of x·w_k + c_k, as float64 has it.

    A float32 product of width d is wrong by at most about d ε/2 ‖x‖‖w‖. Samples whose two largest scores are closer
    than twice that, which are few, are looked at again in float64.

    Args:
        vectors (`Tensor`): w_k, K×d in float64.
        offsets (`Tensor`): c_k, K values in float64.
    """

    def __init__(self, vectors: Tensor, offsets: Tensor):
        self.vectors, self.offsets = vectors, offsets
        self.single_vectors, self.single_offsets = vectors.float(), offsets.float()
        self.relative_error = (vectors.shape[1] + 8) * torch.finfo(torch.float32).eps
        self.largest_vector = torch.linalg.vector_norm(vectors, dim=1).max()
        self.largest_offset = offsets.abs().max()

    def __call__(self, points: Tensor) -> Tensor:
        """Return the choice for each of N points, N×d in float64."""
        scores = torch.addmm(self.single_offsets, points.float(), self.single_vectors.T)
        sizes = torch.linalg.vector_norm(points, dim=1) * self.largest_vector + self.largest_offset
        # A threshold and the positions above it are found ten times faster than the position of the largest.
        threshold = scores.amax(1).double() - self.relative_error * sizes
        rows, classes = (scores >= threshold.float().unsqueeze(1)).nonzero(as_tuple=True)
        choice = torch.empty(len(points), dtype=torch.int64, device=points.device).index_copy_(0, rows, classes)
        doubted = rows.bincount(minlength=len(points)) != 1  # none is above NaN, of what float32 cannot hold
        if doubted.any():
            choice[doubted] = self._exactly(points[doubted])
        return choice

    def _exactly(self, points: Tensor) -> Tensor:
        return torch.addmm(self.offsets, points, self.vectors.T).argmax(1)
