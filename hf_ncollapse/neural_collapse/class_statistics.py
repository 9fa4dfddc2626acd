"""Sufficient statistics of labelled features: one pass, additive, mergeable and reducible across processes.

Every neural collapse measure but NC4 is a function of four sums over samples, kept per class: how many there are,
their sum, their squared norms, and their unit vectors; NC1's pseudo-inverse form needs the second moment as well.
Sums of raw features would lose the variance to cancellation (E‖h‖² − ‖Eh‖² in float32 is wrong by 5× at mean 10,
σ 1e-3), so each class is summed about a shift of its own: the mean of its first batch. Sums about different shifts
describe the same data and convert into each other exactly, which is what makes `merge` and `all_reduce` possible.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor

_SINGLE_PRECISION = (torch.float32, torch.float16, torch.bfloat16)
_SAFE_SQUARED_NORMS = (1e-24, 1e32)
_OF_CLASSES = {"counts", "_shifts", "_sums", "_squares", "_directions"}
_LARGEST_SQUARABLE = 1e140
_BLOCK_WIDTH = 128
# Batches are worked through in pieces that stay in a processor's cache, or fill an accelerator.
_CPU_ROWS, _ACCELERATOR_ROWS = 512, 16384


class ClassStatistics:
    r"""Counts, means, within-class scatter and mean directions of features, accumulated in float64 in one pass.

    With s_k the shift of class k, the state holds, per class, n_k, Σ(h − s_k), Σ‖h − s_k‖² and, on request, the sum
    of unit features Σ h/‖h‖ (K×d; any classifier's mean cosine follows from it) and the second moment
    Σ (h − s_{y})(h − s_{y})ᵀ (d×d, over all samples; the products of float64 features are float64's, of others
    float32's, and what was rounded so is kept beside it).

    Args:
        num_classes (`int`): K, at least 2. Labels are 0 … K − 1.
        second_moment (`bool`): accumulate the d×d second moment, one gemm a batch; only `nc1_pinv` needs it.
        directions (`bool`): accumulate the sums of unit features, K×d; only `nc3` needs them.
        device: where the state lives; `None` takes the first batch's device (CPU where that has no float64).

    Memory: 16·K·d bytes, 8·K·d more for the directions and 8·d² more for the second moment.

    Example:
        >>> import torch
        >>> statistics = ClassStatistics(num_classes=2)
        >>> statistics.update(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 0, 1]))
        >>> statistics.class_means.tolist()
        [[2.0, 0.0], [0.0, 4.0]]
        >>> statistics.within_class_scatter.tolist()
        [2.0, 0.0]
    """

    VERSION = 2

    def __init__(self, num_classes: int, *, second_moment: bool = False, directions: bool = True, device=None):
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.num_features: int | None = None
        self.has_second_moment = second_moment
        self.has_directions = directions
        self._device = None if device is None else torch.device(device)
        self._workspace: Tensor | None = None

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
        features, labels = drop_ignored(features, labels, self.num_classes, ignore_index)
        if self.num_features not in (None, features.shape[1]):
            raise ValueError(f"features must keep their width {self.num_features}, got {features.shape[1]}")
        if len(labels) == 0:
            return
        rows = _CPU_ROWS if features.device.type == "cpu" else _ACCELERATOR_ROWS
        if self.num_features is None or len(features) > rows or features.dtype == torch.float64:
            require_finite(features)
        self._allocate(features.shape[1], features.device)
        features, labels = features.to(self.device), labels.to(self.device, torch.int64)
        with exact_products(self.device):
            for start in range(0, len(labels), rows):
                self._add(features[start : start + rows], labels[start : start + rows])

    # --- what comes out ----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device | None:
        """Where the state lives; `None` before the first batch, unless it was given."""
        return self._device

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
        mean_deviations = self._mean_deviations()
        return (self._squares - torch.linalg.vecdot(mean_deviations, self._sums)).clamp_(min=0)

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

    def resized(self, num_classes: int) -> "ClassStatistics":
        """The same samples among more classes, or fewer: classes cut off must be absent."""
        if num_classes < self.num_classes and bool((self.counts[num_classes:] > 0).any()):
            raise ValueError(f"cannot resize to {num_classes} classes: later ones have samples")
        state = self.state_dict()
        state["num_classes"] = num_classes
        for name in _OF_CLASSES & state.keys():
            tensor = state[name][:num_classes]
            state[name] = torch.cat([tensor, tensor.new_zeros(num_classes - len(tensor), *tensor.shape[1:])])
        return ClassStatistics.from_state_dict(state, device=self.device)

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
        self._allocate(other.num_features, other.device)
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
        widths = [None] * dist.get_world_size()
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

    # --- keeping -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Everything needed to continue or merge elsewhere: plain numbers and tensors, with a version."""
        state = {
            "version": self.VERSION,
            "num_classes": self.num_classes,
            "num_features": self.num_features,
            "second_moment": self.has_second_moment,
            "directions": self.has_directions,
        }
        return state | (
            {} if self.num_features is None else {name: getattr(self, name) for name in self._tensor_names()}
        )

    @torch.inference_mode(False)
    def load_state_dict(self, state: dict) -> None:
        """Replace this state by `state`, a `state_dict()` of statistics that accumulate the same.

        Raises:
            ValueError: the state has another version, other classes, or accumulates something else.
        """
        expected = {
            "version": self.VERSION,
            "num_classes": self.num_classes,
            "second_moment": self.has_second_moment,
            "directions": self.has_directions,
        }
        for name, value in expected.items():
            if state[name] != value:
                raise ValueError(f"cannot load a state with {name} {state[name]!r}: this has {value!r}")
        self.num_features = None
        if state["num_features"] is not None:
            self._allocate(state["num_features"], state["counts"].device)
            for name in self._tensor_names():
                getattr(self, name).copy_(state[name])

    @classmethod
    def from_state_dict(cls, state: dict, device=None) -> "ClassStatistics":
        """Statistics made from a `state_dict()` alone."""
        statistics = cls(
            state["num_classes"], second_moment=state["second_moment"], directions=state["directions"], device=device
        )
        statistics.load_state_dict(state)
        return statistics

    def to(self, device) -> "ClassStatistics":
        """Move the state to `device`, which must know float64, and return self."""
        self._device = torch.device(device)
        self._workspace = None
        if self.num_features is not None:
            for name in self._tensor_names():
                setattr(self, name, getattr(self, name).to(self._device))
        return self

    def __repr__(self) -> str:
        return f"ClassStatistics({self.num_samples} samples, {self.num_classes} classes, width {self.num_features})"

    # --- inside ------------------------------------------------------------------------------------------------

    def _add(self, features: Tensor, labels: Tensor) -> None:
        new_classes = self._choose_shifts(features, labels)
        # Large temporaries would be mapped and unmapped for every batch, which costs more than the arithmetic.
        if self._workspace is None or len(self._workspace) < len(features):
            self._workspace = torch.empty_like(features, dtype=torch.float64)
        workspace = self._workspace[: len(features)]

        deviations = torch.index_select(self._shifts, 0, labels, out=workspace)
        torch.sub(features, deviations, out=deviations)
        squared_norms = torch.linalg.vector_norm(deviations, dim=1).square_()
        if not squared_norms.sum().isfinite():
            self._shifts[new_classes] = 0
            require_finite(features)
        self.counts.index_add_(0, labels, torch.ones_like(labels))
        self._sums.index_add_(0, labels, deviations)
        self._squares.index_add_(0, labels, squared_norms)
        if self.has_second_moment:
            # A float32 gemm is half the price; it needs squares that neither overflow nor underflow in float32.
            smallest, largest = _SAFE_SQUARED_NORMS
            single = features.dtype in _SINGLE_PRECISION and bool(smallest < squared_norms.max() < largest)
            if single:
                deviations = deviations.float()
            # The matrix is symmetric: only the blocks on and above the diagonal are computed.
            for start in range(0, self.num_features, _BLOCK_WIDTH):
                block = slice(start, start + _BLOCK_WIDTH)
                products = deviations[:, block].T @ deviations[:, start:]
                self._second_moment[block, start:] += products
                if single:
                    self._single_squares[block] += products.diagonal()
        if self.has_directions:
            directions = workspace.copy_(features)
            norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
            self._directions.index_add_(0, labels, directions.div_(norms.masked_fill_(norms == 0, 1)))

    def _choose_shifts(self, features: Tensor, labels: Tensor) -> Tensor:
        """Give the classes seen for the first time, which are returned, the mean of their samples at hand."""
        if self._every_class_seen:
            return labels[:0]
        first_seen = self.counts.index_select(0, labels) == 0
        classes, positions = labels[first_seen].unique(return_inverse=True)
        if len(classes) == 0:
            self._every_class_seen = bool((self.counts > 0).all())
            return classes
        # About one of the samples: of samples that are all equal, the mean is then exact and the deviations are 0.
        first_features = features[first_seen].double()
        origins = self._shifts.new_empty(len(classes), self.num_features)
        origins[positions] = first_features
        sums = torch.zeros_like(origins).index_add_(0, positions, first_features - origins[positions])
        self._shifts[classes] = origins + sums / positions.bincount().unsqueeze(1)
        return classes

    def _sum_names(self) -> list[str]:
        optional = ["_directions"] * self.has_directions
        optional += ["_second_moment", "_single_squares"] * self.has_second_moment
        return ["counts", "_sums", "_squares", *optional]

    def _tensor_names(self) -> list[str]:
        return ["_shifts", *self._sum_names()]

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
            self._device = torch.device("cpu") if device.type == "mps" else device
        self.num_features = num_features
        self._every_class_seen = False
        of_class, by_feature = (self.num_classes,), (self.num_classes, num_features)
        self.counts = torch.zeros(of_class, dtype=torch.int64, device=self._device)
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


