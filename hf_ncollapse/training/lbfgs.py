"""L-BFGS that takes one loss and gradient a step, so that any training loop can drive its line search."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

# A step is taken once it lowers the objective by this share of what its slope promises (Armijo) ...
_DECREASE = 1e-4
# ... and the slope has flattened to this share of what it was (the weak Wolfe condition).
_CURVATURE = 0.9
_MAX_TRIALS = 20
# Where so many steps lower the objective by less than this share of itself, a kink holds the search.
_PATIENCE = 50
_LEAST_PROGRESS = 1e-6


class LBFGS(torch.optim.Optimizer):
    r"""
    Limited-memory BFGS on J(θ) = fit(θ) + Σ (λ_p/2) ‖p‖², with a weak Wolfe line search by bisection.

    A call of `step` is *told* the fit and its gradient at the current parameters and moves them to the next point that
    it wants to see, a trial of the line search; so a step costs one pass over the data, as Adam's does, and
    accumulation, several processes and checkpoints work as for any optimiser. `eval` puts the best point seen into the
    parameters and `train` the pending trial, as for schedule-free optimisers.

    ReLU networks have kinks at which a strong Wolfe search finds no step; the weak condition and bisection are the
    choice of Lewis and Overton ("Nonsmooth optimization via quasi-Newton methods", 2013) for functions with kinks.
    Where it finds no step all the same, or steps that lead nowhere, the history is dropped and the parameters are
    perturbed: a network split in two equal halves, for example, often lies at a kink that descent cannot leave.

    Args:
        params: parameters or groups; λ is a group's `weight_decay`.
        fit: returns the fit at the current parameters, whose gradient is in `.grad`; called once a step.
        history_size: pairs of steps and gradient differences kept, each as large as the parameters twice.
        perturbation: standard deviation of a perturbation, relative to the rms of each parameter.

    Raises:
        FloatingPointError: from `step`, if the objective is not finite at the first point.
    """

    def __init__(
        self,
        params: Iterable[Any],
        fit: Callable[[], float],
        history_size: int = 100,
        perturbation: float = 1e-2,
    ):
        # A learning rate for schedulers to set; the line search finds its own.
        super().__init__(params, {"lr": 1.0, "weight_decay": 0.0})
        self._fit = fit
        self.history_size = int(history_size)
        self.perturbation = perturbation
        self._parameters = [p for group in self.param_groups for p in group["params"]]

    @property
    def _memory(self) -> dict[str, Any]:
        """Everything that a checkpoint keeps, under the first parameter as torch's own L-BFGS does."""
        return self.state[self._parameters[0]]

    @property
    def progress(self) -> dict[str, float]:
        """`gradient_norm`, ‖∇J‖ at the last point taken, and counts since the start; empty before it.

        `iterations` are points taken, `line_search_trials` points looked at for them, `perturbations` jumps.
        """
        memory = self._memory
        if not self.is_searching:
            return {}
        names = ("iterations", "line_search_trials", "perturbations")
        return {"gradient_norm": memory["gradient"].norm().item(), **{name: memory[name] for name in names}}

    @property
    def is_searching(self) -> bool:
        """Whether a first point was seen, so that the parameters are a trial's."""
        return bool(self._memory)

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the fit takes a closure's place
        """Ask for the fit at the current parameters and move to the next point to be seen."""
        self.tell(*self.objective())

    @torch.no_grad()
    def tell(self, objective: float, gradient: torch.Tensor) -> None:
        """Take in J and ∇J at the current parameters and move to the next point to be seen."""
        memory = self._memory
        if not self.is_searching:
            if not math.isfinite(objective):
                raise FloatingPointError("the objective is not finite where L-BFGS starts")
            memory |= {"iterations": 0, "line_search_trials": 0, "perturbations": 0}
            memory |= {"best": self.flat_parameters(), "best_objective": objective}
            self._forget()
            self._accept(self.flat_parameters(), objective, gradient)
            self._watch_from_here()
            self._begin_search()
            return
        if objective < memory["best_objective"]:
            memory |= {"best": memory["trial"], "best_objective": objective}
        if memory["perturbed"]:
            if not math.isfinite(objective):
                self._perturb()
                return
            # Taken whatever it costs; the best point is kept beside it.
            self._accept(self.flat_parameters(), objective, gradient)
            self._watch_from_here()
            self._begin_search()
            return
        memory["line_search_trials"] += 1
        memory["trials"] += 1
        slope, length = memory["slope"], memory["length"]
        decreases = objective <= memory["objective"] + _DECREASE * length * slope  # False for NaN
        if decreases and gradient.dot(memory["direction"]).item() >= _CURVATURE * slope:
            self._take(objective, gradient)
        elif memory["trials"] == _MAX_TRIALS:
            self._perturb()
            return
        else:
            memory["low" if decreases else "high"] = length
            low, high = memory["low"], memory["high"]
            memory["length"] = 2 * low if math.isinf(high) else (low + high) / 2
            self._move_to_trial()
        if memory["line_search_trials"] - memory["watched_from"] == _PATIENCE:
            if memory["objective"] > (1 - _LEAST_PROGRESS) * memory["watched_objective"]:
                self._perturb()
            self._watch_from_here()

    def _watch_from_here(self) -> None:
        memory = self._memory
        memory |= {"watched_from": memory["line_search_trials"], "watched_objective": memory["objective"]}

    @torch.no_grad()
    def objective(self) -> tuple[float, torch.Tensor]:
        """Ask for the fit; return J and ∇J at the current parameters."""
        objective, gradients = self._fit(), []
        for group in self.param_groups:
            for p in group["params"]:
                gradient = torch.zeros_like(p) if p.grad is None else p.grad
                gradients.append(gradient.add(p, alpha=group["weight_decay"]).flatten())
                if group["weight_decay"]:
                    objective += group["weight_decay"] / 2 * p.double().square().sum().item()
        return objective, torch.cat(gradients)

    def eval(self) -> None:
        """Put the best point seen into the parameters."""
        if self.is_searching:
            self.set_parameters(self._memory["best"])

    def train(self) -> None:
        """Put the pending trial into the parameters."""
        if self.is_searching:
            self.set_parameters(self._memory["trial"])

    # The line search

    def _begin_search(self) -> None:
        """Choose a direction and its first trial."""
        memory = self._memory
        gradient = memory["gradient"]
        direction = self._direction()
        slope = gradient.dot(direction).item()
        if not slope < 0:
            self._forget()
            direction, slope = -gradient, -gradient.dot(gradient).item()
        if slope == 0:
            self._perturb()
            return
        length = 1.0 if memory["steps"] else min(1.0, 1 / gradient.abs().sum().item())
        memory |= {"direction": direction, "slope": slope, "length": length, "low": 0.0, "high": math.inf, "trials": 0}
        memory["perturbed"] = False
        self._move_to_trial()

    def _take(self, objective: float, gradient: torch.Tensor) -> None:
        """Go to the trial, and remember what was learnt of the curvature on the way."""
        memory = self._memory
        memory["iterations"] += 1
        point = self.flat_parameters()
        step, difference = point - memory["point"], gradient - memory["gradient"]
        curvature = step.dot(difference)
        if curvature > 1e-10 * step.norm() * difference.norm():
            for name, value in (("steps", step), ("differences", difference), ("inverses", 1 / curvature)):
                memory[name] = [*memory[name], value][-self.history_size :]
        self._accept(point, objective, gradient)
        self._begin_search()

    def _accept(self, point: torch.Tensor, objective: float, gradient: torch.Tensor) -> None:
        memory = self._memory
        memory |= {"point": point, "objective": objective, "gradient": gradient}

    def _forget(self) -> None:
        self._memory.update(steps=[], differences=[], inverses=[])

    def _perturb(self) -> None:
        memory = self._memory
        memory["perturbations"] += 1
        memory["perturbed"] = True
        self._forget()
        self.set_parameters(memory["point"])
        # The same in every process, and after a restart from a checkpoint.
        generator = torch.Generator().manual_seed(memory["perturbations"])
        for p in self._parameters:
            noise = torch.randn(p.shape, generator=generator).to(p)
            p.add_(noise * p.square().mean().sqrt(), alpha=self.perturbation)
        memory["trial"] = self.flat_parameters()

    def _direction(self) -> torch.Tensor:
        """−H ∇J with the inverse Hessian H of the remembered pairs, by the two loops of Nocedal (1980)."""
        memory = self._memory
        steps, differences, inverses = memory["steps"], memory["differences"], memory["inverses"]
        direction = -memory["gradient"]
        weights = []
        for step, difference, inverse in reversed(list(zip(steps, differences, inverses, strict=True))):
            weights.append(inverse * step.dot(direction))
            direction.addcmul_(difference, -weights[-1])
        if steps:
            direction *= 1 / (inverses[-1] * differences[-1].dot(differences[-1]))
        for step, difference, inverse, weight in zip(steps, differences, inverses, reversed(weights), strict=True):
            direction.addcmul_(step, weight - inverse * difference.dot(direction))
        return direction

    # Parameters as one vector

    @torch.no_grad()
    def flat_parameters(self) -> torch.Tensor:
        """All parameters in one vector."""
        return torch.cat([p.flatten() for p in self._parameters])

    def _move_to_trial(self) -> None:
        memory = self._memory
        memory["trial"] = memory["point"].add(memory["direction"], alpha=memory["length"])
        self.set_parameters(memory["trial"])

    @torch.no_grad()
    def set_parameters(self, vector: torch.Tensor) -> None:
        """Put a vector of [`~LBFGS.flat_parameters`] into the parameters."""
        for p, part in zip(self._parameters, vector.split([p.numel() for p in self._parameters]), strict=True):
            p.copy_(part.view_as(p))
