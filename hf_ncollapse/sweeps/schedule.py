"""Train every run of a sweep once: which comes next, what is said and tabled of it, and what Ctrl-C does."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState

from ..data import ClassificationData, load_classification_data
from ..training.arguments import CollapseTrainingArguments
from ..training.processes import check_processes, decided_by_main
from .architectures import architecture_named, build_config
from .arguments import Recipe
from .data_fingerprint import data_fingerprint
from .engines.engine import Engine, Sweep
from .engines.this_process import ThisProcess
from .files import discard_partial_files, sole_use
from .interruption import StopRequest, SweepInterrupted
from .paper_figures import paper_panel
from .plan import PATIENCE, Run, check_configuration, claim_folder, plan_runs
from .progress import SweepProgress, results_overview
from .report import finish_sweep
from .results import collect_rows, results_table, run_row, write_results
from .run import RunEnd, failed_end, failure_elsewhere, finished_before, is_busy
from .same_everywhere import check_same_everywhere

# A run whose process died so often is not tried again.
_ATTEMPTS = 3
# Seconds after which a run that another command trains is looked at again.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep's runs came to: those finished now or before, and why the others failed or could not start."""

    folder: Path
    finished: list[Run]
    failed: dict[str, str]


def prepare_sweep(recipe: Recipe) -> tuple[CollapseTrainingArguments, ClassificationData, list[Run]]:
    """Check everything that can be checked before training; return the shared arguments, the data and the runs.

    Raises:
        ValueError: a mistake in the recipe.
        ImportError: a data package is missing.
        ConnectionError: the data are on the Hub, which cannot be reached.
    """
    arguments = CollapseTrainingArguments(**{**recipe.training, "report_to": "none"})
    state = PartialState()
    check_processes(state)
    check_same_everywhere(recipe.to_dict())
    architecture_named(recipe.sweep.architecture)
    paper_panel(recipe.to_dict())
    with state.main_process_first():
        data = load_classification_data(recipe.data)
    runs = plan_runs(recipe, arguments.learning_rate, arguments.total_steps(len(data.train)))
    arguments.polishing(min(run.max_steps for run in runs))
    for depth in recipe.sweep.depths:
        build_config(recipe.sweep.architecture, depth, recipe.model, data)
    return arguments, data, runs


def run_sweep(recipe: Recipe, engine: Callable[[Sweep], Engine] = ThisProcess) -> SweepOutcome:
    """Train what is not finished yet, and write the table after every run.

    A finished run is never trained again, a killed one continues from its last checkpoint, and one bad run does not
    stop the others. Any number of commands may work on one folder: each trains what no other one does, and all end
    when every run has. In a distributed launch all processes train every run together; process 0 writes.

    Args:
        recipe: the sweep.
        engine: where runs are trained; [`make_engine`] returns others.

    Raises:
        ValueError: a mistake in the recipe, or the folder holds another sweep; before any training, and `sweep.json`
            is as it was.
        ImportError: a data package is missing.
        OSError: the folder cannot be written.
        SweepInterrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
    """
    _, data, runs = prepare_sweep(recipe)
    recipe = replace(recipe, data_content=data_fingerprint(data))
    check_same_everywhere({"data": recipe.data_content})
    state = PartialState()
    if state.num_processes > 1 and engine is not ThisProcess:
        raise ValueError(
            f"an engine was given to {state.num_processes} processes that train one network together; several "
            "workers, clusters and ensembles take one process"
        )
    if state.is_main_process:
        recipe.folder.mkdir(parents=True, exist_ok=True)
        with sole_use(recipe.folder, PATIENCE):
            check_configuration(recipe)
            for folder in (recipe.folder, recipe.folder / "figures"):
                discard_partial_files(folder)
    state.wait_for_everyone()
    stop = StopRequest()
    with stop.listening(), SweepProgress(len(runs), visible=state.is_main_process) as progress:
        schedule = Schedule(runs)
        table = SweepTable(recipe.folder) if state.is_main_process else None
        with engine(Sweep(recipe, data, stop, progress)) as trained_by:
            _train_runs(schedule, trained_by, table)
        if schedule.finished and table is not None:
            claim_folder(recipe)  # where no run had to begin
            table.update()
            progress.console.print(results_overview(results_table(table.rows.values())))
            with sole_use(recipe.folder, PATIENCE):
                finish_sweep(recipe.folder)
            progress.console.print(f"results: {recipe.folder / 'results.csv'}")
            progress.console.print(f"report:  hf-ncollapse report {recipe.folder}")
    return SweepOutcome(recipe.folder, schedule.finished, schedule.failed)


def _train_runs(schedule: "Schedule", engine: Engine, table: "SweepTable | None") -> None:
    stop, progress = engine.sweep.stop, engine.sweep.progress

    def note(ends: list[RunEnd]) -> None:
        for end in ends:
            line = schedule.note(end)
            if line:
                progress.console.print(line)
        progress.show_ended(len(schedule.finished) + len(schedule.failed))
        if table is not None and any(end.status in ("finished", "failed") for end in ends):
            table.update()

    while schedule.is_open:
        if stop.is_asked():
            stopped = engine.stop()
            note([end for end in stopped if end.status in ("finished", "failed")])
            where = "; ".join(end.reason for end in stopped if end.status == "stopped")
            raise SweepInterrupted(stop.signal_number, where or f"before {schedule.next_name}")
        known, starting = decided_by_main(lambda: schedule.next(engine.room, engine.orders_parents))
        note(known)
        if starting:
            schedule.start(starting)
            progress.start_run(schedule.under_way)
            engine.start(starting)
        elif not known and not schedule.started:
            progress.say_once("other commands train the runs that are left; waiting for them")
        note(engine.ended(0.0 if known and not starting else _LOOK_SECONDS))


