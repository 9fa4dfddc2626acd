"""Model and results cards, made from a sweep's results and from nothing else."""

import functools
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from huggingface_hub import CardData, DatasetCardData, EvalResult, ModelCardData

from ..data import PACKAGED_SETS, is_hub_id
from ..models.collapse_config import CollapseConfig
from ..models.families import FAMILIES
from ..models.residual_layers import feature_norm
from ..quantities import GAP_PARTS, deviation_digits, digits, measures_in_words, title
from ..sweeps.files import write_atomically
from ..sweeps.paper_figures import PaperPanel, beside_the_paper
from ..sweeps.summary import l2_in_words, refinement_in_words
from .markdown import code_span, fence, plain
from .names import TAG, model_repo, results_repo, seed_branch
from .sweep_folder import FinishedRun, SweepFolder, read_sweep_folder

# libyaml's where PyYAML was built with it, for a sweep of a thousand cards.
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
WEBSITE = "https://huggingface.co"

_FACTS = (
    "train_accuracy", "test_accuracy", "objective", "gufm_optimum", "gap", *GAP_PARTS, "nc1", "nc1_bound", "nc2",
    "nc3", "nc3_bound", "relative_gradient",
)  # fmt: skip
_COMPARED = ("train_accuracy", "test_accuracy", "objective", "gufm_optimum", "gap", "nc1", "nc2", "nc3")
_BY_DEPTH = (*_COMPARED[:5], "gap_times_depth", *_COMPARED[5:])
_SPLIT = ("gap", *GAP_PARTS, "nc1", "nc1_bound")
_ON_TRAINING_DATA = ("train_accuracy", "nc1", "nc2", "nc3", "objective", "gap")
_L2 = ("l2_coefficient", "classifier_l2_coefficient", "l2_depth_scaling")
_FITS = {"cross_entropy": "cross-entropy(W_L xᵢ, yᵢ)", "mse": "½‖W_L xᵢ − e_yᵢ‖²"}
_ANSWERS = {"holds": "Holds.", "does not hold": "Does not hold.", "cannot tell": "Cannot tell."}
_TASKS = {
    "ForImageClassification": ("image-classification", "AutoModelForImageClassification"),
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
}


