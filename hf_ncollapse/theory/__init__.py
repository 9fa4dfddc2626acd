"""What the theory predicts: the frames of collapse and the optimum of the unconstrained features model."""

from .gufm import GUFMOptimum, gufm_optimum
from .simplex_etf import orthogonal_frame, simplex_etf

__all__ = ["GUFMOptimum", "gufm_optimum", "orthogonal_frame", "simplex_etf"]
