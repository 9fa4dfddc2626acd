"""What a person sees while a sweep runs, and at its end."""

import contextlib
import sys
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..quantities import QUANTITIES

# Progress bars are redrawn this often; more would only slow small steps down.
_REFRESH_EVERY = 10


def plain_console(*, quiet: bool = False) -> Console:
    """A console that shows names and paths as they are, whatever brackets and colons they hold."""
    return Console(quiet=quiet, file=sys.stdout, soft_wrap=True, markup=False, emoji=False, highlight=False)


class SweepProgress(contextlib.AbstractContextManager["SweepProgress"]):
    """Two bars, the sweep's runs and the current run's steps, and one line for each run that ends.

    Args:
        total_runs: number of runs in the sweep.
        visible: False in every process but one.
    """

    def __init__(self, total_runs: int, visible: bool = True):
        self.console = plain_console(quiet=not visible)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            disable=not (visible and self.console.is_terminal),
        )
        self._said: set[str] = set()
        self.sweep = self.progress.add_task("sweep", total=total_runs, state="")
        self.run = self.progress.add_task("run", total=None, state="")

    def __enter__(self) -> "SweepProgress":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start_run(self, name: str) -> None:
        """Reset the second bar to what begins."""
        self.progress.reset(self.run, total=None, description=name, state="")

    def show_ended(self, count: int) -> None:
        """Move the first bar to the number of runs that have ended."""
        self.progress.update(self.sweep, completed=count)

    def say_once(self, line: str) -> None:
        """Say a line that was not said before."""
        if line not in self._said:
            self._said.add(line)
            self.console.print(line)

    def callback(self) -> TrainerCallback:
        """A Trainer callback that moves the second bar and shows the newest gap."""
        return _StepCallback(self)


class _StepCallback(TrainerCallback):
    def __init__(self, shown: SweepProgress):
        self.shown = shown

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % _REFRESH_EVERY == 0 or state.global_step == state.max_steps:
            self.shown.progress.update(self.shown.run, completed=state.global_step, total=state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "gap" in logs:
            self.shown.progress.update(self.shown.run, state=f"gap {logs['gap']:.4f}  nc1 {logs['nc1']:.4f}")


_OVERVIEW = {
    "depth": "d", "seed": "d", "train_accuracy": ".3f", "test_accuracy": ".3f", "objective": ".4f",
    "gufm_optimum": ".4f", "gap": ".4f", "nc1": ".4f", "nc2": ".4f", "nc3": ".4f", "seconds": ".0f",
}  # fmt: skip


def results_overview(results: pd.DataFrame) -> Table:
    """The columns of a results table that a person compares first, narrow enough for a terminal of 80 columns."""
    first = results.iloc[0]
    table = Table(
        title=f"{first['sweep']}: {first['architecture']} on {first['dataset']}",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )
    for name in _OVERVIEW:
        table.add_column(QUANTITIES[name].short, justify="right", no_wrap=True)
    for _, row in results.iterrows():
        table.add_row(*("-" if pd.isna(row[name]) else format(row[name], form) for name, form in _OVERVIEW.items()))
    return table
