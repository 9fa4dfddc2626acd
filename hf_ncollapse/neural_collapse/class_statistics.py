"""Sufficient statistics of labelled features: one pass, additive, mergeable and reducible across processes.

Every neural collapse measure but NC4 is a function of four sums over samples, kept per class: how many there are,
their sum, their squared norms, and their unit vectors; NC1's pseudo-inverse form needs the second moment as well.
Sums of raw features would lose the variance to cancellation (E‖h‖² − ‖Eh‖² in float32 is wrong by 5× at mean 10,
σ 1e-3), so each class is summed about a shift of its own: the mean of its first batch. Sums about different shifts
describe the same data and convert into each other exactly, which is what makes `merge` and `all_reduce` possible.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.types import Device

from .batch_checks import as_batch, counted_samples, require_plausible
from .devices import exact_products, with_float64
from .kept_state import KeptState

_OF_CLASSES = {"_counts", "_shifts", "_sums", "_squares", "_directions"}
_BLOCK_WIDTH = 128
# Rows that are worth their calls and stay in a cache, that are worth rewriting the products' sum, that fill a GPU.
_CPU_ROWS, _ROWS_OF_PRODUCTS, _ACCELERATOR_ROWS = 512, 2048, 16384


class ClassStatistics(KeptState):
    r"""Counts, means, within-class scatter and mean directions of features, accumulated in float64 in one pass.

    With s_k the shift of class k, the state holds, per class, n_k, Σ(h − s_k), Σ‖h − s_k‖² and, on request, the sum
    of unit features Σ h/‖h‖ (K×d; any classifier's mean cosine follows from it) and the second moment
    Σ (h − s_{y})(h − s_{y})ᵀ (d×d, over all samples; the products of float64 features are float64's, of others
    float32's, and what was rounded so is kept beside it).

    Args:
        num_classes (`int`): K, at least 2. Labels are 0 … K − 1.
        second_moment (`bool`): accumulate the d×d second moment, for `nc1_pinv`, `vci` and the ranks of features.
        directions (`bool`): accumulate the sums of unit features, K×d; only `nc3` needs them.
        device: where the state lives; `None` takes the first batch's device (CPU where that has no float64).

    Memory: 16·K·d bytes, 8·K·d more for the directions and 8·d² more for the second moment; and room for 512
    samples twice, 2,048 and 512 with the second moment and twice 16,384 on an accelerator, in float64. Small batches
    wait until there are 512 or 2,048, or somebody reads. One thread at a time: give each its own, and `merge`.

    Example:
        >>> import torch
        >>> statistics = ClassStatistics(num_classes=2)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 0, 1]))
        >>> statistics.class_means.tolist()
        [[2.0, 0.0], [0.0, 4.0]]
        >>> statistics.within_class_scatter.tolist()
        [2.0, 0.0]
    """

    has_own_means = True
    _every_class_seen: bool
    _waiting: Tensor
    _num_waiting: int
    _are_single: bool

    def __init__(
        self, num_classes: int, *, second_moment: bool = False, directions: bool = True, device: Device = None
    ):
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.num_features = None
        self.has_second_moment, self.has_directions = second_moment, directions
        self._device = None if device is None else torch.device(device)
        self._enough_rows = _ROWS_OF_PRODUCTS if second_moment else _CPU_ROWS
        self._free_workspace()

    # --- what went in ------------------------------------------------------------------------------------------

    @torch.inference_mode(False)  # or nobody could update the state outside that mode
    def update(self, features: Tensor, labels: Tensor, *, ignore_index: int | None = None) -> None:
        """Add a batch.

        Args:
            features (`Tensor`): N×d, any real dtype and device.
            labels (`Tensor`): N integers in 0 … K − 1.
            ignore_index (`int`, *optional*): skip the samples with this label (often -100).

        Raises:
            ValueError: the shapes disagree with each other or with earlier batches, a label is outside 0 … K − 1, or
                a feature is NaN, infinite or too large to square in float64. The state is then left as it was.
        """
        features, labels = as_batch(features, labels)
        if self.num_features not in (None, features.shape[1]):
            raise ValueError(f"features must keep their width {self.num_features}, got {features.shape[1]}")
        features = features.to(self._device or with_float64(features.device))
        features, labels = counted_samples(features, labels, self.num_classes, ignore_index)
        if len(labels) == 0:
            return
        self._allocate(features.shape[1], features.device)
        rows = self._enough_rows if features.device.type == "cpu" else _ACCELERATOR_ROWS
        for start in range(0, len(labels), rows):
            self._let_wait(features[start : start + rows], labels[start : start + rows])

    # --- what comes out ----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device | None:
        """Where the state lives; `None` before the first batch, unless it was given."""
        return self._device

    @property
    def counts(self) -> Tensor:
        """n_k, K integers."""
        self._add_waiting()
        return self._counts

    @property
    def num_samples(self) -> int:
        """N, the samples seen so far."""
        return 0 if self.num_features is None else int(self.counts.sum())

    @property
    def mean_counts(self) -> Tensor:
        """How many samples each class mean is of: `counts`, unless the means are another set's."""
        return self.counts

    @property
    def class_means(self) -> Tensor:
        """μ_k, K×d in float64; the rows of absent classes are 0."""
        self._require_samples()
        return (self._shifts + self._mean_deviations()).masked_fill_((self.counts == 0).unsqueeze(1), 0)

    @property
    def within_class_scatter(self) -> Tensor:
        """Σ_{i in k} ‖h_i − μ_k‖², K values in float64; dividing by n_k gives the class's variance v_k."""
        self._require_samples()
        return (self._squares - torch.linalg.vecdot(self._mean_deviations(), self._sums)).clamp_(min=0)

    @property
    def within_class_second_moment(self) -> Tensor:
        """Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ, d×d in float64; divided by N it is the sample-weighted Σ_W.

        Raises:
            ValueError: the statistics were made without `second_moment=True`.
        """
        self._require_samples()
        self._require_second_moment()
        second_moment = (self._second_moment - self._mean_deviations().T @ self._sums).triu_()
        return second_moment + second_moment.triu(1).T

    @property
    def single_precision_squares(self) -> Tensor:
        """Σ_i (h_i − s_{y_i})², d values in float64, over the samples whose products were float32's.

        Entry (j, l) of the second moment is wrong by a few units in float32's last place of √(its j · its l), whatever
        the entry itself: a direction with much less scatter than the coordinates have may hold rounding alone.

        Raises:
            ValueError: the statistics were made without `second_moment=True`.
        """
        self._require_samples()
        self._require_second_moment()
        return self._single_squares

    @property
    def direction_sums(self) -> Tensor:
        """Σ_{i in k} h_i/‖h_i‖, K×d in float64 (a zero feature adds nothing).

        Raises:
            ValueError: the statistics were made with `directions=False`.
        """
        self._require_samples()
        if not self.has_directions:
            raise ValueError("the directions were not accumulated: create ClassStatistics with directions=True")
        return self._directions

    @property
    def present_classes(self) -> Tensor:
        """Which classes have samples, K booleans."""
        self._require_samples()
        return self.counts > 0

    @torch.inference_mode(False)
    def resized(self, num_classes: int) -> "ClassStatistics":
        """The same samples among more classes, or fewer: classes cut off must be absent."""
        if num_classes < self.num_classes and bool((self.counts[num_classes:] > 0).any()):
            raise ValueError(f"cannot resize to {num_classes} classes: later ones have samples")
        resized = ClassStatistics(
            num_classes, second_moment=self.has_second_moment, directions=self.has_directions, device=self.device
        )
        if self.num_features is not None:
            resized._allocate(self.num_features, self._shifts.device)
            for name, tensor in self._tensors().items():
                kept = tensor[:num_classes] if name in _OF_CLASSES else tensor
                getattr(resized, name)[: len(kept)] = kept
        return resized

    def grown_for(self, features: Tensor, labels: Tensor) -> "ClassStatistics":
        """The statistics with room for a batch, where K is learned from the labels: twice the classes, or all these.

        Raises:
            ValueError: a label asks for over 256 MiB of class means and 100 times as many classes as samples.
        """
        if len(labels) == 0 or int(labels.max()) < self.num_classes:
            return self
        require_plausible(labels, self.num_samples + len(labels), features.shape[1])
        return self.resized(max(int(labels.max()) + 1, 2 * self.num_classes))

    def select_classes(self, selected: Tensor) -> "ClassStatistics":
        """The statistics of some classes alone, renumbered 0 … K' − 1.

        Args:
            selected (`Tensor`): K booleans; at least 2 must hold.

        Raises:
            ValueError: there is a second moment, which is of all samples, and a class left out has some of them.
        """
        if self.has_second_moment and (self.present_classes & ~selected).any():
            raise ValueError("select_classes may leave out absent classes only: the second moment is of all samples")
        state = self.state_dict()
        state["num_classes"] = int(selected.sum())
        for name in _OF_CLASSES & state.keys():
            state[name] = state[name][selected]
        return ClassStatistics.from_state_dict(state, device=self.device)

    # --- joining -----------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    def merge(self, other: "ClassStatistics") -> None:
        """Add the samples of `other`, exactly; the order of merges does not matter.

        Raises:
            ValueError: the two differ in classes, width, or in what they accumulate.
        """
        for name in ("num_classes", "has_second_moment", "has_directions"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"cannot merge: {name} is {getattr(self, name)} here, {getattr(other, name)} there")
        if other.num_features is None:
            return
        if self.num_features not in (None, other.num_features):
            raise ValueError(f"cannot merge features of width {other.num_features} into width {self.num_features}")
        self._allocate(other.num_features, other._shifts.device)
        other = ClassStatistics.from_state_dict(other.state_dict(), device=self.device)
        new_classes = self.counts == 0
        self._shifts[new_classes] = other._shifts[new_classes]
        other._move_shifts(self._shifts)
        for name in self._sum_names():
            getattr(self, name).add_(getattr(other, name))

    @torch.inference_mode(False)
    def all_reduce(self) -> None:
        """Give every process of torch.distributed's default group the statistics of all; does nothing without one.

        Processes that saw no sample take part as well; no process holds more than twice its own state.

        Raises:
            ValueError: the processes saw features of different widths.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        device = self.device or torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        widths: list[int | None] = [None] * dist.get_world_size()
        dist.all_gather_object(widths, self.num_features)
        seen_widths = {width for width in widths if width is not None}
        if len(seen_widths) > 1:
            raise ValueError(f"the processes must see features of one width, got {widths}")
        if not seen_widths:
            return
        self._allocate(seen_widths.pop(), device)

        # The class's shift becomes that of the first process that saw it; about common shifts the sums just add.
        rank, world_size = dist.get_rank(), dist.get_world_size()
        owners = torch.where(self.counts > 0, rank, world_size)
        dist.all_reduce(owners, dist.ReduceOp.MIN)
        shifts = self._shifts.masked_fill((owners != rank).unsqueeze(1), 0)
        dist.all_reduce(shifts)
        self._move_shifts(shifts)
        for name in self._sum_names():
            dist.all_reduce(getattr(self, name))

    def __repr__(self) -> str:
        return f"ClassStatistics({self.num_samples} samples, {self.num_classes} classes, width {self.num_features})"

    # --- inside ------------------------------------------------------------------------------------------------

    def _let_wait(self, features: Tensor, labels: Tensor) -> None:
        """Copy samples, in float64, to those that wait, and add all of them once they are enough."""
        if self._num_waiting + len(labels) > len(self._waiting):
            self._add_waiting()
        if len(labels) > len(self._waiting):
            # Memory that is kept: to map large temporaries and unmap them each time costs more than what fills them.
            size = max(len(labels), self._enough_rows), features.shape[1]
            self._waiting = torch.empty(size, dtype=torch.float64, device=self.device)
            self._waiting_labels = labels.new_empty(size[0])
            self._scratch = torch.empty_like(self._waiting[: _CPU_ROWS if features.device.type == "cpu" else size[0]])
        room = slice(self._num_waiting, self._num_waiting + len(labels))
        self._waiting[room], self._waiting_labels[room] = features, labels
        self._num_waiting += len(labels)
        self._are_single &= features.is_floating_point() and features.dtype != torch.float64
        if self._num_waiting >= self._enough_rows:
            self._add_waiting()

    @torch.inference_mode(False)
    def _add_waiting(self) -> None:
        if self._num_waiting == 0:
            return
        waiting, labels = self._waiting[: self._num_waiting], self._waiting_labels[: self._num_waiting]
        pieces = zip(*(tensor.split(len(self._scratch)) for tensor in (waiting, labels)), strict=True)
        largest_norms = torch.stack([self._add_sums(*piece) for piece in pieces])
        if self.has_second_moment:
            self._add_products(waiting, largest_norms.max())
        self._num_waiting, self._are_single = 0, True

    def _add_sums(self, features: Tensor, labels: Tensor) -> Tensor:
        """Add samples to what is kept by class, leave their deviations in their place, return the largest norm."""
        self._choose_shifts(features, labels)
        scratch = self._scratch[: len(features)]
        if self.has_directions:
            norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
            torch.mul(features, norms.masked_fill_(norms == 0, 1).reciprocal_(), out=scratch)
            self._directions.index_add_(0, labels, scratch)
        torch.index_select(self._shifts, 0, labels, out=scratch)
        deviations = features.sub_(scratch)
        norms = torch.linalg.vector_norm(deviations, dim=1)
        self._counts.index_add_(0, labels, torch.ones_like(labels))
        self._sums.index_add_(0, labels, deviations)
        self._squares.index_add_(0, labels, norms.square())
        return norms.max()

    def _add_products(self, deviations: Tensor, largest_norm: Tensor) -> None:
        """Add the products of deviations to the second moment, on and above its diagonal; overwrites them."""
        unscale = torch.ones((), dtype=torch.float64, device=self.device)
        if self._are_single:
            # A float32 gemm is half the price. Scaled by a power of 2, no square overflows or underflows in it.
            _, exponent = torch.frexp(largest_norm)
            deviations = deviations.mul_(torch.ldexp(unscale, -exponent)).float()
            unscale = torch.ldexp(unscale, 2 * exponent)
        with exact_products(deviations.device):
            # The matrix is symmetric: only the blocks on and above the diagonal are computed.
            for start in range(0, deviations.shape[1], _BLOCK_WIDTH):
                block = slice(start, start + _BLOCK_WIDTH)
                products = deviations[:, block].T @ deviations[:, start:]
                self._second_moment[block, start:].addcmul_(products, unscale)
                if self._are_single:
                    self._single_squares[block].addcmul_(products.diagonal(), unscale)

    def _free_workspace(self) -> None:
        self._waiting = self._waiting_labels = self._scratch = torch.empty(0)
        self._num_waiting, self._are_single = 0, True

    def _choose_shifts(self, features: Tensor, labels: Tensor) -> None:
        """Give the classes seen for the first time the mean of their samples at hand."""
        if self._every_class_seen:
            return
        first_seen = self._counts.index_select(0, labels) == 0
        classes, positions = labels[first_seen].unique(return_inverse=True)
        if len(classes) == 0:
            self._every_class_seen = bool((self._counts > 0).all())
            return
        # About one of the samples: of samples that are all equal, the mean is then exact and the deviations are 0.
        first_features = features[first_seen]
        origins = self._shifts.new_empty(len(classes), features.shape[1])
        origins[positions] = first_features
        sums = torch.zeros_like(origins).index_add_(0, positions, first_features - origins[positions])
        self._shifts[classes] = origins + sums / positions.bincount().unsqueeze(1)

    def _move_shifts(self, shifts: Tensor) -> None:
        """Rewrite the sums about other shifts s', with m = s − s': h − s' = (h − s) + m."""
        moved = self._shifts - shifts
        moved_sums = self._sums + self.counts.unsqueeze(1) * moved
        self._squares += torch.linalg.vecdot(moved, self._sums + moved_sums)
        if self.has_second_moment:
            self._second_moment += moved.T @ self._sums + moved_sums.T @ moved
        self._sums = moved_sums
        self._shifts.copy_(shifts)

    def _allocate(self, num_features: int, device: torch.device) -> None:
        if self.num_features is not None:
            return
        if self._device is None:
            self._device = with_float64(device)
        self.num_features = num_features
        self._every_class_seen = False
        of_class, by_feature = (self.num_classes,), (self.num_classes, num_features)
        self._counts = torch.zeros(of_class, dtype=torch.int64, device=self._device)
        self._shifts = torch.zeros(by_feature, dtype=torch.float64, device=self._device)
        self._sums = torch.zeros(by_feature, dtype=torch.float64, device=self._device)
        self._squares = torch.zeros(of_class, dtype=torch.float64, device=self._device)
        if self.has_directions:
            self._directions = torch.zeros(by_feature, dtype=torch.float64, device=self._device)
        if self.has_second_moment:
            shape = (num_features, num_features)
            self._second_moment = torch.zeros(shape, dtype=torch.float64, device=self._device)
            self._single_squares = torch.zeros(num_features, dtype=torch.float64, device=self._device)

    def _mean_deviations(self) -> Tensor:
        return self._sums / self.counts.clamp(min=1).unsqueeze(1)

    def _require_samples(self) -> None:
        if self.num_samples == 0:
            raise ValueError("the statistics are empty: update them with at least one sample")

    def _require_second_moment(self) -> None:
        if not self.has_second_moment:
            raise ValueError("the second moment was not accumulated: create ClassStatistics with second_moment=True")