def model_card(sweep: SweepFolder, run: FinishedRun, namespace: str, seeds: str | None = None) -> str:
    """Return the card of one network: what it is, its objective, data, collapse, accuracy and gap, and how to use it.

    Its `model-index` has the run's numbers with every digit of `results.csv`.

    Args:
        sweep, run: the sweep, and the network.
        namespace: user or organisation.
        seeds: the [`seeds_table`] of its depth, which all cards of one share.
    """
    row, config = run.row, run.config
    task, auto_class = _task(config)
    dataset_title, hub_id, test_name = _dataset(row["dataset"])
    repo_id = model_repo(namespace, sweep.name, run.depth)
    card_data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=task,
        tags=[TAG, "neural-collapse", "custom_code", str(row["architecture"])],
        datasets=[hub_id] if hub_id else None,
        metrics=["accuracy"],
        model_name=repo_id.split("/")[1],
        eval_results=_evaluations(row, task, dataset_title, hub_id, test_name),
    )
    return _rendered(
        "model_card",
        card_data,
        **_shared(sweep, namespace),
        repo_id=repo_id,
        results_url=f"{WEBSITE}/datasets/{results_repo(namespace, sweep.name)}",
        depth=run.depth,
        seed=run.seed,
        main_seed=sweep.runs_of(run.depth)[0].seed,
        family=next(family.kind for family in FAMILIES if family.model_type == config["model_type"]),
        hidden_size=config["hidden_size"],
        num_labels=len(config["id2label"]),
        norm_placement=row["norm_placement"],
        feature_norm=f"{feature_norm(row['norm_scale'], config['hidden_size']):g}",
        fit=_FITS[row["loss"]],
        classifier_bias=row["classifier_bias"],
        optimum_sentence=_optimum_sentence(row),
        l2_sentence=_l2_sentence(run.depth, **{name: row[name] for name in _L2}),
        has_split=row["nc1_bound"] is not None,
        facts=[(title(name), digits(row[name])) for name in _FACTS if row[name] is not None],
        seeds_table=seeds_table(sweep, run.depth) if seeds is None else seeds,
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


def seeds_table(sweep: SweepFolder, depth: int) -> str:
    """Return the networks of one depth beside each other, as a Markdown table."""
    runs = sweep.runs_of(depth)
    compared = [name for name in _COMPARED if any(run.row[name] is not None for run in runs)]
    rows = [[run.seed, *(run.row[name] for name in compared)] for run in runs]
    return _table(["seed", *map(title, compared)], rows)


def results_card(sweep: SweepFolder, namespace: str) -> str:
    """Return the card of the whole sweep: figures, what the theory's predictions came to, the tables, and links."""
    summary, panel = sweep.summary, sweep.panel
    by_depth = summary["by_depth"]
    card_data = DatasetCardData(
        license="apache-2.0",
        pretty_name=f"{sweep.name}: results",
        tags=[TAG, "neural-collapse"],
        configs=[{"config_name": "default", "data_files": "results.csv"}],
    )
    compared = [name for name in _COMPARED if any(run.row[name] is not None for run in sweep.runs)]
    return _rendered(
        "results_card",
        card_data,
        **_shared(sweep, namespace),
        num_runs=len(sweep.runs),
        depths=", ".join(map(str, sweep.depths)),
        seeds=", ".join(map(str, summary["seeds"])),
        fit=_FITS[summary["loss"]],
        l2=l2_in_words(summary),
        diverged=summary["diverged"],
        figures=[figure.stem for figure in sweep.figures],
        verdicts=[{**verdict, "answer": _ANSWERS[verdict["answer"]]} for verdict in summary["verdicts"]],
        held_out=summary["held_out"],
        depth_table=_depth_table(by_depth, _BY_DEPTH),
        split_table=_depth_table(by_depth, _SPLIT) if any("gap_spread" in row for row in by_depth) else None,
        slopes_table=_slopes_table(summary),
        refinement=refinement_in_words(summary),
        panel=panel,
        paper_table=None if panel is None else _paper_table(panel, sweep.results, sweep.depths),
        models=[_model_entry(sweep, depth, namespace) for depth in sweep.depths],
        deepest=sweep.depths[-1],
        main_seed=sweep.runs_of(sweep.depths[-1])[0].seed,
        whole_table=_table(
            [title("depth"), "seed", *map(title, compared)],
            [[run.depth, run.seed, *(run.row[name] for name in compared)] for run in sweep.runs],
        ),
    )


def collection_note(sweep: SweepFolder, depth: int) -> str:
    """What the Collection says of one depth: collapse, gap and accuracy, mean over the seeds."""
    row = next(row for row in sweep.summary["by_depth"] if row["depth"] == depth)
    names = [name for name in ("nc1", "nc2", "nc3", "gap", "test_accuracy") if row.get(name) is not None]
    values = ", ".join(f"{title(name)} {_mean_and_deviation(row, name)}" for name in names)
    return f"B = {depth}: {values} ({row['seeds']} seed{'s' if row['seeds'] > 1 else ''})"


def write_cards(folder: str | Path, output: str | Path, namespace: str, *, partial: bool = False) -> list[Path]:
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
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    contents = {"README.md": results_card(sweep, namespace).encode()}
    for depth in sweep.depths:
        contents[f"depth-{depth}.md"] = model_card(sweep, sweep.runs_of(depth)[0], namespace).encode()
    contents |= {figure.name: figure.read_bytes() for figure in sweep.figures}
    tables = (sweep.folder / name for name in ("results.csv", "summary.json"))
    contents |= {table.name: table.read_bytes() for table in tables if table.is_file()}
    for name, content in contents.items():
        write_atomically(output / name, functools.partial(Path.write_bytes, data=content))
    return [output / name for name in contents]


def _rendered(name: str, card_data: CardData, **values: object) -> str:
    header = yaml.dump(card_data.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return _template(name).render(card_data=header.rstrip("\n"), **values)


@functools.cache
def _template(name: str) -> jinja2.Template:
    source = files("hf_ncollapse.hub").joinpath(f"templates/{name}.md.jinja").read_text(encoding="utf-8")
    return jinja2.Template(source, undefined=jinja2.StrictUndefined)


def _shared(sweep: SweepFolder, namespace: str) -> dict[str, object]:
    first = sweep.runs[0].row
    return {
        "sweep": sweep.name,
        "namespace": namespace,
        "architecture": plain(first["architecture"]),
        "dataset_title": _dataset_in_words(first["dataset"]),
        "measures": measures_in_words(first["loss"], first["classifier_bias"]),
        "recipe": sweep.recipe,
        "fence": fence(sweep.recipe),
    }


def _dataset(name: str) -> tuple[str, str | None, str]:
    """Title, id on the Hub and the name of what is not trained on."""
    if name in PACKAGED_SETS:
        packaged = PACKAGED_SETS[name]
        return packaged.title, packaged.hub_id, packaged.held_out
    return name, name if is_hub_id(name) else None, "test"


def _dataset_in_words(name: str) -> str:
    return PACKAGED_SETS[name].title if name in PACKAGED_SETS else code_span(name)


def _task(config: dict[str, Any]) -> tuple[str, str]:
    architecture = config["architectures"][0]
    for ending, task in _TASKS.items():
        if architecture.endswith(ending):
            return task
    raise ValueError(f"config.json names {architecture}; a card is for {' or '.join(_TASKS)}")


def _evaluations(
    row: dict[str, Any], task: str, dataset_title: str, hub_id: str | None, test_name: str
) -> list[EvalResult]:
    # A packaged part of a Hub data set is called by its own name: its samples are not that data set's splits.
    dataset = hub_id if hub_id is not None and test_name == "test" else str(row["dataset"])

    def evaluation(name: str, split: str, metric: str) -> EvalResult:
        return EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset_title,
            dataset_split=split,
            metric_type=metric,
            metric_value=row[name],
            metric_name=title(name),
        )

    found = [
        evaluation(name, "train", "accuracy" if name == "train_accuracy" else name)
        for name in _ON_TRAINING_DATA
        if row[name] is not None
    ]
    if row["test_accuracy"] is not None:
        found.append(evaluation("test_accuracy", test_name, "accuracy"))
    return found


def _optimum_sentence(row: dict[str, Any]) -> str:
    if row["gap"] is None:
        return "No optimum J* is known for these data, so there is no gap."
    return (
        f"No network of the family can go below J* = {digits(row['gufm_optimum'])}, the optimum over free features; "
        f"this one ends at J = {digits(row['objective'])}, so it is at most {digits(row['gap'])} above the global "
        f"optimum of its own objective."
    )


@functools.cache  # the seeds of a depth have one
def _l2_sentence(depth: int, **settings: Any) -> str:
    """The two λ at this depth."""
    config = CollapseConfig(num_hidden_layers=depth, **settings)
    return (
        f"**λ = {config.resolved_l2_coefficient:.4g}** in the blocks and "
        f"**λ_L = {config.resolved_classifier_l2_coefficient:.4g}** in the classifier at this depth"
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
    return f"Trained in {run.row['seconds']:.0f} s on {plain(environment['device'])}, {count}, with {plain(versions)}."


def _model_entry(sweep: SweepFolder, depth: int, namespace: str) -> dict[str, object]:
    repo_id = model_repo(namespace, sweep.name, depth)
    branches = ", ".join(f"`{seed_branch(run.seed)}`" for run in sweep.runs_of(depth))
    return {"repo_id": repo_id, "url": f"{WEBSITE}/{repo_id}", "depth": depth, "branches": branches}


def _depth_table(by_depth: list[dict[str, Any]], quantities: tuple[str, ...]) -> str:
    names = [name for name in quantities if any(row.get(name) is not None for row in by_depth)]
    return _table(
        [title("depth"), "seeds", *map(title, names)],
        [[row["depth"], row["seeds"], *(_mean_and_deviation(row, name) for name in names)] for row in by_depth],
    )


def _slopes_table(summary: dict[str, Any]) -> str:
    """Measured slopes, over all depths and over the deepest, beside the expected ones."""
    deepest, expected = summary["deepest_slopes"] or {}, summary["expected_slopes"]
    rows = []
    for name, slope in summary["slopes"].items():
        last = deepest.get(name, {})
        rows.append(
            [
                title(name),
                _signed(slope["slope"]),
                _interval(slope),
                _signed(last.get("slope")),
                _interval(last),
                _signed(expected.get(name)),
            ]
        )
    return _table(
        ["quantity", "slope", "95% interval", "deepest two steps", "95% interval of these", "expected"], rows
    )


def _interval(slope: dict[str, Any]) -> str:
    interval = slope.get("confidence_interval")
    return "" if interval is None else " to ".join(map(_signed, interval))


def _paper_table(panel: PaperPanel, results: pd.DataFrame, depths: list[int]) -> str:
    headings = [f"the paper, L = {depth}" for depth in panel.depths] + [f"ours, B = {depths[i]}" for i in (0, -1)]
    return _table(["quantity", *headings], [list(row) for row in beside_the_paper(panel, results)])


def _mean_and_deviation(row: dict[str, Any], name: str) -> str:
    deviation = deviation_digits(row.get(f"{name}_std"), row.get(name))
    return digits(row.get(name)) + (f" ± {deviation}" if deviation else "")


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-", "−")


def _table(headings: list[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *([digits(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
