"""Configuration of the fully connected residual networks L-RN1 and L-RN2."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .collapse_config import CollapseConfig, image_sides


@strict
class CollapseResNetConfig(CollapseConfig):
    """Configuration of [`CollapseResNetModel`]: L-RN1 (default) or L-RN2 of arXiv:2505.15239.

    Args:
        linear_layers_per_block: 1 for the branch σ(W x + b) (L-RN1), 2 for W_2 σ(W_1 x + b_1) + b_2 (L-RN2).
        image_size: height and width of an image in pixels, one number when they are equal.
        num_channels: 1 for grey images, 3 for colour.
        **kwargs: the objective and the stream, see [`CollapseConfig`], and transformers' own.

    Example:

        >>> from hf_ncollapse import CollapseResNetConfig
        >>> config = CollapseResNetConfig(num_hidden_layers=8, l2_depth_scaling="inverse", num_labels=10)
        >>> config.resolved_l2_coefficient, config.resolved_classifier_l2_coefficient
        (0.000625, 0.005)
        >>> config.architecture_name
        'L-RN1'
    """

    model_type = "collapse_resnet"
    architectures_by_name: ClassVar = {f"L-RN{layers}": {"linear_layers_per_block": layers} for layers in (1, 2)}

    linear_layers_per_block: Literal[1, 2] = 1
    image_size: int | list[int] | tuple[int, ...] = 28
    num_channels: int = 1

    @property
    def input_size(self) -> int:
        """Number of values in one image: height × width × channels."""
        height, width = image_sides(self.image_size)
        return height * width * self.num_channels

    def validate_image(self) -> None:
        """Refuse images without pixels."""
        image_sides(self.image_size)
        if self.num_channels < 1:
            raise ValueError(f"num_channels is {self.num_channels}; it must be at least 1")


__all__ = ["CollapseResNetConfig"]


# Saved checkpoints carry this code, for processes without the package.
CollapseResNetConfig.register_for_auto_class()
