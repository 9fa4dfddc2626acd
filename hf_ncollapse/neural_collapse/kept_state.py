"""Class statistics as plain numbers and tensors, to keep, to load and to move."""

from typing import TypeVar

import torch

Kept = TypeVar("Kept", bound="KeptState")


class KeptState:
    """What `ClassStatistics` has of saving and loading."""

    VERSION = 3

    def state_dict(self) -> dict:
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
    def load_state_dict(self, state: dict) -> None:
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
    def from_state_dict(cls: type[Kept], state: dict, device=None) -> Kept:
        """Statistics made from a `state_dict()` alone."""
        statistics = cls(
            state["num_classes"], second_moment=state["second_moment"], directions=state["directions"], device=device
        )
        statistics.load_state_dict(state)
        return statistics

    def to(self: Kept, device) -> Kept:
        """Move the state to `device`, which must know float64, and return self."""
        for name, tensor in self._tensors().items():
            setattr(self, name, tensor.to(device))
        self._device = torch.device(device)
        self._free_workspace()
        return self
