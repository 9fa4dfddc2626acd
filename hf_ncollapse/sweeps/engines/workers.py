"""The local engine with several processes: each trains one run at a time, on a GPU of its own where there are any."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Pipe, wait
from typing import cast

import torch

from ..plan import Run
from ..run import RunEnd
from .engine import Engine, Sweep


class Worker:
    """A process of its own that trains the runs sent to it; see `worker.py` for its side.

    Args:
        index: which of the workers it is.
        count: how many they are.
        sweep: whose runs it trains.
    """

    def __init__(self, index: int, count: int, sweep: Sweep):
        self.index = index
        self.run: Run | None = None
        self.connection, other = Pipe()
        # In a session of its own, so that a Ctrl-C in the terminal reaches the one that schedules alone.
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter, with a number
            [sys.executable, "-m", "hf_ncollapse.sweeps.engines.worker", str(other.fileno())],
            env={**os.environ, **worker_environment(index, count)},
            pass_fds=[other.fileno()],
            start_new_session=True,
        )
        other.close()
        self.send(sweep.recipe)

    def send(self, message: object) -> None:
        """Send a message; one that does not reach a dead worker shows when it is waited for."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self) -> RunEnd:
        """The end of the run that it was sent, which is lost where it died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return RunEnd(cast(Run, self.run), "lost", reason=f"its worker {how}")

    def close(self, patience: float = 10.0) -> None:
        """Let it save and end, or kill it after `patience` seconds."""
        self.connection.close()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def worker_environment(index: int, count: int) -> dict[str, str]:
    """Return the environment variables that give a worker its share of the machine.

    Args:
        index: which of the workers it is, from 0.
        count: how many they are.

    Returns:
        `OMP_NUM_THREADS`, the threads divided by `count` unless the variable is set already, and where there are GPUs
        `CUDA_VISIBLE_DEVICES` with one of those that this process sees; more workers than GPUs share them in turn.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // count))
    environment = {"OMP_NUM_THREADS": threads}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = range(torch.cuda.device_count()) if gpus is None else list(filter(None, gpus.split(",")))
    if len(visible):
        environment["CUDA_VISIBLE_DEVICES"] = str(visible[index % len(visible)])
    return environment


class Workers(Engine):
    """Several processes on this machine; one that dies is replaced.

    Args:
        sweep: that it serves.
        count: number of processes.
    """

    def __init__(self, sweep: Sweep, count: int):
        super().__init__(sweep)
        self.count = count
        self._workers: list[Worker] = []

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for worker in self._workers:
            worker.connection.close()
        is_second_signal = kind is not None and issubclass(kind, KeyboardInterrupt) and self._busy
        for worker in self._workers:
            worker.close(patience=0.0 if is_second_signal else 10.0)

    @property
    def room(self) -> int:
        return self.count - len(self._busy)

    @property
    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.run is not None]

    def start(self, runs: Sequence[Run]) -> None:
        for run in runs:
            worker = next((worker for worker in self._workers if worker.run is None), None)
            if worker is None:
                index = min(set(range(self.count)) - {worker.index for worker in self._workers})
                worker = Worker(index, self.count, self.sweep)
                self._workers.append(worker)
            worker.run = run
            worker.send(run)

    def ended(self, patience: float) -> list[RunEnd]:
        ends = []
        ready = wait([worker.connection for worker in self._busy], patience)
        for worker in [worker for worker in self._busy if worker.connection in ready]:
            ends.append(end := worker.receive())
            worker.run = None
            if end.status in ("lost", "stopped"):
                worker.close()
                self._workers.remove(worker)
        return ends

    def stop(self) -> list[RunEnd]:
        for worker in self._workers:
            worker.send(self.sweep.stop.signal_number)
        ends = []
        while self._busy:
            ends += self.ended(patience=60.0)
        return ends
