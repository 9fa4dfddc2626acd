"""The layers to measure, and how a layer's output becomes one feature a sample."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..neural_collapse.devices import exact_products
from .blocks import find_blocks
from .classifier_head import ClassifierHead, last_token_positions
from .wrappers import base_model

POOLINGS = ("mean", "first", "last")


def named_layers(model: nn.Module, layers: str | list[str]) -> dict[str, nn.Module]:
    """The modules that "last" (none before the features), "all" (every block) or names stand for.

    Raises:
        ValueError: unknown names.
    """
    if layers == "last":
        return {}
    if layers == "all":
        return find_blocks(model)
    if isinstance(layers, str):
        layers = [layers]
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules or name == ""]
    if unknown or not layers:
        try:
            example = f'; a block of it is "{next(iter(find_blocks(model)))}"'
        except ValueError:
            example = ""
        raise ValueError(
            f'layers must be "last", "all" or names of the model\'s modules, got {unknown or layers}{example}'
        )
    return {name: modules[name] for name in layers}


class SampleSelection:
    """What turns one batch's hidden states into n×d features beside n labels.

    Args:
        model: for the positions of decoders and the masks of audio models.
        samples: the head's, "inputs", "tokens", "last_token" or "mean_token".
        inputs: the batch without its labels.
        labels: (N,) or, for tokens, (N, T).
        pooling: over the tokens of an input: "mean" (of those that the attention mask shows), "first" or "last".
        next_token: whether the label of a token is the token after it.
        ignore_index: label of the samples to leave out.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: str,
        inputs: Any,
        labels: Tensor,
        *,
        pooling: str,
        next_token: bool,
        ignore_index: int,
    ):
        self.model, self.samples, self.next_token = model, samples, next_token
        self.pooling = "mean" if samples == "mean_token" else pooling
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        self.mask = mask if mask is not None and mask.ndim == 2 else None
        if labels.ndim != (2 if samples == "tokens" else 1):
            expected = "N×T, one a token" if samples == "tokens" else "N, one an input"
            several = ": of several labels a sample measure rows where labels.sum(1) == 1" if labels.ndim == 2 else ""
            raise ValueError(f"labels must be {expected}, got the shape {tuple(labels.shape)}{several}")
        if next_token:
            labels = labels[:, 1:]
        self.kept = labels != ignore_index
        self.labels = labels[self.kept]
        self.positions = last_token_positions(model, inputs) if samples == "last_token" else None

    def features(self, states: Tensor) -> Tensor:
        """The features of the samples that are kept, n×d.

        Args:
            states: (N, d), (N, T, d), or (N, C, H, W), which is averaged over H and W.

        Raises:
            ValueError: the states have another shape.
        """
        if self.samples == "tokens":
            if states.ndim != 3:
                raise ValueError(f"hidden states of tokens must be N×T×d, got {tuple(states.shape)}")
            states = states[:, :-1] if self.next_token else states
            if states.shape[:2] != self.kept.shape:
                raise ValueError(
                    f"there are labels for {tuple(self.kept.shape)} tokens, got {tuple(states.shape[:2])}"
                )
            return states[self.kept.to(states.device)]
        if states.ndim == 3 and self.positions is not None:
            rows = torch.arange(len(states), device=states.device)
            states = states[rows, self.positions.to(states.device)]
        elif states.ndim == 3:
            states = self._pool(states)
        elif states.ndim == 4:
            states = states.mean(dim=(2, 3))
        if states.ndim != 2 or len(states) != len(self.kept):
            raise ValueError(
                f"features must be one row for each of {len(self.kept)} inputs, got {tuple(states.shape)}"
            )
        return states if self.kept.all() else states[self.kept.to(states.device)]

    def described_pooling(self, states: Tensor) -> str:
        """What `features` does with such states, in words."""
        if self.samples == "tokens":
            return "each token"
        if states.ndim == 3:
            return "last token that is not padding" if self.positions is not None else f"{self.pooling} over tokens"
        return "mean over positions" if states.ndim == 4 else "none"

    def _pool(self, states: Tensor) -> Tensor:
        mask = self._token_mask(states)
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            positions = torch.arange(states.shape[1], device=states.device)
            last = (positions * mask).argmax(dim=1)
            return states[torch.arange(len(states), device=states.device), last]
        # A batched product makes no second N×T×d array.
        with exact_products(states.device):
            return (mask.unsqueeze(1) @ states).squeeze(1) / mask.sum(dim=1, keepdim=True).clamp(min=1)

    def _token_mask(self, states: Tensor) -> Tensor:
        """Which positions of the states are no padding, N×T."""
        mask = self.mask
        if mask is None:
            mask = torch.ones(states.shape[:2], device=states.device)
        elif mask.shape[1] != states.shape[1]:
            shorten = getattr(base_model(self.model), "_get_feature_vector_attention_mask", None)
            if shorten is None:
                raise ValueError(
                    f"the attention mask covers {mask.shape[1]} positions but the hidden states have "
                    f"{states.shape[1]}: this layer cannot be pooled, leave it out of layers"
                )
            mask = shorten(states.shape[1], mask)
        return mask.to(states.device, states.dtype)


def states_of(output: Any) -> Tensor:
    """The hidden states in a block's or an encoder's output.

    Raises:
        ValueError: there are none.
    """
    if isinstance(output, Mapping):
        for name in ("sentence_embedding", "last_hidden_state", "hidden_states"):
            states = output.get(name)
            if isinstance(states, Tensor):
                return states
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ValueError(f"hidden states must be a tensor, or first in a tuple; got {type(output).__name__}")
    return output


def described_head(head: ClassifierHead | None, next_token: bool) -> str:
    """What was found, in a sentence; `next_token` says what the labels of a language model are."""
    if head is None:
        return "no classifier: the model's output is taken as the feature, and the measures of W are left out"
    return f"{head}; its label is the next token" if next_token else str(head)
