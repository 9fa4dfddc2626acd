"""One optimiser to get near an optimum, L-BFGS to get to it."""

from typing import Any

import torch

from .lbfgs import LBFGS


class PolishedOptimizer(torch.optim.Optimizer):
    """`first` for `first_steps` steps, then [`LBFGS`] from where the objective is lower: there, or where all began.

    A deeper network starts from the split of a shallower optimum; a first optimiser whose steps are too large for it
    would leave it for good.

    Args:
        first: any optimiser with coupled L2; a learning rate scheduler acts on it.
        polish: on the same parameters.
        first_steps: steps of `first`, 0 or more.

    `taken` counts the steps; an ensemble takes those of `first` in its place.
    """

    def __init__(self, first: torch.optim.Optimizer, polish: LBFGS, first_steps: int):
        # No state of its own for the base class to set up: its two optimisers have all.
        self.first = first
        self.polish = polish
        self.first_steps = first_steps
        self.taken = 0
        self._start: torch.Tensor | None = None
        self._start_objective = 0.0

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # torch's is an attribute
        """Those of the first optimiser, whose learning rates a scheduler sets."""
        return self.first.param_groups

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]  # torch's is an attribute
        """That of the first optimiser."""
        return self.first.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]  # torch's is an attribute
        """Those of the first optimiser."""
        return self.first.defaults

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # as of LBFGS
        """One step of the optimiser whose turn it is."""
        if self.taken == 0:
            self.note_start()
        if self.taken < self.first_steps:
            self.first.step()
        elif self._start is None:
            self.polish.step()
        else:
            objective, gradient = self.polish.objective()
            if objective <= self._start_objective:
                self.polish.tell(objective, gradient)
            else:
                self.polish.set_parameters(self._start)
            self._start = None
        self.taken += 1

    def note_start(self) -> None:
        """Remember where all begins, whose fit is at hand now."""
        self._start_objective, _ = self.polish.objective()
        self._start = self.polish.flat_parameters()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of both, whose parameters are the same."""
        self.first.zero_grad(set_to_none)

    def eval(self) -> None:
        """Put the best point that L-BFGS has seen into the parameters."""
        self.polish.eval()

    def train(self) -> None:
        """Put the trial that L-BFGS waits for into the parameters."""
        self.polish.train()

    def state_dict(self) -> dict[str, Any]:
        """Of both, with the steps taken and, until L-BFGS begins, the start."""
        return {
            "first": self.first.state_dict(),
            "polish": self.polish.state_dict(),
            "taken": self.taken,
            "start": self._start,
            "start_objective": self._start_objective,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `state_dict` gave it."""
        self.first.load_state_dict(state_dict["first"])
        self.polish.load_state_dict(state_dict["polish"])
        self.taken = state_dict["taken"]
        self._start = state_dict["start"]
        self._start_objective = state_dict["start_objective"]
