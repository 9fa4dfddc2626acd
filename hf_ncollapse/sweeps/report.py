"""The report: a sweep's verdicts, tables, figures and configuration in one HTML file that needs nothing else."""

import base64
import os
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import jinja2
import pandas as pd
import yaml

from ..data import DataArguments
from ..training.arguments import CollapseTrainingArguments
from .figures import CAPTIONS, draw_comparison, draw_figures
from .figures.style import INK
from .files import read_json, write_atomically, write_json
from .network_measurements import measure_networks
from .paper_figures import beside_the_paper, paper_panel
from .quantities import GAP_PARTS, QUANTITIES, deviation_digits, digits, measures_in_words, title
from .results import SETTINGS, diverged_runs, finished_runs, read_results
from .summary import has_complete_optimum, l2_in_words, summarize
from .training_curves import training_curves

_BY_DEPTH = (
    "train_accuracy", "test_accuracy", "objective", "gufm_optimum", "gap", "gap_times_depth", "nc1", "nc2", "nc3",
)  # fmt: skip
_SPLIT = ("gap", *GAP_PARTS, "nc1", "nc1_bound", "nc3", "nc3_bound")
_DEFAULTS_SAID = ("optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "per_device_train_batch_size")
_LOSSES = {"cross_entropy": "cross-entropy", "mse": "mean squared error"}


def finish_sweep(folder: Path) -> None:
    """Write `summary.json` and draw the figures that the results table alone allows; `write_report` does the rest.

    Args:
        folder: the sweep's folder.

    Raises:
        FileNotFoundError: if no run ended yet.
        ValueError: if a file is damaged, the message names it, or no run is finished.
    """
    results = read_results(folder)
    write_json(folder / "summary.json", _summary(folder, results))
    draw_figures(folder, results, panel=paper_panel(_configuration(folder)))


def _summary(folder: Path, results: pd.DataFrame) -> dict[str, object]:
    """What `summary.json` says: [`summarize`], the planned runs that did not end, and where the others ran."""
    summary = {**summarize(results), "unfinished": unfinished_runs(folder, results), "environments": []}
    for path in sorted(folder.glob("depth-*/seed-*/metrics.json")):
        metrics = read_json(path)
        if "environment" in metrics:
            environment = {**metrics["environment"], "processes": metrics.get("processes")}
            if environment not in summary["environments"]:
                summary["environments"].append(environment)
    path = folder / "summary.json"
    if not summary["environments"] and path.is_file():
        summary["environments"] = read_json(path).get("environments", [])
    return summary


def unfinished_runs(folder: Path, results: pd.DataFrame) -> list[dict[str, object]]:
    """Return depth, seed and reason of every run in `sweep.json` that neither finished nor diverged."""
    planned = _configuration(folder).get("sweep", {})
    ended = set(zip(results["depth"], results["seed"], strict=True))
    is_continuation = planned.get("initialization") == "continuation"
    diverged = diverged_runs(results)
    missing = []
    for depth in planned.get("depths", []):
        for seed in planned.get("seeds", []):
            if (depth, seed) not in ended:
                shallower = diverged[(diverged["seed"] == seed) & (diverged["depth"] < depth)]
                has_no_start = is_continuation and len(shallower)
                reason = "the network that it starts from diverged" if has_no_start else "not finished yet"
                missing.append({"depth": depth, "seed": seed, "reason": reason})
    return missing


def write_report(folder: Path, output: Path | None = None, compare: Sequence[Path] = ()) -> Path:
    """Measure what is not measured yet, draw every figure, and write the report.

    Args:
        folder: the sweep's folder, which keeps what was measured and drawn; one that cannot be written stays as it is.
        output: the HTML file; `folder`/report.html by default.
        compare: folders of other sweeps, shown beside this one in a figure of their own.

    Returns:
        Where the report is.

    Raises:
        FileNotFoundError: if a folder has no results.
        ValueError: if a file is damaged, the message names it, or no run is finished.
    """
    keep = output is None or os.access(folder, os.W_OK)
    with nullcontext(folder) if keep else TemporaryDirectory() as place:
        page = _page(folder, Path(place), keep, compare)
    output = folder / "report.html" if output is None else output
    write_atomically(output, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return output


def _page(folder: Path, place: Path, keep: bool, compare: Sequence[Path]) -> str:
    """The report of a folder as HTML, with its figures and summary in `place`."""
    results = read_results(folder)
    summary = _summary(folder, results)
    write_json(place / "summary.json", summary)
    finished = finished_runs(results)
    configuration = _configuration(folder)
    panel = paper_panel(configuration)
    notes = []
    try:
        networks = measure_networks(folder, finished, keep=keep)
    except (OSError, ImportError) as error:
        networks = None
        notes.append(f"The networks were not looked into, because their data could not be loaded: {error}")
    names = draw_figures(place, results, training_curves(folder, keep=keep), networks, panel)
    if compare:
        draw_comparison(place, _by_what_differs([folder, *compare]))
        names.append("comparison")
    said = {"is_balanced": has_complete_optimum(finished), "has_panel": panel is not None}
    return _template().render(
        summary=summary,
        title=f"{summary['architecture']} on {summary['dataset']}",
        loss=_LOSSES[summary["loss"]],
        l2=l2_in_words(summary),
        measures=measures_in_words(summary["loss"], summary["classifier_bias"]),
        notes=notes,
        seconds=finished["seconds"].sum(),
        slopes=[_slope_row(summary, name) for name in summary["slopes"]],
        by_depth=_by_depth_table(summary, _BY_DEPTH),
        split=_by_depth_table(summary, _SPLIT) if finished["gap_spread"].notna().any() else None,
        panel=panel,
        paper=[] if panel is None else beside_the_paper(panel, results),
        table=_whole_table(results),
        constants={title(name): results[name].iloc[0] for name in SETTINGS},
        figures=[_figure(place, name, summary, said) for name in names],
        recipe=recipe_yaml(configuration) if configuration else None,
        threads=next(iter(summary["environments"]), {}).get("threads"),
    )


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
    for results in tables:
        first = results.iloc[0]
        facts.append(
            {
                "architecture": first["architecture"],
                "norm_placement": f"{first['norm_placement']}-LN",
                "dataset": first["dataset"],
                "loss": _LOSSES[first["loss"]],
                "classifier_bias": f"{'a' if first['classifier_bias'] else 'no'} classifier bias",
                "l2": l2_in_words(first),
                "initialization": "from scratch" if first["initialization"] == "scratch" else first["initialization"],
            }
        )
    differing = [name for name in facts[0] if len({fact[name] for fact in facts}) > 1]
    labels = [", ".join(str(fact[name]) for name in differing) for fact in facts]
    if len(set(labels)) < len(labels):
        labels = [str(results["sweep"].iloc[0]) for results in tables]
    if len(set(labels)) < len(labels):
        raise ValueError(f"compare names one sweep twice: {', '.join(labels)}")
    return dict(zip(labels, tables, strict=True))


def _slope_row(summary: dict, name: str) -> dict[str, object]:
    """A quantity's slope over all depths and over the deepest, and the one that the theory expects."""
    deepest = summary["deepest_slopes"]
    return {
        "title": title(name),
        "of_all": summary["slopes"][name],
        "deepest": None if deepest is None else deepest[name]["slope"],
        "expected": summary["expected_slopes"].get(name),
    }


def _by_depth_table(summary: dict, quantities: Sequence[str]) -> dict[str, list]:
    names = [name for name in quantities if any(row.get(name) is not None for row in summary["by_depth"])]
    rows = [
        [
            str(row["depth"]),
            str(row["seeds"]),
            *((digits(row[name]), deviation_digits(row[f"{name}_std"], row[name])) for name in names),
        ]
        for row in summary["by_depth"]
    ]
    return {"headings": [title("depth"), "seeds", *(title(name) for name in names)], "rows": rows}


def _whole_table(results: pd.DataFrame) -> dict[str, list]:
    known = [name for name in QUANTITIES if name in results and name not in SETTINGS]
    others = [name for name in results if name not in QUANTITIES and name not in SETTINGS]
    names = [name for name in [*known, *others] if results[name].notna().any()]
    rows = [[digits(row[name]) for name in names] for _, row in results.iterrows()]
    return {"headings": [title(name) for name in names], "rows": rows}


def _figure(folder: Path, name: str, summary: dict, said: dict[str, bool]) -> dict[str, str]:
    """Title, caption, alternative text and data of a figure."""
    caption = CAPTIONS[name]
    svg = (folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    # Ink follows the reader's colour scheme and the paper behind it is the page's.
    svg = svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    svg = svg.replace("<defs>", f"<defs><style>{_INK_OF_THE_PAGE}</style></defs><defs>", 1)
    data = base64.b64encode(svg.encode()).decode()
    return {
        "name": name,
        "title": caption.title,
        "caption": caption.words(**said),
        "alt": f"{caption.title}. {_in_words(caption.shown, summary)}",
        "data": data,
    }


_INK_OF_THE_PAGE = f":root{{color:{INK}}}@media(prefers-color-scheme:dark){{:root{{color:#e6e9ed}}}}"


def _in_words(shown: Sequence[str], summary: dict) -> str:
    """What a reader who does not see the figure should know."""
    first, last = summary["by_depth"][0], summary["by_depth"][-1]
    parts = [
        f"{title(quantity)} {digits(first[quantity])} and {digits(last[quantity])}"
        for quantity in shown
        if first.get(quantity) is not None and last.get(quantity) is not None
    ]
    return f"With {first['depth']} and with {last['depth']} residual blocks: {'; '.join(parts)}."


def _template() -> jinja2.Template:
    source = files("hf_ncollapse.sweeps").joinpath("templates/report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
