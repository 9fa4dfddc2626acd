"""Model and results cards, made from a sweep's results and from nothing else."""

from importlib.resources import files
from pathlib import Path

import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from ..sweeps.files import write_atomically
from ..sweeps.report import recipe_yaml
from ..sweeps.summary import summarize
from .sweep_folder import FinishedRun, SweepFolder, read_sweep_folder

# Tells this package's repositories from others'.
TAG = "hf-ncollapse"
WEBSITE = "https://huggingface.co"

# Packaged data set -> (title, its id on the Hub, what the samples that are not trained on are called).
_DATASETS = {
    "digits": ("scikit-learn's digits, 8×8 pixels", None, "held-out"),
    "mnist-5k": ("5,000 of MNIST's training images", "ylecun/mnist", "held-out"),
    "fashion-mnist": ("Fashion-MNIST", "zalando-datasets/fashion_mnist", "test"),
    "imdb-25k": ("IMDB's 25,000 training reviews", "stanfordnlp/imdb", "held-out"),
}
_QUANTITIES = {
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "objective": "objective J",
    "gufm_optimum": "optimum J*",
    "gap": "gap J − J*",
    "nc1": "NC1",
    "nc2": "NC2",
    "nc3": "NC3",
    "regularization": "penalty",
    "regularization_body": "penalty of the blocks",
}
_ON_TRAINING_DATA = ("train_accuracy", "nc1", "nc2", "nc3", "objective", "gap")
_OBJECTIVES = {
    "cross_entropy": "(1/N) Σ cross-entropy(W xᵢ, yᵢ) + (λ/2)‖θ‖²",
    "mse": "(1/N) Σ ½‖W xᵢ − e_yᵢ‖² + (λ/2)‖θ‖²",
}
# The frame that the features form at the loss's optimum.
_NC2 = {
    "cross_entropy": "the distance of the normalised W Wᵀ from the simplex ETF's",
    "mse": "the distance of the class means' normalised M Mᵀ from the orthogonal frame's",
}
_TASKS = {
    "ForImageClassification": ("image-classification", "AutoModelForImageClassification"),
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
}


def model_repo(namespace: str, sweep: str, depth: int) -> str:
    """The repository of one depth; each seed is a branch of it."""
    return f"{namespace}/{sweep}-depth-{depth}"


def results_repo(namespace: str, sweep: str) -> str:
    """The data set with a sweep's results table."""
    return f"{namespace}/{sweep}-results"


def seed_branch(seed: int) -> str:
    """The branch of one seed in its depth's repository."""
    return f"seed-{seed}"


def model_card(sweep: SweepFolder, run: FinishedRun, namespace: str) -> ModelCard:
    """Return the card of one network: what it is, its objective, data, collapse, accuracy and gap, and how to use it.

    Its `model-index` has the run's numbers with every digit of `results.csv`.
    """
    row, config, siblings = run.row, run.config, sweep.runs_of(run.depth)
    task, auto_class = _task(config)
    title, hub_id, test_name = _dataset(row["dataset"])
    repo_id = model_repo(namespace, sweep.name, run.depth)
    card_data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=task,
        tags=[TAG, "neural-collapse", "custom_code", str(row["architecture"])],
        datasets=[hub_id] if hub_id else None,
        metrics=["accuracy"],
        model_name=repo_id.split("/")[1],
        eval_results=_evaluations(row, task, title, hub_id, test_name),
    )
    family = "residual network" if row["architecture"].startswith("L-RN") else "transformer"
    shown = {name: _named(name, test_name) for name in _QUANTITIES if row[name] is not None}
    return ModelCard.from_template(
        card_data,
        template_str=_template("model_card"),
        **_shared(sweep, namespace),
        repo_id=repo_id,
        results_url=f"{WEBSITE}/datasets/{results_repo(namespace, sweep.name)}",
        depth=run.depth,
        seed=run.seed,
        main_seed=siblings[0].seed,
        family=family,
        hidden_size=config["hidden_size"],
        num_labels=len(config["id2label"]),
        norm_placement=row["norm_placement"],
        objective=_OBJECTIVES[row["loss"]],
        nc2=_NC2[row["loss"]],
        optimum_sentence=_optimum_sentence(row),
        l2_coefficient=f"{row['l2_coefficient']:g}",
        facts=[(label, _digits(row[name])) for name, label in shown.items()],
        seeds_table=_table(
            ["seed", *shown.values()], [[other.seed, *(other.row[name] for name in shown)] for other in siblings]
        ),
        train_samples=f"{run.metrics['train_samples']:,}",
        test_samples=f"{run.metrics['test_samples']:,}" if row["test_accuracy"] is not None else None,
        test_name=test_name,
        initialization=_initialization(sweep, run),
        steps=f"{row['steps']:,}",
        learning_rate=f"{run.metrics['learning_rate']:g}",
        pipeline_tag=task,
        auto_class=auto_class,
        environment=_environment(run),
    )


