"""Train every run of a sweep once, whatever happens in between."""

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_callback import ExportableState

from ..training.arguments import CollapseTrainingArguments
from ..training.data import ClassificationData, load_classification_data
from ..training.processes import check_processes
from ..training.trainer import CollapseTrainer, NonFiniteLossError
from .architectures import architecture_named, build_config, build_model
from .arguments import Recipe
from .environment import describe_environment
from .files import discard_partial_files, sole_use, write_json
from .interruption import StopRequest
from .plan import Run, claim_folder, plan_runs
from .progress import SweepProgress, results_overview
from .report import finish_sweep
from .results import collect_results, write_results
from .run_folder import discard_checkpoints, last_checkpoint, write_run


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
    with state.main_process_first():
        data = load_classification_data(recipe.data)
    runs = plan_runs(recipe, arguments.learning_rate, _count_steps(arguments, len(data.train)))
    for depth in recipe.sweep.depths:
        build_config(recipe.sweep.architecture, depth, recipe.model, data)
    return arguments, data, runs


def _count_steps(arguments: CollapseTrainingArguments, num_samples: int) -> int:
    if arguments.max_steps > 0:
        return arguments.max_steps
    samples_a_step = (
        arguments.per_device_train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    )
    return math.ceil(arguments.num_train_epochs * math.ceil(num_samples / samples_a_step))


def run_sweep(recipe: Recipe) -> SweepOutcome:
    """Train what is not finished yet, and write the table after every run.

    A finished run is never trained again, a killed one continues from its last checkpoint, and one bad run does not
    stop the others. Works in every process of a distributed launch; process 0 writes.

    Raises:
        ValueError: a mistake in the recipe, or the folder holds another sweep or is in use; before any training.
        ImportError: a data package is missing.
        OSError: the folder cannot be written.
        SweepInterrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
    """
    _, data, runs = prepare_sweep(recipe)
    state = PartialState()
    with contextlib.ExitStack() as held:
        if state.is_main_process:
            claim_folder(recipe)
            held.enter_context(sole_use(recipe.folder))
            discard_partial_files(recipe.folder)
        state.wait_for_everyone()
        stop = StopRequest()
        with stop.listening():
            return _train_runs(recipe, data, runs, stop)


def _train_runs(recipe: Recipe, data: ClassificationData, runs: list[Run], stop: StopRequest) -> SweepOutcome:
    state = PartialState()
    finished, failed = [], {}
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
                try:
                    metrics = train_run(run, recipe, data, progress, stop)
                    finished.append(run)
                    line = _summary(run, metrics)
                except NonFiniteLossError as error:
                    failed[run.name] = str(error)
                    line = f"{run.name}: failed: {error}; a smaller learning_rate or a longer warm-up may help"
                    if state.is_main_process:
                        write_json(run.folder / "failure.json", {"step": error.step, "error": str(error)})
            if state.is_main_process and run.is_finished:
                write_results(recipe.folder, collect_results(recipe.folder))
            state.wait_for_everyone()
            progress.end_run(line)
    if finished and state.is_main_process:
        progress.console.print(results_overview(collect_results(recipe.folder)))
        finish_sweep(recipe.folder)
        progress.console.print(f"results: {recipe.folder / 'results.csv'}")
        progress.console.print(f"report:  hf-ncollapse report {recipe.folder}")
    return SweepOutcome(recipe.folder, finished, failed)


def train_run(
    run: Run, recipe: Recipe, data: ClassificationData, progress: SweepProgress, stop: StopRequest
) -> dict[str, object]:
    """Train one run to its end, from its last checkpoint if there is one, and write its folder.

    Returns:
        What was written to `metrics.json`.
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
    trainer = CollapseTrainer(
        model,
        arguments,
        train_dataset=data.train,
        eval_dataset=data.test,
        processing_class=data.processor,
        callbacks=[clock, progress.callback(), stop],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(run.folder))
    if trainer.state.global_step < trainer.state.max_steps:
        stop.raise_if_asked(f"at {run.name}, step {trainer.state.global_step} of {trainer.state.max_steps}")
    measured = trainer.measure()
    clock = next(c for c in trainer.callback_handler.callbacks if isinstance(c, RunClock))
    config = model.config
    metrics = {
        "sweep": recipe.sweep.sweep,
        "architecture": config.architecture_name,
        "norm_placement": config.norm_placement,
        "norm_scale": config.norm_scale,
        "dataset": recipe.data.dataset,
        "loss": config.loss,
        "depth": run.depth,
        "seed": run.seed,
        "l2_coefficient": config.resolved_l2_coefficient,
        "steps": trainer.state.global_step,
        **measured,
        "seconds": round(clock.seconds, 2),
        "learning_rate": run.learning_rate,
        "initialization": recipe.sweep.initialization,
        "train_samples": len(data.train),
        "test_samples": len(data.test),
        "processes": arguments.world_size,
        "environment": describe_environment(arguments.device),
        "status": "finished",
    }
    if trainer.is_world_process_zero():
        write_run(run.folder, model, data, trainer.state.log_history, metrics)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _initial_model(run: Run, recipe: Recipe, data: ClassificationData):
    """A fresh network, or the parent's with its blocks split."""
    name = recipe.sweep.architecture
    config = build_config(name, run.depth, recipe.model, data)
    if run.parent is None:
        return build_model(name, config, data)
    model_class = architecture_named(name).classifier_classes[data.modality]
    try:
        parent = model_class.from_pretrained(run.parent.folder, dtype=torch.float32)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{run.parent.folder} is damaged ({error}); delete this folder to train {run.parent.name} anew"
        ) from error
    return parent.deepen(run.depth)


def _summary(run: Run, metrics: dict[str, object]) -> str:
    gap = f"gap {metrics['gap']:.4f}" if "gap" in metrics else f"objective {metrics['objective']:.4f}"
    return (
        f"{run.name}: {gap}, nc1 {metrics['nc1']:.4f}, train accuracy {metrics['train_accuracy']:.3f}, "
        f"{metrics['steps']} steps in {metrics['seconds']:.1f} s"
    )
