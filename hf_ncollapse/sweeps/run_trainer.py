"""The trainer of one run of a sweep: its arguments, its clock, and checkpoints that can be trusted."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import rotate_checkpoints

from ..data import ClassificationData
from ..models.regularized_objective import RegularizedObjectiveMixin
from ..training.arguments import CollapseTrainingArguments
from ..training.trainer import CollapseTrainer
from .arguments import Recipe
from .plan import Run, claim_folder
from .run_folder import seal_checkpoint

if TYPE_CHECKING:
    from torch import nn


class RunClock(TrainerCallback, ExportableState):
    """Seconds spent in a run, kept in its checkpoints so that a resumed run counts all of its time."""

    def __init__(self, seconds: float = 0.0):
        self.before = seconds
        self.started = time.monotonic()
        self.sharers = 1

    @property
    def seconds(self) -> float:
        """Wall-clock seconds in this run, over all its starts; a monotonic clock, which nobody sets back."""
        return self.before + (time.monotonic() - self.started) / self.sharers

    def share(self, sharers: int) -> None:
        """Count from now on this run's share of the time in which so many are trained together."""
        self.before, self.started, self.sharers = self.seconds, time.monotonic(), sharers

    def state(self) -> dict[str, Any]:
        return {"args": {"seconds": self.seconds}, "attributes": {}}


class Beginning(TrainerCallback):
    """Writes `sweep.json` once a run begins to train, so that a command refused before that binds no folder.

    `state` is the run's from then on, and None before.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.state: TrainerState | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            claim_folder(self.recipe)
        self.state = state

    @property
    def steps(self) -> int:
        """Finished optimiser steps."""
        return 0 if self.state is None else self.state.global_step


class RunTrainer(CollapseTrainer):
    """Seals its checkpoints, and trains no step more where one is of the last step: a run killed after it has only to
    be measured.
    """

    @property
    def clock(self) -> RunClock:
        """Its clock, which a checkpoint replaces."""
        return next(c for c in self.callback_handler.callbacks if isinstance(c, RunClock))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # The Trainer looks whether it is done after a step, not before.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: "nn.Module", trial: Any) -> None:
        # The Trainer would remove the older checkpoints before this one is sealed.
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = kept
        self.accelerator.wait_for_everyone()  # each process writes a file of its own
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial))
            seal_checkpoint(folder / f"checkpoint-{self.state.global_step}")
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), save_total_limit=kept, best_model_checkpoint=best, use_mtime=True)


def run_trainer(
    run: Run,
    recipe: Recipe,
    data: ClassificationData,
    model: RegularizedObjectiveMixin,
    callbacks: Sequence[TrainerCallback],
) -> RunTrainer:
    """Return the trainer of a run, with a clock beside the callbacks."""
    trainer = RunTrainer(
        model,
        _run_arguments(run, recipe),
        train_dataset=data.train,
        eval_dataset=data.test,
        processing_class=data.processor,
        callbacks=[RunClock(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _run_arguments(run: Run, recipe: Recipe) -> CollapseTrainingArguments:
    arguments = CollapseTrainingArguments(
        **{
            "eval_strategy": "steps",
            "save_steps": 0.1,
            "save_total_limit": 2,
            **recipe.training,
            "output_dir": str(run.folder),
            "run_name": f"{recipe.sweep.sweep}-depth-{run.depth}-seed-{run.seed}",
            "seed": run.seed,
            "learning_rate": run.learning_rate,
            "max_steps": run.max_steps,
            "disable_tqdm": True,
            "restore_callback_states_from_checkpoint": True,
        }
    )
    # In steps, as checkpoints keep them: a share of the run would be reported as changed at every restart.
    for name in ("logging_steps", "eval_steps", "save_steps"):
        interval = getattr(arguments, name)
        if interval is not None and interval < 1:
            setattr(arguments, name, math.ceil(interval * run.max_steps))
    return arguments
