"""A sweep's configuration as a recipe that a person reads and starts."""

from typing import Any

import yaml

from ..data import DataArguments
from ..training.arguments import CollapseTrainingArguments

_DEFAULTS_SAID = ("optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "per_device_train_batch_size")


def recipe_yaml(configuration: dict[str, dict[str, Any]]) -> str:
    """Turn a `sweep.json` back into a recipe of the same sweep: its settings, and some defaults to be read."""
    data = {name: value for name, value in configuration["data"].items() if value != _default(DataArguments, name)}
    defaults = {name: _default(CollapseTrainingArguments, name) for name in _DEFAULTS_SAID}
    settings = {**configuration["sweep"], **configuration["model"], **data, **defaults, **configuration["training"]}
    lines = {name: value for name, value in settings.items() if value is not None}
    return yaml.safe_dump(lines, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def _default(arguments: type[DataArguments | CollapseTrainingArguments], name: str) -> object:
    return arguments.__dataclass_fields__[name].default
