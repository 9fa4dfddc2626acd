"""Train every run of a sweep once, whatever happens in between."""

import contextlib
import gc
import math
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import rotate_checkpoints

from ..data import ClassificationData, load_classification_data
from ..models.collapse_config import CollapseConfig
from ..training.arguments import CollapseTrainingArguments
from ..training.processes import check_processes
from ..training.trainer import CollapseTrainer
from .architectures import architecture_named, build_config, build_model
from .arguments import Recipe
from .environment import describe_environment
from .files import discard_partial_files, sole_use, write_json
from .interruption import StopRequest
from .paper_figures import paper_panel
from .plan import Run, check_configuration, plan_runs, write_configuration
from .progress import SweepProgress, results_overview
from .report import finish_sweep
from .results import collect_rows, results_table, run_row, write_results
from .run_folder import discard_checkpoints, last_checkpoint, load_network, seal_checkpoint, write_run


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep's runs came to: those finished now or before, and why the others failed or could not start."""

    folder: Path
    finished: list[Run]
    failed: dict[str, str]


class RunClock(TrainerCallback, ExportableState):
    """Seconds spent in a run, kept in its checkpoints so that a resumed run counts all of its time."""

    def __init__(self, seconds: float = 0.0):
        self.before = seconds
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds in this run, over all its starts; a monotonic clock, which nobody sets back."""
        return self.before + time.monotonic() - self.started

    def state(self) -> dict:
        return {"args": {"seconds": self.seconds}, "attributes": {}}


class Beginning(TrainerCallback):
    """Writes `sweep.json` once a run begins to train, so that a command refused before that binds no folder.

    `state` is the run's from then on, and None before.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.state: TrainerState | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.state = state
        if state.is_world_process_zero:
            write_configuration(self.recipe)

    @property
    def steps(self) -> int:
        """Finished optimiser steps."""
        return 0 if self.state is None else self.state.global_step


class RunTrainer(CollapseTrainer):
    """Seals its checkpoints, and trains no step more where one is of the last step: a run killed after it has only to
    be measured.
    """

    def _run_epoch(self, *args, **kwargs):
        # The Trainer looks whether it is done after a step, not before.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        # The Trainer would remove the older checkpoints before this one is sealed.
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = kept
        self.accelerator.wait_for_everyone()  # each process writes a file of its own
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            seal_checkpoint(folder / f"checkpoint-{self.state.global_step}")
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), save_total_limit=kept, best_model_checkpoint=best, use_mtime=True)


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
    architecture_named(recipe.sweep.architecture)
    paper_panel(recipe.to_dict())
    with state.main_process_first():
        data = load_classification_data(recipe.data)
    runs = plan_runs(recipe, arguments.learning_rate, arguments.total_steps(len(data.train)))
    arguments.polishing(min(run.max_steps for run in runs))
    for depth in recipe.sweep.depths:
        build_config(recipe.sweep.architecture, depth, recipe.model, data)
    return arguments, data, runs


def run_sweep(recipe: Recipe) -> SweepOutcome:
    """Train what is not finished yet, and write the table after every run.

    A finished run is never trained again, a killed one continues from its last checkpoint, and one bad run does not
    stop the others. Works in every process of a distributed launch; process 0 writes.

    Raises:
        ValueError: a mistake in the recipe, or the folder holds another sweep or is in use; before any training, and
            `sweep.json` is as it was.
        ImportError: a data package is missing.
        OSError: the folder cannot be written.
        SweepInterrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
    """
    _, data, runs = prepare_sweep(recipe)
    state = PartialState()
    with contextlib.ExitStack() as held:
        if state.is_main_process:
            recipe.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(sole_use(recipe.folder))
            check_configuration(recipe)
            discard_partial_files(recipe.folder)
        state.wait_for_everyone()
        stop = StopRequest()
        with stop.listening():
            return _train_runs(recipe, data, runs, stop)


def _train_runs(recipe: Recipe, data: ClassificationData, runs: list[Run], stop: StopRequest) -> SweepOutcome:
    state = PartialState()
    finished, failed = [], {}
    rows = collect_rows(recipe.folder) if state.is_main_process else {}
    if rows:
        write_results(recipe.folder, results_table(rows.values()))
    with SweepProgress(len(runs), visible=state.is_main_process) as progress:
        for run in runs:
            stop.raise_if_asked(f"before {run.name}")
            progress.start_run(run.name)
            if run.is_finished:
                line = f"{run.name}: finished before"
                if state.is_main_process:
                    discard_checkpoints(run.folder)
                finished.append(run)
            elif run.parent is not None and not run.parent.is_finished:
                failed[run.name] = f"its parent, {run.parent.name}, is not finished"
                line = f"{run.name}: not started: {failed[run.name]}"
            else:
                beginning = Beginning(recipe)
                try:
                    metrics = train_run(run, recipe, data, beginning, progress, stop)
                    finished.append(run)
                    line = _summary(run, metrics)
                except Exception as error:
                    if not _concerns_one_run(error, beginning):
                        raise
                    failed[run.name] = _reason(error)
                    line = f"{run.name}: failed: {failed[run.name]}; {_advice(run, error)}"
                    if state.is_main_process:
                        write_failure(run, recipe, data, beginning.steps, error)
                gc.collect()  # of networks and trainers, which point to each other, before the next run takes memory
                if state.is_main_process and (row := run_row(run.folder)) is not None:
                    rows[run.folder] = row
                    write_results(recipe.folder, results_table(rows.values()))
            state.wait_for_everyone()
            progress.end_run(line)
    if finished and state.is_main_process:
        write_configuration(recipe)  # where no run had to begin
        progress.console.print(results_overview(results_table(rows.values())))
        finish_sweep(recipe.folder)
        progress.console.print(f"results: {recipe.folder / 'results.csv'}")
        progress.console.print(f"report:  hf-ncollapse report {recipe.folder}")
    return SweepOutcome(recipe.folder, finished, failed)


