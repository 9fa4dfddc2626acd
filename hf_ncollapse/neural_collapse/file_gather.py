"""Gather tensors from several processes over a folder they share, without torch.distributed."""

import os
import time
import uuid
from pathlib import Path
from typing import Any

import torch

_POLL_SECONDS = 0.02


def file_gather(
    state: dict[str, Any], folder: str, name: str, process_id: int, num_process: int, timeout: float
) -> list[dict[str, Any]] | None:
    """Return the states of all processes, in order, in process 0; `None` in the others, once process 0 has read them.

    Process 0 writes a request with a token of its own and waits for answers to that token, so that neither files left
    by a run that crashed nor the next call's can be mistaken for answers.

    Args:
        state (`dict`): tensors and plain values.
        folder (`str`): where the files go; the same for all processes.
        name (`str`): of the gathering; runs that share the folder at the same time need different ones.
        process_id, num_process (`int`): this process among how many.
        timeout (`float`): seconds to wait for the others.

    Raises:
        ValueError: the others did not come in time.
    """
    request = Path(folder, f"{name}-{num_process}-request")
    deadline = time.monotonic() + timeout
    if process_id == 0:
        token = uuid.uuid4().hex
        _write(request, {"token": token})
        answers = [_answer(request, token, other) for other in range(1, num_process)]
        while missing := [path for path in answers if not path.exists()]:
            if time.monotonic() > deadline:
                request.unlink()
                raise ValueError(
                    _late(f"{len(missing)} of {num_process} processes did not call compute", name, timeout)
                )
            time.sleep(_POLL_SECONDS)
        states = [state, *(torch.load(path, weights_only=True) for path in answers)]
        for path in (request, *answers):
            path.unlink()
        return states

    written: dict[str, Path] = {}
    answered: str | None = None
    while answered is None or written[answered].exists():
        if time.monotonic() > deadline:
            for path in written.values():
                path.unlink(missing_ok=True)
            raise ValueError(_late("process 0 did not call compute", name, timeout))
        requested = _read_token(request)
        if requested is not None and requested not in written:
            answered = requested
            written[answered] = _answer(request, answered, process_id)
            _write(written[answered], state)
        time.sleep(_POLL_SECONDS)
    for path in written.values():
        path.unlink(missing_ok=True)
    return None


def _answer(request: Path, token: str, process_id: int) -> Path:
    return request.with_name(f"{request.name}-{token}-{process_id}")


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write so that whoever sees the file sees all of it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def _read_token(request: Path) -> str | None:
    try:
        return torch.load(request, weights_only=True)["token"]
    except FileNotFoundError:
        return None


def _late(what: str, name: str, timeout: float) -> str:
    return (
        f"{what} within {timeout} seconds: every process must call it, with the same num_process, "
        f"experiment_id ({name!r}) and cache_dir; a longer timeout can be set with metric.timeout"
    )
