"""Trains small networks of both families and saves what each process ends with; the tests launch it or import it."""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import save_file

from hf_ncollapse import (
    CollapseResNetConfig,
    CollapseResNetForImageClassification,
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
)
from hf_ncollapse.data import TensorDataset
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.processes import check_processes
from hf_ncollapse.training.trainer import CollapseTrainer

RN1 = (CollapseResNetForImageClassification, CollapseResNetConfig, {})
T12 = (CollapseTransformerForImageClassification, CollapseTransformerConfig, {"mlp_linear_layers": 2, "patch_size": 2})
# With accumulation the last micro-batch of an epoch has one sample, so two processes share it 1 : 0; so has a full
# batch's.
ACCUMULATED, FULL = {"gradient_accumulation_steps": 3}, {"full_batch": True}
# Every pair of family, loss and type is there.
NETWORKS = {
    "rn1-cross-entropy-float64": (RN1, "cross_entropy", torch.float64, ACCUMULATED),
    "rn1-mse-float32": (RN1, "mse", torch.float32, ACCUMULATED),
    "t12-cross-entropy-float32": (T12, "cross_entropy", torch.float32, ACCUMULATED),
    "t12-mse-float64": (T12, "mse", torch.float64, ACCUMULATED),
    "full-batch-rn1-cross-entropy-float64": (RN1, "cross_entropy", torch.float64, FULL),
    "polished-rn1-cross-entropy-float64": (RN1, "cross_entropy", torch.float64, {**FULL, "polish_steps": 12}),
}


def train(name: str, folder: Path, global_batch_size: int = 4, samples: int = 13) -> tuple[dict, dict]:
    """20 steps; returns the parameters and what is measured."""
    (model_class, config_class, fields), loss, dtype, batches = NETWORKS[name]
    torch.manual_seed(0)
    config = config_class(
        hidden_size=8, num_hidden_layers=2, image_size=4, num_labels=3, loss=loss, classifier_bias=loss == "mse",
        l2_coefficient=0.02, classifier_l2_coefficient=0.05, l2_depth_scaling="inverse", **fields,
    )  # fmt: skip
    model = model_class(config).to(dtype)
    labels = torch.arange(samples) % 3
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(samples, 1, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1)
    data = TensorDataset(pixel_values=pixels.to(dtype), labels=labels)
    arguments = CollapseTrainingArguments(
        output_dir=str(folder / name), max_steps=20, learning_rate=0.01, save_strategy="no",
        report_to="none", disable_tqdm=True, per_device_train_batch_size=1, per_device_eval_batch_size=3, **batches,
    )  # fmt: skip
    arguments.per_device_train_batch_size = global_batch_size // arguments.world_size
    trainer = CollapseTrainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    measured = trainer.measure(gradient=True)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}, measured


def main(folder: Path) -> None:
    """Train every network and write parameters and measurements of this process, then try an unsynchronised launch."""
    report = {}
    for name in NETWORKS:
        parameters, report[name] = train(name, folder)
        state = PartialState()
        save_file(parameters, folder / f"{name}-{state.process_index}.safetensors")
    report["world_size"], rank = state.num_processes, state.process_index
    # The processes stay connected: connecting anew right after a farewell can meet the addresses from before and hang.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        check_processes(PartialState(backend="gloo"))
    except ValueError as error:
        report["unsynchronised"] = str(error)
    (folder / f"report-{rank}.json").write_text(json.dumps(report))
    # All is written. Gloo's threads sometimes abort a process that ends with the group's states taken apart as above.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
