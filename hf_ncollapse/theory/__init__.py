"""What the theory predicts: the frames of collapse, the optimum of the unconstrained features model, and the rates."""

from .gap import GapSplit, split_gap
from .geometry import OptimumGeometry, optimum_geometry
from .gufm import gufm_optimum
from .optimum import GUFMOptimum
from .rates import expected_slopes
from .simplex_etf import orthogonal_frame, simplex_etf

__all__ = [
    "GUFMOptimum",
    "GapSplit",
    "OptimumGeometry",
    "expected_slopes",
    "gufm_optimum",
    "optimum_geometry",
    "orthogonal_frame",
    "simplex_etf",
    "split_gap",
]
