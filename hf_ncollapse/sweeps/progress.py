"""What a person sees while a sweep runs, and at its end."""

import contextlib
import sys

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from transformers import TrainerCallback

# Progress bars are redrawn this often; more would only slow small steps down.
_REFRESH_EVERY = 10


class SweepProgress(contextlib.AbstractContextManager):
    """Two bars, the sweep's runs and the current run's steps, and one line for each run that ends.

    Args:
        total_runs: number of runs in the sweep.
        visible: False in every process but one.
    """

    def __init__(self, total_runs: int, visible: bool = True):
        self.console = Console(quiet=not visible, file=sys.stdout, soft_wrap=True, highlight=False)
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
        self.sweep = self.progress.add_task("sweep", total=total_runs, state="")
        self.run = self.progress.add_task("run", total=None, state="")

    def __enter__(self) -> "SweepProgress":
        self.progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self.progress.stop()

    def start_run(self, name: str) -> None:
        """Reset the second bar to a run that begins."""
        self.progress.reset(self.run, total=None, description=name, state="")

    def end_run(self, line: str) -> None:
        """Say how a run ended, and advance the first bar."""
        self.console.print(line)
        self.progress.advance(self.sweep)

    def callback(self) -> TrainerCallback:
        """A Trainer callback that moves the second bar and shows the newest gap."""
        return _StepCallback(self)


class _StepCallback(TrainerCallback):
    def __init__(self, shown: SweepProgress):
        self.shown = shown

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % _REFRESH_EVERY == 0 or state.global_step == state.max_steps:
            self.shown.progress.update(self.shown.run, completed=state.global_step, total=state.max_steps)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "gap" in logs:
            self.shown.progress.update(self.shown.run, state=f"gap {logs['gap']:.4f}  nc1 {logs['nc1']:.4f}")


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
    columns = {
        "depth": ("L", "d"), "seed": ("seed", "d"), "train_accuracy": ("train\nacc.", ".3f"),
        "test_accuracy": ("test\nacc.", ".3f"), "objective": ("J", ".4f"), "gufm_optimum": ("J*", ".4f"),
        "gap": ("gap", ".4f"), "nc1": ("NC1", ".4f"), "nc2": ("NC2", ".4f"), "nc3": ("NC3", ".4f"),
        "seconds": ("s", ".0f"),
    }  # fmt: skip
    for heading, _ in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for _, row in results.iterrows():
        table.add_row(*("-" if pd.isna(row[name]) else format(row[name], form) for name, (_, form) in columns.items()))
    return table
