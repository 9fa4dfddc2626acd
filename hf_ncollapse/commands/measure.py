"""Measure any classifier, encoder or language model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a command does is imported when it runs
    from torch import nn

    from hf_ncollapse.data import ClassificationData
    from hf_ncollapse.inspection.checkpoint import ProcessRows


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "measure",
        help="measure the collapse of any Hugging Face classifier, encoder or language model, layer by layer",
        description="Measure neural collapse at the classifier's input, and after every block with --layers all.",
        epilog=(
            "examples:\n"
            "  hf-ncollapse measure textattack/bert-base-uncased-imdb --dataset stanfordnlp/imdb --limit 2000 \\\n"
            "      --layers all --test-split test --output collapse.csv collapse.png\n"
            "  hf-ncollapse measure runs/mnist5k-rn1-demo\n"
            "  hf-ncollapse measure runs/mnist5k-rn1-demo/depth-8/seed-0 --layers all\n"
            "  hf-ncollapse measure openai-community/gpt2 --dataset imdb-25k --limit 500 --min-class-count 10\n"
            "Without --dataset, a run of a sweep is measured on what it was trained on, and the sweep's folder lists\n"
            "its runs. Labels that have names are matched by name with the model's classes.\n"
            "The classifier is the linear layer whose output the model returns; what was found is printed first.\n"
            "Values are 0 at exact collapse, but for ranks, cosines and margins.\n"
            "Python: hf_ncollapse.inspection.measure_collapse"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", help="Hub id or local folder of a checkpoint, or the folder of a sweep's run")
    command.add_argument(
        "--dataset",
        help="packaged set's name, folder, CSV, JSON, JSON Lines or Parquet file, or Hub id; a sweep's run needs none",
    )
    command.add_argument("--dataset-config", metavar="NAME", help="configuration of a Hub data set that has several")
    command.add_argument("--split", default="train", help='split to measure, also "train[:1000]"; train by default')
    command.add_argument("--test-split", metavar="SPLIT", help="measure this one too, about the first's class means")
    command.add_argument(
        "--input-column", metavar="COLUMN", help="found by its name by default: image, text, audio, …"
    )
    command.add_argument("--label-column", metavar="COLUMN", help="label or labels by default")
    command.add_argument("--limit", type=int, metavar="N", help="measure N random samples, always the same ones")
    command.add_argument(
        "--layers", nargs="+", default=["last"], help='"last" (the features, default), "all" blocks, or module names'
    )
    command.add_argument(
        "--measures", nargs="+", help='"paper", "all" or names; by default nc1, nc2, nc2_means and nc3'
    )
    command.add_argument("--classifier", default="auto", metavar="MODULE", help="the last linear layer, if not found")
    command.add_argument("--pooling", default="mean", choices=("mean", "first", "last"), help="of blocks, over tokens")
    command.add_argument(
        "--min-class-count", type=int, metavar="N", help="leave out classes with fewer samples (1: the absent ones)"
    )
    command.add_argument("--max-length", type=int, metavar="N", help="largest number of tokens of a text")
    command.add_argument("--batch-size", type=int, metavar="N", help="32 by default, 1024 for a sweep's run")
    command.add_argument("--device", help='of torch, such as "cpu" or "cuda:1"; an accelerator where there is one')
    command.add_argument("--revision", help="branch, tag or commit of the model")
    command.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")
    command.add_argument(
        "--output", type=Path, nargs="+", default=[], metavar="FILE", help=".csv, .json, and .png, .svg or .pdf"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure a model, print the report and write it."""
    import os

    from accelerate import PartialState
    from torch import accelerator
    from transformers.utils.logging import disable_progress_bar

    from hf_ncollapse.data import load_splits, split_named
    from hf_ncollapse.inspection import load_checkpoint, measure_collapse

    unknown = [path for path in options.output if path.suffix not in (".csv", ".json", ".png", ".svg", ".pdf")]
    if unknown:
        raise ValueError(f"--output must end in .csv, .json, .png, .svg or .pdf, got {unknown[0].name!r}")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    model = Path(options.model)
    if (model / "sweep.json").is_file():
        print(_listed_runs(model))
        return 0
    is_main = True
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # started by `accelerate launch` or torchrun
        is_main = PartialState(cpu=not accelerator.is_available()).is_main_process
    disable_progress_bar()  # of loading weights
    run = None if options.dataset else _run_data(options, model)
    checkpoint = load_checkpoint(options.model, revision=options.revision, trust_remote_code=options.trust_remote_code)
    if options.device:
        _move(checkpoint.model, options.device)
    keywords: dict[str, Any] = {"measures": options.measures} if options.measures else {}
    if options.measures and len(options.measures) == 1:
        keywords["measures"] = options.measures[0]
    elif run is not None and not options.measures and _is_optimal_with_an_orthogonal_frame(checkpoint.model.config):
        keywords["measures"] = ["nc1", "nc2_identity", "nc2_means", "nc3"]  # as metrics.json, which says nc2 for it
    splits = load_splits(options.dataset, options.dataset_config) if run is None else {}
    training = None
    for split in (options.split, options.test_split):
        if split is None:
            continue
        collate: ProcessRows | None = None
        relabelled = ""
        rows: Any
        if run is None:
            rows = split_named(splits, split, "--split" if training is None else "--test-split")
            collate = checkpoint.collate(
                input_column=options.input_column,
                label_column=options.label_column,
                max_length=options.max_length,
                features=rows.features,
            )
            relabelled = collate.relabelled
        elif split in ("train", "test"):
            rows = getattr(run, split)
        else:
            raise ValueError(f"--split is {split!r}, a sweep's run has train, test")
        report = measure_collapse(
            checkpoint.model,
            _limited(rows, options.limit),
            layers=options.layers[0] if len(options.layers) == 1 else options.layers,
            classifier=None if options.classifier == "none" else options.classifier,
            pooling=options.pooling,
            training=training,
            min_class_count=options.min_class_count,
            batch_size=options.batch_size or (32 if run is None else 1024),
            collate=collate,
            **keywords,
        )
        if is_main:
            name = options.dataset or "the run's own data"
            print(f"{name}, split {split}" if training is None else f"\nsplit {split}")
            print("\n".join(filter(None, [relabelled, str(report)])))
            for path in options.output:
                print(report.write(path if training is None else path.with_stem(f"{path.stem}-{split}")))
        training = report
    return 0


