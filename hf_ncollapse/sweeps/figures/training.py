"""How training went: objective, gap and NC1 by step, one colour a depth."""

import pandas as pd
from matplotlib.figure import Figure

from ...figure_style import INK, legend_above, log_axis, new_figure
from ...quantities import QUANTITIES
from .caption import Caption
from .depth_axes import depth_colours

CAPTIONS = {
    "training": Caption(
        "Training",
        "Objective, gap and NC1 as each depth trains: mean and range over the seeds. In a continuation a depth starts "
        "where the depth before it ended.",
    )
}


def training_figure(curves: pd.DataFrame) -> Figure:
    """Objective, gap and NC1 against the step of each depth's own run: mean over the seeds, and their range.

    The band is the seeds' range and not a standard deviation, which would reach below J*, where no network is.

    Args:
        curves: from `training_curves`, with at least one row.
    """
    panels = [name for name in ("objective", "gap", "nc1") if curves[name].notna().any()]
    figure, axes = new_figure(0.5 + 1.35 * len(panels), rows=len(panels), sharex=True)
    colours = depth_colours(sorted(curves["depth"].unique()))
    for panel, quantity in zip(axes, panels, strict=True):
        for depth, colour in colours.items():
            by_step = curves[curves["depth"] == depth].groupby("step")[quantity]
            mean = by_step.mean()
            panel.plot(mean.index, mean, color=colour, label=f"$B$ = {depth}" if panel is axes[0] else None)
            panel.fill_between(mean.index, by_step.min(), by_step.max(), color=colour, alpha=0.2, linewidth=0)
        panel.set_ylabel(QUANTITIES[quantity].label)
        if quantity == "objective":
            optimum = curves["gufm_optimum"].dropna().unique()
            if len(optimum) == 1:
                panel.axhline(optimum[0], color=INK, linestyle="--", linewidth=0.9)
                panel.annotate(
                    "$J^{*}$", (1, optimum[0]), xycoords=("axes fraction", "data"), xytext=(4, 0),
                    textcoords="offset points", va="center", annotation_clip=False,
                )  # fmt: skip
        log_axis(panel)
    axes[-1].set_xlabel("optimiser step at its depth")
    legend_above(figure)
    return figure
