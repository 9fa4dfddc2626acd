"""What a model is underneath torch.compile, the wrappers of parallel training and PEFT's adapters."""

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that torch.compile and the parallel wrappers run, so that hooks see every call and nobody waits."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


def base_model(model: nn.Module) -> nn.Module:
    """The model that says what this one is: adapters, and wrappers that shard or average, change nothing of that."""
    while True:
        model = unwrapped(model)
        get_base_model, wrapped = getattr(model, "get_base_model", None), getattr(model, "module", None)
        if callable(get_base_model):
            model = get_base_model()
        elif isinstance(wrapped, nn.Module):
            model = wrapped
        else:
            return model


def encoder_of(model: nn.Module) -> nn.Module:
    """A transformers model without its head; any other module is its own encoder."""
    model = unwrapped(model)
    return model.base_model if isinstance(model, PreTrainedModel) else model


def is_sequence_to_sequence(model: nn.Module) -> bool:
    """Whether it writes a text from another text or from speech, as T5, BART and Whisper do."""
    names = {
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
        *MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.values(),
    }
    return any(kind.__name__ in names for kind in type(base_model(model)).__mro__)


def predicts_next_token(model: nn.Module) -> bool:
    """Whether it is a causal language model: one of transformers, registered, with code of its own, or a subclass."""
    model = base_model(model)
    config: Any = getattr(model, "config", None)
    registered = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    brought = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM", "").rpartition(".")[2]
    names = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), getattr(registered, "__name__", brought), brought}
    return any(kind.__name__ in names for kind in type(model).__mro__)
