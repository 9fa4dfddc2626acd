"""The part of the configuration that both model families share: the objective and the residual stream."""

import dataclasses
import difflib
import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig


@strict
class CollapseConfig(PreTrainedConfig):
    """Objective and residual stream of the models after arXiv:2505.15239.

    Args:
        hidden_size: width d of the stream and of the features; at least 2.
        num_hidden_layers: depth L, the number of blocks; at least 1.
        norm_placement: "pre" for h + f(LN(h)), "post" for LN(h + f(h)).
        norm_scale: norm r of a normalised vector: "unit" for 1 (the theory's), "sqrt" for √d (torch.nn.LayerNorm's).
        normalize_embeddings: start the stream at LN(embed(x)). Without it a pre-LN objective has no minimiser: the
            embedding and the branches can shrink together for free.
        hidden_act: σ, any activation of transformers; the theory's is ReLU.
        loss: ℓ, "cross_entropy" or "mse" (½‖z − e_y‖²).
        l2_coefficient: λ of the penalty (λ/2)‖θ‖² over every parameter, before depth scaling; ≥ 0.
        l2_depth_scaling: "constant" uses λ, "inverse" λ/L. Networks with two linear layers a branch need the latter.
    """

    keys_to_ignore_at_inference = ["features", "hidden_states", "attentions"]

    hidden_size: int = 64
    num_hidden_layers: int = 5
    norm_placement: Literal["pre", "post"] = "pre"
    norm_scale: Literal["unit", "sqrt"] = "unit"
    normalize_embeddings: bool = True
    hidden_act: str = "relu"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    l2_coefficient: float | int = 0.005
    l2_depth_scaling: Literal["constant", "inverse"] = "constant"

    def __post_init__(self, **kwargs):
        # transformers keeps unknown keywords as attributes, so a misspelt field would leave its default in force.
        fields = [field.name for field in dataclasses.fields(self)]
        for name in kwargs:
            if not hasattr(type(self), name) and (near := difflib.get_close_matches(name, fields, n=1, cutoff=0.85)):
                raise ValueError(f"{type(self).__name__} has no field {name!r}; did you mean {near[0]!r}?")
        super().__post_init__(**kwargs)

    @property
    def resolved_l2_coefficient(self) -> float:
        """λ of this network's objective: `l2_coefficient`, over the depth when `l2_depth_scaling` is "inverse"."""
        return self.l2_coefficient / (self.num_hidden_layers if self.l2_depth_scaling == "inverse" else 1)

    def validate_depth_and_width(self):
        """Refuse a network without blocks and a width at which LN leaves no direction."""
        if self.num_hidden_layers < 1:
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers}; it must be at least 1")
        if self.hidden_size < 2:
            raise ValueError(f"hidden_size is {self.hidden_size}; it must be at least 2, as LN removes one dimension")

    def validate_hidden_act(self):
        """Refuse an activation that transformers does not have."""
        if self.hidden_act not in ACT2FN:
            near = difflib.get_close_matches(self.hidden_act, ACT2FN, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"hidden_act is {self.hidden_act!r}; it takes a name of transformers' ACT2FN{hint}")

    def validate_l2_coefficient(self):
        """Refuse a penalty that rewards large weights."""
        if not (math.isfinite(self.l2_coefficient) and self.l2_coefficient >= 0):
            raise ValueError(f"l2_coefficient is {self.l2_coefficient}; it must be a finite number ≥ 0")


def image_sides(image_size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """Return height and width in pixels.

    Raises:
        ValueError: if `image_size` is not one side or two, each at least 1.
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"image_size is {image_size}; it takes one side or [height, width], each at least 1")
    return sides[0], sides[1]
