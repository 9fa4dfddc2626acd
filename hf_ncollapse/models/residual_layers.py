"""Normalisation, branches and residual connections: what the ResNets and the transformers share.

Source: Súkeník, Lampert & Mondelli, "Neural Collapse is Globally Optimal in Deep Regularized ResNets and
Transformers", NeurIPS 2025, arXiv:2505.15239 (architectures L-RN1, L-RN2, L-T11 ... L-T22).
"""

import copy
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

    def halve(self) -> None:
        """Make the branch f/2: A/2 for one linear layer, (A/√2, B/√2) for two with a homogeneous activation."""
        if self.input_projection is None:
            self.output_projection.weight.mul_(0.5)
        else:
            self.input_projection.weight.mul_(math.sqrt(0.5))
            self.output_projection.weight.mul_(math.sqrt(0.5))


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


def blocks_to_split(penalties: list[float], num_hidden_layers: int) -> list[bool]:
    """Say which blocks of a network split into two so that it gets `num_hidden_layers` of them: those of largest norm.

    Args:
        penalties: ‖θ_l‖² of each of the L blocks.
        num_hidden_layers: the new depth, in [L, 2L].

    Raises:
        ValueError: if the new depth is outside that range.
    """
    depth = len(penalties)
    if not depth <= num_hidden_layers <= 2 * depth:
        raise ValueError(
            f"num_hidden_layers is {num_hidden_layers}; splitting the blocks of a network of depth {depth} gives from "
            f"{depth} to {2 * depth}: deepen it repeatedly"
        )
    largest = sorted(range(depth), key=lambda block: -penalties[block])[: num_hidden_layers - depth]
    return [block in largest for block in range(depth)]


class BlockSplittingMixin:
    """Depth continuation: `deepen`, for models whose `base_model.layers` can `halve` themselves."""

    def deepen(self, num_hidden_layers: int):
        """Return a deeper network with nearly the same function and a lower or equal penalty.

        A block with one linear layer A becomes two with A/2: a step of the stream becomes two half steps, so the
        function changes only to second order in A, while 2 ‖A/2‖² = ‖A‖²/2 halves the penalty. With two linear layers,
        the two blocks (A/√2, B/√2) halve the branch for a positively homogeneous activation such as ReLU and leave the
        penalty as it is: this is why the theory needs λ to fall with depth there (arXiv:2505.15239, theorem 4.6).
        Training each depth from the split of the one before follows the theorem where training from scratch is stuck.

        A normalised embedding is multiplied by L/L', which LN undoes. Its penalty, which the function does not need,
        would otherwise shrink only as fast as training lets it.

        Args:
            num_hidden_layers: the new depth, from L to 2L; the blocks of largest norm are split.

        Raises:
            ValueError: if the new depth is outside [L, 2L].
        """
        layers = self.base_model.layers
        penalties = [sum(p.square().sum().item() for p in layer.parameters()) for layer in layers]
        splits = blocks_to_split(penalties, num_hidden_layers)
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = num_hidden_layers
        deeper = type(self)(config).to(device=self.device, dtype=self.dtype)
        # Everything but the blocks has the same name and shape at any depth.
        blocks = f"{self.base_model_prefix}.layers."
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(blocks)}
        deeper.load_state_dict(state, strict=False)
        if config.normalize_embeddings:
            with torch.no_grad():
                for parameter in deeper.base_model.embeddings.parameters():
                    parameter.mul_(len(layers) / num_hidden_layers)
        new_layers = iter(deeper.base_model.layers)
        with torch.no_grad():
            for layer, split in zip(layers, splits, strict=True):
                for _ in range(1 + split):
                    new_layer = next(new_layers)
                    new_layer.load_state_dict(layer.state_dict())
                    if split:
                        new_layer.halve()
        return deeper.train(self.training)
