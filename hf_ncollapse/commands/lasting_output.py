"""Output that nobody reads any more does not end a command."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class LastingStream:
    """A text stream that goes on into nothing when it cannot be written: a pipe that was closed, as by `| head`, a
    terminal that is gone, a full disk.

    Args:
        stream: with a file descriptor, which all that writes to it shares, libraries and child processes too.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as the stream does."""
        with self._without_readers():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        with self._without_readers():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _without_readers(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """In this block, stdout and stderr are [`LastingStream`]s."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in before.items():
        if _has_descriptor(stream):
            setattr(sys, name, LastingStream(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            # Here rather than when the interpreter ends, which would complain.
            if stream is not None:
                getattr(sys, name).flush()
            setattr(sys, name, stream)


def _has_descriptor(stream: TextIO | None) -> bool:
    """Not so where a test or a notebook has put something of its own."""
    try:
        return stream is not None and stream.fileno() >= 0
    except (OSError, AttributeError):
        return False