def train_run(
    run: Run,
    recipe: Recipe,
    data: ClassificationData,
    beginning: Beginning,
    progress: SweepProgress,
    stop: StopRequest,
) -> dict[str, object]:
    """Train one run to its end, from its last checkpoint if there is one, and write its folder.

    Returns:
        What was written to `metrics.json`.

    Raises:
        FloatingPointError: the loss or a measured number is not finite.
    """
    set_seed(run.seed)
    model = _initial_model(run, recipe, data)
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
    clock = RunClock()
    trainer = RunTrainer(
        model,
        arguments,
        train_dataset=data.train,
        eval_dataset=data.test,
        processing_class=data.processor,
        callbacks=[clock, beginning, progress.callback(), stop],
    )
    trainer.remove_callback(PrinterCallback)
    start, start_gap = None, None
    if run.parent is not None:
        start = {name: value.clone() for name, value in model.state_dict().items()}
        start_gap = trainer.measure(precisely=True).get("gap")
    checkpoint = last_checkpoint(run.folder, progress.console.print)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step < trainer.state.max_steps:
        stop.raise_if_asked(f"at {run.name}, step {trainer.state.global_step} of {trainer.state.max_steps}")
    measured = trainer.measure(gradient=True, precisely=True)
    if start_gap is not None and measured.get("gap", -math.inf) > start_gap:
        # The split is a network of this depth as well: of the two, the one nearer to the optimum is kept.
        model.load_state_dict(start)
        measured = trainer.measure(gradient=True, precisely=True)
    wrong = [name for name, value in measured.items() if value is not None and not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(f"not finite after {trainer.state.global_step} steps: {', '.join(wrong)}")
    clock = next(c for c in trainer.callback_handler.callbacks if isinstance(c, RunClock))
    metrics = {
        **_constants(run, recipe, model.config),
        "status": "finished",
        "steps": trainer.state.global_step,
        **measured,
        "start_gap": start_gap,
        "seconds": round(clock.seconds, 2),
        "learning_rate": run.learning_rate,
        "data": recipe.to_dict()["data"],
        "train_samples": len(data.train),
        "test_samples": len(data.test),
        "processes": arguments.world_size,
        "environment": describe_environment(arguments.device),
    }
    if trainer.is_world_process_zero():
        write_run(run.folder, model, data, trainer.state.log_history, metrics)
    trainer.accelerator.wait_for_everyone()
    return metrics


def write_failure(run: Run, recipe: Recipe, data: ClassificationData, steps: int, error: Exception) -> None:
    """Write `failure.json`: after how many steps a run failed, and why; one that diverged is a row of the table."""
    config = build_config(recipe.sweep.architecture, run.depth, recipe.model, data)
    failure = {
        "status": "diverged" if isinstance(error, FloatingPointError) else "failed",
        "steps": steps,
        "error": _reason(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / "failure.json", {**_constants(run, recipe, config), **failure})


def _concerns_one_run(error: Exception, beginning: Beginning) -> bool:
    """Whether the other runs can go on; not after a mistake in the recipe, nor where nothing can be written."""
    if isinstance(error, FloatingPointError):
        return True  # raised in every process
    if isinstance(error, OSError) or PartialState().num_processes > 1:
        return False  # the other processes would wait for this one for ever
    return beginning.state is not None or isinstance(error, MemoryError | RuntimeError)


def _reason(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FloatingPointError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _advice(run: Run, error: Exception) -> str:
    if isinstance(error, FloatingPointError):
        return "a smaller learning_rate or a longer warm-up may help"
    return f"{run.folder / 'failure.json'} has the traceback"


def _constants(run: Run, recipe: Recipe, config: CollapseConfig) -> dict[str, object]:
    """What a run's row says of its settings, whatever came of it; the λ are the config's, before depth scaling."""
    given = config.classifier_l2_coefficient
    return {
        "sweep": recipe.sweep.sweep,
        "architecture": config.architecture_name,
        "norm_placement": config.norm_placement,
        "norm_scale": config.norm_scale,
        "dataset": recipe.data.dataset,
        "loss": config.loss,
        "classifier_bias": config.classifier_bias,
        "initialization": recipe.sweep.initialization,
        "depth": run.depth,
        "seed": run.seed,
        "l2_coefficient": config.l2_coefficient,
        "classifier_l2_coefficient": config.l2_coefficient if given is None else given,
        "l2_depth_scaling": config.l2_depth_scaling,
    }


def _initial_model(run: Run, recipe: Recipe, data: ClassificationData):
    """A fresh network, or the parent's with its blocks split."""
    name = recipe.sweep.architecture
    config = build_config(name, run.depth, recipe.model, data)
    if run.parent is None:
        return build_model(name, config, data)
    parent = load_network(run.parent.folder, architecture_named(name).classifier_classes[data.modality])
    return parent.deepen(run.depth)


def _summary(run: Run, metrics: dict[str, object]) -> str:
    gap = f"gap {metrics['gap']:.4f}" if "gap" in metrics else f"objective {metrics['objective']:.4f}"
    return (
        f"{run.name}: {gap}, nc1 {metrics['nc1']:.4f}, train accuracy {metrics['train_accuracy']:.3f}, "
        f"{metrics['steps']} steps in {metrics['seconds']:.1f} s"
    )
