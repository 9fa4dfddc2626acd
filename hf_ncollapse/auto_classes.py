"""Makes transformers' Auto classes know the model families, without importing either before somebody needs it.

Both take seconds to import, which the measures, the theory and `--help` need not wait for: so each Auto class hears of
the families when its own module has been imported, or at once where it was.
"""

from types import ModuleType

from wrapt import lazy_import, register_post_import_hook


def register_when_imported() -> None:
    """Register the families with every Auto class as soon as it exists."""
    for module, register in (
        ("configuration_auto", _register_configs),
        ("modeling_auto", _register_models),
        ("image_processing_auto", _register_processor),
    ):
        register_post_import_hook(register, f"transformers.models.auto.{module}")


def _register_configs(auto: ModuleType) -> None:
    # The configurations alone: transformers imports this module in the midst of that of `PreTrainedModel`.
    from .models.configuration_collapse_resnet import CollapseResNetConfig
    from .models.configuration_collapse_transformer import CollapseTransformerConfig

    for config in (CollapseResNetConfig, CollapseTransformerConfig):
        auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    # By name: the networks may be in the midst of their own import, which reaches this module too.
    from .models.configuration_collapse_resnet import CollapseResNetConfig
    from .models.configuration_collapse_transformer import CollapseTransformerConfig

    images, texts = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    for mapping, config, model in (
        (auto.MODEL_MAPPING, CollapseResNetConfig, "CollapseResNetModel"),
        (auto.MODEL_MAPPING, CollapseTransformerConfig, "CollapseTransformerModel"),
        (images, CollapseResNetConfig, "CollapseResNetForImageClassification"),
        (images, CollapseTransformerConfig, "CollapseTransformerForImageClassification"),
        (texts, CollapseTransformerConfig, "CollapseTransformerForSequenceClassification"),
    ):
        mapping.register(config, lazy_import("hf_ncollapse", model), exist_ok=True)


def _register_processor(auto: ModuleType) -> None:
    from .models.configuration_collapse_resnet import CollapseResNetConfig
    from .models.configuration_collapse_transformer import CollapseTransformerConfig
    from .models.image_processing_collapse import CollapseImageProcessor

    classes = {"pil": CollapseImageProcessor}
    for config in (CollapseResNetConfig, CollapseTransformerConfig):
        auto.AutoImageProcessor.register(config, image_processor_classes=classes, exist_ok=True)
