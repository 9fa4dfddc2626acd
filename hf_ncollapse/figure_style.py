"""One look for every figure: colours, markers, type, axes and files."""

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.typing import RcKeyType

# Width of a column of a two-column paper, in inches.
COLUMN_WIDTH = 3.3
INK, MUTED = "#1f2328", "#6e7781"
# Okabe & Ito's colours, which remain apart for colour-blind readers; a quantity has one, and a marker of its own.
PALETTE = {
    "blue": "#0072B2", "vermillion": "#D55E00", "green": "#009E73", "orange": "#E69F00", "sky": "#56B4E9",
    "purple": "#CC79A7",
}  # fmt: skip
# What is compared, in order: a colour and a marker.
SERIES = (("vermillion", "s"), ("blue", "o"), ("green", "^"), ("orange", "D"), ("purple", "v"), ("sky", "P"))
# Ten colours for classes: none is grey, and to red- and green-blind readers they differ as much as Petroff's (2021).
CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#0a7a4b", "#832db6", "#6fd08c", "#e76300", "#00a087", "#b5409a", "#6fdbe0",
)  # fmt: skip
_RC: "dict[RcKeyType, object]" = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "axes.titlesize": 8, "legend.frameon": False, "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.3, "legend.labelspacing": 0.35, "text.color": INK, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.grid.which": "major", "grid.color": MUTED,
    "grid.alpha": 0.25, "grid.linewidth": 0.4, "lines.linewidth": 1.2, "lines.markersize": 3.8, "mathtext.default":
    "it", "figure.facecolor": "white", "savefig.facecolor": "white", "svg.fonttype": "path", "svg.hashsalt": "figure",
}  # fmt: skip
# Of a file's metadata: which would differ from one machine or minute to the next.
_LEFT_OUT = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}


def styled() -> contextlib.AbstractContextManager[None]:
    """A context in which figures are made and saved; nothing outside it changes."""
    return matplotlib.rc_context(_RC)


def new_figure(height: float, rows: int = 1, columns: int = 1, **subplots: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure of one column's width and its axes, always as a flat array."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.03, wspace=0.03)
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout=layout)
    return figure, np.atleast_1d(figure.subplots(rows, columns, **subplots)).ravel()


def encoded(figure: Figure, *formats: str) -> dict[str, bytes]:
    """Return a figure as files' contents, by format: "png" (300 dpi) and "svg", or those named, "pdf" too.

    The same figure gives the same bytes.
    """
    files = {}
    with styled():
        for suffix in formats or ("png", "svg"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=300, metadata={_LEFT_OUT[suffix]: None})
            files[suffix] = buffer.getvalue()
    return files


def legend_above(
    figure: Figure | SubFigure,
    handles: "Sequence[Artist] | None" = None,
    labels: Sequence[str] | None = None,
    per_row: int = 5,
) -> None:
    """A legend over the panels, with its entries spread evenly over as few rows as hold them.

    Args:
        figure: all of whose panels' entries are shown, curves with markers before plain lines, unless these are given:
        handles, labels: as matplotlib's.
        per_row: entries that fit.
    """
    if handles is None or labels is None:
        entries = [entry for axes in figure.axes for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
        handles, labels = zip(*sorted(entries, key=lambda entry: isinstance(entry[0], Line2D)), strict=True)
    rows = -(-len(labels) // per_row)
    columns = -(-len(labels) // rows)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.0)


def log_axis(axes: Axes) -> None:
    """A logarithmic y axis: decades are labelled, and between them as many steps as there is room for.

    It stays linear where nothing is positive, as a penalty whose λ is 0.
    """
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
    if not any((values > 0).any() for values in drawn):
        return
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
