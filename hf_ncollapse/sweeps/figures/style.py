"""One look for every figure: colours, markers, axes and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ..files import write_atomically
from ..quantities import QUANTITIES

# Width of a column of a two-column paper, in inches.
COLUMN_WIDTH = 3.3
INK, MUTED = "#1f2328", "#6e7781"
# Okabe & Ito's colours, which remain apart for colour-blind readers; a quantity has one, and a marker of its own.
PALETTE = {
    "blue": "#0072B2", "vermillion": "#D55E00", "green": "#009E73", "orange": "#E69F00", "sky": "#56B4E9",
    "purple": "#CC79A7",
}  # fmt: skip
SWEEPS = (("vermillion", "s"), ("blue", "o"), ("green", "^"), ("orange", "D"), ("purple", "v"), ("sky", "P"))
_GUIDES = ((0, (4, 2)), (0, (4, 1.5, 1, 1.5)))
# Ten colours made for colour-blind readers (Petroff 2021), for classes.
CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_RC = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "axes.titlesize": 8, "legend.frameon": False, "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.3, "legend.labelspacing": 0.35, "text.color": INK, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.grid.which": "major", "grid.color": MUTED,
    "grid.alpha": 0.25, "grid.linewidth": 0.4, "lines.linewidth": 1.2, "lines.markersize": 3.8, "mathtext.default":
    "it", "figure.facecolor": "white", "savefig.facecolor": "white", "svg.fonttype": "path", "svg.hashsalt": "figure",
}  # fmt: skip


def styled():
    """A context in which figures are made and saved; nothing outside it changes."""
    return matplotlib.rc_context(_RC)


def new_figure(height: float, rows: int = 1, columns: int = 1, **subplots) -> tuple[Figure, np.ndarray]:
    """Return a figure of one column's width and its axes, always as a flat array."""
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, hspace=0.03, wspace=0.03)
    return figure, np.atleast_1d(figure.subplots(rows, columns, **subplots)).ravel()


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.png (300 dpi) and `name`.svg atomically; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with styled():
        for suffix, metadata in (("png", "Software"), ("svg", "Date")):
            write_atomically(
                folder / f"{name}.{suffix}",
                lambda path, suffix=suffix, left_out=metadata: figure.savefig(
                    path, format=suffix, dpi=300, metadata={left_out: None}
                ),
            )


def legend_above(figure: Figure, handles=None, labels=None, per_row: int = 5) -> None:
    """A legend over the panels, with its entries spread evenly over as few rows as hold them.

    Args:
        figure: all of whose panels' entries are shown, curves with markers before plain lines, unless these are given:
        handles, labels: as matplotlib's.
        per_row: entries that fit.
    """
    if handles is None:
        entries = [entry for axes in figure.axes for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
        handles, labels = zip(*sorted(entries, key=lambda entry: isinstance(entry[0], Line2D)), strict=True)
    rows = -(-len(labels) // per_row)
    columns = -(-len(labels) // rows)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.0)


def depth_colours(depths: Sequence[int]) -> dict[int, tuple]:
    """From green, shallow, to blue, deep; all stand out on white and on black."""
    shades = np.linspace(0.86, 0.3, len(depths)) if len(depths) > 1 else [0.5]
    return {depth: colormaps["viridis"](shade) for depth, shade in zip(depths, shades, strict=True)}


def depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    """A logarithmic axis with the sweep's own depths on it."""
    axes.set_xscale("log")
    low, high = min(depths), max(depths)
    axes.set_xlim(low / 1.15, high * 1.15) if high > low else axes.set_xlim(low / 2, low * 2)
    span = max(np.log(high / low), 1e-9)
    shown = []
    for depth in sorted(depths):
        if not shown or np.log(depth / shown[-1]) / span > 0.06:
            shown.append(depth)
    axes.set_xticks(shown, labels=[str(depth) for depth in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(QUANTITIES["depth"].label)


def log_axis(axes: Axes) -> None:
    """A logarithmic y axis: decades are labelled, and between them as many steps as there is room for."""
    axes.set_yscale("log", nonpositive="clip")
    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    if decades < 0.6:
        # Too short for the steps of a decade: round numbers, at distances that are nearly even.
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        steps = (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 3 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_decimals(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def plain_decimals(value: float) -> str:
    """0.0003, not 3e-04; powers of ten only where a decimal would be longer than six characters."""
    if value == 0 or abs(value) >= 1e-4:
        return f"{value:.4g}"
    exponent = int(np.floor(np.log10(abs(value)) + 1e-9))
    factor = value / 10.0**exponent
    return f"$10^{{{exponent}}}$" if np.isclose(factor, 1) else f"${factor:.3g}\\cdot10^{{{exponent}}}$"


def plain_text(name: object) -> str:
    """A name from outside as matplotlib shows it letter by letter: a dollar would begin mathematics."""
    return str(name).replace("$", r"\$")


def plot_quantity(axes: Axes, results: pd.DataFrame, quantity: str, label: str | None = None) -> None:
    """One quantity against depth, in its own colour, marker and words."""
    known = QUANTITIES[quantity]
    plot_over_depth(axes, results, quantity, label or known.label, PALETTE[known.colour], known.marker)


def plot_over_depth(axes: Axes, results: pd.DataFrame, quantity: str, label: str, colour: str, marker: str) -> None:
    """Mean over the seeds against depth, with ± one standard deviation where there are two seeds or more."""
    grouped = results.groupby("depth")[quantity]
    mean, deviation = grouped.mean(), grouped.std(ddof=1).fillna(0)
    # Down to a tenth of the mean, or the bar would end at minus infinity on a logarithmic axis.
    below = np.minimum(deviation, 0.9 * mean.abs())
    has_bars = bool((deviation > 0).any())
    axes.errorbar(
        mean.index, mean, yerr=[below, deviation] if has_bars else None, label=label, color=colour, marker=marker,
        markeredgecolor="none", capsize=1.8, capthick=0.7, elinewidth=0.7,
    )  # fmt: skip


def plot_slope(axes: Axes, results: pd.DataFrame, quantity: str, slope: float | None) -> None:
    """The fitted power law, through the points' centre of gravity on the logarithmic axes."""
    if slope is None:
        return
    logs = np.log(results.dropna(subset=quantity)[["depth", quantity]]).mean()
    depths = np.array([results["depth"].min(), results["depth"].max()], dtype=float)
    line = np.exp(logs[quantity] + slope * (np.log(depths) - logs["depth"]))
    colour = PALETTE[QUANTITIES[quantity].colour]
    axes.plot(depths, line, color=colour, linestyle=(0, (1, 1.5)), linewidth=0.9, zorder=1)


def plot_guides(axes: Axes, results: pd.DataFrame, slopes: Mapping[str, float]) -> None:
    """The slopes that the theory expects, one grey line a slope from the first quantity that has it, inside the axes.

    Call it last: a steep line would make room for itself.
    """
    limits, drawn = axes.get_ylim(), set()
    for quantity, slope in slopes.items():
        means = results.groupby("depth")[quantity].mean().dropna()
        means = means[means > 0]
        if slope in drawn or len(means) < 2:
            continue
        depths = np.array([means.index[0], means.index[-1]], dtype=float)
        axes.plot(
            depths, means.iloc[0] * (depths / depths[0]) ** slope, color=MUTED, linestyle=_GUIDES[len(drawn)],
            linewidth=0.8, zorder=0.5, label=f"slope {slope:g}".replace("-", "−"),
        )  # fmt: skip
        drawn.add(slope)
    axes.set_ylim(limits)