def results_card(sweep: SweepFolder, namespace: str) -> DatasetCard:
    """Return the card of the whole sweep: figures, what the theory's predictions came to, the table, and links."""
    summary, results = summarize(sweep.results), sweep.results
    test_name = _dataset(results["dataset"].iloc[0])[2]
    answers = {True: "Holds.", False: "Does not hold.", None: "Open."}
    shown = {name: _named(name, test_name) for name in _QUANTITIES if results[name].notna().any()}
    card_data = DatasetCardData(
        license="apache-2.0",
        pretty_name=f"{sweep.name}: results",
        tags=[TAG, "neural-collapse"],
        configs=[{"config_name": "default", "data_files": "results.csv"}],
    )
    seeds = sorted({run.seed for run in sweep.runs})
    return DatasetCard.from_template(
        card_data,
        template_str=_template("results_card"),
        **_shared(sweep, namespace),
        num_runs=len(sweep.runs),
        depths=", ".join(map(str, sweep.depths)),
        seeds=", ".join(map(str, seeds)),
        has_gap_figure=any(figure.name == "gap.png" for figure in sweep.figures),
        verdicts=[{**verdict, "answer": answers[verdict["holds"]]} for verdict in summary["verdicts"]],
        depth_table=_table(
            ["depth L", "seeds", *shown.values()],
            [
                [row["depth"], row["seeds"], *(_mean_and_deviation(row, name) for name in shown)]
                for row in summary["by_depth"]
            ],
        ),
        models=[_model_entry(sweep, depth, namespace) for depth in sweep.depths],
        deepest=sweep.depths[-1],
        main_seed=sweep.runs_of(sweep.depths[-1])[0].seed,
        whole_table=_table(
            ["depth L", "seed", *shown.values()],
            [[run.depth, run.seed, *(run.row[name] for name in shown)] for run in sweep.runs],
        ),
    )


def collection_note(sweep: SweepFolder, depth: int) -> str:
    """What the Collection says of one depth: collapse, gap and accuracy, mean over the seeds."""
    row = next(row for row in summarize(sweep.results)["by_depth"] if row["depth"] == depth)
    test_name = _dataset(sweep.results["dataset"].iloc[0])[2]
    names = [name for name in ("nc1", "nc2", "nc3", "gap", "test_accuracy") if row.get(name) is not None]
    values = ", ".join(f"{_named(name, test_name)} {_mean_and_deviation(row, name)}" for name in names)
    return f"L = {depth}: {values} ({row['seeds']} seed{'s' if row['seeds'] > 1 else ''})"


def write_cards(folder: Path, output: Path, namespace: str, *, partial: bool = False) -> list[Path]:
    """Write a sweep's cards into a folder instead of publishing them: one a depth, and `README.md` for the sweep.

    Args:
        folder: the sweep's folder.
        output: made if it does not exist; figures, `results.csv` and `summary.json` go beside the cards.
        namespace: that the cards speak of.
        partial: leave unfinished runs out.

    Returns:
        The files written.

    Raises:
        ValueError, FileNotFoundError: as [`read_sweep_folder`].
    """
    sweep = read_sweep_folder(folder, partial=partial)
    output.mkdir(parents=True, exist_ok=True)
    contents = {"README.md": str(results_card(sweep, namespace)).encode()}
    for depth in sweep.depths:
        contents[f"depth-{depth}.md"] = str(model_card(sweep, sweep.runs_of(depth)[0], namespace)).encode()
    contents |= {figure.name: figure.read_bytes() for figure in sweep.figures}
    tables = (sweep.folder / name for name in ("results.csv", "summary.json"))
    contents |= {table.name: table.read_bytes() for table in tables if table.is_file()}
    for name, content in contents.items():
        write_atomically(output / name, lambda temporary, content=content: temporary.write_bytes(content))
    return [output / name for name in contents]


