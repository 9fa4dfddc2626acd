"""What cannot be written, said in words."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def explained_write_errors(folder: str | Path) -> Iterator[None]:
    """Turn what safetensors and torch raise when a file cannot be written, for a full disk say, into an `OSError`.

    Raises:
        OSError: what happened; the message names the folder.
    """
    try:
        yield
    except (SafetensorError, RuntimeError, OSError) as error:
        free = shutil.disk_usage(folder).free
        raise OSError(f"the network cannot be saved in {folder}, where {free:,} bytes are free: {error}") from error
