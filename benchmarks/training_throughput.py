"""Steps per CPU second of CollapseTrainer against a bare PyTorch loop on the same model, data and objective.

    OMP_NUM_THREADS=1 python benchmarks/training_throughput.py

The bare loop slices its batches from the same tensors and steps `torch.optim.Adam` with coupled L2 and a cosine
schedule; it logs, checks and saves nothing. Both take turns in one process; the median over the rounds counts, from
the end of the first step on. Random pixels of 28×28, width 64.
"""

import argparse
import statistics
import tempfile
import time

import torch
from transformers import TrainerCallback

from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification
from hf_ncollapse.data import TensorDataset
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.trainer import CollapseTrainer

L2_COEFFICIENT, LEARNING_RATE, SAMPLES = 0.005, 0.001, 2000


class StepClock(TrainerCallback):
    """CPU seconds from the end of the first step, which warms up, to the end of the last."""

    def on_step_end(self, args, state, control, **kwargs):
        now = time.process_time()
        self.started = now if state.global_step == 1 else self.started
        self.steps_per_second = (state.global_step - 1) / max(now - self.started, 1e-9)


def build_model(depth: int) -> CollapseResNetForImageClassification:
    """A fresh L-RN1."""
    torch.manual_seed(0)
    return CollapseResNetForImageClassification(
        CollapseResNetConfig(num_hidden_layers=depth, num_labels=10, l2_coefficient=L2_COEFFICIENT)
    )


def trainer_speed(data: TensorDataset, depth: int, batch_size: int, steps: int) -> float:
    """Steps per CPU second of CollapseTrainer with its default logging and no evaluation."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = CollapseTrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch_size, max_steps=steps, learning_rate=LEARNING_RATE,
            save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = CollapseTrainer(build_model(depth), arguments, train_dataset=data, callbacks=[clock])
        trainer.log = lambda *arguments, **keywords: None  # keeps the terminal to this benchmark's own lines
        trainer.train()
    return clock.steps_per_second


def bare_speed(data: TensorDataset, depth: int, batch_size: int, steps: int) -> float:
    """Steps per CPU second of the smallest loop that minimises the same objective."""
    model = build_model(depth)
    penalised = [p for name, p in model.named_parameters() if model.l2_coefficient_of(name)]
    free = [p for name, p in model.named_parameters() if not model.l2_coefficient_of(name)]
    groups = [{"params": penalised, "weight_decay": L2_COEFFICIENT}, {"params": free}]
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    done = 0
    while True:
        # Neither loop copies a batch of all samples.
        rows_of_steps = [slice(None)] if batch_size == len(data) else torch.randperm(len(data)).split(batch_size)
        for rows in rows_of_steps:
            loss = model(data.tensors["pixel_values"][rows], labels=data.labels[rows]).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            if done == 1:
                started = time.process_time()
            if done == steps:
                return (steps - 1) / (time.process_time() - started)


def main() -> None:
    """Print steps per CPU second of both loops and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns that each loop takes")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        pixel_values=torch.randn(SAMPLES, 1, 28, 28, generator=generator), labels=torch.arange(SAMPLES) % 10
    )
    for name, depth, batch_size, steps in (
        ("batch 128, L = 5", 5, 128, 400),
        ("full batch 2,000, L = 34", 34, SAMPLES, 20),
    ):
        speeds = {"trainer": [], "bare": []}
        for _ in range(rounds):
            speeds["trainer"].append(trainer_speed(data, depth, batch_size, steps))
            speeds["bare"].append(bare_speed(data, depth, batch_size, steps))
        trainer, bare = (statistics.median(speeds[loop]) for loop in ("trainer", "bare"))
        ratios = [a / b for a, b in zip(speeds["trainer"], speeds["bare"], strict=True)]
        print(
            f"{name}: CollapseTrainer {trainer:.1f} steps/s, bare loop {bare:.1f} steps/s, "
            f"median ratio {statistics.median(ratios):.2f}, of the best rounds "
            f"{max(speeds['trainer']) / max(speeds['bare']):.2f}"
        )


if __name__ == "__main__":
    main()
