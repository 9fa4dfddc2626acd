"""Which axes of a layer's hidden states are samples, channels and positions: not every layer puts them alike."""

from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def axes_of(layer: nn.Module, states: Tensor, num_samples: int) -> tuple[int, ...]:
    """The permutation that brings a layer's states to (N, d), (N, T, d) or (N, C, H, W).

    Args:
        layer: whose output the states are.
        states: of a few samples, so few that sequences have another length.
        num_samples: how many.
    """
    if states.ndim == 3 and states.shape[1] == num_samples != states.shape[0]:
        return 1, 0, 2  # time first, as in XLNet
    if states.ndim == 4 and _has_channels_last(layer, *states.shape[1:]):
        return 0, 3, 1, 2
    return tuple(range(states.ndim))


def _has_channels_last(layer: nn.Module, first: int, second: int, third: int) -> bool:
    """Whether N×a×b×c is N×H×W×C rather than N×C×H×W, as two hints say; a convolution decides where they disagree.

    Maps are mostly square, so two equal sizes are H and W; and the layer's weights have as many rows as channels.
    """
    sizes = {parameter.shape[0] for parameter in layer.parameters() if parameter.ndim}
    hints = set()
    if (first == second) != (second == third):
        hints.add(first == second)
    if (first in sizes) != (third in sizes):
        hints.add(third in sizes)
    if len(hints) == 1:
        return hints.pop()
    return bool(sizes) and not any(isinstance(module, _CONVOLUTIONS) for module in layer.modules())
