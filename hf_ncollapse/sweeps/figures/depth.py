"""What depth does: collapse, objective, gap and its parts, penalty and accuracy against the number of blocks."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...figure_style import INK, PALETTE, legend_above, log_axis, new_figure
from ...quantities import COLLAPSE, GAP_PARTS, QUANTITIES
from ...theory import expected_slopes
from ..paper_figures import PaperPanel
from ..summary import slope_in_depth
from .caption import Caption
from .depth_axes import depth_axis, plot_guides, plot_quantity, plot_slope

_PENALTIES = ("regularization", "regularization_classifier", "regularization_body")
_ACCURACIES = ("train_accuracy", "test_accuracy")

CAPTIONS = {
    "collapse": Caption(
        "Collapse against depth",
        "NC1, NC2 and NC3 of the training set against the number of residual blocks: mean ± one standard deviation "
        "over the seeds, the fitted power laws dotted, the slopes that the theory expects of the optimum in grey "
        "(−1 for NC1 and NC3, −1/2 for NC2).",
        COLLAPSE,
        of_balanced="Zero is complete collapse.",
        of_panel="The wide pale lines are the range of the paper's panel, read from its axes.",
    ),
    "gap": Caption(
        "Certified distance from the global optimum",
        "J − J* bounds from above how far a network is from the global optimum of its own objective: mean ± one "
        "standard deviation over the seeds, the fitted power law dotted, the rate of the optimum itself, slope −1, "
        "in grey.",
    ),
    "gap_parts": Caption(
        "Where the gap is lost",
        "The gap is exactly the sum of four parts, none of them negative: the blocks' penalty, how far the outputs "
        "are from the optimum's (KL divergence, or half the squared distance for MSE), how far the classifier is from "
        "the one that fits these features, and the features' spread within the classes and off the frame. Mean ± one "
        "standard deviation over the seeds.",
        GAP_PARTS,
    ),
    "objective": Caption(
        "Objective and its parts",
        "The objective J is the fit plus the penalty; no network of this family can go below J*, the dashed line.",
        ("objective", "fit", "regularization", "gufm_optimum"),
    ),
    "penalty": Caption(
        "Penalty alone",
        "The penalty and its two parts, (λ/2)Σ‖W_l‖² of the blocks and (λ_L/2)‖W_L‖² of the classifier. The theory "
        "speaks of the blocks'.",
        _PENALTIES,
    ),
    "accuracy": Caption(
        "Accuracy",
        "Accuracy on the training and on the held-out samples: mean ± one standard deviation over the seeds. The "
        "theory is about the training set and promises nothing of other samples.",
        _ACCURACIES,
    ),
}


def collapse_figure(results: pd.DataFrame, panel: PaperPanel | None = None) -> Figure:
    """NC1, NC2 and NC3 against depth, both logarithmic, with fitted and expected slopes (the paper's Figure 1).

    Args:
        results: finished runs.
        panel: of the paper, whose range at its shallowest and deepest network is drawn behind the curves.
    """
    figure, (axes,) = new_figure(2.9)
    if panel is not None:
        blocks = panel.blocks(results["architecture"].iloc[0])
        _paper_range(axes, panel, blocks)
    _power_laws(axes, results, COLLAPSE)
    if panel is not None:
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, blocks[0] / 1.15), max(high, blocks[1] * 1.15))
    axes.set_ylabel("NC1, NC2, NC3")
    return figure


def gap_figure(results: pd.DataFrame) -> Figure:
    """The certified distance J − J* from the global optimum against depth, both logarithmic."""
    figure, (axes,) = new_figure(2.3)
    _power_laws(axes, results, ("gap",))
    axes.set_ylabel(QUANTITIES["gap"].label)
    return figure


def gap_parts_figure(results: pd.DataFrame) -> Figure:
    """The four parts that the gap splits into, exactly, and the gap itself, both axes logarithmic."""
    figure, (axes,) = new_figure(2.7)
    for quantity in ("gap", *GAP_PARTS):
        plot_quantity(axes, results, quantity)
    depth_axis(axes, results["depth"].unique())
    log_axis(axes)
    axes.set_ylabel("gap and its parts")
    legend_above(figure, per_row=3)
    return figure


def penalty_figure(results: pd.DataFrame) -> Figure:
    """The penalty and its two parts against depth, both logarithmic (the paper's Figure 3 shows the whole)."""
    figure, (axes,) = new_figure(2.5)
    for quantity in _PENALTIES:
        plot_quantity(axes, results, quantity)
    depth_axis(axes, results["depth"].unique())
    log_axis(axes)
    axes.set_ylabel("penalty")
    legend_above(figure)
    return figure


def objective_figure(results: pd.DataFrame) -> Figure:
    """Objective, fit and penalty against depth, with the global optimum J* below the objective."""
    figure, (axes,) = new_figure(2.6)
    for quantity in ("objective", "regularization", "fit"):
        plot_quantity(axes, results, quantity)
    optimum = results.groupby("depth")["gufm_optimum"].mean().dropna()
    depth_axis(axes, results["depth"].unique())
    if len(optimum):
        line = {"color": INK, "linestyle": "--", "linewidth": 1, "label": QUANTITIES["gufm_optimum"].label}
        axes.axhline(optimum.iloc[0], **line) if len(optimum) == 1 else axes.plot(optimum.index, optimum, **line)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("objective and its parts")
    legend_above(figure)
    return figure


def accuracy_figure(results: pd.DataFrame) -> Figure:
    """Accuracy on the training and on the held-out samples against depth."""
    figure, (axes,) = new_figure(2.2)
    for quantity in _ACCURACIES:
        if results[quantity].notna().any():
            plot_quantity(axes, results, quantity)
    depth_axis(axes, results["depth"].unique())
    axes.set_ylabel("accuracy")
    legend_above(figure)
    return figure


def _power_laws(axes: Axes, results: pd.DataFrame, quantities: tuple[str, ...]) -> None:
    for quantity in quantities:
        slope = slope_in_depth(results, quantity).slope
        plot_slope(axes, results, quantity, slope)
        fitted = "" if slope is None else f"  $\\propto B^{{{slope:.2f}}}$"
        plot_quantity(axes, results, quantity, f"{QUANTITIES[quantity].label}{fitted}")
    depth_axis(axes, results["depth"].unique())
    log_axis(axes)
    expected = expected_slopes()
    plot_guides(axes, results, {quantity: expected[quantity] for quantity in quantities})
    legend_above(axes.figure, per_row=3)


def _paper_range(axes: Axes, panel: PaperPanel, blocks: tuple[int, int]) -> None:
    """Each quantity's way from the paper's shallowest to its deepest network, or its figure's range where flat."""
    for quantity, (first, last) in panel.log10.items():
        known, ends = QUANTITIES[quantity], (10**first, 10**last)
        colour = PALETTE[known.colour]
        if panel.is_flat:
            axes.fill_between(blocks, *ends, color=colour, alpha=0.08, linewidth=0, zorder=0)
        else:
            axes.plot(blocks, ends, color=colour, alpha=0.22, linewidth=5, zorder=0)
            axes.plot(
                blocks, ends, color=colour, linestyle="none", marker=known.marker, markerfacecolor="none",
                markersize=5.5, markeredgewidth=0.7, zorder=0.4,
            )  # fmt: skip
    axes.plot([], [], color=INK, alpha=0.22, linewidth=5, label="the paper")
