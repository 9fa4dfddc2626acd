"""Pre-LN L-RN1 of few blocks within a hair of the global optimum J*: the body costs next to nothing at any depth.

    python recipes/finite_depth.py --dataset mnist-5k --depths 2 3 4 --output_dir runs/finite-depth

Trains the relaxed network of each depth by L-BFGS, turns it into a network of the family with a small residual stream
(`hf_ncollapse.models.relaxation` has the derivation), recomputes its gap in float64 and saves it as a checkpoint.
"""

import argparse
from pathlib import Path

import torch
from transformers import PrinterCallback, set_seed
from transformers.utils.logging import disable_progress_bar

from hf_ncollapse import CollapseResNetConfig
from hf_ncollapse.certification import certify_network
from hf_ncollapse.data import load_classification_data
from hf_ncollapse.models.relaxation import relaxed_network, tightened_network
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.trainer import CollapseTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist-5k", help="packaged name or Hub id; mnist-5k by default")
    parser.add_argument("--train_samples", type=int, default=2000, help="balanced over the classes; 2000 by default")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 4], help="blocks, 2 or more; 2 3 4 by default")
    parser.add_argument("--max_steps", type=int, default=1000, help="evaluations by L-BFGS; 1000 by default")
    parser.add_argument("--scale", type=float, default=1e-3, help="of the stream; 1e-3 by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/finite-depth"))
    options = parser.parse_args()
    disable_progress_bar()
    data = load_classification_data(options.dataset, train_samples=options.train_samples)
    image = data.train[0]["pixel_values"]
    batches = [data.train.batch(i) for i in torch.arange(len(data.train)).split(2000)]
    print("blocks        gap       body        NC1        NC2        NC3  accuracy")
    for depth in options.depths:
        set_seed(options.seed)
        config = CollapseResNetConfig(
            num_hidden_layers=depth,
            num_labels=len(data.label_names),
            image_size=list(image.shape[1:]),
            num_channels=image.shape[0],
            norm_placement="pre",
        )
        relaxed = relaxed_network(config)
        folder = options.output_dir / f"depth-{depth}" / f"seed-{options.seed}"
        arguments = CollapseTrainingArguments(
            output_dir=str(folder),
            optim="lbfgs",
            full_batch=True,
            max_steps=options.max_steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = CollapseTrainer(relaxed, arguments, train_dataset=data.train)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        network = tightened_network(relaxed.cpu(), config, options.scale)
        found = certify_network(network, batches, curvature_steps=0).measured
        network.save_pretrained(folder)
        numbers = [found[name] for name in ("gap", "regularization_body", "nc1", "nc2", "nc3")]
        print(f"{depth:6}" + "".join(f"{number:11.2e}" for number in numbers) + f"{found['train_accuracy']:10.4f}")
    print(f"networks: {options.output_dir}")


if __name__ == "__main__":
    main()
