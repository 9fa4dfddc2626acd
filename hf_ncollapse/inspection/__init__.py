"""Measure the neural collapse of a model that exists already, and of one that a `Trainer` is training."""

from .callback import NeuralCollapseCallback
from .checkpoint import load_checkpoint
from .collapse_report import CollapseReport, LayerCollapse
from .measurement import measure_collapse

__all__ = ["CollapseReport", "LayerCollapse", "NeuralCollapseCallback", "load_checkpoint", "measure_collapse"]
