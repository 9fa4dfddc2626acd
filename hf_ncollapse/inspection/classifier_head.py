"""Which linear layer classifies, found by looking at what the model returns.

A layer's name or position proves nothing. Here a few samples are passed through the model, and its classifier is the
linear layer whose output *is* the model's logits: the features are then that layer's input, whatever pooling, mask,
projection or dropout came before.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .acting_classifier import ActingClassifier, acting_classifier, two_classes
from .forward_pass import watched_pass
from .wrappers import base_model

# How far the mean of a layer's outputs may be from the logits.
_ROUNDED = 1e-4


@dataclass(frozen=True)
class ClassifierHead:
    """A model's last linear layer.

    Args:
        name: the name in `model.named_modules()` of the module.
        module: whose input are the features: the layer, `weight` is W, K×d.
        samples: what one sample is: "inputs" (one feature an input), "tokens" (one feature a token), "last_token"
            (the layer runs on every token and the model returns the last one that is not padding), or "mean_token"
            (it returns the mean over those).
        is_exact: whether the model's logits are this layer's output as it stands. Otherwise something follows it (a
            scale, a cap, an average of heads) and W describes the logits up to that.
        acting: W and b as the layer applies them; `None` where its output is no W x + b. One logit is two classes.
        is_given: whether W was given, and the module only found by what it gets or gives.
        is_output: whether the features are the module's output instead.
    """

    name: str
    module: nn.Module
    samples: str
    is_exact: bool
    acting: ActingClassifier | None
    is_given: bool = False
    is_output: bool = False

    @property
    def num_classes(self) -> int:
        """K; 2 for one logit."""
        if self.acting is not None:
            return len(self.acting.weight)
        return max(2, cast(nn.Linear, self.module).out_features)

    def features_of(self, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the module's call shows of the features: N×d, N×T×d or, of a convolution's map of 1×1, N×d."""
        states = output if self.is_output else arguments[0]
        if self.samples != "inputs":
            return states
        return states.flatten(1) if self.is_given else states.reshape(-1, states.shape[-1])

    def __str__(self) -> str:
        described = {
            "inputs": "one feature an input",
            "tokens": "one feature a token",
            "last_token": "the feature of the last token that is not padding",
            "mean_token": "the mean feature of the tokens that are not padding",
        }[self.samples]
        relation = "its output is the model's logits" if self.is_exact else "the model's logits are not its output"
        if self.acting is None:
            relation += ", but it is not W x + b: the measures of W are left out"
        else:
            relation += self.acting.remark
        if self.acting is not None and self.is_given:
            width = f"{self.acting.weight.shape[1]} → {len(self.acting.weight)}"
            side = "output" if self.is_output else "input"
            return f'classifier given ({width}) for the {side} of "{self.name}": {described}; {relation}'
        layer = cast(nn.Linear, self.module)
        width = f"{layer.in_features} → {layer.out_features}"
        return f'classifier "{self.name}" ({width}): {described}; {relation}'


