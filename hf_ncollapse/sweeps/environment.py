"""Where a run was computed: versions, threads and the kind of machine, and nothing that names it."""

import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("hf_ncollapse", "transformers", "accelerate", "datasets", "numpy")


def describe_environment(device: torch.device) -> dict[str, object]:
    """Return versions, device, processor and threads as JSON types; no host name, user or path.

    Args:
        device: where the run computes.
    """
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # names its build, +cpu or +cu130, which an installed version may not
        **{package: version(package) for package in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        match = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if match:
            return match[1]
    return platform.processor() or platform.machine()
