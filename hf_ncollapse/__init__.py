"""Neural collapse with Hugging Face: train, measure, certify and publish it.

The public names load on first use. Importing the package also registers the model families with transformers'
Auto classes, so that `AutoModelForImageClassification.from_pretrained` finds the installed code and asks nothing.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from . import models as _models  # registers the Auto classes

if TYPE_CHECKING:
    from .data import load_classification_data
    from .hub.fetch import load_sweep
    from .hub.metric import install_metric, load_metric
    from .inspection import CollapseReport, NeuralCollapseCallback, measure_collapse
    from .models import (
        CollapseImageProcessor,
        CollapseResNetConfig,
        CollapseResNetForImageClassification,
        CollapseResNetModel,
        CollapseTransformerConfig,
        CollapseTransformerForImageClassification,
        CollapseTransformerForSequenceClassification,
        CollapseTransformerModel,
    )
    from .neural_collapse.class_statistics import ClassStatistics
    from .theory import expected_slopes, gufm_optimum, orthogonal_frame, simplex_etf, split_gap
    from .training.arguments import CollapseTrainingArguments
    from .training.trainer import CollapseTrainer

__version__ = version("hf_ncollapse")

# Public name -> the module that defines it; type checkers read the imports above.
_PUBLIC_NAMES: dict[str, str] = {
    **dict.fromkeys(_models.__all__, "hf_ncollapse.models"),
    "ClassStatistics": "hf_ncollapse.neural_collapse.class_statistics",
    "CollapseReport": "hf_ncollapse.inspection",
    "CollapseTrainer": "hf_ncollapse.training.trainer",
    "CollapseTrainingArguments": "hf_ncollapse.training.arguments",
    "NeuralCollapseCallback": "hf_ncollapse.inspection",
    "expected_slopes": "hf_ncollapse.theory",
    "gufm_optimum": "hf_ncollapse.theory",
    "install_metric": "hf_ncollapse.hub.metric",
    "load_classification_data": "hf_ncollapse.data",
    "load_metric": "hf_ncollapse.hub.metric",
    "load_sweep": "hf_ncollapse.hub.fetch",
    "measure_collapse": "hf_ncollapse.inspection",
    "orthogonal_frame": "hf_ncollapse.theory",
    "simplex_etf": "hf_ncollapse.theory",
    "split_gap": "hf_ncollapse.theory",
}

__all__ = [
    "ClassStatistics",
    "CollapseImageProcessor",
    "CollapseReport",
    "CollapseResNetConfig",
    "CollapseResNetForImageClassification",
    "CollapseResNetModel",
    "CollapseTrainer",
    "CollapseTrainingArguments",
    "CollapseTransformerConfig",
    "CollapseTransformerForImageClassification",
    "CollapseTransformerForSequenceClassification",
    "CollapseTransformerModel",
    "NeuralCollapseCallback",
    "__version__",
    "expected_slopes",
    "gufm_optimum",
    "install_metric",
    "load_classification_data",
    "load_metric",
    "load_sweep",
    "measure_collapse",
    "orthogonal_frame",
    "simplex_etf",
    "split_gap",
]


def __getattr__(name: str):
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module 'hf_ncollapse' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC_NAMES[name]), name)


def __dir__():
    return __all__
