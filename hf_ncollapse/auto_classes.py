"""Makes transformers' Auto classes know the model families, without importing either before somebody needs it.

Both take seconds to import, which the measures, the theory and `--help` need not wait for: so each Auto class hears of
the families when its own module has been imported, or at once where it was.
"""

from types import ModuleType

from wrapt import lazy_import, register_post_import_hook

from .models.families import CLASSIFIERS, FAMILIES


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
    for family in FAMILIES:
        auto.AutoConfig.register(family.model_type, family.config, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    # By name: the networks may be in the midst of their own import, which reaches this module too.
    mappings = {
        "image": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        "text": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    }
    for family in FAMILIES:
        of_family = [(auto.MODEL_MAPPING, "Model")]
        of_family += [(mappings[modality], CLASSIFIERS[modality]) for modality in family.modalities]
        for mapping, ending in of_family:
            mapping.register(family.config, lazy_import(family.modeling, family.name + ending), exist_ok=True)


def _register_processor(auto: ModuleType) -> None:
    from .models.image_processing_collapse import CollapseImageProcessor

    classes = {"pil": CollapseImageProcessor}
    for family in FAMILIES:
        auto.AutoImageProcessor.register(family.config, image_processor_classes=classes, exist_ok=True)
