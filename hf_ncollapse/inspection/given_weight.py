"""Where the features of a classifier are whose W is given: of a convolution, a bare parameter, a functional call."""

from collections import Counter
from typing import Any

from torch import Tensor, nn

from .acting_classifier import ActingClassifier, two_classes
from .classifier_head import ClassifierHead, class_logits
from .forward_pass import watched_pass

# How far the logits may be from W h + b, relative to their norm.
_ROUNDED = 1e-3


def find_features(model: nn.Module, inputs: Any, weight: Tensor, bias: Tensor | None = None) -> ClassifierHead:
    """Run a few samples and return the module whose input or output is what W turns into the logits.

    Args:
        model: whose device the inputs come to.
        inputs: a batch of at least 2 samples without labels.
        weight (`Tensor`): W, K×d, or K×d×1×1 of a convolution.
        bias (`Tensor`, *optional*): b, K values; by default what the logits have above W h, the same for all samples.

    Raises:
        ValueError: W has another shape, or no module's input or output gives the logits.
    """
    weight = weight.detach()
    if weight.ndim < 2 or weight.shape[2:].numel() != 1:
        raise ValueError(f"weight must be classes × width (K×d), or K×d×1×1, got {tuple(weight.shape)}")
    weight = weight.flatten(1)
    runs: Counter[str] = Counter()
    seen: dict[tuple[str, bool], Tensor] = {}

    def look(name: str, arguments: tuple[Any, ...], output: Any) -> None:
        runs[name] += 1
        for is_output, states in ((False, arguments[0] if arguments else None), (True, output)):
            if isinstance(states, Tensor):
                seen[name, is_output] = states

    modules = {name: module for name, module in model.named_modules() if name}
    output = watched_pass(model, inputs, modules, look)
    logits = class_logits(output)
    if logits is None:
        raise ValueError("weight is given, but the model's output has no logits to compare its products with")
    for (name, is_output), states in reversed(seen.items()):
        acting = _acting(states, logits, weight, bias)
        if acting is not None and runs[name] == 1:
            acting = two_classes(acting) if logits.shape[-1] == 1 else acting
            samples = "inputs" if logits.ndim == 2 else "tokens"
            return ClassifierHead(name, modules[name], samples, True, acting, is_given=True, is_output=is_output)
    raise ValueError(
        f"no module's input or output, times the weight given ({weight.shape[1]} → {weight.shape[0]}), is the model's "
        "logits: let what comes before W pass through a module, such as nn.Identity, or measure features of your own "
        "with hf_ncollapse.load_metric()"
    )


def _acting(states: Tensor, logits: Tensor, weight: Tensor, bias: Tensor | None) -> ActingClassifier | None:
    """W and b, if they turn these states into the logits."""
    states = states.flatten(1) if states.ndim == 4 else states
    if states.ndim != logits.ndim or states.shape[-1] != weight.shape[1] or not states.is_floating_point():
        return None
    products = nn.functional.linear(states, weight.to(states))
    if products.shape != logits.shape:
        return None
    offset = (logits - products).reshape(-1, len(weight)).mean(0) if bias is None else bias.detach().to(products)
    if not (products + offset - logits).float().norm() <= _ROUNDED * logits.float().norm():
        return None
    return ActingClassifier(weight, offset if bias is not None or offset.abs().max() > 0 else None)
