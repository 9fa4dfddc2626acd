"""Neural collapse with Hugging Face: train, measure, certify and publish it.

The public names load on first use. Importing the package also registers the model families with transformers'
Auto classes, so that `AutoModelForImageClassification.from_pretrained` finds the installed code and asks nothing.
"""

import importlib

from . import models as _models  # registers the Auto classes

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC_NAMES: dict[str, str] = {
    **dict.fromkeys(_models.__all__, "hf_ncollapse.models"),
    "ClassStatistics": "hf_ncollapse.neural_collapse.class_statistics",
    "CollapseTrainer": "hf_ncollapse.training.trainer",
    "CollapseTrainingArguments": "hf_ncollapse.training.arguments",
    "NeuralCollapseCallback": "hf_ncollapse.inspection",
    "measure_collapse": "hf_ncollapse.inspection",
    "install_metric": "hf_ncollapse.hub.metric",
    "load_metric": "hf_ncollapse.hub.metric",
    "load_sweep": "hf_ncollapse.hub.fetch",
}

__all__ = ["__version__", *sorted(_PUBLIC_NAMES)]


def __getattr__(name: str):
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module 'hf_ncollapse' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC_NAMES[name]), name)


def __dir__():
    return __all__
