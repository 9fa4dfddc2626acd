"""Train one run of a sweep, once, whatever happens in between and whoever else tries."""

import contextlib
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, set_seed

from ..data import ClassificationData
from ..models.collapse_config import CollapseConfig
from ..models.depth_continuation import DepthContinuationMixin
from ..training.ensemble import Ensemble
from ..training.losses import NonFiniteLossError
from ..training.processes import decided_by_main
from .architectures import architecture_named, build_config, build_model
from .arguments import Recipe
from .environment import describe_environment
from .files import LOCK, FolderInUse, discard_partial_files, read_json, sole_use, write_json
from .interruption import StopRequest
from .plan import Run
from .run_folder import discard_checkpoints, last_checkpoint, load_network, write_run
from .run_trainer import Beginning, RunTrainer, run_trainer


@dataclass(frozen=True)
class RunEnd:
    """What came of an attempt at a run.

    Args:
        run: the run.
        status: "finished"; "failed"; "busy", where another process trains it; "early", where its parent is not
            finished. From the engines also "stopped", with a checkpoint; "lost", where its process died; and
            "refused", with the error that concerns more than this run.
        line: what to say of it.
        reason: why it is not finished.
        error: of a refused one.
    """

    run: Run
    status: str
    line: str = ""
    reason: str = ""
    error: Exception | None = None


def train_one(
    run: Run,
    recipe: Recipe,
    data: ClassificationData,
    stop: StopRequest,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], object] = print,
) -> RunEnd:
    """Train a run to its end, from its last checkpoint if there is one, and write its folder.

    Whether it has to be trained is for its folder to say: it is finished when `metrics.json` is there, and another
    process trains it while the folder's lock is held. So any number of processes may try, on all machines that see the
    folder. Works in every process of a distributed launch; process 0 writes.

    Args:
        run: of the sweep's plan.
        recipe: the sweep.
        data: that `recipe.data` names.
        stop: asks to end the training after the step under way.
        callbacks: for the trainer.
        say: called with lines about damaged checkpoints.

    Returns:
        What came of it: "finished", "failed", "busy" or "early".

    Raises:
        SweepInterrupted: it was asked to stop and saved a checkpoint.
        OSError: the folder cannot be written or locked.
        Exception: what other runs would meet too, such as a mistake in the recipe.
    """
    with contextlib.ExitStack() as held:
        found = decided_by_main(lambda: _take(run, held))
        if found is not None:
            return found
        beginning = Beginning(recipe)
        try:
            metrics = _train(run, recipe, data, beginning, stop, callbacks, say)
            end = RunEnd(run, "finished", _summary(run, metrics))
        except Exception as error:
            if not _concerns_one_run(error, beginning):
                raise
            if PartialState().is_main_process:
                _write_failure(run, recipe, data, beginning.steps, error)
            end = failed_end(run, _reason(error), _advice(run, error))
    if end.status == "finished" and PartialState().is_main_process:
        (run.folder / LOCK).unlink(missing_ok=True)
    return end


def train_jointly(
    runs: Sequence[Run],
    recipe: Recipe,
    data: ClassificationData,
    stop: StopRequest,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], object] = print,
) -> list[RunEnd]:
    """Train runs of one depth at once, as far as an ensemble does, and leave each with a checkpoint there.

    [`train_one`] takes each up from that: it polishes, measures and writes. Runs that need no training, or that
    another process trains, are left to it from the start, as is a single one.

    Args:
        runs: of the sweep's plan, alike but for their seeds.
        recipe, data, stop, callbacks, say: as for [`train_one`].

    Returns:
        The ends of those that failed.

    Raises:
        SweepInterrupted: it was asked to stop; each has saved a checkpoint.
        OSError: a folder cannot be written or locked.
        Exception: what other runs would meet too, such as a mistake in the recipe.
    """
    with contextlib.ExitStack() as held:
        begun = {run: Beginning(recipe) for run in runs if _take(run, held) is None}
        if len(begun) < 2:
            return []
        failures: Sequence[Exception | None]
        try:
            failures = _train_ensemble(begun, recipe, data, stop, callbacks, say)
        except Exception as error:
            if not all(_concerns_one_run(error, beginning) for beginning in begun.values()):
                raise
            failures = [error] * len(begun)
        ends: list[RunEnd] = []
        for (run, beginning), failure in zip(begun.items(), failures, strict=True):
            if failure is not None:
                _write_failure(run, recipe, data, beginning.steps, failure)
                ends.append(failed_end(run, _reason(failure), _advice(run, failure)))
        return ends


