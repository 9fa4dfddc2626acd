"""Several sweeps in one figure."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from ...figure_style import PALETTE, SERIES, legend_above, log_axis, new_figure, plain_text
from ...quantities import QUANTITIES
from .caption import Caption
from .depth_axes import depth_axis, is_known, plot_over_depth

_PANELS = ("gap", "nc1", "nc2", "test_nc1", "test_accuracy")

CAPTIONS = {
    "comparison": Caption(
        "Beside other sweeps",
        "Gap, NC1 and NC2 against depth, and accuracy and NC1 of held-out samples, of which the theory says nothing: "
        "mean ± one standard deviation over the seeds.",
    )
}


def comparison_figure(sweeps: Mapping[str, pd.DataFrame]) -> Figure:
    """Gap, collapse and held-out samples of several sweeps against depth, for example of several λ.

    Args:
        sweeps: finished runs by the name that the legend shows, at most six, with the columns of
            `NetworkMeasurements.beside` where these are known.

    Raises:
        ValueError: if there are fewer than two sweeps or more than six.
    """
    if not 2 <= len(sweeps) <= len(SERIES):
        raise ValueError(f"sweeps has {len(sweeps)} tables; a comparison takes 2 to {len(SERIES)}")
    together = pd.concat(sweeps.values())
    panels = [name for name in _PANELS if is_known(together, name)]
    figure, axes = new_figure(0.6 + 1.35 * len(panels), rows=len(panels), sharex=True)
    for panel, quantity in zip(axes, panels, strict=True):
        for (name, results), (colour, marker) in zip(sweeps.items(), SERIES, strict=False):
            if is_known(results, quantity):
                plot_over_depth(panel, results, quantity, plain_text(name), PALETTE[colour], marker)
        depth_axis(panel, together["depth"].unique())
        if quantity != "test_accuracy":
            log_axis(panel)
        panel.set_ylabel("held-out accuracy" if quantity == "test_accuracy" else QUANTITIES[quantity].label)
        panel.label_outer()
    handles, labels = axes[-1].get_legend_handles_labels()
    legend_above(figure, handles, labels, per_row=2)
    return figure