def _template(name: str) -> str:
    return files("hf_ncollapse.hub").joinpath(f"templates/{name}.md.jinja").read_text(encoding="utf-8")


def _shared(sweep: SweepFolder, namespace: str) -> dict[str, object]:
    first = sweep.results.iloc[0]
    return {
        "sweep": sweep.name,
        "namespace": namespace,
        "architecture": first["architecture"],
        "dataset_title": _dataset(first["dataset"])[0],
        "recipe": recipe_yaml(sweep.configuration),
    }


def _dataset(name: str) -> tuple[str, str | None, str]:
    return _DATASETS.get(name, (f"`{name}`", name, "test"))


def _task(config: dict) -> tuple[str, str]:
    architecture = config["architectures"][0]
    for ending, task in _TASKS.items():
        if architecture.endswith(ending):
            return task
    raise ValueError(f"config.json names {architecture}; a card is for {' or '.join(_TASKS)}")


def _evaluations(row: dict, task: str, title: str, hub_id: str | None, test_name: str) -> list[EvalResult]:
    # A packaged part of a Hub data set is called by its own name: its samples are not that data set's splits.
    dataset = hub_id if hub_id is not None and test_name == "test" else str(row["dataset"])

    def evaluation(name: str, split: str, metric: str) -> EvalResult:
        return EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=title.strip("`"),
            dataset_split=split,
            metric_type=metric,
            metric_value=row[name],
            metric_name=_named(name, test_name),
        )

    found = [
        evaluation(name, "train", "accuracy" if name == "train_accuracy" else name)
        for name in _ON_TRAINING_DATA
        if row[name] is not None
    ]
    if row["test_accuracy"] is not None:
        found.append(evaluation("test_accuracy", test_name, "accuracy"))
    return found


def _named(name: str, test_name: str) -> str:
    return f"{test_name} accuracy" if name == "test_accuracy" else _QUANTITIES[name]


def _optimum_sentence(row: dict) -> str:
    if row["gap"] is None:
        return "No optimum J* is known for these data, so there is no gap."
    return (
        f"No network of the family can go below J* = {_digits(row['gufm_optimum'])}, the optimum over free features; "
        f"this one ends at J = {_digits(row['objective'])}, so it is at most {_digits(row['gap'])} above the global "
        f"optimum of its own objective."
    )


def _initialization(sweep: SweepFolder, run: FinishedRun) -> str:
    shallower = [depth for depth in sweep.configuration["sweep"]["depths"] if depth < run.depth]
    if run.metrics["initialization"] == "scratch" or not shallower:
        return "random weights"
    return f"the split of the trained network of depth {shallower[-1]} (depth continuation)"


def _environment(run: FinishedRun) -> str:
    environment = run.metrics["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("hf_ncollapse", "torch", "transformers"))
    processes = run.metrics["processes"]
    count = f"{processes} process{'es' if processes > 1 else ''}"
    return f"Trained in {run.row['seconds']:.0f} s on {environment['device']}, {count}, with {versions}."


def _model_entry(sweep: SweepFolder, depth: int, namespace: str) -> dict[str, object]:
    repo_id = model_repo(namespace, sweep.name, depth)
    branches = ", ".join(f"`{seed_branch(run.seed)}`" for run in sweep.runs_of(depth))
    return {"repo_id": repo_id, "url": f"{WEBSITE}/{repo_id}", "depth": depth, "branches": branches}


def _mean_and_deviation(row: dict, name: str) -> str:
    if row.get(name) is None:
        return ""
    deviation = row[f"{name}_std"]
    # Numbers that differ by rounding alone have no spread to speak of.
    shown = deviation is not None and deviation > 1e-9 * abs(row[name])
    return f"{_digits(row[name])} ± {deviation:#.2g}" if shown else _digits(row[name])


def _digits(value: object) -> str:
    """Four significant digits; whole numbers whole, nothing for what is missing."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    return f"{value:#.4g}" if isinstance(value, float) else str(value)


def _table(headings: list[str], rows: list[list]) -> str:
    lines = [headings, ["---"] * len(headings), *([_digits(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
