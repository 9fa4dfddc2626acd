"""Gap after equal CPU time: Adam with long averages, L-BFGS, and Adam then L-BFGS, from random weights and a split.

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py --depths 4 16 64 --seeds 0 1 2

2,000 images of Fashion-MNIST (or --dataset), pre-LN L-RN1 unless said otherwise, in turns on one thread. L-BFGS takes
--max_steps evaluations; the others take as many steps as its CPU seconds allow. The split is of a network of half the
depth that Adam trained for --max_steps steps at the same law of the learning rate.
"""

import argparse
import math
import tempfile
import time

import pandas as pd
from transformers import PrinterCallback, set_seed

from hf_ncollapse.data import load_classification_data
from hf_ncollapse.sweeps.architectures import build_config, build_model
from hf_ncollapse.sweeps.arguments import ModelArguments
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.trainer import CollapseTrainer

METHODS = {
    "L-BFGS": {"optim": "lbfgs"},
    "Adam": {"adam_beta1": 0.97, "adam_beta2": 0.97},
    "Adam, then L-BFGS": {"adam_beta1": 0.97, "adam_beta2": 0.97, "polish_steps": 0.4},
}


def train(model, data, steps: int, learning_rate: float, batch_size: int, **arguments) -> tuple[dict, float]:
    """Train on full batches; return what is measured at the end, and the CPU seconds of the training alone."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = CollapseTrainer(
            model,
            CollapseTrainingArguments(
                output_dir=folder, full_batch=True, per_device_train_batch_size=batch_size, max_steps=steps,
                learning_rate=learning_rate, save_strategy="no", logging_steps=10**9, report_to="none",
                disable_tqdm=True, **arguments,
            ),
            train_dataset=data.train,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
        return trainer.measure(gradient=True, precisely=True), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--architecture", default="L-RN1")
    parser.add_argument("--norm_placement", default="pre")
    parser.add_argument("--l2_depth_scaling", default="constant")
    parser.add_argument("--patch_size", type=int)
    parser.add_argument("--depths", type=int, nargs="+", default=[16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=["random", "split"], choices=("random", "split"))
    parser.add_argument("--max_steps", type=int, default=600)
    parser.add_argument("--learning_rate", type=float, default=0.005, help="Adam's; over B from a split")
    parser.add_argument("--batch_size", type=int, default=2000, help="of a micro-batch")
    options = parser.parse_args()
    data = load_classification_data(options.dataset, train_samples=2000)
    arguments = ModelArguments(
        norm_placement=options.norm_placement,
        l2_depth_scaling=options.l2_depth_scaling,
        patch_size=options.patch_size,
    )

    def network(depth):
        config = build_config(options.architecture, depth, arguments, data)
        return build_model(options.architecture, config, data)

    rows = []
    for depth in options.depths:
        for seed in options.seeds:
            for start in options.starts:
                # As the recipes do: a split needs smaller steps, random weights do not.
                rate = options.learning_rate / (depth if start == "split" else 1)
                set_seed(seed)
                parent = network(depth // 2) if start == "split" else None
                if parent is not None:
                    train(parent, data, options.max_steps, 2 * rate, options.batch_size, **METHODS["Adam"])
                budget = None
                for method, choices in METHODS.items():
                    set_seed(seed)
                    model = network(depth) if parent is None else parent.deepen(depth)
                    steps = options.max_steps
                    if budget is not None:
                        steps = math.ceil(budget / time_of_a_step(model, data, options.batch_size, choices))
                    measured, seconds = train(model, data, steps, rate, options.batch_size, **choices)
                    budget = budget or seconds
                    row = {
                        "B": depth, "start": start, "seed": seed, "method": method, "steps": steps,
                        "CPU s": round(seconds, 1), "gap": measured["gap"], "log10 NC1": math.log10(measured["nc1"]),
                        "accuracy": measured["train_accuracy"], "relative gradient": measured["relative_gradient"],
                    }  # fmt: skip
                    rows.append(row)
                    print(row, flush=True)
    table = pd.DataFrame(rows)
    gaps = table.pivot_table(index=["B", "start", "seed"], columns="method", values="gap")
    for method in ("L-BFGS", "Adam, then L-BFGS"):
        gaps[f"{method} / Adam"] = gaps[method] / gaps["Adam"]
    print(gaps.to_string(float_format="{:.3g}".format))


def time_of_a_step(model, data, batch_size: int, choices: dict) -> float:
    """CPU seconds of a step on a copy of the network: of a mixture, by its shares."""
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    _, seconds = train(copy, data, 20, 1e-5, batch_size, **choices)
    return seconds / 20


if __name__ == "__main__":
    main()
