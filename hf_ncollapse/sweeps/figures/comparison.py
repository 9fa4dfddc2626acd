"""Several sweeps in one figure."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from ...figure_style import PALETTE, SERIES, legend_above, log_axis, new_figure, plain_text
from ...quantities import QUANTITIES
from .caption import Caption
from .depth_axes import depth_axis, plot_over_depth

CAPTIONS = {
    "comparison": Caption(
        "Beside other sweeps", "Gap, NC1 and NC2 against depth, mean ± one standard deviation over the seeds."
    )
}


def comparison_figure(sweeps: Mapping[str, pd.DataFrame]) -> Figure:
    """Gap, NC1 and NC2 of several sweeps against depth, for example from scratch and by continuation.

    Args:
        sweeps: finished runs by the name that the legend shows; at most six.

    Raises:
        ValueError: if there are fewer than two sweeps or more than six.
    """
    if not 2 <= len(sweeps) <= len(SERIES):
        raise ValueError(f"sweeps has {len(sweeps)} tables; a comparison takes 2 to {len(SERIES)}")
    together = pd.concat(sweeps.values())
    panels = [name for name in ("gap", "nc1", "nc2") if together[name].notna().any()]
    figure, axes = new_figure(0.6 + 1.35 * len(panels), rows=len(panels), sharex=True)
    for panel, quantity in zip(axes, panels, strict=True):
        for (name, results), (colour, marker) in zip(sweeps.items(), SERIES, strict=False):
            if results[quantity].notna().any():
                plot_over_depth(panel, results, quantity, plain_text(name), PALETTE[colour], marker)
        depth_axis(panel, together["depth"].unique())
        log_axis(panel)
        panel.set_ylabel(QUANTITIES[quantity].label)
        panel.label_outer()
    handles, labels = axes[-1].get_legend_handles_labels()
    legend_above(figure, handles, labels, per_row=2)
    return figure
