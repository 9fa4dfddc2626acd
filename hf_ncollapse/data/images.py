"""Images as in-memory tensors, with the processor that makes the same pixels later."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from hf_ncollapse.models.image_processing_collapse import CollapseImageProcessor


class TensorDataset(Dataset[dict[str, torch.Tensor]]):
    """Samples held as one tensor a name, all of length N; a batch is a slice, and all of them are no copy.

    `dataset[i]` is one sample. A DataLoader takes `batch` instead (torch calls `__getitems__`), so its collator has
    nothing left to do and must pass the dict through.
    """

    def __init__(self, **tensors: torch.Tensor):
        self.tensors = tensors

    @property
    def labels(self) -> torch.Tensor:
        """Labels, int64 (N,)."""
        return self.tensors["labels"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def batch(self, indices: Sequence[int] | torch.Tensor) -> dict[str, torch.Tensor]:
        """The samples at these indices, one tensor a name."""
        rows = torch.as_tensor(indices)
        if len(rows) == len(self) and torch.equal(rows, torch.arange(len(rows))):
            return dict(self.tensors)
        return {name: tensor[rows] for name, tensor in self.tensors.items()}

    __getitems__ = batch


def fit_image_processor(images: Sequence[Any], image_size: int | None, largest_pixel: int) -> CollapseImageProcessor:
    """Return the processor of these training images: their size and channels, and their mean image.

    Raises:
        ValueError: images of several sizes while `image_size` is None.
    """
    sizes = {_height_and_width(image) for image in images}
    if image_size is None and len(sizes) > 1:
        smallest, largest = min(sizes), max(sizes)
        raise ValueError(
            f"image_size is None and the images have several sizes, from {smallest} to {largest} (height, width); "
            "give the side that they are resized to"
        )
    height, width = (image_size, image_size) if image_size is not None else sizes.pop()
    processor = CollapseImageProcessor(
        size={"height": height, "width": width},
        num_channels=1 if all(_is_grey(image) for image in images) else 3,
        rescale_factor=1 / largest_pixel,
    )
    # The exact mean of bytes, rounded once: it does not depend on the order of summation.
    mean = processor.to_pixels(images).sum(axis=0, dtype=np.int64) / (len(images) * largest_pixel)
    processor.image_mean = mean.astype(np.float32)
    return processor


def image_dataset(images: Sequence[Any], labels: np.ndarray, processor: CollapseImageProcessor) -> TensorDataset:
    """Return `pixel_values`, float32 (N, C, H, W), and `labels`, int64 (N,)."""
    pixel_values = processor(list(images), return_tensors="pt")["pixel_values"]
    return TensorDataset(pixel_values=pixel_values, labels=torch.from_numpy(labels))


def _height_and_width(image: Image.Image | np.ndarray) -> tuple[int, int]:
    return (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]


def _is_grey(image: Image.Image | np.ndarray) -> bool:
    return image.mode in ("1", "L") if isinstance(image, Image.Image) else image.ndim == 2
