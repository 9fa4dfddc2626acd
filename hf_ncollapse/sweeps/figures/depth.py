"""What depth does: collapse, objective, gap and penalty against the number of blocks."""

import pandas as pd
from matplotlib.figure import Figure

from ..summary import slope_in_depth
from .style import INK, SERIES, depth_axis, legend_above, log_axis, new_figure, plot_over_depth, plot_slope

_PENALTIES = ("regularization", "regularization_classifier", "regularization_body", "regularization_embedding")


def collapse_figure(results: pd.DataFrame) -> Figure:
    """NC1, NC2 and NC3 against depth, both logarithmic, with fitted slopes (the paper's Figure 1)."""
    figure, (axes,) = new_figure(2.5)
    _power_laws(axes, results, ("nc1", "nc2", "nc3"))
    axes.set_ylabel("collapse (0 is complete)")
    return figure


def gap_figure(results: pd.DataFrame) -> Figure:
    """The certified distance J − J* from the global optimum against depth, both logarithmic."""
    figure, (axes,) = new_figure(2.3)
    _power_laws(axes, results, ("gap",))
    axes.set_ylabel("gap to the optimum $J - J^{*}$")
    return figure


def penalty_figure(results: pd.DataFrame) -> Figure:
    """The penalty and its three parts against depth, both logarithmic (the paper's Figure 3 shows the whole)."""
    figure, (axes,) = new_figure(2.7)
    for quantity in _PENALTIES:
        label, colour, marker = SERIES[quantity]
        plot_over_depth(axes, results, quantity, label, colour, marker)
    depth_axis(axes, results["depth"].unique())
    log_axis(axes)
    axes.set_ylabel("penalty")
    legend_above(figure)
    return figure


def objective_figure(results: pd.DataFrame) -> Figure:
    """Objective, fit and penalty against depth, with the global optimum J* below the objective."""
    figure, (axes,) = new_figure(2.6)
    for quantity in ("objective", "regularization", "fit"):
        label, colour, marker = SERIES[quantity]
        plot_over_depth(axes, results, quantity, label, colour, marker)
    optimum = results.groupby("depth")["gufm_optimum"].mean().dropna()
    depth_axis(axes, results["depth"].unique())
    if len(optimum):
        if len(optimum) == 1:
            axes.axhline(optimum.iloc[0], color=INK, linestyle="--", linewidth=1, label="optimum $J^{*}$")
        else:
            axes.plot(optimum.index, optimum, color=INK, linestyle="--", linewidth=1, label="optimum $J^{*}$")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("objective and its parts")
    legend_above(figure)
    return figure


def _power_laws(axes, results: pd.DataFrame, quantities: tuple[str, ...]) -> None:
    for quantity in quantities:
        label, colour, marker = SERIES[quantity]
        slope = slope_in_depth(results, quantity).slope
        plot_slope(axes, results, quantity, slope, colour)
        fitted = "" if slope is None else f"  $\\propto L^{{{slope:.2f}}}$"
        plot_over_depth(axes, results, quantity, f"{label}{fitted}", colour, marker)
    depth_axis(axes, results["depth"].unique())
    log_axis(axes)
    legend_above(axes.figure)
