"""The smallest curvature of an objective, from Hessian-vector products."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def smallest_curvature(
    hessian_product: Callable[[list[Tensor]], list[Tensor]], parameters: Sequence[Tensor], steps: int
) -> tuple[float, float]:
    """Return the smallest Ritz value of the Hessian and its residual, after Lanczos with full reorthogonalisation.

    A Ritz value is a curvature along a direction, so an upper bound of the smallest eigenvalue, and some eigenvalue is
    within the residual of it. At a kink of a ReLU the Hessian is that of the pieces on which the samples lie.

    Args:
        hessian_product: H v for v in the parameters' shapes.
        parameters: θ, in float64.
        steps: m ≥ 1 Hessian-vector products.
    """
    sizes = [p.numel() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(sum(sizes), generator=generator, dtype=torch.float64).to(parameters[0])
    basis, diagonal, off_diagonal = [vector / vector.norm()], [], []
    for _ in range(min(steps, sum(sizes))):
        direction = [part.view_as(p) for part, p in zip(basis[-1].split(sizes), parameters, strict=True)]
        image = torch.cat([part.flatten() for part in hessian_product(direction)])
        diagonal.append(image.dot(basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # once leaves what rounding brings back
            image = image - known.T @ (known @ image)
        off_diagonal.append(image.norm())
        if off_diagonal[-1] < 1e-12 * (1 + diagonal[0].abs()):
            break  # the space is exhausted
        basis.append(image / off_diagonal[-1])
    inner = torch.stack(off_diagonal[:-1]) if len(off_diagonal) > 1 else diagonal[0].new_zeros(0)
    tridiagonal = torch.diag(torch.stack(diagonal)) + torch.diag(inner, 1) + torch.diag(inner, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return values[0].item(), (off_diagonal[-1] * vectors[-1, 0].abs()).item()