def _move(model: "nn.Module", device: str) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # an unknown name; a torch built without it
        raise ValueError(f"--device is {device!r}: {str(error).splitlines()[0]}") from None


def _run_data(options: argparse.Namespace, folder: Path) -> "ClassificationData":
    """The data that a sweep's run was trained and tested on."""
    from hf_ncollapse.data import DataArguments, load_classification_data
    from hf_ncollapse.sweeps.files import read_json

    sweep = folder.resolve().parent.parent / "sweep.json"
    if not (folder.is_dir() and sweep.is_file()):
        raise ValueError(
            f"--dataset is needed: {options.model} is no run of a sweep, SWEEP/depth-D/seed-S beside SWEEP/sweep.json"
        )
    for name in ("dataset_config", "input_column", "label_column", "max_length"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --dataset: a run has the data of its sweep.json")
    return load_classification_data(DataArguments(**read_json(sweep)["data"]))


def _is_optimal_with_an_orthogonal_frame(config: Any) -> bool:
    return bool(config.loss == "mse" and not config.classifier_bias)


def _listed_runs(folder: Path) -> str:
    """The runs of a sweep that have ended, and how one of them is measured."""
    from hf_ncollapse.sweeps.results import collect_results

    runs = collect_results(folder)
    if runs.empty:
        raise ValueError(f"{folder} is a sweep without a run that has ended")
    runs.insert(0, "run", [f"{folder}/depth-{run.depth:.0f}/seed-{run.seed:.0f}" for run in runs.itertuples()])
    table = runs[["run", "status", "nc1", "nc2", "nc3"]].to_string(index=False, float_format="{:.4g}".format)
    return f"{folder} is a sweep; measure one of its runs:\n{table}"


def _limited(rows: Any, limit: int | None) -> Any:
    """So many random rows, always the same ones: many sets are sorted by class."""
    import torch

    if limit is None or limit >= len(rows):
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    return rows.select(order) if hasattr(rows, "select") else torch.utils.data.Subset(rows, order)
