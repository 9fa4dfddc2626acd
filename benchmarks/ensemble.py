"""Time of a network's step in an ensemble against that of one network alone.

    OMP_NUM_THREADS=1 python benchmarks/ensemble.py

CollapseTrainer alone and ensembles of 1, 5 and 20 take turns in one process, at batch 128 and on all of 1,920 samples;
random pixels of 28×28, width 64. CPU seconds of one thread a step and network, from the step on at which the batch's
shape is traced, without evaluation and saving; the median over the rounds counts. `--depth` and `--architecture`
choose other networks.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback

from hf_ncollapse.data import ClassificationData, TensorDataset
from hf_ncollapse.models.image_processing_collapse import CollapseImageProcessor
from hf_ncollapse.sweeps import ModelArguments
from hf_ncollapse.sweeps.architectures import build_config, build_model
from hf_ncollapse.training import stacked_networks
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.ensemble import Ensemble
from hf_ncollapse.training.trainer import CollapseTrainer

SAMPLES, CLASSES = 1920, 10  # batches of 128 have one shape
# Steps before the clock starts: the first ones allocate memory, and with these the trace is made.
WARM_UP = 3


class StepClock(TrainerCallback):
    """CPU seconds from the end of the warm-up to that of the last step, and the number of steps between."""

    def on_step_end(self, args, state, control, **kwargs):
        now = time.process_time()
        if state.global_step <= WARM_UP:
            self.started = now
        else:
            self.seconds_a_step = (now - self.started) / (state.global_step - WARM_UP)
        control.should_log = control.should_save = False


def make_trainer(data: ClassificationData, options: argparse.Namespace, folder: str, batch: dict, seed: int, clock):
    """A trainer that only takes steps."""
    torch.manual_seed(seed)
    config = build_config(options.architecture, options.depth, ModelArguments(), data)
    arguments = CollapseTrainingArguments(
        output_dir=str(Path(folder) / str(seed)), seed=seed, learning_rate=0.001, max_steps=WARM_UP + batch["steps"],
        save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no", use_cpu=True, **batch["size"],
    )  # fmt: skip
    model = build_model(options.architecture, config, data)
    trainer = CollapseTrainer(model, arguments, train_dataset=data.train, callbacks=[clock] if clock else None)
    trainer.remove_callback(PrinterCallback)
    return trainer


def milliseconds(data: ClassificationData, options: argparse.Namespace, batch: dict, networks: int | None) -> float:
    """CPU milliseconds a step and network: of an ensemble, or for None of a trainer alone."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        # The last network's clock: its step ends when the others' have.
        clocks = [*[None] * ((networks or 1) - 1), clock]
        trainers = [make_trainer(data, options, folder, batch, seed, each) for seed, each in enumerate(clocks)]
        if networks is None:
            trainers[0].train()
        else:
            for trainer in trainers:
                trainer._save_checkpoint = lambda *arguments: None  # at the end of an ensemble, whatever was asked
            Ensemble(trainers, [None] * networks).train()
    return 1000 * clock.seconds_a_step / (networks or 1)


def main() -> None:
    """Print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each takes")
    parser.add_argument("--depth", type=int, default=5, help="blocks")
    parser.add_argument("--architecture", default="L-RN1")
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 5, 20])
    options = parser.parse_args()
    torch.set_num_threads(1)
    stacked_networks._WORTH_TRACING = WARM_UP - 1
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randn(SAMPLES, 1, 28, 28, generator=generator), torch.arange(SAMPLES) % CLASSES
    samples = TensorDataset(pixel_values=pixels, labels=labels)
    names = [str(label) for label in range(CLASSES)]
    data = ClassificationData(samples, samples, names, CollapseImageProcessor(), "image")
    for name, batch in (
        ("batch 128", {"steps": 120, "size": {"per_device_train_batch_size": 128}}),
        (f"all {SAMPLES}", {"steps": 12, "size": {"full_batch": True}}),
    ):
        times: dict[int | None, list[float]] = {networks: [] for networks in (None, *options.networks)}
        for _ in range(options.rounds):
            for networks, measured in times.items():
                measured.append(milliseconds(data, options, batch, networks))
        alone = times.pop(None)
        print(f"{options.architecture}, {options.depth} blocks, {name}: alone {statistics.median(alone):.2f} ms")
        for networks, measured in times.items():
            ratios = [together / one for together, one in zip(measured, alone, strict=True)]
            print(
                f"  ensemble of {networks}: {statistics.median(measured):.2f} ms a network, "
                f"median ratio {statistics.median(ratios):.2f}, of the best rounds {min(measured) / min(alone):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
