"""Files that are there whole or not at all."""

import contextlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from .spreadsheet_cells import escape_formulas, unescape_formulas

# What helps against damage in a folder that a sweep is trained in.
REMEDY = "delete it to make it anew"
# The file whose lock is a folder's.
LOCK = ".lock"
# In bytes, of a table or a record: runs by the ten thousand, with names as long as they may be.
LARGEST_FILE = 2**25
# Of a table.
_MOST_COLUMNS, _MOST_CELLS, _LONGEST_LINE = 1000, 2**22, 2**16
# Ending of a file that is still being written.
_PARTIAL = ".partial"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it, so that nobody sees half of it.

    The file and its new name are on the disk when this returns.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    try:
        temporary.touch(exist_ok=False)  # open to whom the umask or the folder's own rules allow
        write(temporary)
        sync_to_disk(temporary)
        temporary.replace(path)
        sync_to_disk(path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, would survive a power cut."""
    # Not every system lets a folder be opened or synced; there, names are written when it sees fit.
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def discard_partial_files(folder: Path) -> None:
    """Remove what writers that were killed left half-written in a folder, where nobody else is writing."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


class FolderInUse(ValueError):
    """Another process holds the lock of a folder."""


@contextlib.contextmanager
def sole_use(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder's lock, which the system releases when this process ends, however it ends.

    Args:
        folder: that exists.
        patience: seconds to wait for another process that holds it.

    Raises:
        FolderInUse: if another process still holds it.
        OSError: if there are no locks in this folder.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise FolderInUse(f"another process is training in {folder}; wait for it, or give another --sweep") from None
    except OSError as error:
        raise OSError(
            f"{folder} cannot be locked ({error.strerror or error}), so two processes could train in it at once; give "
            f"an --output_dir on a file system that has locks"
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically, indented."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path, remedy: str = REMEDY) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        remedy: what the message about a damaged one advises.

    Raises:
        ValueError: if the file is damaged; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object); {remedy}")
    return content


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file atomically, whose text cells no spreadsheet takes for formulas."""
    escaped = escape_formulas(table)
    write_atomically(path, lambda temporary: escaped.to_csv(temporary, index=False))


def read_table(path: Path, columns: Sequence[str], remedy: str = REMEDY) -> pd.DataFrame:
    """Read a CSV file that has these columns among others, with every digit and text that was written.

    Args:
        path: the file.
        columns: that it must have.
        remedy: what the message about a damaged one advises.

    Raises:
        ValueError: if the file is damaged, or larger than any that a sweep writes; the message names it.
    """
    _check_size(path, remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows that are longer than the header
            table = pd.read_csv(path, index_col=False)
    except (ValueError, pd.errors.ParserWarning) as error:
        raise ValueError(f"{path} is damaged ({str(error).strip()}); {remedy}") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"{path} is damaged (it has no column {', '.join(missing)}); {remedy}")
    return unescape_formulas(table)


def _check_size(path: Path, remedy: str) -> None:
    """Look before a table is parsed, which takes many times its size: it may come from a stranger."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{path} is damaged ({size:,} bytes, a sweep's has at most {LARGEST_FILE:,}); {remedy}")
    with path.open("rb") as file:
        columns = file.readline(_LONGEST_LINE).count(b",") + 1
        cells, longest = columns, 0
        while cells <= _MOST_CELLS and longest < _LONGEST_LINE and (line := file.readline(_LONGEST_LINE)):
            cells, longest = cells + columns, max(longest, len(line))
    if columns > _MOST_COLUMNS or longest == _LONGEST_LINE or cells > _MOST_CELLS:
        raise ValueError(
            f"{path} is damaged (it is larger than a sweep's, of at most {_MOST_COLUMNS} columns, {_MOST_CELLS:,} "
            f"cells and {_LONGEST_LINE:,} bytes a line); {remedy}"
        )
