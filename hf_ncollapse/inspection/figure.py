"""Collapse through a network, one line a measure."""

import numpy as np
from matplotlib.figure import Figure

from ..figure_style import PALETTE, legend_above, log_axis, plain_text, styled
from ..quantities import QUANTITIES
from .collapse_report import SEPARATING, CollapseReport


def report_figure(report: CollapseReport) -> Figure:
    """Draw every measure that has a positive value against the layers, on a logarithmic axis."""
    with styled():
        names = [layer.layer for layer in report.layers]
        figure = Figure(figsize=(max(4.2, 0.42 * len(names) + 2.4), 3.2), layout="constrained")
        axes = figure.add_subplot()
        for measure in report.measures:
            values = np.array([layer.values.get(measure) for layer in report.layers], dtype=float)
            values[~(np.isfinite(values) & (values > 0))] = np.nan
            if np.isnan(values).all():
                continue
            known = QUANTITIES[measure]
            axes.plot(range(len(names)), values, color=PALETTE[known.colour], marker=known.marker, label=known.title)
        law = report.separation_law
        if law is not None:
            colour = PALETTE[QUANTITIES[SEPARATING].colour]
            label = f"separation law: $\\rho$ = {law.rate:.3g}, $R^2$ = {law.r_squared:.3f}"
            axes.plot(range(len(law.fitted)), law.fitted, color=colour, linestyle="--", label=label)
        log_axis(axes)
        few = len(names) <= 4
        shown = [plain_text(name) for name in _short(names)]
        axes.set_xticks(range(len(names)), shown, rotation=0 if few else 35, ha="center" if few else "right")
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xlabel("layer")
        axes.set_ylabel("distance from collapse")
        details = report.layers[-1].details
        counted = f"{details['num_samples']:,} samples, {details['num_classes']:,} classes"
        axes.set_title(f"{plain_text(report.model)}: {counted}")
        if axes.lines:
            legend_above(figure)
    return figure


def _short(names: list[str]) -> list[str]:
    """The end of each name: "encoder.layer.3" becomes "layer.3"."""
    return [".".join(name.split(".")[-2:]) for name in names]
