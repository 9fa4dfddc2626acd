"""The model families; importing this registers them with transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from .configuration_collapse_resnet import CollapseResNetConfig
from .configuration_collapse_transformer import CollapseTransformerConfig
from .image_processing_collapse import CollapseImageProcessor
from .modeling_collapse_resnet import CollapseResNetForImageClassification, CollapseResNetModel
from .modeling_collapse_transformer import (
    CollapseTransformerForImageClassification,
    CollapseTransformerForSequenceClassification,
    CollapseTransformerModel,
)

for _config, _model in (
    (CollapseResNetConfig, CollapseResNetModel),
    (CollapseTransformerConfig, CollapseTransformerModel),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoImageProcessor.register(_config, image_processor_classes={"pil": CollapseImageProcessor}, exist_ok=True)
    # Saved checkpoints carry their code, for processes without this package.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
CollapseImageProcessor.register_for_auto_class("AutoImageProcessor")

for _auto, _config, _classifier in (
    (AutoModelForImageClassification, CollapseResNetConfig, CollapseResNetForImageClassification),
    (AutoModelForImageClassification, CollapseTransformerConfig, CollapseTransformerForImageClassification),
    (AutoModelForSequenceClassification, CollapseTransformerConfig, CollapseTransformerForSequenceClassification),
):
    _auto.register(_config, _classifier, exist_ok=True)
    _classifier.register_for_auto_class(_auto.__name__)

__all__ = [
    "CollapseImageProcessor",
    "CollapseResNetConfig",
    "CollapseResNetForImageClassification",
    "CollapseResNetModel",
    "CollapseTransformerConfig",
    "CollapseTransformerForImageClassification",
    "CollapseTransformerForSequenceClassification",
    "CollapseTransformerModel",
]
