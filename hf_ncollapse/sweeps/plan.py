"""From a recipe to the runs of its sweep."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from .arguments import Recipe, is_secret
from .data_fingerprint import changed_data
from .files import read_json, sole_use, write_json

# Settings that change what is shown or how fast it goes, not what is computed.
PRESENTATION = {
    "disable_tqdm", "logging_dir", "logging_first_step", "log_level", "report_to", "dataloader_num_workers",
    "dataloader_pin_memory", "save_steps", "save_strategy", "save_total_limit",
}  # fmt: skip
# Seconds to wait for another command that writes the table or draws the figures.
PATIENCE = 120.0
# The group of the data's fingerprint.
CONTENT = "data_content"
# What a configuration that does not name these had.
_UNSAID = {"processes": 1}


@dataclass(frozen=True)
class Run:
    """One network to train.

    Args:
        depth: number of blocks.
        seed: of the initial weights and the order of the batches.
        folder: where its checkpoint and `metrics.json` go.
        parent: the run whose split it starts from, in a continuation.
        learning_rate: peak learning rate at this depth.
        max_steps: optimiser steps.
    """

    depth: int
    seed: int
    folder: Path
    parent: "Run | None"
    learning_rate: float
    max_steps: int

    @property
    def name(self) -> str:
        """How the run is called in messages."""
        return f"depth {self.depth}, seed {self.seed}"

    @property
    def is_finished(self) -> bool:
        """`metrics.json` is written last, so its presence says that the run is complete."""
        return (self.folder / "metrics.json").is_file()


def plan_runs(recipe: Recipe, learning_rate: float, max_steps: int) -> list[Run]:
    """Return the runs, seed by seed from shallow to deep, so that a continuation finds its parent.

    Args:
        recipe: the sweep.
        learning_rate: peak learning rate of one block.
        max_steps: optimiser steps of one block.
    """
    sweep = recipe.sweep
    runs = []
    for seed in sweep.seeds:
        parent = None
        for depth in sweep.depths:
            steps = math.ceil(max_steps / depth**sweep.max_steps_depth_exponent)
            is_shallowest = depth == sweep.depths[0]
            run = Run(
                depth=depth,
                seed=seed,
                folder=recipe.folder / f"depth-{depth}" / f"seed-{seed}",
                parent=parent,
                learning_rate=learning_rate / depth**sweep.learning_rate_depth_exponent,
                max_steps=sweep.shallowest_max_steps if is_shallowest and sweep.shallowest_max_steps else steps,
            )
            runs.append(run)
            parent = run if sweep.initialization == "continuation" else None
    return runs


def check_configuration(recipe: Recipe) -> None:
    """Check that the sweep's folder holds this sweep or none.

    Depths and seeds may be added to a sweep; anything else that changes a result may not, the number of processes
    neither.

    Raises:
        ValueError: if the folder belongs to another configuration; the message names every difference.
    """
    path = recipe.folder / "sweep.json"
    if path.is_file():
        before, now = read_json(path), _configuration(recipe)
        if changed := differences({**before, CONTENT: {}}, now):
            raise ValueError(
                f"{recipe.folder} holds a sweep with another configuration: {'; '.join(changed)}. Give this one "
                f"another --sweep name or --output_dir, or delete the folder"
            )
        if changed := changed_data(before.get(CONTENT, {}), now[CONTENT]):
            raise ValueError(
                f"the {' and '.join(changed)} of {recipe.data.dataset} are not those that {recipe.folder} was trained "
                f"on: the data set, or what reads it, has changed since. Bring the former back, or give this sweep "
                f"another --sweep name or --output_dir"
            )


def claim_folder(recipe: Recipe) -> None:
    """Write `sweep.json`, which binds the folder to this sweep, unless it says this sweep or more of it already.

    Raises:
        ValueError: as `check_configuration`, of a folder that another command has claimed since.
    """
    path = recipe.folder / "sweep.json"
    with sole_use(recipe.folder, PATIENCE):
        before, now = read_json(path) if path.is_file() else {}, _configuration(recipe)
        is_more = differences(before, now) and not differences(now, before)
        if not is_more:
            check_configuration(recipe)
            write_json(path, now)


def _configuration(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe, the number of processes, which is a factor of the batch, and what the data are."""
    launch = {"processes": PartialState().num_processes}
    return {**recipe.to_dict(), "launch": launch, CONTENT: recipe.data_content}


def differences(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> list[str]:
    """Say what a sweep's configuration changes of the former one that its results depend on.

    Depths after the former ones, and seeds, may be added.
    """
    found = []
    for group in sorted(set(old) | set(new)):
        before, after = old.get(group, {}), new.get(group, {})
        if group == CONTENT and not (before and after):
            continue  # not known
        for name in sorted(set(before) | set(after)):
            left, right = (settings.get(name, _UNSAID.get(name)) for settings in (before, after))
            if name in PRESENTATION or is_secret(name) or left == right:
                continue
            if isinstance(left, list) and isinstance(right, list):
                if name == "seeds" and set(left) <= set(right):
                    continue
                if name == "depths" and left == right[: len(left)]:
                    continue
            found.append(f"{name} was {left!r} and is {right!r}")
    return found
