"""The page that a Space's folder starts, as long as a test looks at it."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def served(folder: Path, environment: Mapping[str, str], *arguments: str) -> Iterator[str]:
    """The page's address.

    Args:
        folder: where it is started.
        environment: its variables.
        arguments: for Python; `app.py` by default.
    """
    log = folder.parent / "log"
    with log.open("w") as output:
        page = subprocess.Popen(
            [sys.executable, *(arguments or ("app.py",))],
            cwd=folder,
            env={**environment, "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while (address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
            assert page.poll() is None, log.read_text()
            time.sleep(0.1)
        yield address[0]
    finally:
        page.terminate()
        page.wait()
