"""Collapse against depth, one line a measure."""

import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from .collapse_report import CollapseReport

# Okabe and Ito's colours, which colour-blind readers can tell apart, with a marker each for print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_TITLES = {
    "nc1": "NC1",
    "nc1_pinv": "NC1, pseudo-inverse",
    "nc1_cdnv": "NC1, CDNV",
    "nc2": "NC2, classifier",
    "nc2_means": "NC2, class means",
    "nc3": "NC3",
}


def draw_layers(report: CollapseReport, path: Path) -> None:
    """Write the figure of every measure that has a positive value, on a logarithmic axis."""
    names = [layer.layer for layer in report.layers]
    figure = Figure(figsize=(max(4.2, 0.42 * len(names) + 2.4), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, measure in enumerate(report.measures):
        values = [layer.values.get(measure, math.nan) for layer in report.layers]
        values = [value if value > 0 and math.isfinite(value) else math.nan for value in values]
        if all(math.isnan(value) for value in values):
            continue
        axes.plot(
            range(len(names)),
            values,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4.5,
            linewidth=1.4,
            label=_TITLES.get(measure, measure),
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    few = len(names) <= 4
    axes.set_xticks(range(len(names)), _short(names), rotation=0 if few else 35, ha="center" if few else "right")
    axes.set_xlabel("layer")
    axes.set_ylabel("distance from collapse")
    details = report.layers[-1].details
    axes.set_title(
        f"{report.model}: {details['num_samples']:,} samples, {details['num_classes']:,} classes", fontsize=9
    )
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=200)


def _short(names: list[str]) -> list[str]:
    """The end of each name: "encoder.layer.3" becomes "layer.3"."""
    return [".".join(name.split(".")[-2:]) for name in names]