class HeldOutStatistics:
    r"""Test samples measured about the *training* means: has what the measures read of `ClassStatistics`.

    The scatter of class k is Σ ‖h − μ_k‖² over its test samples with the training mean μ_k, so test samples that
    collapse to a point of their own do not count as collapsed. The means, and with them μ_G, are the training set's.

    Args:
        test (`ClassStatistics`): statistics of the test samples.
        class_means (`Tensor`): the training set's `class_means`, K×d.
        mean_counts (`Tensor`): the training set's `counts`, K integers.

    Raises:
        ValueError: the shapes differ, or a class has test samples but no training mean.
    """

    def __init__(self, test: ClassStatistics, class_means: Tensor, mean_counts: Tensor):
        expected = (test.num_classes, test.num_features)
        if tuple(class_means.shape) != expected or tuple(mean_counts.shape) != expected[:1]:
            raise ValueError(
                f"the training means must have the test statistics' classes and width {expected}, got shape "
                f"{tuple(class_means.shape)} and {len(mean_counts)} counts"
            )
        self.test = test
        self.class_means = class_means.to(test.device, torch.float64)
        self.mean_counts = mean_counts.to(test.device)
        self.num_classes, self.num_features, self.num_samples = *expected, test.num_samples
        self.device, self.counts = test.device, test.counts
        unknown = (self.present_classes & (self.mean_counts == 0)).nonzero().flatten().tolist()
        if unknown:
            raise ValueError(
                f"{len(unknown)} classes have test samples but no training mean, the first: {unknown[:10]}"
            )

    @property
    def within_class_scatter(self) -> Tensor:
        """Σ over the test samples of class k of ‖h − μ_k‖², K values in float64."""
        offsets = self._offsets()
        return self.test.within_class_scatter + self.counts * torch.linalg.vecdot(offsets, offsets)

    @property
    def within_class_second_moment(self) -> Tensor:
        """Σ over the test samples of (h − μ_y)(h − μ_y)ᵀ, d×d in float64."""
        offsets = self._offsets()
        return self.test.within_class_second_moment + (self.counts.unsqueeze(1) * offsets).T @ offsets

    @property
    def single_precision_squares(self) -> Tensor:
        """What float32 rounded in the test samples' second moment, d values in float64."""
        return self.test.single_precision_squares

    @property
    def direction_sums(self) -> Tensor:
        """The test samples' Σ h/‖h‖, K×d in float64."""
        return self.test.direction_sums

    @property
    def has_second_moment(self) -> bool:
        """Whether the test statistics hold the second moment."""
        return self.test.has_second_moment

    @property
    def has_directions(self) -> bool:
        """Whether the test statistics hold the direction sums."""
        return self.test.has_directions

    @property
    def present_classes(self) -> Tensor:
        """Which classes have test samples, K booleans."""
        return self.test.present_classes

    def select_classes(self, selected: Tensor) -> "HeldOutStatistics":
        """The same for some classes alone: no class left out may have test samples."""
        test = self.test.select_classes(selected)
        return HeldOutStatistics(test, self.class_means[selected], self.mean_counts[selected])

    def _offsets(self) -> Tensor:
        return self.test.class_means - self.class_means


