"""The report: a sweep's verdicts, tables, figures and configuration in one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from ..training.arguments import CollapseTrainingArguments
from ..training.data import DataArguments
from .figures import draw_comparison, draw_figures
from .figures.style import INK
from .files import read_json, write_atomically, write_json
from .network_measurements import measure_networks
from .results import read_results
from .summary import l2_in_depth, summarize
from .training_curves import training_curves

# Constant over a sweep: said once, above the table.
_OF_THE_SWEEP = ("sweep", "architecture", "norm_placement", "norm_scale", "dataset", "loss")
_HEADINGS = {
    "depth": "depth L", "seed": "seed", "train_accuracy": "train accuracy", "test_accuracy": "test accuracy",
    "objective": "objective J", "gufm_optimum": "optimum J*", "gap": "gap J − J*", "nc1": "NC1", "nc2": "NC2",
    "nc3": "NC3", "fit": "fit", "regularization": "penalty", "regularization_body": "penalty of the body",
    "regularization_embedding": "penalty of the embedding", "regularization_classifier": "penalty of the classifier",
    "l2_coefficient": "λ", "steps": "steps", "seconds": "seconds",
}  # fmt: skip
_BY_DEPTH = ("train_accuracy", "test_accuracy", "objective", "gufm_optimum", "gap", "nc1", "nc2", "nc3")
_DEFAULTS_SAID = ("optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "per_device_train_batch_size")
_LOSSES = {"cross_entropy": "cross-entropy", "mse": "mean squared error"}


def finish_sweep(folder: Path) -> None:
    """Write `summary.json` and draw the figures that the results table alone allows; `write_report` does the rest.

    Args:
        folder: the sweep's folder.

    Raises:
        FileNotFoundError: if no run is finished yet.
        ValueError: if a file is damaged; the message names it.
    """
    results = read_results(folder)
    write_summary(folder, results)
    draw_figures(folder, results)


def write_summary(folder: Path, results: pd.DataFrame) -> dict[str, object]:
    """Write `summary.json`: [`summarize`], the runs that are planned and not finished, and where the others ran."""
    summary = {**summarize(results), "unfinished": unfinished_runs(folder, results), "environments": []}
    for path in sorted(folder.glob("depth-*/seed-*/metrics.json")):
        metrics = read_json(path)
        if "environment" in metrics:
            environment = {**metrics["environment"], "processes": metrics["processes"]}
            if environment not in summary["environments"]:
                summary["environments"].append(environment)
    path = folder / "summary.json"
    if not summary["environments"] and path.is_file():
        summary["environments"] = read_json(path).get("environments", [])
    write_json(path, summary)
    return summary


def unfinished_runs(folder: Path, results: pd.DataFrame) -> list[dict[str, object]]:
    """Return depth, seed and reason of every run in `sweep.json` that the table has no row of."""
    planned = _configuration(folder).get("sweep", {})
    finished = set(zip(results["depth"], results["seed"], strict=True))
    missing = []
    for depth in planned.get("depths", []):
        for seed in planned.get("seeds", []):
            if (depth, seed) not in finished:
                failure = folder / f"depth-{depth}" / f"seed-{seed}" / "failure.json"
                reason = read_json(failure)["error"] if failure.is_file() else "not finished yet"
                missing.append({"depth": depth, "seed": seed, "reason": reason})
    return missing


def write_report(folder: Path, output: Path | None = None, compare: Sequence[Path] = ()) -> Path:
    """Measure what is not measured yet, draw every figure, and write the report.

    Args:
        folder: the sweep's folder.
        output: the HTML file; `folder`/report.html by default.
        compare: folders of other sweeps, shown beside this one in a figure of their own.

    Returns:
        Where the report is.

    Raises:
        FileNotFoundError: if a folder has no results.
        ValueError: if a file is damaged; the message names it.
    """
    results = read_results(folder)
    summary = write_summary(folder, results)
    notes = []
    try:
        networks = measure_networks(folder, results)
    except (OSError, ImportError) as error:
        networks = None
        notes.append(f"The networks were not looked into, because their data could not be loaded: {error}")
    names = draw_figures(folder, results, training_curves(folder), networks)
    if compare:
        draw_comparison(folder, _by_what_differs([folder, *compare]))
        names.append("comparison")
    configuration = _configuration(folder)
    page = _template().render(
        summary=summary,
        title=f"{summary['architecture']} on {summary['dataset']}",
        loss=_LOSSES[summary["loss"]],
        initialization=configuration.get("sweep", {}).get("initialization"),
        notes=notes,
        seconds=results["seconds"].sum(),
        slopes=[(_HEADINGS[name], slope) for name, slope in summary["slopes"].items()],
        by_depth=_by_depth_table(summary),
        table=_whole_table(results),
        constants={name.replace("_", " "): results[name].iloc[0] for name in _OF_THE_SWEEP},
        figures=[_figure(folder, name, summary) for name in names],
        recipe=recipe_yaml(configuration) if configuration else None,
        threads=next(iter(summary["environments"]), {}).get("threads"),
    )
    output = folder / "report.html" if output is None else output
    write_atomically(output, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return output


def recipe_yaml(configuration: dict[str, dict[str, object]]) -> str:
    """Turn a `sweep.json` back into a recipe of the same sweep: its settings, and some defaults to be read."""
    data = {name: value for name, value in configuration["data"].items() if value != _default(DataArguments, name)}
    defaults = {name: _default(CollapseTrainingArguments, name) for name in _DEFAULTS_SAID}
    settings = {**configuration["sweep"], **configuration["model"], **data, **defaults, **configuration["training"]}
    lines = {name: value for name, value in settings.items() if value is not None}
    return yaml.safe_dump(lines, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def _default(arguments: type, name: str) -> object:
    return arguments.__dataclass_fields__[name].default


def _configuration(folder: Path) -> dict:
    path = folder / "sweep.json"
    return read_json(path) if path.is_file() else {}


def _by_what_differs(folders: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """The sweeps' tables, called by what tells the sweeps apart, or by their names where that does not."""
    tables = [read_results(folder) for folder in folders]
    facts = []
    for folder, results in zip(folders, tables, strict=True):
        start = _configuration(folder).get("sweep", {}).get("initialization")
        first = results.iloc[0]
        facts.append(
            {
                "architecture": first["architecture"],
                "norm_placement": f"{first['norm_placement']}-LN",
                "dataset": first["dataset"],
                "loss": _LOSSES[first["loss"]],
                "l2": {"constant": "constant λ", "inverse": "λ/L"}.get(l2_in_depth(results), "other λ"),
                "initialization": "from scratch" if start == "scratch" else start,
            }
        )
    differing = [name for name in facts[0] if len({fact[name] for fact in facts}) > 1]
    labels = [", ".join(str(fact[name]) for name in differing) for fact in facts]
    if len(set(labels)) < len(labels):
        labels = [str(results["sweep"].iloc[0]) for results in tables]
    if len(set(labels)) < len(labels):
        raise ValueError(f"compare names one sweep twice: {', '.join(labels)}")
    return dict(zip(labels, tables, strict=True))