class Schedule:
    """Which of a sweep's runs are open, and which can start.

    Args:
        runs: in the order in which they are to be started.
    """

    def __init__(self, runs: list[Run]):
        self.finished: list[Run] = []
        self.failed: dict[str, str] = {}
        self.waiting = list(runs)
        self.started: list[Run] = []
        self._order = {run.name: place for place, run in enumerate(runs)}
        self._attempts: Counter[str] = Counter()
        # Failures from before, which are tried again; one that is written after this is another command's.
        self._old_failures = {run.name: _signature(run) for run in runs}
        self._look_again: dict[str, float] = {}

    @property
    def is_open(self) -> bool:
        """Whether a run has not ended."""
        return bool(self.waiting or self.started)

    @property
    def under_way(self) -> str:
        """What is being trained, in words."""
        return self.started[0].name if len(self.started) == 1 else f"{len(self.started)} runs"

    @property
    def next_name(self) -> str:
        """The first run that has not ended."""
        return min((*self.waiting, *self.started), key=lambda run: self._order[run.name]).name

    def next(self, room: int, orders_parents: bool) -> tuple[list[RunEnd], list[Run]]:
        """Return ends that need no training, and up to `room` runs that can start, in the plan's order.

        Args:
            room: of the engine.
            orders_parents: whether a run can start beside its parent.
        """
        finished, failed = {run.name for run in self.finished}, set(self.failed)
        beside = {run.name for run in self.started}
        ends: list[RunEnd] = []
        starting: list[Run] = []
        for run in self.waiting:
            if len(starting) >= room:
                break
            parent = None if run.parent is None else run.parent.name
            is_first_look = run.name not in self._look_again
            is_ready = parent is None or parent in finished
            if not (is_ready or parent in failed or is_first_look or (orders_parents and parent in beside)):
                continue
            if self._look_again.get(run.name, 0.0) > time.monotonic():
                continue
            self._look_again[run.name] = 0.0
            if run.is_finished:
                ends.append(finished_before(run))
                finished.add(run.name)
            elif parent in failed:
                reason = f"its parent, {parent}, is not finished"
                ends.append(RunEnd(run, "failed", f"{run.name}: not started: {reason}", reason))
                failed.add(run.name)
            elif _signature(run) not in (None, self._old_failures[run.name]):
                ends.append(failure_elsewhere(run))
                failed.add(run.name)
            elif is_busy(run):
                self._look_again[run.name] = time.monotonic() + _LOOK_SECONDS
            elif is_ready or (orders_parents and parent in beside):
                starting.append(run)
                beside.add(run.name)
        return ends, starting

    def start(self, runs: list[Run]) -> None:
        """Note that runs were given to an engine."""
        self.started += runs
        self.waiting = [run for run in self.waiting if run not in runs]

    def note(self, end: RunEnd) -> str:
        """Note an end, and return what to say of it.

        Raises:
            Exception: what concerns more than this run.
        """
        if end.error is not None:
            raise end.error
        run, line = end.run, end.line
        for runs in (self.waiting, self.started):
            if run in runs:
                runs.remove(run)
        is_early = run.parent is not None and run.parent not in self.finished
        if end.status == "finished":
            self.finished.append(run)
        elif end.status == "failed":
            self.failed[run.name] = end.reason
        elif end.status == "busy" or is_early:
            self._wait_for(run)
        else:
            self._attempts[run.name] += 1
            if self._attempts[run.name] < _ATTEMPTS:
                self._wait_for(run)
                return f"{run.name}: {end.reason}; it goes on from its last checkpoint"
            self.failed[run.name] = end.reason
            line = failed_end(run, end.reason, f"it was tried {_ATTEMPTS} times").line
        return line

    def _wait_for(self, run: Run) -> None:
        self.waiting = sorted([*self.waiting, run], key=lambda run: self._order[run.name])


def _signature(run: Run) -> tuple[int, int] | None:
    """What tells one `failure.json` of a run from the next."""
    try:
        written = (run.folder / "failure.json").stat()
    except FileNotFoundError:
        return None
    return written.st_ino, written.st_mtime_ns


class SweepTable:
    """`results.csv` of a folder in which several commands may train: always that of all runs that ended.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = collect_rows(folder)
        if self.rows:
            self._write()

    def update(self) -> None:
        """Read the runs that ended since, and write the table if there are any."""
        before = dict(self.rows)
        for run in self.folder.glob("depth-*/seed-*"):
            if self.rows.get(run, {}).get("status") != "finished" and (row := run_row(run)) is not None:
                self.rows[run] = row
        if self.rows != before:
            self._write()

    def _write(self) -> None:
        with sole_use(self.folder, PATIENCE):
            write_results(self.folder, results_table(self.rows.values()))