def exact_products(device: torch.device) -> AbstractContextManager:
    """Without autocast on a device: under it, float32 products run in bfloat16 or float16."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_batch(features: Tensor, labels: Tensor) -> None:
    """Raise a `ValueError` unless features are real N×d and labels N integers."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be samples × width (N×d), got shape {tuple(features.shape)}")
    if features.is_complex():
        raise ValueError(f"features must be real, got {features.dtype}")
    if features.is_floating_point() and features.element_size() < 2:
        raise ValueError(f"features must be of 16 bits or more, got {features.dtype}: cast them, as with .bfloat16()")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must have one entry a sample, ({len(features)},), got shape {tuple(labels.shape)}")


def check_labels(labels: Tensor, num_classes: int, ignore_index: int | None = None) -> None:
    """Raise a `ValueError` that names the first label that is neither in 0 … K − 1 nor ignored, and its position."""
    if len(labels) == 0:
        return
    smallest, largest = map(int, labels.aminmax())
    if smallest >= 0 and largest < num_classes:
        return
    bad = (labels < 0) | (labels >= num_classes)
    if ignore_index is not None:
        bad &= labels != ignore_index
    if bad.any():
        position = int(bad.nonzero()[0])
        hint = "; pass ignore_index=-100 to skip such samples" if labels[position] == -100 else ""
        raise ValueError(
            f"labels must be in 0 … {num_classes - 1}, got {int(labels[position])} at position {position} "
            f"({int(bad.sum())} labels in all){hint}"
        )


