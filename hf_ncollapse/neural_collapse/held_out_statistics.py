"""Statistics of test samples about the class means of a training set."""

import torch
from torch import Tensor

from .class_statistics import ClassStatistics


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

    has_own_means = False

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
