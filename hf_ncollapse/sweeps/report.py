"""The report: a sweep's verdicts, tables, figures and configuration in one HTML file that needs nothing else."""

import base64
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ..figure_style import INK
from ..quantities import GAP_PARTS, QUANTITIES, deviation_digits, digits, measures_in_words, title
from .figures import CAPTIONS, draw_figures, sweep_figures, write_figures
from .files import write_atomically, write_json, write_table
from .network_measurements import measure_networks, write_network_measurements
from .paper_figures import beside_the_paper
from .recipe_text import recipe_yaml
from .results import SETTINGS
from .summary import LOSSES, has_complete_optimum, l2_in_words, refinement_in_words
from .sweep_record import SweepRecord, read_sweep

_BY_DEPTH = (
    "train_accuracy", "test_accuracy", "objective", "gufm_optimum", "gap", "gap_times_depth", "nc1", "nc2", "nc3",
)  # fmt: skip
_SPLIT = ("gap", *GAP_PARTS, "nc1", "nc1_bound", "nc3", "nc3_bound")


def finish_sweep(folder: str | Path) -> None:
    """Draw the figures that the results table alone allows, and write `summary.json`; [`write_report`] does the rest.

    Args:
        folder: the sweep's folder.

    Raises:
        FileNotFoundError: if no run ended yet.
        ValueError: if a file is damaged, the message names it, or no run is finished.
    """
    record = read_sweep(folder)
    _write(record, draw_figures(sweep_figures(record.results, panel=record.panel)))


def _write(record: SweepRecord, drawn: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write figures, then the summary, which says by its hash of what table both were made."""
    write_figures(record.folder, drawn)
    write_json(record.folder / "summary.json", {**record.summary, "results_sha256": record.results_sha256})


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Measure what is not measured yet, draw every figure, and write the report.

    Args:
        folder: the sweep's folder, which keeps what was measured and drawn; one that cannot be written stays as it is.
        output: the HTML file; `folder`/report.html by default.

    Returns:
        Where the report is.

    Raises:
        FileNotFoundError: if the folder has no results.
        ValueError: if a file is damaged, the message names it, or no run is finished.
    """
    record = read_sweep(folder)
    notes = []
    try:
        networks = measure_networks(record.folder, record.finished)
    except (OSError, ImportError) as error:
        networks = record.networks
        notes.append(f"The networks were not looked into, because their data could not be loaded: {error}")
    drawn = draw_figures(sweep_figures(record.results, record.curves, networks, record.panel))
    if output is None or os.access(record.folder, os.W_OK):
        write_network_measurements(record.folder, networks)
        if len(record.curves):
            write_table(record.folder / "training_curves.csv", record.curves)
        _write(record, drawn)
    return write_page(record, drawn, record.folder / "report.html" if output is None else output, notes)


def write_page(
    record: SweepRecord,
    drawn: Mapping[str, Mapping[str, bytes]],
    output: str | Path,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report and nothing else.

    Args:
        record: the sweep.
        drawn: its figures, from `draw_figures`.
        output: the HTML file.
        notes: sentences above everything else.

    Returns:
        Where the report is.
    """
    output = Path(output)
    page = _page(record, {name: contents["svg"].decode() for name, contents in drawn.items()}, notes)
    write_atomically(output, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return output


def _page(record: SweepRecord, figures: Mapping[str, str], notes: Sequence[str]) -> str:
    summary, finished, panel = record.summary, record.finished, record.panel
    said = {"is_balanced": has_complete_optimum(finished), "has_panel": panel is not None}
    return page_template("report").render(
        summary=summary,
        title=f"{summary['architecture']} on {summary['dataset']}",
        loss=LOSSES[summary["loss"]],
        l2=l2_in_words(summary),
        measures=measures_in_words(summary["loss"], summary["classifier_bias"]),
        notes=notes,
        seconds=finished["seconds"].sum(),
        slopes=[_slope_row(summary, name) for name in summary["slopes"]],
        refinement=refinement_in_words(summary),
        by_depth=_by_depth_table(summary, _BY_DEPTH),
        split=_by_depth_table(summary, _SPLIT) if finished["gap_spread"].notna().any() else None,
        panel=panel,
        paper=[] if panel is None else beside_the_paper(panel, record.results),
        table=_whole_table(record.results),
        constants={title(name): record.results[name].iloc[0] for name in SETTINGS},
        figures=[
            {**page_figure(name, svg, **said), "alt": f"{CAPTIONS[name].title}. {_in_words(name, summary)}"}
            for name, svg in figures.items()
        ],
        recipe=recipe_yaml(record.configuration) if record.configuration else None,
        threads=summary["environments"][0].get("threads") if summary["environments"] else None,
    )


def _slope_row(summary: dict[str, Any], name: str) -> dict[str, object]:
    """A quantity's slope over all depths and over the deepest, and the one that the theory expects."""
    deepest = summary["deepest_slopes"]
    return {
        "title": title(name),
        "of_all": summary["slopes"][name],
        "deepest": None if deepest is None else deepest[name],
        "expected": summary["expected_slopes"].get(name),
    }


def _by_depth_table(summary: dict[str, Any], quantities: Sequence[str]) -> dict[str, Sequence[object]]:
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


def _whole_table(results: pd.DataFrame) -> dict[str, Sequence[object]]:
    known = [name for name in QUANTITIES if name in results and name not in SETTINGS]
    others = [name for name in results if name not in QUANTITIES and name not in SETTINGS]
    names = [name for name in [*known, *others] if results[name].notna().any()]
    rows = [[digits(row[name]) for name in names] for _, row in results.iterrows()]
    return {"headings": [title(name) for name in names], "rows": rows}


def page_figure(name: str, svg: str, **said: bool) -> dict[str, str]:
    """Title, caption and data of a figure, as the templates show it; `said` as [`Caption.words`] takes it."""
    # Ink follows the reader's colour scheme and the paper behind it is the page's.
    svg = svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    svg = svg.replace("<defs>", f"<defs><style>{_INK_OF_THE_PAGE}</style></defs><defs>", 1)
    caption = CAPTIONS[name]
    data = base64.b64encode(svg.encode()).decode()
    return {"name": name, "title": caption.title, "caption": caption.words(**said), "data": data}


_INK_OF_THE_PAGE = f":root{{color:{INK}}}@media(prefers-color-scheme:dark){{:root{{color:#e6e9ed}}}}"


def _in_words(name: str, summary: dict[str, Any]) -> str:
    """What a reader who does not see a figure should know."""
    first, last = summary["by_depth"][0], summary["by_depth"][-1]
    parts = [
        f"{title(quantity)} {digits(first[quantity])} and {digits(last[quantity])}"
        for quantity in CAPTIONS[name].shown
        if first.get(quantity) is not None and last.get(quantity) is not None
    ]
    return f"With {first['depth']} and with {last['depth']} residual blocks: {'; '.join(parts)}."


def page_template(name: str) -> jinja2.Template:
    """Return a page of `templates`, such as "report"."""

    def source(file: str) -> str:
        return files("hf_ncollapse.sweeps").joinpath("templates", file).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{name}.html.jinja")
