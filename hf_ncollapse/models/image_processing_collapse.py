"""Image processor of the collapse models: 8-bit pixels of one size, scaled, minus the training set's mean image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import load_image
from transformers.utils import TensorType

_MODES = {1: "L", 3: "RGB"}


class CollapseImageProcessor(BaseImageProcessor):
    """Turns images of any size and mode into the pixels that the network was trained on.

    `pixel_values = rescale_factor · image − image_mean`, after the image was converted to grey or RGB and, if its size
    differs, resized (bilinear, without keeping its proportions).

    Args:
        size: `{"height": H, "width": W}` in pixels.
        num_channels: C, 1 for grey or 3 for RGB.
        rescale_factor: 1 over the largest raw pixel value: 1/255, or 1/16 for scikit-learn's digits.
        image_mean: the mean image after rescaling, (C, H, W); None subtracts nothing.

    Raises:
        ValueError: a size below 1, another number of channels, or a mean image of another shape.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: dict[str, int] | None = None,
        num_channels: int = 1,
        rescale_factor: float = 1 / 255,
        image_mean: np.ndarray | list[list[list[float]]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.size = {"height": 28, "width": 28} if size is None else dict(size)
        self.num_channels = num_channels
        self.rescale_factor = rescale_factor
        self.image_mean = None if image_mean is None else np.asarray(image_mean, dtype=np.float32)
        if set(self.size) != {"height", "width"} or min(self.size.values()) < 1:
            raise ValueError(f'size is {size}; it takes {{"height": H, "width": W}}, each at least 1')
        if num_channels not in _MODES:
            raise ValueError(f"num_channels is {num_channels}; it must be 1 (grey) or 3 (RGB)")
        shape = (num_channels, self.size["height"], self.size["width"])
        if self.image_mean is not None and self.image_mean.shape != shape:
            raise ValueError(f"image_mean has shape {self.image_mean.shape}; size and num_channels need {shape}")

    def preprocess(self, images: Any, return_tensors: str | TensorType | None = None, **kwargs: Any) -> BatchFeature:
        """Return `pixel_values`, float32 (N, C, H, W), of one image or of a sequence of them.

        An image is a PIL image, a path or an address, or an array or tensor of raw pixel values (whole numbers from 0
        to 255) shaped (H, W), (H, W, C) or (C, H, W).

        Raises:
            ValueError: a keyword that the processor does not have, an array of another shape, or one that holds
                something else than 8-bit pixel values.
        """
        if kwargs:
            raise ValueError(f"CollapseImageProcessor takes no {', '.join(map(repr, kwargs))}")
        is_one_image = not isinstance(images, (list, tuple))
        pixels = self.rescale(self.to_pixels([images] if is_one_image else images))
        if self.image_mean is not None:
            pixels -= self.image_mean
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def to_pixels(self, images: Sequence[Any]) -> np.ndarray:
        """Return the images as raw 8-bit pixels, uint8 (N, C, H, W)."""
        if len(images) == 0:
            raise ValueError("images is empty; it takes at least one image")
        mode, size = _MODES[self.num_channels], (self.size["width"], self.size["height"])
        arrays = []
        for image in images:
            image = load_image(image) if isinstance(image, str) else image
            image = image if isinstance(image, Image.Image) else _image_from_array(np.asarray(image))
            if image.mode[0] in "IF":
                raise ValueError(f"the image has mode {image.mode!r}; only images of 8 bits a channel are taken")
            image = image if image.mode == mode else image.convert(mode)
            arrays.append(np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)))
        stacked = np.stack(arrays)
        return stacked[:, None] if self.num_channels == 1 else np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))

    def rescale(self, pixels: np.ndarray) -> np.ndarray:  # type: ignore[override]  # one scale, the processor's
        """Return `rescale_factor · pixels` in float32."""
        return pixels.astype(np.float32) * np.float32(self.rescale_factor)


def _image_from_array(array: np.ndarray) -> Image.Image:
    """Return the PIL image of raw pixel values shaped (H, W), (H, W, C) or (C, H, W)."""
    if array.dtype != np.uint8:
        as_bytes = array.astype(np.uint8)
        if not np.array_equal(as_bytes, array):
            raise ValueError(
                f"the image has {array.dtype} values between {array.min()} and {array.max()}; an array must hold raw "
                "pixel values, whole numbers from 0 to 255: the processor does the scaling"
            )
        array = as_bytes
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise ValueError(
            f"an image has shape {array.shape}; it takes (H, W), (H, W, C) or (C, H, W), C being 1, 3 or 4"
        )
    return Image.fromarray(np.ascontiguousarray(array))


__all__ = ["CollapseImageProcessor"]


# Saved checkpoints carry this code, for processes without the package.
CollapseImageProcessor.register_for_auto_class("AutoImageProcessor")
