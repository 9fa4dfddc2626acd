"""Neural collapse with Hugging Face: train, measure, certify and publish it.

The public names load on first use: importing the package imports neither torch nor transformers. The model families
register with transformers' Auto classes when these are imported, so that
`AutoModelForImageClassification.from_pretrained` finds the installed code and asks nothing.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from .auto_classes import register_when_imported

if TYPE_CHECKING:
    from .data import load_classification_data
    from .hub.fetch import load_sweep
    from .hub.metric import install_metric, load_metric
    from .inspection import CollapseReport, NeuralCollapseCallback, measure_collapse
    from .models.configuration_collapse_resnet import CollapseResNetConfig
    from .models.configuration_collapse_transformer import CollapseTransformerConfig
    from .models.image_processing_collapse import CollapseImageProcessor
    from .models.modeling_collapse_resnet import CollapseResNetForImageClassification, CollapseResNetModel
    from .models.modeling_collapse_transformer import (
        CollapseTransformerForImageClassification,
        CollapseTransformerForSequenceClassification,
        CollapseTransformerModel,
    )
    from .neural_collapse.class_statistics import ClassStatistics
    from .theory import expected_slopes, gufm_optimum, orthogonal_frame, simplex_etf, split_gap
    from .training.arguments import CollapseTrainingArguments
    from .training.trainer import CollapseTrainer

__version__ = version("hf_ncollapse")
register_when_imported()

# Public name -> the module that defines it; type checkers read the imports above.
_PUBLIC_NAMES: dict[str, str] = {
    "ClassStatistics": "hf_ncollapse.neural_collapse.class_statistics",
    "CollapseImageProcessor": "hf_ncollapse.models.image_processing_collapse",
    "CollapseReport": "hf_ncollapse.inspection",
    "CollapseResNetConfig": "hf_ncollapse.models.configuration_collapse_resnet",
    "CollapseResNetForImageClassification": "hf_ncollapse.models.modeling_collapse_resnet",
    "CollapseResNetModel": "hf_ncollapse.models.modeling_collapse_resnet",
    "CollapseTrainer": "hf_ncollapse.training.trainer",
    "CollapseTrainingArguments": "hf_ncollapse.training.arguments",
    "CollapseTransformerConfig": "hf_ncollapse.models.configuration_collapse_transformer",
    "CollapseTransformerForImageClassification": "hf_ncollapse.models.modeling_collapse_transformer",
    "CollapseTransformerForSequenceClassification": "hf_ncollapse.models.modeling_collapse_transformer",
    "CollapseTransformerModel": "hf_ncollapse.models.modeling_collapse_transformer",
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


def __getattr__(name: str) -> object:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module 'hf_ncollapse' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC_NAMES[name]), name)


def __dir__() -> list[str]:
    return __all__
