"""Axes with depth on them, and what is drawn against it: means, fitted power laws and expected slopes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ...figure_style import MUTED, PALETTE
from ...quantities import QUANTITIES

_GUIDES = ((0, (4, 2)), (0, (4, 1.5, 1, 1.5)))


def depth_colours(depths: Sequence[int]) -> dict[int, tuple[float, float, float, float]]:
    """From green, shallow, to blue, deep; all stand out on white and on black."""
    shades = np.linspace(0.86, 0.3, len(depths)) if len(depths) > 1 else [0.5]
    return {depth: colormaps["viridis"](shade) for depth, shade in zip(depths, shades, strict=True)}


def depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    """A logarithmic axis with the sweep's own depths on it."""
    axes.set_xscale("log")
    low, high = min(depths), max(depths)
    axes.set_xlim(low / 1.15, high * 1.15) if high > low else axes.set_xlim(low / 2, low * 2)
    span = max(np.log(high / low), 1e-9)
    shown: list[int] = []
    for depth in sorted(depths):
        if not shown or np.log(depth / shown[-1]) / span > 0.06:
            shown.append(depth)
    axes.set_xticks(shown, labels=[str(depth) for depth in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(QUANTITIES["depth"].label)


def is_known(results: pd.DataFrame, quantity: str) -> bool:
    """Whether the table has a value of this quantity."""
    return quantity in results and bool(results[quantity].notna().any())


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
    limits = axes.get_ylim()
    drawn: set[float] = set()
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
