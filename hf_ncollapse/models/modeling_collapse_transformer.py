"""Transformers L-T11, L-T12, L-T21 and L-T22 for images and texts, with LayerNorm.

Source: Súkeník, Lampert & Mondelli, NeurIPS 2025, arXiv:2505.15239, definitions 3.2 (LN on the stream) and B.2
(pre-LN).
"""

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .collapse_config import image_sides
from .configuration_collapse_transformer import CollapseTransformerConfig
from .depth_continuation import DepthContinuationMixin
from .regularized_objective import CollapseClassifierOutput, CollapseModelOutput, RegularizedObjectiveMixin
from .residual_layers import BranchOutput, CentredNorm, FeedForwardBranch, initialize_linear

logger = logging.get_logger(__name__)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q Kᵀ · scaling + mask) V; maps (N, heads, T, d_h) to (N, T, heads, d_h), and returns the weights too.

    One key and value head serves all query heads.
    """
    logits = query @ key.transpose(-1, -2) * scaling
    weights = nn.functional.softmax(logits if attention_mask is None else logits + attention_mask, dim=-1)
    return (weights @ value).transpose(1, 2), weights


class CollapseSelfAttention(nn.Module):
    """Σ_j a_ij z_j between two linear maps; maps (N, T, d) to (N, T, d) and the attention weights.

    One linear layer: W_VO Σ_j a_ij z_j with a_i = softmax_j(z_iᵀ W_QK z_j/√d), so the stream itself is key and value;
    `query_key` holds W_QKᵀ. Two: W_O Σ_j a_ij W_V z_j with a_i = softmax_j(z_iᵀ W_Qᵀ W_K z_j/√d). Several heads are
    summed: with one linear layer each has a W_QK and a W_VO, with two it has d/heads rows of W_Q, W_K and W_V.
    """

    def __init__(self, config: CollapseTransformerConfig):
        super().__init__()
        self.config = config
        width, heads = config.hidden_size, config.num_attention_heads
        self.is_merged = config.attention_linear_layers == 1
        self.is_causal = config.is_causal
        if self.is_merged:
            self.head_size, self.num_key_value_groups = width, heads
            self.query_key = nn.Linear(width, heads * width, bias=False)
            self.value_output = BranchOutput(heads * width, width, bias=False)
        else:
            self.head_size, self.num_key_value_groups = width // heads, 1
            self.query = nn.Linear(width, width, bias=False)
            self.key = nn.Linear(width, width, bias=False)
            self.value = nn.Linear(width, width, bias=False)
            self.output = BranchOutput(width, width, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.is_merged:
            projected = (self.query_key(hidden_states), hidden_states, hidden_states)
        else:
            projected = (self.query(hidden_states), self.key(hidden_states), self.value(hidden_states))
        query, key, value = (states.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for states in projected)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        heads, weights = attend(
            self, query, key, value, attention_mask, scaling=1 / math.sqrt(self.head_size), dropout=0.0, **kwargs
        )
        last = self.value_output if self.is_merged else self.output
        return last(heads.flatten(2)), weights

    def halve(self) -> None:
        """Halve the branch along its value path: W_VO/2, or W_V/√2 and W_O/√2; the softmax stays as it is."""
        if self.is_merged:
            self.value_output.weight.mul_(0.5)
        else:
            self.value.weight.mul_(math.sqrt(0.5))
            self.output.weight.mul_(math.sqrt(0.5))


class CollapseTransformerBlock(GradientCheckpointingLayer):
    """An attention branch, then an MLP branch; maps (N, T, d) to (N, T, d).

    Post-LN (the paper's main text) is MLP ∘ LN ∘ ATTN ∘ LN on the stream itself; pre-LN normalises inside the
    branches.
    """

    def __init__(self, config: CollapseTransformerConfig):
        super().__init__()
        self.attention = CollapseSelfAttention(config)
        self.feed_forward = FeedForwardBranch(config.hidden_size, config.mlp_linear_layers, config.hidden_act)
        self.norm = CentredNorm(config.hidden_size, config.norm_scale)
        self.is_post = config.norm_placement == "post"

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        if self.is_post:
            hidden_states = self.norm(hidden_states)
            hidden_states = hidden_states + self.attention(hidden_states, attention_mask, **kwargs)[0]
            hidden_states = self.norm(hidden_states)
            return hidden_states + self.feed_forward(hidden_states)
        hidden_states = hidden_states + self.attention(self.norm(hidden_states), attention_mask, **kwargs)[0]
        return hidden_states + self.feed_forward(self.norm(hidden_states))

    def halve(self) -> None:
        """Halve both of the block's steps, for depth continuation."""
        self.attention.halve()
        self.feed_forward.halve()


def _embedding_norm(config: CollapseTransformerConfig) -> nn.Module:
    """LN after the embedding is pre-LN's; a post-LN block begins with one."""
    return CentredNorm(config.hidden_size, config.norm_scale) if config.norm_placement == "pre" else nn.Identity()


class CollapsePatchEmbeddings(nn.Module):
    """W_e · patch + position, normalised for pre-LN; maps (N, C, H, W) to (N, T, d)."""

    def __init__(self, config: CollapseTransformerConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size, bias=False)
        self.positions = nn.Embedding(config.num_patches, config.hidden_size)
        self.norm = _embedding_norm(config)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self._patches(pixel_values.to(self.projection.weight.dtype))
        return self.norm(self.projection(patches) + self.positions.weight)

    def _patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Cut images into flat patches, row by row; (N, C, H, W) to (N, T, C · patch_size²)."""
        side = self.config.patch_size
        shape = (self.config.num_channels, *image_sides(self.config.image_size))
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != shape:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; the config's num_channels and image_size take "
                f"(N, channels, height, width) = (N, {', '.join(map(str, shape))})"
            )
        rows = pixel_values.unflatten(2, (-1, side)).unflatten(4, (-1, side))
        return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class CollapseTokenEmbeddings(nn.Module):
    """W_e[token] + position, normalised for pre-LN; maps tokens (N, T) and positions, (T,) or (N, T), to (N, T, d)."""

    def __init__(self, config: CollapseTransformerConfig):
        super().__init__()
        self.tokens = nn.Embedding(cast(int, config.vocab_size), config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = _embedding_norm(config)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.norm(self.tokens(input_ids) + self.positions(positions))


class CollapseTransformerPreTrainedModel(PreTrainedModel):
    """Initialisation, which the paper does not say, and what transformers needs to know.

    Linear layers are N(0, 1/fan_in) with biases 0, except that a branch's last one is smaller by √num_hidden_layers,
    as in the residual networks: at any depth the branches together then move the stream by O(1). Embeddings
    are N(0, 0.02²): LN takes their scale away, so starting small costs nothing but lets training turn them quickly,
    even of tokens that it seldom sees.
    """

    config: CollapseTransformerConfig
    base_model_prefix = "network"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CollapseTransformerBlock"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": CollapseTransformerBlock, "attentions": CollapseSelfAttention}

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, BranchOutput):
            initialize_linear(module, gain=1 / math.sqrt(self.config.num_hidden_layers))
        elif isinstance(module, nn.Linear):
            initialize_linear(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=0.02)


class CollapseTransformerModel(CollapseTransformerPreTrainedModel):
    """L-T11 to L-T22 without the classifier: image or text → features.

    Example:

        >>> import torch
        >>> from hf_ncollapse import CollapseTransformerConfig, CollapseTransformerModel
        >>> model = CollapseTransformerModel(CollapseTransformerConfig(num_hidden_layers=3))
        >>> model(pixel_values=torch.rand(2, 1, 28, 28)).features.shape
        torch.Size([2, 64])
    """

    def __init__(self, config: CollapseTransformerConfig):
        super().__init__(config)
        self.embeddings: nn.Module
        if config.modality == "text":
            self.main_input_name, self.input_modalities = "input_ids", ["text"]
            self.embeddings = CollapseTokenEmbeddings(config)
        else:
            self.main_input_name, self.input_modalities = "pixel_values", ["image"]
            self.embeddings = CollapsePatchEmbeddings(config)
        self.layers = nn.ModuleList(CollapseTransformerBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = CentredNorm(config.hidden_size, config.norm_scale)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CollapseModelOutput:
        """Map images (N, C, H, W), or token ids (N, T) of texts, to features (N, d): LN of the last position's state.

        Positions count the tokens that `attention_mask` keeps, so padding, wherever it is, never changes a feature. Of
        a text longer than `max_position_embeddings` only the first tokens are read, which is said once. Attention
        weights (`output_attentions`) need `attn_implementation="eager"`.
        """
        if self.config.modality == "text":
            if input_ids is None:
                raise ValueError("input_ids is None; a network with a vocabulary reads texts")
            input_ids, attention_mask = self._truncate(input_ids, attention_mask)
            positions = (
                torch.arange(input_ids.shape[1], device=input_ids.device)
                if attention_mask is None
                else (attention_mask.cumsum(1) - 1).clamp(min=0)
            )
            hidden_states = self.embeddings(input_ids, positions)
        else:
            if pixel_values is None:
                raise ValueError("pixel_values is None; a network without a vocabulary (vocab_size None) reads images")
            hidden_states = self.embeddings(pixel_values)
        mask = create_causal_mask(self.config, hidden_states, attention_mask, past_key_values=None)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask, **kwargs)
        return CollapseModelOutput(features=self.norm(self.pool(hidden_states, attention_mask)))

    def _truncate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Keep the first `max_position_embeddings` tokens of every text, padding not counted."""
        limit = self.config.max_position_embeddings
        if input_ids.shape[1] <= limit:
            return input_ids, attention_mask
        if not torch.compiler.is_compiling():
            logger.warning_once(f"only the first max_position_embeddings = {limit} tokens of a text are read")
        if attention_mask is None:
            return input_ids[:, :limit], None
        kept = attention_mask.bool().logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, :limit]
        return input_ids.gather(1, kept), attention_mask.gather(1, kept)

    def pool(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Go from positions (N, T, d) to one vector (N, d); a text without a token goes to 0."""
        if attention_mask is None:
            return hidden_states[:, -1] if self.config.pooling == "last" else hidden_states.mean(dim=1)
        mask = attention_mask.bool()
        if self.config.pooling == "last":
            # The first position that has all tokens at or before it.
            last = mask.cumsum(1).argmax(dim=1)
            pooled = hidden_states[torch.arange(len(last), device=last.device), last]
            return pooled.masked_fill(~mask.any(dim=1, keepdim=True), 0)
        total = hidden_states.masked_fill(~mask[..., None], 0).sum(dim=1)
        return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


class CollapseTransformerForImageClassification(
    DepthContinuationMixin, RegularizedObjectiveMixin, CollapseTransformerPreTrainedModel
):
    """L-T11 to L-T22 on the patches of an image, with the linear classifier W_{L+1} and the regularised objective.

    Raises:
        ValueError: if the config is one for texts.

    Example:

        >>> import torch
        >>> from hf_ncollapse import CollapseTransformerConfig, CollapseTransformerForImageClassification
        >>> model = CollapseTransformerForImageClassification(CollapseTransformerConfig(num_labels=10))
        >>> output = model(torch.rand(2, 1, 28, 28), labels=torch.tensor([3, 7]))
        >>> objective = output.loss + model.regularization()
    """

    config: CollapseTransformerConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: CollapseTransformerConfig):
        super().__init__(config)
        if config.modality != "image":
            raise ValueError(f"vocab_size is {config.vocab_size}; an image classifier takes none")
        self.network = CollapseTransformerModel(config)
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
        outputs = self.network(pixel_values=pixel_values, **kwargs)
        return self.classify(outputs, labels, num_items_in_batch)


class CollapseTransformerForSequenceClassification(
    DepthContinuationMixin, RegularizedObjectiveMixin, CollapseTransformerPreTrainedModel
):
    """L-T11 to L-T22 on the tokens of a text, with the linear classifier W_{L+1} and the regularised objective.

    Raises:
        ValueError: if the config has no `vocab_size`.

    Example:

        >>> import torch
        >>> from hf_ncollapse import CollapseTransformerConfig, CollapseTransformerForSequenceClassification
        >>> model = CollapseTransformerForSequenceClassification(CollapseTransformerConfig(vocab_size=100))
        >>> output = model(torch.tensor([[2, 7, 9], [2, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
        >>> output.logits.shape
        torch.Size([2, 2])
    """

    config: CollapseTransformerConfig
    main_input_name = "input_ids"
    input_modalities = ["text"]

    def __init__(self, config: CollapseTransformerConfig):
        super().__init__(config)
        if config.modality != "text":
            raise ValueError("vocab_size is None; a text classifier takes the size of its tokenizer's vocabulary")
        self.network = CollapseTransformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels, bias=config.classifier_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> CollapseClassifierOutput:
        """Classify texts.

        Args:
            input_ids: tokens of shape (N, T), as the model's tokenizer makes them.
            attention_mask: 1 for a token, 0 for padding, of shape (N, T); all tokens by default.
            labels: integers in [0, K), of shape (N,); gives the `loss`.
            num_items_in_batch: what the sum of the losses is divided by, N by default.
        """
        outputs = self.network(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        return self.classify(outputs, labels, num_items_in_batch)


__all__ = [
    "CollapseTransformerForImageClassification",
    "CollapseTransformerForSequenceClassification",
    "CollapseTransformerModel",
    "CollapseTransformerPreTrainedModel",
]


# Saved checkpoints carry this code, for processes without the package.
CollapseTransformerModel.register_for_auto_class("AutoModel")
CollapseTransformerForImageClassification.register_for_auto_class("AutoModelForImageClassification")
CollapseTransformerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
