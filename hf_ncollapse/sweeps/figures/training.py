"""How training went: objective, gap and NC1 by step, one colour a depth."""

import pandas as pd
from matplotlib.figure import Figure

from .style import INK, depth_colours, legend_above, log_axis, new_figure


def training_figure(curves: pd.DataFrame) -> Figure:
    """Objective, gap and NC1 against the step of each depth's own run, mean over the seeds.

    Args:
        curves: from `training_curves`, with at least one row.
    """
    panels = {"objective": "objective $J$", "gap": "gap $J - J^{*}$", "nc1": "NC1"}
    panels = {name: label for name, label in panels.items() if curves[name].notna().any()}
    figure, axes = new_figure(0.5 + 1.35 * len(panels), rows=len(panels), sharex=True)
    colours = depth_colours(sorted(curves["depth"].unique()))
    for panel, (quantity, label) in zip(axes, panels.items(), strict=True):
        for depth, colour in colours.items():
            by_step = curves[curves["depth"] == depth].groupby("step")[quantity]
            mean, deviation = by_step.mean(), by_step.std(ddof=1).fillna(0)
            name = f"$L$ = {depth}" if panel is axes[0] else None
            panel.plot(mean.index, mean, color=colour, label=name)
            low, high = (mean - deviation).clip(lower=mean / 10), mean + deviation
            panel.fill_between(mean.index, low, high, color=colour, alpha=0.2, linewidth=0)
        panel.set_ylabel(label)
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
