"""One pass of a model over labelled batches, which leaves the model and the random state as they were."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# A module's: it takes the module, its positional arguments and its output.
Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


def forward_passes(
    model: nn.Module, batches: Iterable[tuple[Any, Tensor]], **options: Any
) -> Iterator[tuple[Any, Tensor, Any]]:
    """Run a model on every batch, in evaluation mode and without gradients.

    Args:
        model: the batches come to its device, and real numbers to its precision if that is half of float32's.
        batches: inputs, as [`call_model`] takes them, and labels, on any device.
        **options: more keywords of the model's forward.

    Returns:
        Of each batch the inputs and labels on the device, and the model's output.
    """
    parameter = next(model.parameters(), torch.empty(0))
    device = parameter.device
    half = parameter.dtype if parameter.dtype in (torch.float16, torch.bfloat16) else None
    with evaluation_mode(model):
        for inputs, labels in batches:
            inputs = to_device(inputs, device, half)
            with torch.no_grad():
                output = call_model(model, inputs, **options)
            yield inputs, labels.to(device), output


def watched_pass(
    model: nn.Module, inputs: Any, modules: Mapping[str, nn.Module], look: Callable[[str, tuple[Any, ...], Any], None]
) -> Any:
    """Run a model once and return its output.

    Args:
        model, inputs: as for [`forward_passes`], without labels.
        modules: of the model, by names.
        look: called after each run of one of them, with its name, its positional arguments and its output.
    """

    def hook(name: str) -> Hook:
        return lambda _, arguments, output: look(name, arguments, output)

    with hooked((module, hook(name)) for name, module in modules.items()):
        ((_, _, output),) = forward_passes(model, [(inputs, torch.empty(0))])
    return output


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Call each function after its module's forward, until the end of the block."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def current_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def call_model(model: nn.Module, inputs: Any, **options: Any) -> Any:
    """Run the model: names become keywords, a tuple positional arguments; sentence-transformers take one dict."""
    if isinstance(inputs, Mapping):
        if type(model).__module__.startswith("sentence_transformers"):
            return model(dict(inputs))
        return model(**inputs, **options)
    return model(*inputs, **options) if isinstance(inputs, tuple | list) else model(inputs, **options)


def to_device(inputs: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Move a batch, and cast its real numbers to the precision of a half-precision model."""
    if isinstance(inputs, Mapping):
        return {name: to_device(value, device, dtype) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(to_device(value, device, dtype) for value in inputs)
    if not isinstance(inputs, Tensor):
        return inputs
    return inputs.to(device, dtype if inputs.is_floating_point() else None)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in the mode it was in, frozen parts included.

    The random state comes back as well: a DataLoader draws from it, which would change the training around it.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module in training:
            module.training = True