def failed_end(run: Run, reason: str, advice: str) -> RunEnd:
    """The end of a run that failed."""
    return RunEnd(run, "failed", f"{run.name}: failed: {reason}; {advice}", reason)


def finished_before(run: Run) -> RunEnd:
    """The end of a run that was finished already; clears away what one that was killed right after that left."""
    if (run.folder / LOCK).exists():
        with contextlib.suppress(FolderInUse), sole_use(run.folder):
            discard_checkpoints(run.folder)
        (run.folder / LOCK).unlink(missing_ok=True)
    return RunEnd(run, "finished", f"{run.name}: finished before")


def is_busy(run: Run) -> bool:
    """Whether a process is training a run now."""
    if not (run.folder / LOCK).exists():
        return False
    try:
        with sole_use(run.folder):
            return False
    except FolderInUse:
        return True


def _take(run: Run, held: contextlib.ExitStack) -> RunEnd | None:
    """Lock a run that has to be trained; otherwise the end that says why not."""
    if run.is_finished:
        return finished_before(run)
    if run.parent is not None and not run.parent.is_finished:
        return RunEnd(run, "early", reason=f"its parent, {run.parent.name}, is not finished")
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        held.enter_context(sole_use(run.folder))
    except FolderInUse:
        return RunEnd(run, "busy", reason="another process is training it")
    if run.is_finished:
        return RunEnd(run, "finished", f"{run.name}: finished by another process")
    discard_partial_files(run.folder)
    return None


