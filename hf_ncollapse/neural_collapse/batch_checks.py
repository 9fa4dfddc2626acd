"""What a batch of features and labels must be, checked with one look at the host's side of an accelerator."""

import torch
from torch import Tensor

_LARGEST_SQUARABLE = 1e140


def as_batch(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The two as detached tensors, after a look at their shapes and types but not at their values.

    Raises:
        ValueError: features are not real N×d, or labels not N integers.
    """
    features, labels = torch.as_tensor(features).detach(), torch.as_tensor(labels).detach()
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
    return features, labels


def counted_samples(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return a batch without the samples labelled `ignore_index`, on the features' device, after a look at its values.

    The values are read once: an accelerator waits for one number of each kind, all fetched together.

    Args:
        features (`Tensor`): N×d; those of ignored samples may be anything.
        labels (`Tensor`): N integers.
        num_classes (`int`): K.
        ignore_index (`int`, *optional*): the label of samples to leave out.

    Raises:
        ValueError: a label is outside 0 … K − 1, or a feature is NaN, infinite or too large to square in float64.
    """
    labels = labels.to(features.device, torch.int64)
    num_samples = labels.shape[0]
    if num_samples == 0:
        return features, labels
    magnitudes = _magnitudes(features)
    if ignore_index is None:
        found = [*labels.aminmax(), magnitudes.sum(dtype=torch.float64)]
    else:
        ignored = labels == ignore_index
        judged = labels.masked_fill(ignored, 0)
        magnitudes = magnitudes.masked_fill(ignored, 0)
        found = [*judged.aminmax(), magnitudes.sum(dtype=torch.float64), ignored.sum()]
    smallest, largest, magnitude, *rest = torch.stack(found).tolist()
    num_ignored = int(rest[0]) if rest else 0
    if smallest < 0 or largest >= num_classes:
        check_labels(labels, num_classes, ignore_index)
    if num_ignored:
        # A stable sort needs no count from the accelerator, which a boolean mask would wait for.
        counted = ignored.to(torch.uint8).argsort(stable=True)[: num_samples - num_ignored]
        features, labels = features[counted], labels[counted]
    if not abs(magnitude) <= _LARGEST_SQUARABLE:
        require_finite(features)
    return features, labels


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


def require_finite(features: Tensor) -> None:
    """Raise a `ValueError` that says how many features are NaN, infinite or too large to square, and where, if any."""
    # In Python's precision: in float32 the limit is infinite, and infinity is not above it.
    if features.numel() == 0 or abs(_magnitudes(features).sum().item()) <= _LARGEST_SQUARABLE:
        return
    bad = ~features.isfinite()
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        num_nan, num_infinite = int(features.isnan().sum()), int(features.isinf().sum())
        raise ValueError(
            f"features must be finite, got {num_nan} NaN and {num_infinite} infinite values in "
            f"{int(bad.any(dim=1).sum())} of {len(features)} samples, first in sample {row}, feature {column}"
        )
    largest = float(features.abs().max())
    if largest > _LARGEST_SQUARABLE:
        raise ValueError(f"features must be small enough to square in float64, got values up to {largest:.3g}")


def _magnitudes(features: Tensor) -> Tensor:
    """N numbers whose sum is larger than 1e140 in magnitude, or NaN, if a feature is too large or not finite."""
    if features.dtype == torch.float64:
        return torch.linalg.vector_norm(features, ord=torch.inf, dim=1)
    # NaN and infinity survive a sum, which is read ten times faster than every element is tested.
    return features.sum(dim=1, dtype=torch.float32)
