"""The samples a metric was given: kept while they fit, streamed into class statistics beyond."""

from typing import Any, cast

import torch
from torch import Tensor

from .batch_checks import as_batch, check_labels, require_finite, require_plausible
from .class_statistics import ClassStatistics


class SampleBuffer:
    """Samples in the order they came, before K, the classifier and the measures asked for are known.

    While their features fit into `max_bytes` they are kept: at the end only what is asked for is computed, and a
    second look at them is possible. Once they do not fit, all go into statistics that answer every one-pass measure.

    Args:
        max_bytes (`int`): bytes of features to keep at most; 0 streams from the first batch on.
        num_classes (`int`, *optional*): K, where it is known from the start: the statistics never have to grow.
        second_moment, directions (`bool`): what statistics of streamed features accumulate.
    """

    def __init__(
        self, max_bytes: int, *, num_classes: int | None = None, second_moment: bool = True, directions: bool = True
    ):
        self.max_bytes = max_bytes
        self.num_classes = num_classes
        self.accumulated = {"second_moment": second_moment, "directions": directions}
        self.num_features: int | None = None
        self._labels: list[Tensor] = []
        self._features: list[Tensor] = []
        self._num_bytes = 0
        self._streamed: ClassStatistics | None = None

    def __len__(self) -> int:
        return sum(map(len, self._labels))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Copy a batch in.

        Raises:
            ValueError: features are not finite, real and N×d with the width of those before, or labels not N integers
                below K if that is known. Negative labels are judged at the end, when it is known which to ignore;
                their features are not looked at.
        """
        features, labels = as_batch(features, labels)
        if self.num_features not in (None, features.shape[1]):
            raise ValueError(f"features must keep their width {self.num_features}, got {features.shape[1]}")
        labels = labels.to("cpu", torch.int64, copy=True)
        if self.num_classes is not None:
            check_labels(labels.clamp(min=0), self.num_classes)
        num_bytes = self._num_bytes + features.numel() * features.element_size()
        if self._streamed is None and num_bytes <= self.max_bytes:
            counted = (labels >= 0).to(features.device)
            require_finite(features if counted.all() else features.masked_fill(~counted.unsqueeze(1), 0))
            self._features.append(features.clone())
        else:
            self._streamed = self._with_batch(self.stream(), features, labels)
        self._labels.append(labels)
        self.num_features, self._num_bytes = features.shape[1], num_bytes

    def stream(self) -> ClassStatistics:
        """Turn the features kept so far into statistics, and return these."""
        if self._streamed is None:
            statistics = ClassStatistics(self.num_classes or 2, **self.accumulated)
            for features, labels in zip(self._features, self._labels, strict=True):
                statistics = self._with_batch(statistics, features, labels)
            self._streamed, self._features = statistics, []
        return self._streamed

    def merge(self, other: "SampleBuffer") -> None:
        """Append the samples of `other`, which gives up its own."""
        if self._streamed is not None or other._streamed is not None:
            own, others = self.stream(), other.stream()
            num_classes = max(own.num_classes, others.num_classes)
            self._streamed = _of_size(own, num_classes)
            self._streamed.merge(_of_size(others, num_classes))
        self._features += other._features
        self._labels += other._labels
        self.num_features = self.num_features or other.num_features

    def summarize(
        self, num_classes: int | None, *, second_moment: bool, directions: bool, ignore_index: int | None
    ) -> tuple[ClassStatistics, list[tuple[Tensor, Tensor]] | None]:
        """Statistics of all samples and, where they were kept, the batches for a second look.

        Args:
            num_classes (`int`, *optional*): K; the largest label and one if not given.
            second_moment, directions (`bool`): what statistics of kept features accumulate.
            ignore_index (`int`, *optional*): samples with this label are skipped.

        Raises:
            ValueError: there is no sample, or a label is neither in 0 … K − 1 nor ignored.
        """
        if not self._labels:
            raise ValueError("there are no samples: add features and labels before computing")
        labels = torch.cat(self._labels)
        if num_classes is None:
            require_plausible(labels, len(labels), cast(int, self.num_features))  # of samples
            num_classes = max(2, int(labels.max()) + 1)
        check_labels(labels, num_classes, ignore_index)
        if self._streamed is not None:
            if ignore_index is not None and bool((labels[labels >= 0] == ignore_index).any()):
                raise ValueError(
                    f"ignore_index={ignore_index} came too late, the features no longer fit into memory and were "
                    "streamed: use a negative label, or keep more features"
                )
            return _of_size(self._streamed, num_classes), None
        statistics = ClassStatistics(num_classes, second_moment=second_moment, directions=directions)
        batches = self._rebatched()
        for batch in batches:
            statistics.update(*batch, ignore_index=ignore_index)
        return statistics, batches

    def state_dict(self) -> dict[str, Any]:
        """The samples as tensors and numbers, for another process to `from_state_dict` and `merge`."""
        return {
            "labels": self._labels,
            "features": self._features,
            "num_features": self.num_features,
            "num_classes": self.num_classes,
            "accumulated": self.accumulated,
            "streamed": None if self._streamed is None else self._streamed.state_dict(),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "SampleBuffer":
        """The buffer that `state_dict` described."""
        buffer = cls(max_bytes=0, num_classes=state["num_classes"], **state["accumulated"])
        buffer._labels, buffer._features = state["labels"], state["features"]
        buffer.num_features = state["num_features"]
        if state["streamed"] is not None:
            buffer._streamed = ClassStatistics.from_state_dict(state["streamed"])
        return buffer

    def _with_batch(self, statistics: ClassStatistics, features: Tensor, labels: Tensor) -> ClassStatistics:
        counted = labels >= 0
        if not counted.all():
            require_finite(features.masked_fill(~counted.to(features.device).unsqueeze(1), 0))
            features, labels = features[counted.to(features.device)], labels[counted]
        if self.num_classes is None:
            statistics = statistics.grown_for(features, labels)
        statistics.update(features, labels)
        return statistics

    def _rebatched(self) -> list[tuple[Tensor, Tensor]]:
        """The kept samples, with runs of small batches (`add` makes batches of one) joined."""
        batches: list[list[tuple[Tensor, Tensor]]] = []
        group: list[tuple[Tensor, Tensor]] = []
        rows = 0
        for batch in zip(self._features, self._labels, strict=True):
            group.append(batch)
            rows += len(batch[1])
            if rows >= 256:
                batches.append(group)
                group, rows = [], 0
        batches += [group] * bool(group)
        return [group[0] if len(group) == 1 else _joined(group) for group in batches]


def _joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, labels = zip(*batches, strict=True)
    return torch.cat(features), torch.cat(labels)


def _of_size(statistics: ClassStatistics, num_classes: int) -> ClassStatistics:
    return statistics if statistics.num_classes == num_classes else statistics.resized(num_classes)
