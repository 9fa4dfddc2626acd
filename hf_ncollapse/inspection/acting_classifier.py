"""What a linear layer does to its input, which need not be what its `weight` says: quantised and cosine heads."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_MULTIPLIABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# How far an output may be from W x + b, relative to its norm: of the layer's own W, and of one that quantises its
# inputs to 8 bits.
_ROUNDED, _QUANTISED = 1e-3, 0.02


@dataclass(frozen=True)
class ActingClassifier:
    """W and b of a layer whose output is W x + b, or W x/‖x‖.

    Args:
        weight: W, K×d.
        bias: b, K values, or `None`.
        remark: where W is from, in words, if it is not the layer's weight.
    """

    weight: Tensor
    bias: Tensor | None
    remark: str = ""


def two_classes(acting: ActingClassifier) -> ActingClassifier:
    """The classifier of two classes that one logit z is: the softmax of (−z/2, z/2) is the logistic function of z."""
    weight = torch.cat([-acting.weight, acting.weight]) / 2
    bias = None if acting.bias is None else torch.cat([-acting.bias, acting.bias]) / 2
    return ActingClassifier(weight, bias, acting.remark + ", one logit for two classes: W is (−w/2, w/2)")


def acting_classifier(layer: nn.Linear, inputs: Tensor, output: Tensor) -> ActingClassifier | None:
    """Return the W that turns the inputs into the output; `None` if there is none.

    The layer's own weight is tried first. If that is not what its forward multiplies with (its rows are normalised,
    or stored in 8 bits), W is read off the layer's outputs for the unit vectors.

    Args:
        layer: in evaluation mode.
        inputs, output: of a few samples, …×d and …×K.
    """
    inputs, output = inputs.reshape(-1, inputs.shape[-1]), output.reshape(-1, output.shape[-1])
    weight, bias = layer.weight, layer.bias
    with torch.no_grad():
        # Libraries' 8-bit weights say that they are floats, but know a layer's product alone.
        if (
            type(weight.data) is Tensor
            and weight.dtype in _MULTIPLIABLE
            and weight.shape == (output.shape[1], inputs.shape[1])
        ):
            tolerance = max(_ROUNDED, 4 * torch.finfo(output.dtype).eps)
            if _agree(nn.functional.linear(inputs.to(weight.dtype), weight, bias), output, tolerance):
                return ActingClassifier(weight, bias)
        offset = layer(torch.zeros_like(inputs[:1])).nan_to_num()
        unit_vectors = torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
        weight = (layer(unit_vectors) - offset).T.contiguous()
        if _agree(nn.functional.linear(inputs, weight) + offset, output, _QUANTISED):
            return ActingClassifier(weight, offset[0], ", W x + b with a W that its weight does not hold")
        if not offset.any() and _agree(
            nn.functional.linear(nn.functional.normalize(inputs), weight), output, _ROUNDED
        ):
            return ActingClassifier(weight, None, ", W x/‖x‖ with a W that its weight does not hold")
    return None


def _agree(expected: Tensor, output: Tensor, tolerance: float) -> bool:
    return bool((expected - output).float().norm() <= tolerance * output.float().norm())
