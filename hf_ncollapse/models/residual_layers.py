"""Normalisation and the feed-forward branch: what the ResNets and the transformers share.

Source: Súkeník, Lampert & Mondelli, "Neural Collapse is Globally Optimal in Deep Regularized ResNets and
Transformers", NeurIPS 2025, arXiv:2505.15239, definitions 3.1, 3.2, B.1 and B.2.
"""

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN

# Only keeps 0/0 away. torch.nn.LayerNorm's 1e-5 would shrink the features by 5e-6.
_SMALLEST_VARIANCE = 1e-24


def feature_norm(norm_scale: str, hidden_size: int) -> float:
    """Return r, the Euclidean norm of a normalised vector: √hidden_size for "sqrt", 1 for "unit"."""
    return 1.0 if norm_scale == "unit" else math.sqrt(hidden_size)


class CentredNorm(nn.Module):
    """LN(x) = r · (x − mean(x)) / ‖x − mean(x)‖, with no trainable weight; r is `feature_norm(norm_scale, d)`.

    Maps (..., d) to (..., d). A constant vector, which has no direction, goes to 0.
    """

    def __init__(self, hidden_size: int, norm_scale: str):
        super().__init__()
        self.shape = (hidden_size,)
        # torch's layer_norm has norm √d.
        self.factor = feature_norm(norm_scale, hidden_size) / math.sqrt(hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normalized = nn.functional.layer_norm(hidden_states, self.shape, eps=_SMALLEST_VARIANCE)
        return normalized if self.factor == 1.0 else normalized * self.factor


class BranchOutput(nn.Linear):
    """The last linear layer of a residual branch; a class of its own because models initialise it smaller."""


class FeedForwardBranch(nn.Module):
    """Residual branch σ(W_1 x + b_1) with one linear layer, W_2 σ(W_1 x + b_1) + b_2 with two, for (..., d)."""

    def __init__(self, hidden_size: int, linear_layers: int, hidden_act: str):
        super().__init__()
        self.linear_1 = (BranchOutput if linear_layers == 1 else nn.Linear)(hidden_size, hidden_size)
        self.activation = ACT2FN[hidden_act]
        self.linear_2 = BranchOutput(hidden_size, hidden_size) if linear_layers == 2 else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.activation(self.linear_1(hidden_states))
        return hidden_states if self.linear_2 is None else self.linear_2(hidden_states)

    def halve(self) -> None:
        """Make the branch half of itself, for an activation with σ(t x) = t σ(x), t > 0.

        One linear layer: (W, b) becomes (W/2, b/2). Two: W_1, b_1 and W_2 are divided by √2, b_2 by 2.
        """
        if self.linear_2 is None:
            self.linear_1.weight.mul_(0.5)
            self.linear_1.bias.mul_(0.5)
        else:
            for factor in (self.linear_1.weight, self.linear_1.bias, self.linear_2.weight):
                factor.mul_(math.sqrt(0.5))
            self.linear_2.bias.mul_(0.5)


def initialize_linear(module: nn.Linear, gain: float = 1.0) -> None:
    """Draw the weight from N(0, gain²/fan_in) and set the bias, if there is one, to 0."""
    init.normal_(module.weight, mean=0.0, std=gain / math.sqrt(module.in_features))
    if module.bias is not None:
        init.zeros_(module.bias)
