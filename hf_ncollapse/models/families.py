"""The model families, by the names of their modules and classes: these are imported when somebody needs one."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .collapse_config import CollapseConfig
    from .depth_continuation import DepthContinuationMixin

# How the classes of classifiers end, by what they read.
CLASSIFIERS = {"image": "ForImageClassification", "text": "ForSequenceClassification"}


@dataclass(frozen=True)
class Family:
    """Networks of one config class, `{name}Config` of `configuration_{model_type}`.

    In `modeling_{model_type}` they are `{name}Model`, without a classifier, and `{name}ForImageClassification` or
    `{name}ForSequenceClassification`.

    Args:
        model_type: of the config.
        name: what the classes' names begin with.
        kind: for people.
        modalities: what the classifiers read, "image" or "text".
    """

    model_type: str
    name: str
    kind: str
    modalities: tuple[str, ...]

    @property
    def modeling(self) -> str:
        """The full name of the networks' module."""
        return f"{__package__}.modeling_{self.model_type}"

    @property
    def config(self) -> "type[CollapseConfig]":
        """The config class."""
        module = importlib.import_module(f"{__package__}.configuration_{self.model_type}")
        return getattr(module, f"{self.name}Config")

    @property
    def classifiers(self) -> "dict[str, type[DepthContinuationMixin]]":
        """The classes of the classifiers, by what they read."""
        module = importlib.import_module(self.modeling)
        return {modality: getattr(module, self.name + CLASSIFIERS[modality]) for modality in self.modalities}


FAMILIES = (
    Family("collapse_resnet", "CollapseResNet", "residual network", ("image",)),
    Family("collapse_transformer", "CollapseTransformer", "transformer", ("image", "text")),
)
