"""Normalisation, branches and residual connections: what the ResNets and the transformers share.

Source: Súkeník, Lampert & Mondelli, "Neural Collapse is Globally Optimal in Deep Regularized ResNets and
Transformers", NeurIPS 2025, arXiv:2505.15239 (architectures L-RN1, L-RN2, L-T11 ... L-T22).
"""

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN

NORM_PLACEMENTS = ("pre", "post")
NORM_SCALES = ("unit", "sqrt")

# Only keeps 0/0 away. torch.nn.LayerNorm's 1e-5 would shrink features of norm 1 by 3e-4 at width 64.
_SMALLEST_VARIANCE = 1e-24


def feature_norm(norm_scale: str, hidden_size: int) -> float:
    """Return r, the Euclidean norm of a normalised vector: 1 for "unit", √hidden_size for "sqrt"."""
    return 1.0 if norm_scale == "unit" else math.sqrt(hidden_size)


class CenteredNorm(nn.Module):
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
    """Residual branch f(u) = A σ(u) with one linear layer, f(u) = B σ(A u) with two; no biases.

    Maps (..., d) to (..., d). `output_projection` is A or B, `input_projection` is the A of two layers.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, linear_layers: int, hidden_act: str):
        super().__init__()
        self.input_projection = nn.Linear(hidden_size, intermediate_size, bias=False) if linear_layers == 2 else None
        self.activation = ACT2FN[hidden_act]
        self.output_projection = BranchOutput(
            intermediate_size if linear_layers == 2 else hidden_size, hidden_size, bias=False
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.input_projection is not None:
            hidden_states = self.input_projection(hidden_states)
        return self.output_projection(self.activation(hidden_states))


class ResidualConnection(nn.Module):
    """A branch f in the stream: h ↦ LN(h + f(h)) for "post", h ↦ h + f(LN(h)) for "pre"."""

    def __init__(self, branch: nn.Module, hidden_size: int, norm_placement: str, norm_scale: str):
        super().__init__()
        self.branch = branch
        self.norm = CenteredNorm(hidden_size, norm_scale)
        self.is_post = norm_placement == "post"

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        if self.is_post:
            return self.norm(hidden_states + self.branch(hidden_states, **kwargs))
        return hidden_states + self.branch(self.norm(hidden_states), **kwargs)


def initialize_linear(module: nn.Linear, gain: float = 1.0) -> None:
    """Draw the weight from N(0, gain²/fan_in)."""
    init.normal_(module.weight, mean=0.0, std=gain / math.sqrt(module.in_features))
