"""Where the time of a sweep goes: training steps, and everything else.

    OMP_NUM_THREADS=1 python benchmarks/sweep_overhead.py

Runs the demo's recipe, or another one, in a temporary folder, from a fresh interpreter to its end, and prints the
CPU seconds and shares of: start (imports, data, plan), training steps (forward, backward, optimiser), between the
steps (the Trainer's loop, batches, logging), evaluation, checkpoints, and the rest (tables, figures, weights at the
end).
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

import transformers.trainer
from transformers import TrainerCallback
from transformers.utils.logging import disable_progress_bar

from hf_ncollapse.sweeps import parse_recipe, run_sweep
from hf_ncollapse.training.trainer import CollapseTrainer

DEMO = Path(__file__).parents[1] / "recipes" / "mnist5k" / "rn1_demo.yaml"
SECONDS = dict.fromkeys(("start", "training steps", "between the steps", "evaluation", "checkpoints", "rest"), 0.0)


IN_A_RUN = ("training steps", "evaluation", "checkpoints")


class Clock(TrainerCallback):
    """Adds up the CPU seconds of training steps, and those between the first and the last that are nothing else."""

    def on_train_begin(self, *arguments, **keywords):
        self.run = time.process_time() - sum(SECONDS[name] for name in IN_A_RUN)
        SECONDS["start"] = SECONDS["start"] or time.process_time()

    def on_step_begin(self, *arguments, **keywords):
        self.step = time.process_time()

    def on_step_end(self, *arguments, **keywords):
        SECONDS["training steps"] += time.process_time() - self.step

    def on_train_end(self, *arguments, **keywords):
        SECONDS["between the steps"] += time.process_time() - self.run - sum(SECONDS[name] for name in IN_A_RUN)


def timed(name: str, method):
    """The method, with its seconds added up under a name."""

    @functools.wraps(method)
    def wrapped(*arguments, **keywords):
        start = time.process_time()
        try:
            return method(*arguments, **keywords)
        finally:
            SECONDS[name] += time.process_time() - start

    return wrapped


def main() -> None:
    """Run the sweep and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=DEMO)
    options = parser.parse_args()
    disable_progress_bar()
    transformers.trainer.DEFAULT_CALLBACKS.append(Clock)
    CollapseTrainer.measure = timed("evaluation", CollapseTrainer.measure)
    CollapseTrainer._save_checkpoint = timed("checkpoints", CollapseTrainer._save_checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        recipes, _ = parse_recipe(["--config", str(options.config), "--output_dir", folder])
        for recipe in recipes:
            run_sweep(recipe)
    whole = time.process_time()
    SECONDS["rest"] = whole - sum(SECONDS.values())
    for name, seconds in SECONDS.items():
        print(f"{name:18} {seconds:7.1f} s {seconds / whole:6.1%}")
    print(f"{'whole':18} {whole:7.1f} s, {1 - SECONDS['training steps'] / whole:.1%} outside the training steps")


if __name__ == "__main__":
    main()