def require_plausible(labels: Tensor, num_samples: int, num_features: int) -> None:
    """Raise a `ValueError` if the largest of some labels, from which K is learned, can only be a mistake."""
    num_classes = int(labels.max()) + 1
    if num_classes > 100 * num_samples and 8 * num_classes * num_features > 2**28:
        raise ValueError(
            f"labels must be 0 … K − 1, got {num_classes - 1} at position {int(labels.argmax())} among {num_samples} "
            "samples: map them to whole numbers without gaps"
        )


def drop_ignored(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return a checked batch, as detached tensors, without the samples labelled `ignore_index`."""
    features, labels = torch.as_tensor(features).detach(), torch.as_tensor(labels).detach()
    check_batch(features, labels)
    check_labels(labels, num_classes, ignore_index)
    if ignore_index is None or not (labels == ignore_index).any():
        return features, labels
    kept = labels != ignore_index
    return features[kept.to(features.device)], labels[kept]


def require_finite(features: Tensor) -> None:
    """Raise a `ValueError` that says how many features are NaN or infinite, and where, if any is."""
    if features.dtype == torch.float64:
        largest = float(features.abs().max()) if features.numel() else 0.0
        if largest <= _LARGEST_SQUARABLE:
            return
        if largest < torch.inf:
            raise ValueError(f"features must be small enough to square in float64, got values up to {largest:.3g}")
    # NaN and infinity survive a sum, which is read ten times faster than every element is tested.
    elif features.sum(dtype=torch.float32).isfinite():
        return
    bad = ~features.isfinite()
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        num_nan, num_infinite = int(features.isnan().sum()), int(features.isinf().sum())
        raise ValueError(
            f"features must be finite, got {num_nan} NaN and {num_infinite} infinite values in "
            f"{int(bad.any(dim=1).sum())} of {len(features)} samples, first in sample {row}, feature {column}"
        )
