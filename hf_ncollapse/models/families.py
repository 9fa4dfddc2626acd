"""The model families, each with its classifiers."""

from dataclasses import dataclass

from transformers.modeling_utils import PreTrainedModel

from .collapse_config import CollapseConfig
from .configuration_collapse_resnet import CollapseResNetConfig
from .configuration_collapse_transformer import CollapseTransformerConfig
from .depth_continuation import DepthContinuationMixin
from .modeling_collapse_resnet import CollapseResNetForImageClassification, CollapseResNetModel
from .modeling_collapse_transformer import (
    CollapseTransformerForImageClassification,
    CollapseTransformerForSequenceClassification,
    CollapseTransformerModel,
)


@dataclass(frozen=True)
class Family:
    """Networks of one config class: without a classifier, and with one, by what they read."""

    config: type[CollapseConfig]
    network: type[PreTrainedModel]
    classifiers: dict[str, type[DepthContinuationMixin]]


FAMILIES = (
    Family(CollapseResNetConfig, CollapseResNetModel, {"image": CollapseResNetForImageClassification}),
    Family(
        CollapseTransformerConfig,
        CollapseTransformerModel,
        {"image": CollapseTransformerForImageClassification, "text": CollapseTransformerForSequenceClassification},
    ),
)