def _by_depth_table(summary: dict) -> dict[str, list]:
    names = [name for name in _BY_DEPTH if any(row.get(name) is not None for row in summary["by_depth"])]
    rows = [
        [
            str(row["depth"]),
            str(row["seeds"]),
            *((_digits(row[name]), _deviation(row[f"{name}_std"], row[name])) for name in names),
        ]
        for row in summary["by_depth"]
    ]
    return {"headings": ["depth L", "seeds", *(_HEADINGS[name] for name in names)], "rows": rows}


def _whole_table(results: pd.DataFrame) -> dict[str, list]:
    known = [name for name in _HEADINGS if name in results]
    others = [name for name in results if name not in _HEADINGS and name not in _OF_THE_SWEEP]
    rows = [[_digits(row[name]) for name in [*known, *others]] for _, row in results.iterrows()]
    return {"headings": [_HEADINGS.get(name, name.replace("_", " ")) for name in [*known, *others]], "rows": rows}


def _digits(value: object) -> str:
    """Four significant digits, whole numbers whole, nothing for what is missing."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    return f"{value:#.4g}" if isinstance(value, float) else str(value)


def _deviation(deviation: float | None, mean: float | None) -> str:
    """Two significant digits; nothing for one seed or for numbers that differ by rounding alone."""
    if deviation is None or deviation <= 1e-9 * abs(mean):
        return ""
    return f"{deviation:#.2g}"


def _figure(folder: Path, name: str, summary: dict) -> dict[str, str]:
    """Title, caption, alternative text and data of a figure."""
    title, caption = _CAPTIONS[name]
    svg = (folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    # Ink follows the reader's colour scheme and the paper behind it is the page's.
    svg = svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    svg = svg.replace("<defs>", f"<defs><style>{_INK_OF_THE_PAGE}</style></defs><defs>", 1)
    data = base64.b64encode(svg.encode()).decode()
    return {
        "name": name,
        "title": title,
        "caption": caption,
        "alt": f"{title}. {_in_words(name, summary)}",
        "data": data,
    }


_INK_OF_THE_PAGE = f":root{{color:{INK}}}@media(prefers-color-scheme:dark){{:root{{color:#e6e9ed}}}}"
_CAPTIONS = {
    "collapse": (
        "Collapse against depth",
        "NC1, NC2 and NC3 of the training set, mean ± one standard deviation over the seeds, with the fitted power "
        "laws dotted. Zero is complete collapse.",
    ),
    "gap": (
        "Certified distance from the global optimum",
        "J − J* bounds from above how far a network is from the global optimum of its own objective. Mean ± one "
        "standard deviation over the seeds, fitted power law dotted.",
    ),
    "objective": (
        "Objective and its parts",
        "The objective J is the fit plus the penalty; no network of this family can go below J*, the dashed line.",
    ),
    "penalty": (
        "Penalty alone",
        "The penalty (λ/2)‖θ‖² and its three parts. The theory speaks of the body's; the embedding's scale is free, "
        "so its part shrinks only as fast as training lets it.",
    ),
    "training": (
        "Training",
        "Objective, gap and NC1 as each depth trains, mean ± one standard deviation over the seeds. In a continuation "
        "a depth starts where the depth before it ended.",
    ),
    "layers": (
        "Collapse through the network",
        "NC1 on the training set of LN(h) after the embedding and after every block: what the classifier would see if "
        "the network ended there. The last point is the features' own NC1.",
    ),
    "geometry": (
        "The classes' geometry",
        "Some training samples' features (dots), class means (circles) and classifier rows (crosses) of the first "
        "seed's shallowest and deepest network, about the global mean and scaled by the means' mean norm. The plane "
        "is the one in which the simplex ETF nearest to the classifier is a regular polygon: at complete collapse "
        "every feature of a class sits at its corner. Two classes have a line, and their largest spread across it.",
    ),
    "comparison": (
        "Beside other sweeps",
        "Gap, NC1 and NC2 against depth, mean ± one standard deviation over the seeds.",
    ),
}


def _in_words(name: str, summary: dict) -> str:
    """What a reader who does not see the figure should know."""
    shown = {
        "collapse": ("nc1", "nc2", "nc3"),
        "objective": ("objective", "fit", "regularization", "gufm_optimum"),
        "penalty": ("regularization_body", "regularization_embedding", "regularization_classifier"),
        "layers": ("nc1",),
    }.get(name, ("gap", "nc1"))
    first, last = summary["by_depth"][0], summary["by_depth"][-1]
    parts = [
        f"{_HEADINGS[quantity]} {_digits(first[quantity])} and {_digits(last[quantity])}"
        for quantity in shown
        if first.get(quantity) is not None and last.get(quantity) is not None
    ]
    return f"At depth {first['depth']} and depth {last['depth']}: {'; '.join(parts)}."


def _template() -> jinja2.Template:
    source = files("hf_ncollapse.sweeps").joinpath("templates/report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
