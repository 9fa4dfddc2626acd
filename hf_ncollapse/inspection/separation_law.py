"""The law of data separation: over a network's layers, the within-class scatter in units of the between-class one
falls by one factor a layer.

Source: He & Su 2023, A law of data separation in deep learning (PNAS, arXiv:2210.17020): D_l ≈ ρ^l D_0 for
D = tr(SS_w SS_b⁺).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FEWEST_LAYERS = 3


@dataclass(frozen=True)
class SeparationLaw:
    """The least-squares line through log D against the layer, D = tr(Σ_W Σ_B⁺).

    Args:
        rate: ρ, by which D is multiplied from one layer to the next, in (0, ∞); below 1 the classes separate.
        r_squared: the share of the variance of log D that the line explains, at most 1; NaN where D is constant.
        num_layers: how many layers it was fitted to.
        fitted: the line's values at every layer, in the unit of those given.
    """

    rate: float
    r_squared: float
    num_layers: int
    fitted: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"separation law: tr(Σ_W Σ_B⁺) is multiplied by ρ = {self.rate:.3g} a layer "
            f"(R² = {self.r_squared:.3f}, {self.num_layers} layers)"
        )


def separation_law(values: Sequence[float | None]) -> SeparationLaw | None:
    """Fit the law to one value a layer; `None` where fewer than 3 are positive and finite.

    Args:
        values: D, or D times any factor, such as `nc1_pinv` = D/K, in the order of the layers.

    Example:
        >>> law = separation_law([8.0, 4.0, 2.0, 1.0])
        >>> round(law.rate, 6), round(law.r_squared, 6)
        (0.5, 1.0)
    """
    known = {layer: math.log(d) for layer, d in enumerate(values) if d is not None and 0 < d < math.inf}
    if len(known) < _FEWEST_LAYERS:
        return None
    layers, logarithms = np.array(list(known), dtype=float), np.array(list(known.values()))
    centred = layers - layers.mean()
    slope = float(centred @ logarithms / (centred @ centred))
    residuals = logarithms - logarithms.mean() - slope * centred
    total = float(np.square(logarithms - logarithms.mean()).sum())
    r_squared = 1 - float(np.square(residuals).sum()) / total if total > 0 else math.nan
    line = logarithms.mean() + slope * (np.arange(len(values)) - layers.mean())
    return SeparationLaw(math.exp(slope), r_squared, len(known), tuple(np.exp(line).tolist()))
