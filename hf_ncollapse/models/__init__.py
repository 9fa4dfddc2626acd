"""The model families; importing this registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .configuration_collapse_resnet import CollapseResNetConfig
from .image_processing_collapse import CollapseImageProcessor
from .modeling_collapse_resnet import CollapseResNetForImageClassification, CollapseResNetModel

AutoConfig.register("collapse_resnet", CollapseResNetConfig, exist_ok=True)
AutoModel.register(CollapseResNetConfig, CollapseResNetModel, exist_ok=True)
AutoModelForImageClassification.register(CollapseResNetConfig, CollapseResNetForImageClassification, exist_ok=True)
AutoImageProcessor.register(
    CollapseResNetConfig, image_processor_classes={"pil": CollapseImageProcessor}, exist_ok=True
)

# Saved checkpoints carry their code, for processes without this package.
CollapseResNetConfig.register_for_auto_class()
CollapseResNetModel.register_for_auto_class("AutoModel")
CollapseResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
CollapseImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = [
    "CollapseImageProcessor",
    "CollapseResNetConfig",
    "CollapseResNetForImageClassification",
    "CollapseResNetModel",
]
