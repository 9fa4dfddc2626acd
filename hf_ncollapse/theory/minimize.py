"""Minimise a smooth function of one vector to machine precision."""

from collections.abc import Callable

import torch

# A dense Hessian of this many variables takes seconds; above it L-BFGS goes on alone.
_LARGEST_HESSIAN = 1500


def minimize(function: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """Return a local minimum from `start`, (n,) float64: L-BFGS, then Newton steps where n ≤ 1,500.

    L-BFGS comes near; in flat valleys it leaves an error that a dual bound, of first order in it, would show.
    """
    use_newton = len(start) <= _LARGEST_HESSIAN
    variables = start.clone().requires_grad_()
    steps = 100 if use_newton else 3000
    optimizer = torch.optim.LBFGS(
        [variables], max_iter=steps, max_eval=2 * steps, tolerance_grad=1e-11, tolerance_change=1e-18,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = function(variables)
        value.backward()
        return value

    optimizer.step(closure)
    found = variables.detach()
    return _newton(function, found) if use_newton else found


def _newton(function: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor) -> torch.Tensor:
    """Newton's method on |H| + damping, so that it leaves saddles and ignores directions that change nothing."""
    gradient, hessian = torch.func.grad(function), torch.func.hessian(function)
    value, damping = function(point), 1e-3
    for _ in range(100):
        slope = gradient(point)
        if slope.norm() < 1e-14:
            break
        curvatures, axes = torch.linalg.eigh(hessian(point))
        coordinates, largest = axes.T @ slope, curvatures.abs().max()
        while damping < 1e6:
            step = axes @ (coordinates / (curvatures.abs() + damping * largest))
            following = function(point - step)
            if following <= value + 1e-14 * value.abs():  # its own rounding must not stop a step along a flat valley
                break
            damping *= 10
        else:
            break
        point, value, damping = point - step, following, max(damping / 10, 1e-13)
    return point
