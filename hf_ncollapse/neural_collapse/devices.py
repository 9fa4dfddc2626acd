"""What devices can and should compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Products as precise as their factors: without autocast on a device, nor TF32 or bfloat16 inside of float32's."""
    # The module puts an object in its own place, which type checkers do not see.
    of_cpu = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    settings = torch.backends.cuda.matmul if device.type == "cuda" else of_cpu
    allowed = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        if torch.amp.is_autocast_available(device.type):
            with torch.autocast(device.type, enabled=False):
                yield
        else:
            yield
    finally:
        settings.fp32_precision = allowed


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one that has no float64."""
    return torch.device("cpu") if device.type == "mps" else device
