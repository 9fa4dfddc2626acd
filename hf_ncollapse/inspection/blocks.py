"""A model's blocks or stages, found by how its modules are put together."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from .wrappers import base_model


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model's blocks by name, in order: those of its largest stack.

    A stack is the composed modules of one class in a `ModuleList` or `Sequential`, or the `Sequential` stages that a
    module of any class holds; the one with most parameters is taken, the outermost of equals. Convolutional and
    hierarchical networks give their stages; encoder–decoder models the blocks of both.

    Raises:
        ValueError: the model has no such stack, or several lists share its blocks out.
    """
    base: Any = base_model(model)
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        names = {module: name for name, module in model.named_modules() if name}
        sides = [side for side in (base.get_encoder(), base.get_decoder()) if side in names]
        if len(sides) == 2:
            return {f"{names[side]}.{name}": block for side in sides for name, block in _blocks(side).items()}
    return _blocks(model)


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    parent, most_parameters = "", 0
    largest: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        for stack in _stacks(module):
            num_parameters = sum(parameter.numel() for block in stack.values() for parameter in block.parameters())
            if num_parameters > most_parameters:
                parent, largest, most_parameters = name, stack, num_parameters
    if not largest:
        raise ValueError('layers is "all", but the model has no stack of blocks; name its modules: layers=["…", …]')
    _require_whole_blocks(model, parent, largest)
    blocks = {f"{parent}.{child}" if parent else child: block for child, block in largest.items()}
    return dict(_run(blocks))


def _stacks(module: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """The groups of alike children that could be blocks."""
    groups: dict[tuple[type[nn.Module], bool], dict[str, nn.Module]] = {}
    for name, child in module.named_children():
        if _is_composed(child):
            # Stages are alike if they hold blocks, of whatever class; stems and poolings between them hold layers.
            of_blocks = _is_list(child) and _is_composed(next(child.children()))
            groups.setdefault((type(child), of_blocks), {})[name] = child
    for (kind, of_blocks), group in groups.items():
        is_whole = len(group) == len(list(module.children()))
        if (_is_list(module) and (is_whole or len(group) > 1)) or (
            kind is nn.Sequential and of_blocks and len(group) > 1
        ):
            yield group


def _run(blocks: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The blocks themselves, of which a `ModuleList` holds several: it is never called."""
    for name, block in blocks.items():
        if isinstance(block, nn.ModuleList):
            yield from _run({f"{name}.{child}": module for child, module in block.named_children()})
        else:
            yield name, block


def _require_whole_blocks(model: nn.Module, name: str, stack: dict[str, nn.Module]) -> None:
    """Raise where the list of the stack has others as long beside it, whose members are parts of the same blocks."""
    if not name or any(isinstance(block, nn.ModuleList) for block in stack.values()):
        return
    owner = name.rpartition(".")[0]
    lists = {
        f"{owner}.{key}" if owner else key: module
        for key, module in model.get_submodule(owner).named_children()
        if isinstance(module, nn.ModuleList) and len(module) == len(stack)
    }
    if name in lists and sum(_is_composed(module[0]) for module in lists.values()) > 1:
        raise ValueError(
            f'layers is "all", but the model\'s blocks are shared out among {", ".join(lists)}; name the modules that '
            f'end its blocks: layers=["{list(lists)[-1]}.0", …]'
        )


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)


def _is_composed(module: nn.Module) -> bool:
    return any(True for _ in module.children())
