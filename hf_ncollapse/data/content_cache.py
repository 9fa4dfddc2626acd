"""Files kept for their content: work that is done once for the same input."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TypeVar

from huggingface_hub import constants

logger = logging.getLogger(__name__)
Value = TypeVar("Value")


def cached(
    suffix: str,
    content: Iterable[str],
    make: Callable[[], Value],
    read: Callable[[Path], Value],
    write: Callable[[IO[bytes], Value], object],
) -> Value:
    """Return what `make` gives, from the file that an earlier call with the same content left, if there is one.

    The files are under the Hugging Face home. A damaged one is made anew and a folder that cannot be written is done
    without, each with a warning: a cache saves time and nothing else.

    Args:
        suffix: how the file's name ends.
        content: everything that the value depends on, in order.
        make: computes the value; what it raises is raised.
        read: the value in a file, or any exception if it is damaged.
        write: puts the value into an open binary file.
    """
    digest = hashlib.sha256()
    for part in content:
        encoded = part.encode("utf-8", "surrogatepass")
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    path = Path(constants.HF_HOME) / "hf_ncollapse" / f"{digest.hexdigest()}{suffix}"
    if path.is_file():
        try:
            return read(path)
        except Exception as error:  # tokenizers raises nothing narrower
            logger.warning("%s is damaged and made anew: %s", path, error)
    value = make()
    try:
        _write_at_once(path, lambda file: write(file, value))
    except OSError as error:
        logger.warning("nothing is kept in %s: %s", path.parent, error)
    return value


def _write_at_once(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under another name first, so that a killed process leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            write(file)
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)
