"""What devices can and should compute."""

from contextlib import AbstractContextManager, nullcontext

import torch


def exact_products(device: torch.device) -> AbstractContextManager[object]:
    """Without autocast on a device: under it, float32 products run in bfloat16 or float16."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one that has no float64."""
    return torch.device("cpu") if device.type == "mps" else device
