"""What a sweep will cost, before it is run."""

import math
import time

import torch
from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Table

from ..data import ClassificationData
from ..training.arguments import CollapseTrainingArguments
from .architectures import build_config, build_model
from .arguments import Recipe
from .progress import plain_console
from .schedule import prepare_sweep

# Steps timed at each depth; the first ones, which allocate memory, do not count.
_WARM_UP, _TIMED = 1, 3
# Of a larger batch so many samples are timed, and the time is taken to grow with their number.
_TIMED_SAMPLES = 500
# Weights, and in a checkpoint Adam's two averages of them.
_BYTES_PER_WEIGHT = 4


def print_plan(recipe: Recipe) -> None:
    """Print every run of a sweep, with its steps, learning rate, and estimated time and size; train nothing.

    The time is measured on this machine, from a few forward and backward passes at each depth in one process, without
    evaluation and saving.

    Raises:
        ValueError, ImportError, OSError: as `run_sweep` would, before any training.
    """
    arguments, data, runs = prepare_sweep(recipe)
    console = plain_console()
    table = Table(title=f"{recipe.sweep.sweep}: {recipe.sweep.architecture} on {recipe.data.title}", box=SIMPLE_HEAD)
    for heading in ("depth", "seed", "starts from", "steps", "learning rate", "minutes", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    depths = track(
        recipe.sweep.depths,
        "timing a step at each depth",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    costs = {depth: _cost_of_depth(recipe, data, depth, arguments) for depth in depths}
    total_seconds = total_bytes = 0.0
    for run in runs:
        seconds_per_step, size = costs[run.depth]
        seconds = 0.0 if run.is_finished else run.max_steps * seconds_per_step
        start = "finished" if run.is_finished else f"depth {run.parent.depth}" if run.parent else "random weights"
        table.add_row(
            *(str(run.depth), str(run.seed), start, str(run.max_steps), f"{run.learning_rate:.2g}"),
            *(f"{seconds / 60:.1f}", f"{size / 1e6:.2f}"),
        )
        total_seconds, total_bytes = total_seconds + seconds, total_bytes + size
    console.print(table)
    console.print(
        f"{len(runs)} runs, about {total_seconds / 60:.1f} minutes and {total_bytes / 1e6:.1f} MB of weights"
    )
    console.print(f"folder: {recipe.folder}")


def _cost_of_depth(
    recipe: Recipe, data: ClassificationData, depth: int, arguments: CollapseTrainingArguments
) -> tuple[float, int]:
    """Seconds a step and bytes of weights."""
    config = build_config(recipe.sweep.architecture, depth, recipe.model, data)
    model = build_model(recipe.sweep.architecture, config, data).to(arguments.device)
    micro_batches = arguments.micro_batches(len(data.train))
    # A step on all samples is timed in even micro-batches: the last one may be nearly empty.
    count = min(arguments.per_device_train_batch_size, len(data.train))
    if arguments.full_batch:
        count = math.ceil(len(data.train) / (micro_batches * arguments.world_size))
    timed = min(count, _TIMED_SAMPLES)
    batch = {name: value.to(arguments.device) for name, value in data.train.batch(torch.arange(timed)).items()}
    times = []
    for _ in range(_WARM_UP + _TIMED):
        start = time.perf_counter()
        # Reading the gradient back waits for an accelerator to finish.
        model(**batch).loss.backward()
        model.classifier.weight.grad.sum().item()
        times.append(time.perf_counter() - start)
    seconds = min(times[_WARM_UP:]) * micro_batches * count / timed
    return seconds, _BYTES_PER_WEIGHT * model.num_parameters()
