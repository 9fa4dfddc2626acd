"""Statistics that no longer change, whose means and scatter are computed once for all measures."""

from typing import Any

from torch import Tensor

from .class_statistics import ClassStatistics
from .held_out_statistics import HeldOutStatistics


class Snapshot:
    """The statistics as they are now: what was read of them once is kept.

    Args:
        statistics: not to be updated while this is read.
    """

    def __init__(self, statistics: ClassStatistics | HeldOutStatistics):
        self.statistics = statistics
        # Ṁ, K×d, by weighting, as they were asked for.
        self.centred_means: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.statistics, name)
        setattr(self, name, value)
        return value
