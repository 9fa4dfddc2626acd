"""The paper's architecture names and the models behind them."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..data import ClassificationData
from ..models.collapse_config import CollapseConfig
from ..models.depth_continuation import DepthContinuationMixin
from ..models.families import FAMILIES, Family
from ..models.image_processing_collapse import CollapseImageProcessor
from .arguments import ModelArguments


@dataclass(frozen=True)
class Architecture:
    """A named architecture: its family, and the fields that the name stands for."""

    family: Family
    fields: dict[str, Any]


ARCHITECTURES = {
    name: Architecture(family, fields)
    for family in FAMILIES
    for name, fields in family.config.architectures_by_name.items()
}


def architecture_named(name: str) -> Architecture:
    """Return the architecture; upper or lower case, with or without the leading "L-".

    Raises:
        ValueError: if there is none of that name.
    """
    known = {key.removeprefix("L-").lower(): value for key, value in ARCHITECTURES.items()}
    architecture = known.get(str(name).lower().removeprefix("l-"))
    if architecture is None:
        raise ValueError(f"architecture is {name!r}; it takes one of {', '.join(ARCHITECTURES)}")
    return architecture


def build_config(name: str, depth: int, model: ModelArguments, data: ClassificationData) -> CollapseConfig:
    """Return the config of one network of a sweep: architecture, depth, objective and the data's shape and classes.

    Raises:
        ValueError: if the architecture cannot take this data, or a field is out of its range or foreign to it.
    """
    architecture = architecture_named(name)
    if data.modality not in architecture.family.modalities:
        raise ValueError(
            f"architecture is {name!r}, which takes {' or '.join(architecture.family.modalities)} data; "
            f"this data set holds {data.modality}s"
        )
    given = model.given()
    foreign = sorted(set(given) - set(architecture.family.config.__dataclass_fields__))
    if foreign:
        raise ValueError(f"{', '.join(foreign)} cannot be set for {name}, which has no such part")
    try:
        return architecture.family.config(
            num_hidden_layers=depth,
            id2label=dict(enumerate(data.label_names)),
            label2id={label: index for index, label in enumerate(data.label_names)},
            **architecture.fields,
            **_input_fields(data),
            **given,
        )
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__)) from error


def build_model(name: str, config: CollapseConfig, data: ClassificationData) -> DepthContinuationMixin:
    """Return a freshly initialised classifier of the architecture."""
    return architecture_named(name).family.classifiers[data.modality](config)


def _input_fields(data: ClassificationData) -> dict[str, Any]:
    """What the config must know of the inputs."""
    processor = data.processor
    if isinstance(processor, CollapseImageProcessor):
        height, width = processor.size["height"], processor.size["width"]
        return {"image_size": height if height == width else [height, width], "num_channels": processor.num_channels}
    return {
        "vocab_size": len(processor),
        "max_position_embeddings": processor.model_max_length,
        "pad_token_id": processor.pad_token_id,
    }