def _train(
    run: Run,
    recipe: Recipe,
    data: ClassificationData,
    beginning: Beginning,
    stop: StopRequest,
    callbacks: Sequence[TrainerCallback],
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Train, measure and write; returns what was written to `metrics.json`."""
    trainer = _initial_trainer(run, recipe, data, [beginning, *callbacks, stop])
    model = trainer.model
    start, start_gap = None, None
    if run.parent is not None:
        start = {name: value.clone() for name, value in model.state_dict().items()}
        start_gap = trainer.measure(precisely=True).get("gap")
    trainer.train(resume_from_checkpoint=decided_by_main(lambda: last_checkpoint(run.folder, say)))
    if trainer.state.global_step < trainer.state.max_steps:
        stop.raise_if_asked(f"at {run.name}, step {trainer.state.global_step} of {trainer.state.max_steps}")
    measured = trainer.measure(gradient=True, precisely=True)
    if start and start_gap is not None and measured.get("gap", -math.inf) > start_gap:
        # The split is a network of this depth as well: of the two, the one nearer to the optimum is kept.
        model.load_state_dict(start)
        measured = trainer.measure(gradient=True, precisely=True)
    wrong = [name for name, value in measured.items() if value is not None and not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(f"not finite after {trainer.state.global_step} steps: {', '.join(wrong)}")
    metrics = {
        **_constants(run, recipe, model.config),
        "status": "finished",
        "steps": trainer.state.global_step,
        **measured,
        "start_gap": start_gap,
        "seconds": round(trainer.clock.seconds, 2),
        "learning_rate": run.learning_rate,
        "data": recipe.to_dict()["data"],
        "train_samples": len(data.train),
        "test_samples": len(data.test),
        "processes": trainer.args.world_size,
        "environment": describe_environment(trainer.args.device),
    }
    if trainer.is_world_process_zero():
        write_run(run.folder, model, data, trainer.state.log_history, metrics)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _train_ensemble(
    begun: Mapping[Run, Beginning],
    recipe: Recipe,
    data: ClassificationData,
    stop: StopRequest,
    callbacks: Sequence[TrainerCallback],
    say: Callable[[str], object],
) -> list[NonFiniteLossError | None]:
    """Train runs together; returns why each failed, if it did."""
    trainers = [_initial_trainer(run, recipe, data, [begun[run], *callbacks, stop]) for run in begun]
    ensemble = Ensemble(trainers, [last_checkpoint(run.folder, say) for run in begun])
    for trainer in trainers:
        trainer.clock.share(len(trainers))
    failures = ensemble.train()
    steps = [trainer.state.global_step for trainer in trainers]
    stop.raise_if_asked(f"at depth {next(iter(begun)).depth} of {len(begun)} seeds, step {max(steps)}")
    return failures


def _initial_trainer(
    run: Run, recipe: Recipe, data: ClassificationData, callbacks: Sequence[TrainerCallback]
) -> RunTrainer:
    """The trainer of a run, with its network as it starts."""
    set_seed(run.seed)
    return run_trainer(run, recipe, data, _initial_model(run, recipe, data), callbacks)


def _initial_model(run: Run, recipe: Recipe, data: ClassificationData) -> DepthContinuationMixin:
    """A fresh network, or the parent's with its blocks split."""
    name = recipe.sweep.architecture
    config = build_config(name, run.depth, recipe.model, data)
    if run.parent is None:
        return build_model(name, config, data)
    parent = load_network(run.parent.folder, architecture_named(name).family.classifiers[data.modality])
    return parent.deepen(run.depth)


def _write_failure(run: Run, recipe: Recipe, data: ClassificationData, steps: int, error: Exception) -> None:
    """Write `failure.json`: after how many steps a run failed, and why; one that diverged is a row of the table."""
    config = build_config(recipe.sweep.architecture, run.depth, recipe.model, data)
    failure = {
        "status": "diverged" if isinstance(error, FloatingPointError) else "failed",
        "steps": steps,
        "error": _reason(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    write_json(run.folder / "failure.json", {**_constants(run, recipe, config), **failure})


def failure_elsewhere(run: Run) -> RunEnd:
    """The end of a run that another process has just seen fail."""
    reason = read_json(run.folder / "failure.json").get("error", "")
    return failed_end(run, reason, "another process trained it")


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


def _constants(run: Run, recipe: Recipe, config: CollapseConfig) -> dict[str, Any]:
    """What a run's row says of its settings, whatever came of it; the λ are the config's, before depth scaling."""
    given = config.classifier_l2_coefficient
    return {
        "sweep": recipe.sweep.sweep,
        "architecture": config.architecture_name,
        "norm_placement": config.norm_placement,
        "norm_scale": config.norm_scale,
        "dataset": recipe.data.title,
        "loss": config.loss,
        "classifier_bias": config.classifier_bias,
        "initialization": recipe.sweep.initialization,
        "depth": run.depth,
        "seed": run.seed,
        "l2_coefficient": config.l2_coefficient,
        "classifier_l2_coefficient": config.l2_coefficient if given is None else given,
        "l2_depth_scaling": config.l2_depth_scaling,
    }


def _summary(run: Run, metrics: dict[str, Any]) -> str:
    gap = f"gap {metrics['gap']:.4f}" if "gap" in metrics else f"objective {metrics['objective']:.4f}"
    return (
        f"{run.name}: {gap}, nc1 {metrics['nc1']:.4f}, train accuracy {metrics['train_accuracy']:.3f}, "
        f"{metrics['steps']} steps in {metrics['seconds']:.1f} s"
    )
