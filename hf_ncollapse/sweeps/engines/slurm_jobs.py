"""The engine for SLURM: each run is a job of an array, which waits for the job of its parent."""

import math
import sys
import time
from collections.abc import Sequence

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError

from ...data import ClassificationData, load_classification_data
from ..arguments import EngineArguments, Recipe
from ..interruption import StopRequest
from ..plan import Run
from ..run import RunEnd
from .engine import Engine, Sweep, attempt, check_shared, folder_mark

_LOOK_SECONDS = 0.2


class SlurmJobs(Engine):
    """Job arrays, one a depth, whose jobs wait for those of their parents; submitted at once, by submitit.

    Logs and what submitit passes to a job lie in the folder `slurm` of the sweep's. The jobs go on when the one that
    schedules is killed, and the next start takes up what they left.

    Args:
        sweep: that it serves.
        arguments: `workers`, `cpus_per_run`, `gpus_per_run`, `partition`, `minutes` and `slurm_options`.
        cluster: submitit's, "slurm" or, to try it without one, "local", where a depth begins when its parents' has
            ended.
    """

    def __init__(self, sweep: Sweep, arguments: EngineArguments, cluster: str = "slurm"):
        super().__init__(sweep)
        self.orders_parents = cluster == "slurm"
        self.most = arguments.workers or sys.maxsize
        self._jobs: dict[str, tuple[Run, submitit.Job[RunEnd]]] = {}
        try:
            self._executor = submitit.AutoExecutor(sweep.recipe.folder.absolute() / "slurm", cluster=cluster)
        except RuntimeError as error:
            raise ValueError(f"engine is 'slurm', and no jobs can be submitted from here: {error}") from None
        self._parameters = _parameters(sweep.recipe, arguments)
        self._training = Training(sweep.recipe, folder_mark(sweep.recipe.folder))

    @property
    def room(self) -> int:
        return sys.maxsize if self.orders_parents else self.most - len(self._jobs)

    def start(self, runs: Sequence[Run]) -> None:
        known = {*self._jobs, *(run.name for run in runs)}
        waits = [run for run in runs if run.parent is not None and run.parent.name in known]
        # What can begin now is one array, of all depths.
        self._submit([run for run in runs if run not in waits], [])
        for depth in sorted({run.depth for run in runs}):
            ordered = [run for run in runs if run.depth == depth and run.name not in self._jobs]
            self._submit(ordered, [self._jobs[run.parent.name][1].job_id for run in ordered if run.parent])

    def _submit(self, runs: list[Run], parents: list[str]) -> None:
        if not runs:
            return
        dependency = _dependency(parents) if parents else None
        self._executor.update_parameters(**self._parameters, slurm_dependency=dependency)
        for run, job in zip(runs, self._executor.map_array(self._training, runs), strict=True):
            self._jobs[run.name] = run, job

    def ended(self, patience: float) -> list[RunEnd]:
        deadline = time.monotonic() + patience
        while not (done := [name for name, (_, job) in self._jobs.items() if job.done()]):
            if time.monotonic() > deadline:
                return []
            time.sleep(_LOOK_SECONDS)
        return [self._end(*self._jobs.pop(name)) for name in done]

    def _end(self, run: Run, job: submitit.Job[RunEnd]) -> RunEnd:
        try:
            return job.result()
        except (UncompletedJobError, FailedJobError):
            reason = f"its job {job.job_id} ended without a result ({job.state}; {job.paths.stderr})"
            return RunEnd(run, "lost", reason=reason)

    def stop(self) -> list[RunEnd]:
        for _, job in self._jobs.values():
            job.cancel()
        ends = []
        while self._jobs:
            ends += self.ended(patience=60.0)
        return ends


class Training:
    """What a job does with its run; submitit queues it again when SLURM stops it, for a time limit or a preemption.

    Args:
        recipe: the sweep.
        mark: of its folder.
    """

    def __init__(self, recipe: Recipe, mark: str):
        self.recipe, self.mark = recipe, mark

    def __call__(self, run: Run) -> RunEnd:
        stop = StopRequest()

        def load() -> ClassificationData:
            check_shared(self.recipe.folder, self.mark)
            return load_classification_data(self.recipe.data)

        with stop.listening():
            return attempt(run, self.recipe, load, stop)

    def checkpoint(self, run: Run) -> DelayedSubmission:
        """The same again, which goes on from the run's last checkpoint."""
        return DelayedSubmission(self, run)


def _parameters(recipe: Recipe, arguments: EngineArguments) -> dict[str, object]:
    """What submitit says to SLURM of every job; a job whose parent's failed is not kept waiting."""
    parameters = {
        "name": recipe.sweep.sweep,
        "timeout_min": arguments.minutes,
        "cpus_per_task": arguments.cpus_per_run,
        "gpus_per_node": math.ceil(arguments.gpus_per_run) or None,
        "slurm_partition": arguments.partition,
        "slurm_array_parallelism": arguments.workers,
    }
    given = {name: value for name, value in parameters.items() if value is not None}
    more = {"kill-on-invalid-dep": "yes", **dict(option.split("=", 1) for option in arguments.slurm_options or [])}
    return {**given, "slurm_additional_parameters": more}


def _dependency(parents: list[str]) -> str:
    """SLURM's words for jobs of an array that each wait for the one of their parent."""
    arrays = {job.partition("_")[0] for job in parents}
    if len(arrays) == 1 and len(parents) > 1 and [f"{next(iter(arrays))}_{i}" for i in range(len(parents))] == parents:
        return f"aftercorr:{arrays.pop()}"
    return f"afterok:{':'.join(parents)}"
