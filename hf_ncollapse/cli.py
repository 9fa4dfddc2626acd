"""The `hf-ncollapse` command."""

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a command registers `run`, a function of the parsed arguments that returns the exit code."""
    parser = argparse.ArgumentParser(prog="hf-ncollapse", description="Measure, certify and publish neural collapse.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_measure(commands)
    _add_certify(commands)
    _add_theory(commands)
    _add_install_metric(commands)
    _add_report(commands)
    _add_publish(commands)
    return parser


def _add_measure(commands) -> None:
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
            "All values are 0 at exact collapse. Python: hf_ncollapse.inspection.measure_collapse"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", help="Hub id or local folder of a checkpoint, or the folder of a sweep's run")
    command.add_argument(
        "--dataset",
        help="Hub id, local folder, CSV, JSON or Parquet file, or a packaged set's name; a sweep's run needs none",
    )
    command.add_argument("--dataset-config", metavar="NAME", help="configuration of a Hub data set that has several")
    command.add_argument("--split", default="train", help="split to measure; train by default")
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
    command.add_argument("--revision", help="branch, tag or commit of the model")
    command.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")
    command.add_argument(
        "--output", type=Path, nargs="+", default=[], metavar="FILE", help=".csv, .json, and .png, .svg or .pdf"
    )
    command.set_defaults(run=_run_measure)


def _run_measure(options: argparse.Namespace) -> int:
    import os

    from accelerate import PartialState
    from torch import accelerator
    from transformers.utils.logging import disable_progress_bar

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
    keywords = {"measures": options.measures} if options.measures else {}
    if options.measures and len(options.measures) == 1:
        keywords["measures"] = options.measures[0]
    elif run is not None and not options.measures and _is_optimal_with_an_orthogonal_frame(checkpoint.model.config):
        keywords["measures"] = ["nc1", "nc2_identity", "nc2_means", "nc3"]  # as metrics.json, which says nc2 for it
    training = None
    for split in (options.split, options.test_split):
        if split is None:
            continue
        collate, relabelled = None, ""
        if run is None:
            rows = _labelled_rows(options, split)
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


def _run_data(options: argparse.Namespace, folder: Path):
    """The data that a sweep's run was trained and tested on."""
    from hf_ncollapse.sweeps.files import read_json
    from hf_ncollapse.training.data import DataArguments, load_classification_data

    sweep = folder.resolve().parent.parent / "sweep.json"
    if not (folder.is_dir() and sweep.is_file()):
        raise ValueError(
            f"--dataset is needed: {options.model} is no run of a sweep, SWEEP/depth-D/seed-S beside SWEEP/sweep.json"
        )
    for name in ("dataset_config", "input_column", "label_column", "max_length"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --dataset: a run has the data of its sweep.json")
    return load_classification_data(DataArguments(**read_json(sweep)["data"]))


def _is_optimal_with_an_orthogonal_frame(config) -> bool:
    return config.loss == "mse" and not config.classifier_bias


def _listed_runs(folder: Path) -> str:
    """The runs of a sweep that have ended, and how one of them is measured."""
    from hf_ncollapse.sweeps.results import collect_results

    runs = collect_results(folder)
    if runs.empty:
        raise ValueError(f"{folder} is a sweep without a run that has ended")
    runs.insert(0, "run", [f"{folder}/depth-{run.depth:.0f}/seed-{run.seed:.0f}" for run in runs.itertuples()])
    table = runs[["run", "status", "nc1", "nc2", "nc3"]].to_string(index=False, float_format="{:.4g}".format)
    return f"{folder} is a sweep; measure one of its runs:\n{table}"


def _limited(rows, limit: int | None):
    """So many random rows, always the same ones: many sets are sorted by class."""
    import torch

    if limit is None or limit >= len(rows):
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    return rows.select(order) if hasattr(rows, "select") else torch.utils.data.Subset(rows, order)


def _labelled_rows(options: argparse.Namespace, split: str):
    """The rows of one split: a packaged set's, a local one's or the Hub's."""
    import datasets

    from hf_ncollapse.training.data import DATASETS, DataArguments
    from hf_ncollapse.training.data.sources import load_source

    name, path = options.dataset, Path(options.dataset)
    if name in DATASETS:
        source = load_source(DataArguments(name))
        parts = {"train": source.train} | ({"test": source.test} if source.test is not None else {})
        if split not in parts:
            raise ValueError(f"--split is {split!r}, {name} has {', '.join(parts)}")
        classes = datasets.ClassLabel(names=source.label_names)
        rows = _PackagedRows(parts[split], source.modality, {"label": classes})
    elif path.is_file():
        builders = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
        if path.suffix not in builders:
            raise ValueError(f"--dataset is {name!r}; a file must end in {', '.join(builders)}")
        try:
            rows = datasets.load_dataset(builders[path.suffix], data_files={split: str(path)}, split=split)
        except ValueError as error:
            raise ValueError(f"--dataset {name!r} is empty or damaged: {error}") from error
    elif path.is_dir() and ((path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()):
        rows = datasets.load_from_disk(str(path))
        if isinstance(rows, dict):
            if split not in rows:
                raise ValueError(f"--split is {split!r}, {name} has {', '.join(rows)}")
            rows = rows[split]
    elif path.is_dir() or name.count("/") <= 1:
        try:
            rows = datasets.load_dataset(name, options.dataset_config, split=split)
        except datasets.exceptions.DatasetNotFoundError as error:
            raise ValueError(
                f"--dataset is {name!r}, which is no packaged set ({', '.join(sorted(DATASETS))}), no local path, and "
                f"not found on the Hub: {error}"
            ) from error
        except ConnectionError as error:
            raise ConnectionError(
                f"--dataset {name!r} is neither in the cache nor reachable. With no network there are local files and "
                f"{', '.join(sorted(DATASETS))}: {error}"
            ) from error
    else:
        raise ValueError(f"--dataset is {name!r}, which is no file or folder here and no Hub id, namespace/name")
    return rows


class _PackagedRows:
    """A packaged set's part as rows of raw inputs and labels; `features` are the columns' types."""

    def __init__(self, part, input_column: str, features: dict):
        self.part, self.input_column, self.features = part, input_column, features

    def __len__(self) -> int:
        return len(self.part.labels)

    def __getitem__(self, index: int) -> dict:
        return {self.input_column: self.part.take([index])[0], "label": int(self.part.labels[index])}


def _add_certify(commands) -> None:
    command = commands.add_parser(
        "certify",
        help="recompute a trained network's claims in float64 from its weights and data alone",
        description=(
            "Recompute J, J*, the gap and its exact parts, collapse, gradient and curvature in float64, by code that "
            "trains nothing, and hold metrics.json, results.csv and the card against it. The exit code is 1 if a "
            "claim fails."
        ),
        epilog=(
            "examples:\n"
            "  hf-ncollapse certify runs/mnist5k-rn1-demo\n"
            "  hf-ncollapse certify runs/mnist5k-rn1-demo/depth-8/seed-0 --curvature-steps 100\n"
            "  hf-ncollapse certify my-org/mnist5k-rn1-demo-depth-8 --revision seed-0\n"
            "Numbers in units of J may differ by 1e-7 J, others by 1e-5 of themselves; weights by no bit.\n"
            "Python: hf_ncollapse.certification.certify"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", help="a run's folder, a sweep's folder for all its runs, or a Hub id")
    command.add_argument("--revision", help="of a Hub id: the branch of a seed, for example")
    command.add_argument(
        "--curvature-steps",
        type=int,
        default=40,
        metavar="N",
        help="Lanczos steps for the smallest curvature, 40 by default; 0 leaves it out",
    )
    command.set_defaults(run=_run_certify)


def _run_certify(options: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from hf_ncollapse.certification import certify

    if options.curvature_steps < 0:
        raise ValueError(f"--curvature-steps must be at least 0, got {options.curvature_steps}")
    disable_progress_bar()  # of loading weights
    all_hold = True
    for verification in certify(options.target, revision=options.revision, curvature_steps=options.curvature_steps):
        print(verification, flush=True)
        all_hold &= verification.holds
    return 0 if all_hold else 1


def _add_theory(commands) -> None:
    command = commands.add_parser(
        "theory",
        help="print the optimum J* that no network can go below, the geometry it has, and the rates in depth",
        description="The global optimum of the unconstrained features model: no network's objective is below J*.",
        epilog=(
            "examples:\n"
            "  hf-ncollapse theory --classes 10 --l2 0.005\n"
            "  hf-ncollapse theory --classes 10 --l2 0.005 --loss mse --classifier-bias --norm-scale unit\n"
            "  hf-ncollapse theory --class-counts 8 4 2 2 --l2 0.005 --hidden-size 16\n"
            "Python: hf_ncollapse.theory.gufm_optimum, which takes equal inputs with different labels as well"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    classes = command.add_mutually_exclusive_group(required=True)
    classes.add_argument("--classes", type=int, metavar="K", help="number of classes, of equal size")
    classes.add_argument("--class-counts", type=int, nargs="+", metavar="N", help="samples of each class, if unequal")
    command.add_argument(
        "--l2", type=float, required=True, metavar="λ", help="the classifier's, in (λ/2)‖W‖², at this depth"
    )
    command.add_argument("--loss", choices=("cross_entropy", "mse"), default="cross_entropy")
    command.add_argument(
        "--norm-scale", choices=("sqrt", "unit"), default="sqrt", help="norm of a feature: √d (default) or 1"
    )
    command.add_argument(
        "--hidden-size", type=int, default=64, metavar="d", help="width of the features; 64 by default"
    )
    command.add_argument("--classifier-bias", action="store_true", help="give the classifier a bias, not penalised")
    command.set_defaults(run=_run_theory)


def _run_theory(options: argparse.Namespace) -> int:
    import math

    from hf_ncollapse.theory import expected_slopes, gufm_optimum

    counts = options.class_counts or [1] * options.classes
    if options.hidden_size < 1:
        raise ValueError(f"--hidden-size must be at least 1, got {options.hidden_size}")
    radius = 1.0 if options.norm_scale == "unit" else math.sqrt(options.hidden_size)
    optimum = gufm_optimum(
        counts,
        options.l2,
        loss=options.loss,
        radius=radius,
        hidden_size=options.hidden_size,
        classifier_bias=options.classifier_bias,
    )
    num_classes, is_simplex = len(counts), optimum.problem.frame == "simplex"
    over_classes = "" if optimum.problem.is_balanced else ", mean over the classes"
    found = "numerical, certified from below by its dual" if optimum.is_numerical else "closed form"
    lines = [("J*", optimum.objective, found)]
    if optimum.is_numerical:
        lines.append(("lower bound", optimum.lower_bound, "certified: no network is below"))
    lines += [
        ("fit", optimum.fit, "(1/N) Σ ℓ"),
        ("penalty", optimum.regularization, "(λ/2)‖W‖²"),
        ("classifier norm", optimum.classifier_norm, f"‖w_k‖{over_classes}"),
        ("logit margin", optimum.logit_margin, f"own class's logit minus the others' mean{over_classes}"),
        ("feature norm", radius, f"norm_scale {options.norm_scale}"),
    ]
    if not is_simplex:
        lines.append(("cosine", 0.0, "between class means and between rows of W: an orthogonal frame"))
    elif not optimum.is_numerical:
        lines.append(("cosine", -1 / (num_classes - 1), "between class means and between rows of W: a simplex ETF"))
    if not optimum.problem.is_balanced:
        lines.append(
            ("NC2", optimum.nc2, f"of this W: the optimum is no {'simplex ETF' if is_simplex else 'scaled I'}")
        )
        lines.append(("NC3", optimum.nc3, "of these features and W"))
    bias = ", classifier bias" if options.classifier_bias else ""
    classes = f"{num_classes} classes" + (f" of {', '.join(map(str, counts))}" if over_classes else "")
    print(f"{options.loss}, {classes}, λ = {options.l2:g}{bias}")
    print("\n".join(f"{name:<16}{value:>14.10f}  {meaning}" for name, value, meaning in lines))
    slopes = ", ".join(f"{name} {slope:g}" for name, slope in expected_slopes().items())
    print(f"at the optimum, slopes of the logarithms in that of the number of blocks: {slopes}")
    return 0


def _add_install_metric(commands) -> None:
    command = commands.add_parser(
        "install-metric", help='make evaluate.load("neural_collapse") work from any folder, offline too'
    )
    command.add_argument("--uninstall", action="store_true", help="remove what was installed")
    command.set_defaults(run=_run_install_metric)


def _run_install_metric(options: argparse.Namespace) -> int:
    from hf_ncollapse.hub.metric import install_metric, uninstall_metric

    if not options.uninstall:
        print(f'evaluate.load("neural_collapse") now loads {install_metric()}')
        return 0
    removed = uninstall_metric()
    print("\n".join(f"removed {folder}" for folder in removed) or "nothing was installed")
    return 0


def _add_report(commands) -> None:
    command = commands.add_parser("report", help="write a sweep's figures and one self-contained HTML report")
    command.add_argument("folder", type=Path, help="the sweep's folder, which holds results.csv")
    command.add_argument("--output", type=Path, metavar="FILE", help="the HTML file; FOLDER/report.html by default")
    command.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="FOLDER", help="other sweeps to show beside this one"
    )
    command.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from hf_ncollapse.sweeps.report import write_report

    disable_progress_bar()  # of loading weights
    print(write_report(options.folder, options.output, options.compare))
    return 0


def _add_publish(commands) -> None:
    command = commands.add_parser(
        "publish",
        help="publish a sweep on the Hub: a model repository a depth, the results, one Collection",
        description="Publish a sweep with the token of `hf auth login`. The same command continues what was stopped.",
    )
    command.add_argument("folder", type=Path, help="the sweep's folder, which holds sweep.json and results.csv")
    command.add_argument("--namespace", required=True, metavar="ORG", help="user or organisation to publish under")
    command.add_argument("--private", action="store_true", help="make new repositories private")
    command.add_argument("--partial", action="store_true", help="publish a sweep without its unfinished runs")
    command.add_argument("--with-metric", action="store_true", help="publish the metric's Space as well")
    command.add_argument(
        "--replace",
        action="store_true",
        help="overwrite what was published with another configuration, or was changed on the Hub since",
    )
    command.add_argument("--dry-run", action="store_true", help="list every repository, file and size, offline")
    command.add_argument("--cards", type=Path, metavar="FOLDER", help="with --dry-run: write the rendered cards there")
    command.set_defaults(run=_run_publish)


def _run_publish(options: argparse.Namespace) -> int:
    from hf_ncollapse.hub.card import write_cards
    from hf_ncollapse.hub.publication import plan_publication
    from hf_ncollapse.hub.publish import publish_sweep
    from hf_ncollapse.hub.sweep_folder import read_sweep_folder

    if options.cards and not options.dry_run:
        raise ValueError("--cards goes with --dry-run")
    if not options.dry_run:
        publish_sweep(
            options.folder,
            options.namespace,
            private=options.private,
            partial=options.partial,
            with_metric=options.with_metric,
            replace=options.replace,
        )
        return 0
    sweep = read_sweep_folder(options.folder, partial=options.partial)
    states = plan_publication(sweep, options.namespace, with_metric=options.with_metric).states
    for state in states:
        print(f"{state.name}")
        print("\n".join(f"  {state.size(path):>12,}  {path}" for path in sorted(state.files)))
    total = sum(state.size(path) for state in states for path in state.files)
    print(f"{len(states)} states, {total:,} bytes, and one Collection")
    if options.cards:
        print(
            "\n".join(map(str, write_cards(options.folder, options.cards, options.namespace, partial=options.partial)))
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake prints one line on stderr and returns 2, unless `--debug` asks for more."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError) as error:
        if options.debug:
            raise
        print(f"hf-ncollapse: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
