"""The engine without processes of its own: one run after another, in this process or in those of one launch."""

import time
from collections.abc import Sequence

from ..plan import Run
from ..run import RunEnd, train_one
from .engine import Engine, free_run


class ThisProcess(Engine):
    """Trains where it is called, in every process of a distributed launch together."""

    _run: Run | None = None

    @property
    def room(self) -> int:
        return int(self._run is None)

    def start(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._run = run

    def ended(self, patience: float) -> list[RunEnd]:
        if self._run is None:
            time.sleep(patience)
            return []
        run, self._run = self._run, None
        sweep = self.sweep
        callbacks, say = [sweep.progress.callback()], sweep.progress.console.print
        end = train_one(run, sweep.recipe, sweep.data, sweep.stop, callbacks=callbacks, say=say)
        free_run()
        return [end]
