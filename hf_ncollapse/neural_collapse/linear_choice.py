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
        return self.with_scores(points)[0]

    def with_scores(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The choice for each of N points, and the scores as float32 has them, N×K."""
        scores = torch.addmm(self.single_offsets, points.float(), self.single_vectors.T)
        sizes = torch.linalg.vector_norm(points, dim=1) * self.largest_vector + self.largest_offset
        # A threshold and the positions above it are found ten times faster than the position of the largest.
        threshold = scores.amax(1).double() - self.relative_error * sizes
        rows, classes = (scores >= threshold.float().unsqueeze(1)).nonzero(as_tuple=True)
        choice = torch.empty(len(points), dtype=torch.int64, device=points.device).index_copy_(0, rows, classes)
        doubted = rows.bincount(minlength=len(points)) != 1  # none is above NaN, of what float32 cannot hold
        if doubted.any():
            choice[doubted] = self._exactly(points[doubted])
        return choice, scores

    def _exactly(self, points: Tensor) -> Tensor:
        return torch.addmm(self.offsets, points, self.vectors.T).argmax(1)


class Agreement:
    """Whether two linear choices of the same points agree, for the price of one where their vectors are alike.

    With v_k and o_k the second's, α the factor that brings the first's w_k closest to the v_k and r_k = ‖v_k − α w_k‖,
    the second's score is α (x·w_k + c_k) + o_k − α c_k within ‖x‖ r_k. Where that leaves no other choice than the
    first's, the second is not computed.

    Args:
        first, second: of the same numbers of classes and dimensions.
    """

    def __init__(self, first: LinearChoice, second: LinearChoice):
        self.first, self.second = first, second
        factor = (first.vectors * second.vectors).sum() / first.vectors.square().sum()
        self.is_alike = bool(factor > 0)
        self.offsets = second.offsets / factor - first.offsets
        self.remainders = torch.linalg.vector_norm(second.vectors / factor - first.vectors, dim=1)
        self.single_offsets, self.single_remainders = self.offsets.float(), self.remainders.float()
        self.largest_offset, self.largest_remainder = self.offsets.abs().max(), self.remainders.max()

    def __call__(self, points: Tensor) -> Tensor:
        """Return N booleans for N points, N×d in float64."""
        choice, scores = self.first.with_scores(points)
        if not self.is_alike:
            return self.second(points) == choice
        norms = torch.linalg.vector_norm(points, dim=1)
        own = scores.gather(1, choice.unsqueeze(1)).squeeze(1) + self.offsets[choice] - norms * self.remainders[choice]
        sizes = norms * (self.first.largest_vector + self.largest_remainder)
        rounding = self.first.relative_error * (sizes + self.first.largest_offset + self.largest_offset)
        most = scores.add_(self.single_offsets).addr_(norms.float(), self.single_remainders)
        most_of_others = most.scatter_(1, choice.unsqueeze(1), -torch.inf).amax(1)
        agrees = most_of_others < own - 2 * rounding  # False for NaN, of what float32 cannot hold
        left = ~agrees
        if left.any():
            agrees[left] = self.second(points[left]) == choice[left]
        return agrees
