"""The part of the configuration that both model families share: the objective and the residual stream."""

import dataclasses
import difflib
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig


@strict
class CollapseConfig(PreTrainedConfig):
    """Objective and residual stream of the networks of arXiv:2505.15239.

    Args:
        hidden_size: width d of the stream and of the features; at least 2.
        num_hidden_layers: number of residual blocks, at least 1. The paper's L counts the linear classifier too in a
            ResNet, so an L-RN1 has L − 1 of them; an L-T11 has L.
        norm_placement: "post" for the networks of the paper's main text, which normalise the stream itself
            (definitions 3.1 and 3.2), "pre" for LN inside the branches (definitions B.1 and B.2).
        norm_scale: norm r of a normalised vector: "sqrt" for √d, the paper's, or "unit" for 1.
        hidden_act: σ, any activation of transformers; the paper's is ReLU.
        loss: ℓ, "cross_entropy" or "mse" (½‖z − e_y‖²).
        classifier_bias: add an unpenalised bias to the classifier; the paper has none, but for the second case of MSE
            in its lemma 4.2.
        l2_coefficient: λ of the blocks' weights, before depth scaling; ≥ 0. Biases and the embedding are free.
        classifier_l2_coefficient: λ_L of the classifier's weight; ≥ 0. None takes `l2_coefficient`.
        l2_depth_scaling: "constant" for λ at every depth; "inverse" divides the blocks' λ by `num_hidden_layers`, as
            networks with two linear layers a branch need (theorem 4.6); "inverse_all" divides the classifier's too,
            with which collapse need not improve (appendix C).
    """

    keys_to_ignore_at_inference = ["features", "hidden_states", "attentions"]
    # Of a family: the paper's names, each with the fields that it stands for.
    architectures_by_name: ClassVar[dict[str, dict[str, int]]] = {}

    hidden_size: int = 64
    num_hidden_layers: int = 4
    norm_placement: Literal["post", "pre"] = "post"
    norm_scale: Literal["sqrt", "unit"] = "sqrt"
    hidden_act: str = "relu"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    classifier_bias: bool = False
    l2_coefficient: float | int = 0.005
    classifier_l2_coefficient: float | int | None = None
    l2_depth_scaling: Literal["constant", "inverse", "inverse_all"] = "constant"

    if TYPE_CHECKING:  # transformers' is None where there are no classes, which a classifier always has

        @property
        def num_labels(self) -> int: ...

        @num_labels.setter
        def num_labels(self, num_labels: int) -> None: ...

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers keeps unknown keywords as attributes, so a misspelt field would leave its default in force.
        fields = [field.name for field in dataclasses.fields(self)]
        for name in kwargs:
            if not hasattr(type(self), name) and (near := difflib.get_close_matches(name, fields, n=1, cutoff=0.85)):
                raise ValueError(f"{type(self).__name__} has no field {name!r}; did you mean {near[0]!r}?")
        super().__post_init__(**kwargs)

    @property
    def architecture_name(self) -> str:
        """The paper's name, such as "L-RN1"."""
        return next(
            name
            for name, fields in self.architectures_by_name.items()
            if all(getattr(self, field) == value for field, value in fields.items())
        )

    @property
    def resolved_l2_coefficient(self) -> float:
        """λ of the blocks at this depth."""
        return self.l2_coefficient / (1 if self.l2_depth_scaling == "constant" else self.num_hidden_layers)

    @property
    def resolved_classifier_l2_coefficient(self) -> float:
        """λ_L of the classifier at this depth."""
        given = self.classifier_l2_coefficient
        coefficient = self.l2_coefficient if given is None else given
        return coefficient / (self.num_hidden_layers if self.l2_depth_scaling == "inverse_all" else 1)

    def validate_depth_and_width(self) -> None:
        """Refuse a network without blocks and a width at which LN leaves no direction."""
        if self.num_hidden_layers < 1:
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers}; it must be at least 1")
        if self.hidden_size < 2:
            raise ValueError(f"hidden_size is {self.hidden_size}; it must be at least 2, as LN removes one dimension")

    def validate_hidden_act(self) -> None:
        """Refuse an activation that transformers does not have, or that has parameters, whose λ nothing says."""
        if self.hidden_act not in ACT2FN:
            near = difflib.get_close_matches(self.hidden_act, ACT2FN, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"hidden_act is {self.hidden_act!r}; it takes a name of transformers' ACT2FN{hint}")
        if any(True for _ in ACT2FN[self.hidden_act].parameters()):
            raise ValueError(f"hidden_act is {self.hidden_act!r}, which has parameters; it takes a fixed function")

    def validate_l2_coefficients(self) -> None:
        """Refuse a penalty that rewards large weights."""
        for name in ("l2_coefficient", "classifier_l2_coefficient"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be a finite number ≥ 0")


def image_sides(image_size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """Return height and width in pixels.

    Raises:
        ValueError: if `image_size` is not one side or two, each at least 1.
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"image_size is {image_size}; it takes one side or [height, width], each at least 1")
    return sides[0], sides[1]
