"""Class statistics as plain numbers and tensors, to keep, to load and to move."""

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.types import Device

Kept = TypeVar("Kept", bound="KeptState")


class KeptState:
    """What `ClassStatistics` has of saving and loading; its tensors are there from the first batch on."""

    VERSION = 3

    num_classes: int
    num_features: int | None
    has_second_moment: bool
    has_directions: bool
    _device: torch.device | None
    _counts: Tensor
    _shifts: Tensor
    _sums: Tensor
    _squares: Tensor
    _directions: Tensor
    _second_moment: Tensor
    _single_squares: Tensor

    if TYPE_CHECKING:

        def __init__(self, num_classes: int, *, second_moment: bool, directions: bool, device: Device): ...
        def _add_waiting(self) -> None: ...
        def _allocate(self, num_features: int, device: torch.device) -> None: ...
        def _free_workspace(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue or merge elsewhere: plain numbers and tensors, with a version."""
        state = {
            "version": self.VERSION,
            "num_classes": self.num_classes,
            "num_features": self.num_features,
            "second_moment": self.has_second_moment,
            "directions": self.has_directions,
        }
        return state | self._tensors()

    @torch.inference_mode(False)
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace this state by `state`, a `state_dict()` of statistics that accumulate the same.

        Raises:
            ValueError: the state has another version, other classes, or accumulates something else.
        """
        expected = {
            "version": self.VERSION,
            "num_classes": self.num_classes,
            "second_moment": self.has_second_moment,
            "directions": self.has_directions,
        }
        for name, value in expected.items():
            if state[name] != value:
                raise ValueError(f"cannot load a state with {name} {state[name]!r}: this has {value!r}")
        self.num_features = None
        self._free_workspace()
        if state["num_features"] is not None:
            self._allocate(state["num_features"], state["_counts"].device)
            for name, tensor in self._tensors().items():
                tensor.copy_(state[name])

    @classmethod
    def from_state_dict(cls: type[Kept], state: dict[str, Any], device: Device = None) -> Kept:
        """Statistics made from a `state_dict()` alone."""
        statistics = cls(
            state["num_classes"], second_moment=state["second_moment"], directions=state["directions"], device=device
        )
        statistics.load_state_dict(state)
        return statistics

    def to(self: Kept, device: torch.device | str) -> Kept:
        """Move the state to `device`, which must know float64, and return self."""
        for name, tensor in self._tensors().items():
            setattr(self, name, tensor.to(device))
        self._device = torch.device(device)
        self._free_workspace()
        return self

    def _sum_names(self) -> list[str]:
        optional = ["_directions"] * self.has_directions
        optional += ["_second_moment", "_single_squares"] * self.has_second_moment
        return ["_counts", "_sums", "_squares", *optional]

    def _tensors(self) -> dict[str, Tensor]:
        """The state by name, complete; empty before the first batch."""
        if self.num_features is None:
            return {}
        self._add_waiting()
        return {name: getattr(self, name) for name in ["_shifts", *self._sum_names()]}
