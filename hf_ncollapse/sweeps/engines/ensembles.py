"""The engine that trains all seeds of a depth at once, in this process."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...training.arguments import CollapseTrainingArguments
from ...training.ensemble import check_ensemble
from ..architectures import build_config
from ..plan import Run
from ..run import RunEnd, train_jointly, train_one
from .engine import Engine, Sweep, free_run

Ended = TypeVar("Ended", RunEnd, list[RunEnd])


class Ensembles(Engine):
    """Takes every run that can start, trains those of a depth together, and then finishes one after another.

    Args:
        sweep: that it serves.

    Raises:
        ValueError: its networks cannot be trained in an ensemble.
    """

    def __init__(self, sweep: Sweep):
        super().__init__(sweep)
        recipe = sweep.recipe
        config = build_config(recipe.sweep.architecture, recipe.sweep.depths[0], recipe.model, sweep.data)
        check_ensemble(CollapseTrainingArguments(**recipe.training), config)
        self._waiting: list[Run] = []
        self._trained: list[Run] = []

    @property
    def room(self) -> int:
        return 0 if self._waiting or self._trained else sys.maxsize

    def start(self, runs: Sequence[Run]) -> None:
        self._waiting = sorted(runs, key=lambda run: run.depth)

    def ended(self, patience: float) -> list[RunEnd]:
        if not self._trained:
            if not self._waiting:
                time.sleep(patience)
                return []
            return self._train_depth()
        return [self._call(train_one, self._trained.pop(0))]

    def _train_depth(self) -> list[RunEnd]:
        """Train what waits of the first depth; return the ends of what failed."""
        depth = self._waiting[0].depth
        together = [run for run in self._waiting if run.depth == depth]
        self._waiting = self._waiting[len(together) :]
        self.sweep.progress.start_run(f"depth {depth}, {len(together)} seeds")
        ends = self._call(train_jointly, together)
        failed = [end.run for end in ends]
        self._trained = [run for run in together if run not in failed]
        return ends

    def _call(self, train: Callable[..., Ended], what: object) -> Ended:
        sweep = self.sweep
        callbacks, say = [sweep.progress.callback()], sweep.progress.console.print
        done = train(what, sweep.recipe, sweep.data, sweep.stop, callbacks=callbacks, say=say)
        free_run()
        return done
