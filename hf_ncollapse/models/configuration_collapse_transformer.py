"""Configuration of the transformers L-T11, L-T12, L-T21 and L-T22, for images and for texts."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .collapse_config import CollapseConfig, image_sides


@strict
class CollapseTransformerConfig(CollapseConfig):
    """Configuration of [`CollapseTransformerModel`]: L-T11 (default) to L-T22 of arXiv:2505.15239.

    A network reads texts when `vocab_size` is given, else images, cut into patches.

    Args:
        attention_linear_layers: 1 for attention with the two merged matrices W_VO and W_QK, 2 for W_O W_V and
            W_Kᵀ W_Q, four matrices. The first digit of the architecture's name.
        mlp_linear_layers: 1 for the branch σ(W z + b), 2 for W_2 σ(W_1 z + b_1) + b_2. The second digit.
        num_attention_heads: the paper has one. With merged matrices each head has a W_QK and a W_VO of d×d, with four
            matrices each head works in hidden_size / num_attention_heads dimensions.
        is_causal: whether a position sees itself and the ones before it only, as in the paper.
        pooling: whose state is the feature: the "last" patch or token, as in the paper, or the "mean" over them.
            Padding is left out.
        image_size: height and width of an image in pixels, one number when they are equal.
        num_channels: 1 for grey images, 3 for colour.
        patch_size: side of a square patch in pixels; divides the image's sides.
        vocab_size: number of tokens; None for images.
        max_position_embeddings: largest number of tokens of a text; what is beyond is not read.
        pad_token_id: the tokenizer's, for tools that pad; the network reads the attention mask instead.
        **kwargs: the objective and the stream, see [`CollapseConfig`], and transformers' own.

    Example:

        >>> from hf_ncollapse import CollapseTransformerConfig
        >>> config = CollapseTransformerConfig(mlp_linear_layers=2, vocab_size=8000)
        >>> config.architecture_name, config.modality
        ('L-T12', 'text')
    """

    model_type = "collapse_transformer"
    architectures_by_name: ClassVar = {
        f"L-T{attention}{mlp}": {"attention_linear_layers": attention, "mlp_linear_layers": mlp}
        for attention in (1, 2)
        for mlp in (1, 2)
    }

    attention_linear_layers: Literal[1, 2] = 1
    mlp_linear_layers: Literal[1, 2] = 1
    num_attention_heads: int = 1
    is_causal: bool = True
    pooling: Literal["last", "mean"] = "last"
    image_size: int | list[int] | tuple[int, ...] = 28
    num_channels: int = 1
    patch_size: int = 7
    vocab_size: int | None = None
    max_position_embeddings: int = 256
    pad_token_id: int | None = None

    @property
    def modality(self) -> str:
        """What the network reads, "image" or "text"."""
        return "image" if self.vocab_size is None else "text"

    @property
    def num_patches(self) -> int:
        """Number of patches in one image."""
        height, width = image_sides(self.image_size)
        return (height // self.patch_size) * (width // self.patch_size)

    def validate_heads(self) -> None:
        """Refuse a number of heads below 1, and split heads that do not share the width evenly."""
        if self.num_attention_heads < 1:
            raise ValueError(f"num_attention_heads is {self.num_attention_heads}; it must be at least 1")
        if self.attention_linear_layers == 2 and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}; it must divide hidden_size = {self.hidden_size}"
            )

    def validate_input(self) -> None:
        """Refuse images that the patches do not tile, and texts without tokens."""
        if self.modality == "text":
            for name in ("vocab_size", "max_position_embeddings"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
            return
        sides = image_sides(self.image_size)
        if self.num_channels < 1:
            raise ValueError(f"num_channels is {self.num_channels}; it must be at least 1")
        if self.patch_size < 1 or any(side % self.patch_size for side in sides):
            raise ValueError(f"patch_size is {self.patch_size}; it must divide image_size = {self.image_size}")


__all__ = ["CollapseTransformerConfig"]


# Saved checkpoints carry this code, for processes without the package.
CollapseTransformerConfig.register_for_auto_class()
