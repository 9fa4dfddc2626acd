"""Makes transformers' Auto classes know the model families, without importing either before somebody needs it.

Both take seconds to import, which the measures, the theory and `--help` need not wait for: so each Auto class hears of
the families when its own module has been imported, or at once where it was.
"""

from types import ModuleType

from wrapt import register_post_import_hook


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
    from .models.families import FAMILIES

    classifiers = {"image": auto.AutoModelForImageClassification, "text": auto.AutoModelForSequenceClassification}
    for family in FAMILIES:
        auto.AutoModel.register(family.config, family.network, exist_ok=True)
        for modality, classifier in family.classifiers.items():
            classifiers[modality].register(family.config, classifier, exist_ok=True)


def _register_processor(auto: ModuleType) -> None:
    from .models.families import FAMILIES
    from .models.image_processing_collapse import CollapseImageProcessor

    classes = {"pil": CollapseImageProcessor}
    for family in FAMILIES:
        auto.AutoImageProcessor.register(family.config, image_processor_classes=classes, exist_ok=True)
