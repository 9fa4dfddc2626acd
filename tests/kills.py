"""Processes that are killed at a chosen moment: at a file operation of their own, or at a request to a Hub."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from hub_server import WRITER, Answer, HubServer, Request

# Each process is forked from one that has imported these and done nothing.
_PROCESSES = multiprocessing.get_context("forkserver")
_PRELOADED = ["kills", "hf_ncollapse.sweeps.estimate", "hf_ncollapse.hub.publish", "hf_ncollapse.sweeps.figures"]
# What Python's audit events say of changes to files. What a library writes by itself, as weights, has none: a kill at
# the next operation finds it written, and one at the operation before finds nothing of it.
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}


def start_process(target: Callable, *arguments) -> multiprocessing.Process:
    """Start a function of this module's in a process of its own."""
    _PROCESSES.set_forkserver_preload(_PRELOADED)
    process = _PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def end_code(process: multiprocessing.Process) -> int:
    """Wait for the end of a process; return its exit code, −9 when it was killed."""
    process.join(240)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def run_process(target: Callable, *arguments) -> int:
    """Run a function of this module's in a process of its own; return its exit code, −9 when it was killed."""
    return end_code(start_process(target, *arguments))


def train(arguments: list[str], folder: Path, kill_at: int | None = None, count: Path | None = None) -> None:
    """Train a sweep, and be killed before the operation of that number in the folder, or count them into a file."""
    from hf_ncollapse.commands.train import main

    operations = 0

    def look(event: str, details: tuple) -> None:
        nonlocal operations
        writes = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in _CHANGES) and str(details[0]).startswith(str(folder)):
            operations += 1
            if operations == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    _be_quiet()
    sys.addaudithook(look)
    code = main([*arguments, "--output_dir", str(folder)])
    if count is not None:
        count.write_text(str(operations))
    sys.exit(code)


def publish(folder: Path, endpoint: str) -> None:
    """Publish a sweep by LFS."""
    from huggingface_hub import HfApi, constants

    from hf_ncollapse.hub.publish import publish_sweep

    constants.HF_HUB_DISABLE_XET = True
    _be_quiet()
    publish_sweep(folder, "my-org", api=HfApi(endpoint=endpoint, token=WRITER))


class KillingHub(HubServer):
    """A Hub that kills who publishes at the request of a number, before it does what is asked or after that.

    Args:
        kill_at: the number, from 1; None kills nobody.
        done: whether the request has an effect.
    """

    def __init__(self, kill_at: int | None = None, done: bool = False):
        super().__init__()
        self.kill_at, self.done = kill_at, done
        self.asked, self.pid = 0, None

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.asked += 1
            strikes = self.asked == self.kill_at
        if strikes and not self.done:
            os.kill(self.pid, signal.SIGKILL)
            raise ConnectionError
        answer = super().answer(request)
        if strikes:
            os.kill(self.pid, signal.SIGKILL)
            raise ConnectionError
        return answer

    def publish(self, folder: Path) -> int:
        """Let a process publish a sweep here; return its exit code."""
        with self._lock:
            process = start_process(publish, folder, self.endpoint)
            self.pid = process.pid
        return end_code(process)


def end_of(folder: Path) -> dict[str, object]:
    """What a sweep has come to: the names of all files, and what is in those that hold no times."""
    found: dict[str, object] = {str(path.relative_to(folder)): None for path in sorted(folder.rglob("*"))}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix in (".safetensors", ".py") or path.name in ("config.json", "sweep.json"):
            found[name] = path.read_bytes()
        elif path.name == "metrics.json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        elif path.name == "results.csv":
            found[name] = pd.read_csv(path, dtype=str).drop(columns="seconds").to_dict("records")
    return found


def _be_quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
