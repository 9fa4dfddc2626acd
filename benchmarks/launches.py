"""Kernels that a training step would launch on a GPU, and how often it would wait for one; needs no GPU.

    python benchmarks/launches.py

Counts the tensor operations of eager steps on the CPU, each of which is one kernel on a GPU or a few, apart from views
and empty tensors; and the times that a tensor's value is asked for (`aten::_local_scalar_dense`: `.item()`,
`bool(tensor)`), where a GPU's queue has to run empty. CollapseTrainer between two logs, against the smallest loop on
the same model; batches are cut by the host and left out. Networks of 5 blocks and width 64, 1,000 images of 28×28
pixels or texts of up to 32 tokens. The time of launches is an estimate and not measured: it assumes MICROSECONDS each.
"""

import contextlib
import tempfile

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from hf_ncollapse import (
    CollapseResNetConfig,
    CollapseResNetForImageClassification,
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
    CollapseTransformerForSequenceClassification,
)
from hf_ncollapse.data import TensorDataset, TokenDataset
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.trainer import CollapseTrainer

MICROSECONDS = 5
STEPS, SAMPLES, CLASSES = 4, 1000, 10
_WAIT = "aten::_local_scalar_dense"
_NO_KERNEL = {_WAIT, "aten::detach", "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::promote_types"}


class Launches(TorchDispatchMode):
    """Counts operations that launch a kernel, and those that wait for one."""

    kernels = waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        self.waits += name == _WAIT
        self.kernels += name.startswith("aten::") and not function.is_view and name not in _NO_KERNEL
        return function(*args, **(kwargs or {}))


class Between(TrainerCallback):
    """Counts from the end of the first step to that of the last but one."""

    def __init__(self, launches: Launches):
        self.launches = launches

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.launches.__enter__()
        elif state.global_step == 1 + STEPS:
            self.launches.__exit__(None, None, None)


class Cut:
    """Data whose batches the host has cut already: all of them the first rows."""

    def __init__(self, data: TensorDataset | TokenDataset, batch_size: int):
        self.samples, self.rows = len(data), data.batch(torch.arange(batch_size))

    def __len__(self) -> int:
        return self.samples

    def __getitems__(self, indices):
        return self.rows


def trainer_launches(model, data: Cut, batch_size: int) -> Launches:
    """Of STEPS steps of CollapseTrainer."""
    launches = Launches()
    with tempfile.TemporaryDirectory() as folder:
        arguments = CollapseTrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch_size, max_steps=STEPS + 2, logging_strategy="no",
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        trainer = CollapseTrainer(model, arguments, train_dataset=data, callbacks=[Between(launches)])
        trainer.log = lambda *arguments, **keywords: None  # keeps the terminal to this benchmark's own lines
        trainer.train()
    return launches


def bare_launches(model, data: Cut, batch_size: int) -> Launches:
    """Of STEPS steps of the smallest loop that minimises the same objective."""
    coefficients = {p: model.l2_coefficient_of(name) for name, p in model.named_parameters()}
    groups = [
        {"params": [p for p, own in coefficients.items() if own == coefficient], "weight_decay": coefficient}
        for coefficient in set(coefficients.values())
    ]
    optimizer, launches = torch.optim.Adam(groups, fused=True), Launches()
    for step in range(1 + STEPS):
        with launches if step else contextlib.nullcontext():  # the first step makes Adam's state
            model(**data.rows).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return launches


def network(architecture: str, modality: str):
    """A fresh network of 5 blocks."""
    sizes = {"num_hidden_layers": 5, "num_labels": CLASSES}
    if architecture.startswith("L-RN"):
        config = CollapseResNetConfig(linear_layers_per_block=int(architecture[-1]), **sizes)
        return CollapseResNetForImageClassification(config)
    sizes |= {"attention_linear_layers": int(architecture[-2]), "mlp_linear_layers": int(architecture[-1])}
    if modality == "images":
        return CollapseTransformerForImageClassification(CollapseTransformerConfig(**sizes))
    config = CollapseTransformerConfig(vocab_size=500, max_position_embeddings=32, **sizes)
    return CollapseTransformerForSequenceClassification(config)


def main() -> None:
    """Print a line for every architecture and batch size."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(SAMPLES) % CLASSES
    lengths = torch.randint(8, 33, (SAMPLES,), generator=generator)
    words = torch.randint(1, 500, (int(lengths.sum()),), generator=generator, dtype=torch.int32)
    pixels = torch.randn(SAMPLES, 1, 28, 28, generator=generator)
    sets = {
        "images": TensorDataset(pixel_values=pixels, labels=labels),
        "texts": TokenDataset(words, lengths, labels, pad_token_id=0),
    }
    kinds = [(name, "images") for name in ("L-RN1", "L-RN2", "L-T11", "L-T22")] + [("L-T11", "texts")]
    for architecture, modality in kinds:
        for batch_size in (125, SAMPLES):
            data = Cut(sets[modality], batch_size)
            trainer, bare = (
                count(network(architecture, modality), data, batch_size) for count in (trainer_launches, bare_launches)
            )
            kernels, waits = trainer.kernels / STEPS, trainer.waits / STEPS
            print(
                f"{architecture}, {modality}, batch {batch_size}: CollapseTrainer {kernels:g} kernels, estimated "
                f"{kernels * MICROSECONDS / 1000:.2f} ms to launch, {waits:g} waits; bare loop "
                f"{bare.kernels / STEPS:g} and {bare.waits / STEPS:g}"
            )


if __name__ == "__main__":
    main()
