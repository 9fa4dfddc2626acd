"""All processes of a launch train one sweep on the same samples, whichever machines started them."""

from collections.abc import Mapping

from accelerate import PartialState
from accelerate.utils import gather_object

from .plan import PRESENTATION


def check_same_everywhere(settings: Mapping[str, Mapping[str, object]]) -> None:
    """Compare settings between the processes; every process has to call this.

    Args:
        settings: group → name → value, of JSON types; what is only shown, as the log level, may differ.

    Raises:
        ValueError: in every process alike, when one was started with others; the message names each of them.
    """
    if PartialState().num_processes == 1:
        return
    flat = {name: value for group in settings.values() for name, value in group.items() if name not in PRESENTATION}
    first, *others = gather_object([flat])
    for rank, other in enumerate(others, start=1):
        names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if names:
            said = [f"{name} is {other.get(name)!r} there and {first.get(name)!r} in process 0" for name in names]
            raise ValueError(
                f"process {rank} was started for something else: {'; '.join(said)}. Start all machines with the same "
                "recipe, data and options"
            )