def logits_of(output: Any) -> Tensor | None:
    """The logits in a model's output; `None` for an encoder's, which has features alone."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("logits")
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    return getattr(output, "logits", None)


def class_logits(output: Any) -> Tensor | None:
    """The logits in a model's output, N×K or N×T×K, with an axis for the one logit of models that drop it.

    Raises:
        ValueError: they have another shape.
    """
    logits = logits_of(output)
    if logits is not None and logits.ndim == 1:
        logits = logits.unsqueeze(1)
    if logits is not None and logits.ndim not in (2, 3):
        raise ValueError(f"logits must be samples × classes or samples × tokens × classes, got {tuple(logits.shape)}")
    return logits


def find_classifier(model: nn.Module, inputs: Any, name: str | None = None) -> ClassifierHead | None:
    """Run a few samples and return the linear layer that classifies; `None` for an encoder without logits.

    Args:
        model: whose device the inputs come to.
        inputs: a batch without labels, as [`call_model`] takes it.
        name: the layer, for models where it cannot be told from the outside.

    Raises:
        ValueError: no layer or several could be the classifier (the message lists them), or `name` is not one.
    """
    linear_layers = {key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name is not None and name not in linear_layers:
        raise ValueError(f"classifier is {name!r}; it takes the name of a linear layer: {_listed(linear_layers)}")
    inputs_of: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def look(key: str, arguments: tuple[Any, ...], output: Tensor) -> None:
        inputs_of[key], outputs[key] = arguments[0], output

    output = watched_pass(model, inputs, linear_layers, look)
    logits = class_logits(output)
    if logits is None:
        logits = _scores_by_another_name(model, output)
    if logits is None and name is None:
        return None
    if logits is None:
        raise ValueError(f"classifier is {name!r}, but the model's output has no logits to compare its output with")

    considered = outputs if name is None else {name: outputs[name]} if name in outputs else {}
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    exact = {key: samples for key, output in considered.items() if (samples := _exact_samples(output, logits, mask))}
    possible = list(exact) or [key for key, output in considered.items() if output.shape == logits.shape]
    if len(possible) == 1:
        found = possible[0]
        samples = exact.get(found, "inputs" if logits.ndim == 2 else "tokens")
        acting = acting_classifier(linear_layers[found], inputs_of[found], outputs[found])
        if acting is not None and logits.shape[-1] == 1:
            acting = two_classes(acting)
        return ClassifierHead(found, linear_layers[found], samples, found in exact, acting)
    if name is not None:
        raise ValueError(
            f"classifier is {name!r}, whose output has the shape {tuple(outputs[name].shape)}, but the model's logits "
            f"have {tuple(logits.shape)}"
            if name in outputs
            else f"classifier is {name!r}, which does not run in the model's forward pass"
        )
    if possible:
        raise ValueError(
            f"{len(possible)} linear layers could be the classifier: {_listed(linear_layers, possible)}; "
            "name one with classifier=…"
        )
    raise ValueError(
        f"no linear layer has the model's {logits.shape[-1]} logits as its output (linear layers: "
        f"{_listed(linear_layers)}); name one with classifier=…, or take the model as an encoder, whose output is "
        "the feature, with classifier=None"
    )


def last_token_positions(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The position whose logits decoder models return, one an input: the last token that is not padding."""
    config: Any = base_model(model).config
    pad_token_id = config.get_text_config().pad_token_id
    tokens = inputs["input_ids"]
    if pad_token_id is None:
        return torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return (positions * (tokens != pad_token_id)).argmax(dim=1)


def accepted_columns(model: nn.Module) -> set[str] | None:
    """The names that the model's forward takes; `None` when it takes any."""
    model = base_model(model)
    parameters = inspect.signature(model.forward).parameters
    is_transformers_model = hasattr(model, "main_input_name")
    if not is_transformers_model and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return set(parameters)


def _scores_by_another_name(model: nn.Module, output: Any) -> Tensor | None:
    """N×K of image classifiers that return their logits as `last_hidden_state`, as PP-LCNet's do."""
    num_labels = getattr(getattr(base_model(model), "config", None), "num_labels", None)
    states = getattr(output, "last_hidden_state", None)
    return states if isinstance(states, Tensor) and states.shape[1:] == (num_labels,) else None


def _exact_samples(output: Tensor, logits: Tensor, mask: Tensor | None) -> str | None:
    """How the layer's output became the logits, bit by bit or, of means, up to rounding; `None` when it did not."""
    if not isinstance(output, Tensor) or output.shape[-1] != logits.shape[-1] or output.device != logits.device:
        return None
    output = output.to(logits.dtype)
    if output.numel() == logits.numel() and torch.equal(output.reshape(logits.shape), logits):
        return "inputs" if logits.ndim == 2 else "tokens"
    if logits.ndim == 2 and output.ndim == 3 and len(output) == len(logits):
        returned = (output == logits.unsqueeze(1)).all(dim=2).any(dim=1)
        if returned.all():
            return "last_token"
        shares = torch.ones(output.shape[:2]) if mask is None or mask.shape != output.shape[:2] else mask
        shares = (shares / shares.sum(1, keepdim=True)).to(output)
        means = (shares.unsqueeze(1) @ output).squeeze(1)
        return "mean_token" if torch.allclose(means, logits, rtol=_ROUNDED, atol=_ROUNDED) else None
    return None


def _listed(layers: Mapping[str, nn.Linear], names: Iterable[str] | None = None) -> str:
    shown = [
        f'"{name}" ({layers[name].in_features} → {layers[name].out_features})'
        for name in (layers if names is None else names)
    ]
    return ", ".join(shown[-12:]) + (f" and {len(shown) - 12} before" if len(shown) > 12 else "") or "none"
