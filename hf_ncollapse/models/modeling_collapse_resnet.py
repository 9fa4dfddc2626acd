"""Fully connected residual networks L-RN1 and L-RN2, with LayerNorm.

Source: Súkeník, Lampert & Mondelli, NeurIPS 2025, arXiv:2505.15239, definitions 3.1 (post-LN) and B.1 (pre-LN).
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .collapse_config import image_sides
from .configuration_collapse_resnet import CollapseResNetConfig
from .depth_continuation import DepthContinuationMixin
from .regularized_objective import CollapseClassifierOutput, CollapseModelOutput, RegularizedObjectiveMixin
from .residual_layers import BranchOutput, CentredNorm, FeedForwardBranch, initialize_linear


class CollapseResNetBlock(GradientCheckpointingLayer):
    """X ↦ LN(X + f(X)) for post-LN, X ↦ X + f(LN(X)) for pre-LN, with f the branch σ(W X + b) of L-RN1 or
    W_2 σ(W_1 X + b_1) + b_2 of L-RN2; maps (N, d) to (N, d)."""

    def __init__(self, config: CollapseResNetConfig):
        super().__init__()
        self.feed_forward = FeedForwardBranch(config.hidden_size, config.linear_layers_per_block, config.hidden_act)
        self.norm = CentredNorm(config.hidden_size, config.norm_scale)
        self.is_post = config.norm_placement == "post"

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.is_post:
            return self.norm(hidden_states + self.feed_forward(hidden_states))
        return hidden_states + self.feed_forward(self.norm(hidden_states))

    def halve(self) -> None:
        """Halve the block's step, for depth continuation."""
        self.feed_forward.halve()


class CollapseResNetEmbeddings(nn.Module):
    """X_1 = LN(W_0 · flatten(image) + b_0); maps (N, C, H, W) to (N, d)."""

    def __init__(self, config: CollapseResNetConfig):
        super().__init__()
        self.image_shape = (config.num_channels, *image_sides(config.image_size))
        self.projection = nn.Linear(config.input_size, config.hidden_size)
        self.norm: nn.Module = CentredNorm(config.hidden_size, config.norm_scale)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if tuple(pixel_values.shape[1:]) != self.image_shape:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; it takes "
                f"(N, {', '.join(map(str, self.image_shape))}), the config's num_channels and image_size"
            )
        return self.norm(self.projection(pixel_values.flatten(1).to(self.projection.weight.dtype)))


class CollapseResNetPreTrainedModel(PreTrainedModel):
    """Initialisation, which the paper does not say, and what transformers needs to know.

    Every weight is N(0, 1/fan_in) and every bias 0, except that a branch's last linear layer is smaller by
    √num_hidden_layers: at any depth the branches together then move the stream by O(1), so that 200 blocks start as
    finite and as trainable as 2.
    """

    config: CollapseResNetConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["CollapseResNetBlock"]
    _can_record_outputs = {"hidden_states": CollapseResNetBlock}

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, BranchOutput):
            initialize_linear(module, gain=1 / math.sqrt(self.config.num_hidden_layers))
        elif isinstance(module, nn.Linear):
            initialize_linear(module)


class CollapseResNetModel(CollapseResNetPreTrainedModel):
    """L-RN1 or L-RN2 without its classifier: image → features.

    Example:

        >>> import torch
        >>> from hf_ncollapse import CollapseResNetConfig, CollapseResNetModel
        >>> model = CollapseResNetModel(CollapseResNetConfig(num_hidden_layers=3))
        >>> model(torch.rand(2, 1, 28, 28)).features.shape
        torch.Size([2, 64])
    """

    def __init__(self, config: CollapseResNetConfig):
        super().__init__(config)
        self.embeddings = CollapseResNetEmbeddings(config)
        self.layers = nn.ModuleList(CollapseResNetBlock(config) for _ in range(config.num_hidden_layers))
        # After a post-LN block the stream is normalised already.
        is_post = config.norm_placement == "post"
        self.norm: nn.Module = nn.Identity() if is_post else CentredNorm(config.hidden_size, config.norm_scale)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> CollapseModelOutput:
        """Map images (N, C, H, W) to features (N, d): X_L for post-LN, LN(X_L) for pre-LN."""
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return CollapseModelOutput(features=self.norm(hidden_states))


class CollapseResNetForImageClassification(
    DepthContinuationMixin, RegularizedObjectiveMixin, CollapseResNetPreTrainedModel
):
    """L-RN1 or L-RN2 with its linear classifier W_L, and its regularised objective.

    Example:

        >>> import torch
        >>> from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification
        >>> model = CollapseResNetForImageClassification(CollapseResNetConfig(num_hidden_layers=3, num_labels=10))
        >>> output = model(torch.rand(2, 1, 28, 28), labels=torch.tensor([3, 7]))
        >>> objective = output.loss + model.regularization()
    """

    config: CollapseResNetConfig

    def __init__(self, config: CollapseResNetConfig):
        super().__init__(config)
        self.network = CollapseResNetModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels, bias=config.classifier_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> CollapseClassifierOutput:
        """Classify images.

        Args:
            pixel_values: images of shape (N, C, H, W), as the model's image processor makes them.
            labels: integers in [0, K), of shape (N,); gives the `loss`.
            num_items_in_batch: what the sum of the losses is divided by, N by default.
        """
        return self.classify(self.network(pixel_values, **kwargs), labels, num_items_in_batch)


__all__ = ["CollapseResNetForImageClassification", "CollapseResNetModel", "CollapseResNetPreTrainedModel"]


# Saved checkpoints carry this code, for processes without the package.
CollapseResNetModel.register_for_auto_class("AutoModel")
CollapseResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
