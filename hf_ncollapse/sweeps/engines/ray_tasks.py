"""The engine for Ray clusters: each run is a task."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import ray
from ray.exceptions import RayError

from ...data import ClassificationData, DataArguments, load_classification_data
from ..arguments import EngineArguments, Recipe
from ..interruption import StopRequest
from ..plan import Run
from ..run import RunEnd
from .engine import Engine, Sweep, attempt, check_shared, folder_mark

# What a task on another machine takes over from here.
_TAKEN_OVER = ("HF_", "OMP_NUM_THREADS", "PYTHONPATH", "TOKENIZERS_PARALLELISM")


class RayTasks(Engine):
    """Tasks on a Ray cluster that sees the sweep's folder, or on a local one that lives as long as the sweep.

    Ray gives each task its cores and GPUs. A task that died is started again by the schedule, and goes on from its
    checkpoint.

    Args:
        sweep: that it serves.
        arguments: `address`, `workers`, `cpus_per_run` and `gpus_per_run`.
    """

    def __init__(self, sweep: Sweep, arguments: EngineArguments):
        super().__init__(sweep)
        self.arguments = arguments
        self._runs: dict[ray.ObjectRef[RunEnd], Run] = {}

    def __enter__(self) -> Self:
        taken_over = {name: value for name, value in os.environ.items() if name.startswith(_TAKEN_OVER)}
        address = self.arguments.address
        environment = {"env_vars": taken_over} if address not in (None, "local") else None
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(address=address or "local", runtime_env=environment, include_dashboard=False, log_to_driver=False)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has taken it over, and would end the sweep at once
        offered = ray.cluster_resources()
        self.sweep.progress.console.print(
            f"Ray: {offered.get('CPU', 0):g} cores and {offered.get('GPU', 0):g} GPUs, "
            f"{self.arguments.cpus_per_run} and {self.arguments.gpus_per_run:g} a run"
        )
        self._mark = folder_mark(self.sweep.recipe.folder)
        self._task = ray.remote(
            max_retries=0, num_cpus=self.arguments.cpus_per_run, num_gpus=self.arguments.gpus_per_run
        )(_train)
        return self

    def __exit__(self, *exception: object) -> None:
        ray.shutdown()

    @property
    def room(self) -> int:
        return (self.arguments.workers or sys.maxsize) - len(self._runs)

    def start(self, runs: Sequence[Run]) -> None:
        for run in runs:
            task = self._task.remote(run, self.sweep.recipe, Path.cwd(), self._mark)
            self._runs[task] = run

    def ended(self, patience: float) -> list[RunEnd]:
        ready, _ = ray.wait(list(self._runs), num_returns=1, timeout=patience)
        ends = []
        for task in ready:
            run = self._runs.pop(task)
            try:
                ends.append(ray.get(task))
            except RayError as error:
                ends.append(RunEnd(run, "lost", reason=f"its task was lost ({type(error).__name__})"))
        return ends

    def stop(self) -> list[RunEnd]:
        for task in self._runs:
            ray.cancel(task)
        ends = []
        while self._runs:
            ends += self.ended(patience=60.0)
        return ends


def _train(run: Run, recipe: Recipe, folder: Path, mark: str) -> RunEnd:
    """The task: in the folder where the sweep was started, so that relative paths mean the same."""
    stop = StopRequest()

    def load() -> ClassificationData:
        check_shared(folder / recipe.folder, mark)
        os.chdir(folder)
        return _data(recipe.data)

    with stop.listening():
        return attempt(run, recipe, load, stop)


@functools.lru_cache(maxsize=1)
def _data(arguments: DataArguments) -> ClassificationData:
    """Loaded once by each of Ray's workers, which train one run after another."""
    return load_classification_data(arguments)
