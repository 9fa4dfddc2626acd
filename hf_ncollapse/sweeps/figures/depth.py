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
from .depth_axes import depth_axis, is_known, plot_guides, plot_over_depth, plot_quantity, plot_slope

_PENALTIES = ("regularization", "regularization_classifier", "regularization_body")
# What is shown of the training samples, and of the held-out ones.
_GENERALIZATION = {"accuracy": ("train_accuracy", "test_accuracy"), "NC1": ("nc1", "test_nc1"), "gap": ("gap",)}

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
    "rates": Caption(
        "Are the rates reached?",
        "Gap and NC1 times B, and NC2 times the root of B, each divided by its value in the shallowest network: flat "
        "where a quantity falls at the rate that the theory expects of the optimum, up to logarithms, rising where it "
        "falls more slowly. Mean ± one standard deviation over the seeds.",
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
    "generalization": Caption(
        "Held-out samples",
        "Accuracy and NC1 of the held-out samples beside those of the training samples, and the gap: mean ± one "
        "standard deviation over the seeds. NC1 of held-out samples is about their own class means. The theory is "
        "about the training set and promises nothing of other samples.",
        ("train_accuracy", "test_accuracy", "nc1", "test_nc1", "gap"),
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


def rates_figure(results: pd.DataFrame) -> Figure:
    """Gap · B, NC1 · B and NC2 · √B against depth, in units of the shallowest networks', both axes logarithmic.

    Args:
        results: finished runs of at least two depths.
    """
    figure, (axes,) = new_figure(2.5)
    depths = results["depth"]
    # The gap and NC1 have one colour elsewhere.
    shown = (("gap", "gap $\\cdot\\,B$", "purple", "v"), ("nc1", "NC1 $\\cdot\\,B$", "blue", "o"),
             ("nc2", "NC2 $\\cdot\\,\\sqrt{B}$", "vermillion", "s"))  # fmt: skip
    for quantity, label, colour, marker in shown:
        compensated = results[quantity] * depths ** -expected_slopes()[quantity]
        scaled = results.assign(**{quantity: compensated / compensated[depths == depths.min()].mean()})
        plot_over_depth(axes, scaled, quantity, label, PALETTE[colour], marker)
    depth_axis(axes, depths.unique())
    log_axis(axes)
    axes.set_ylabel("relative to the shallowest")
    legend_above(figure)
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


def generalization_figure(results: pd.DataFrame) -> Figure:
    """Accuracy and NC1 of the training and the held-out samples, and the gap, against depth.

    Args:
        results: finished runs, with the columns of `NetworkMeasurements.beside` where these are known.
    """
    known = [
        (name, shown)
        for name, quantities in _GENERALIZATION.items()
        if (shown := [quantity for quantity in quantities if is_known(results, quantity)])
    ]
    figure, axes = new_figure(0.6 + 1.35 * len(known), rows=len(known), sharex=True)
    for panel, (name, shown) in zip(axes, known, strict=True):
        for quantity in shown:
            whose = "held-out" if quantity.startswith("test_") else "training"
            colour, marker = {"training": ("blue", "o"), "held-out": ("vermillion", "s")}[whose]
            plot_over_depth(panel, results, quantity, whose, PALETTE[colour], marker)
        depth_axis(panel, results["depth"].unique())
        if name != "accuracy":
            log_axis(panel)
        panel.set_ylabel(QUANTITIES["gap"].label if name == "gap" else name)
        panel.label_outer()
    legend_above(figure, *axes[0].get_legend_handles_labels())
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
