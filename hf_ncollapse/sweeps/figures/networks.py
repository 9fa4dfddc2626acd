"""Inside the networks: collapse layer by layer, and the classes seen from the ETF's plane."""

from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ...figure_style import CLASSES, INK, MUTED, legend_above, log_axis, new_figure, plain_text
from .caption import Caption
from .depth_axes import depth_colours

# More names than this do not fit under a figure.
_MOST_NAMES = 20


CAPTIONS = {
    "layers": Caption(
        "Collapse through the network",
        "NC1 on the training set of the normalised stream after the embedding and after every block: what the "
        "classifier would see if the network ended there. The last point is the features' own NC1.",
        ("nc1",),
    ),
    "geometry": Caption(
        "The classes' geometry",
        "Some training samples' features (dots), class means (circles) and classifier rows (crosses) of the first "
        "seed's shallowest and deepest network, about the global mean and scaled by the means' mean norm. The plane "
        "is the one in which the simplex ETF nearest to the classifier is a regular polygon. Two classes have a line, "
        "and their largest spread across it.",
        of_balanced="At complete collapse every feature of a class sits at its corner.",
    ),
}


def layers_figure(layers: pd.DataFrame) -> Figure:
    """NC1 after every block of every depth, mean over the seeds, against the share of the network passed.

    Args:
        layers: from `measure_networks`, with at least one row.
    """
    figure, (axes,) = new_figure(2.6)
    for depth, colour in depth_colours(sorted(layers["depth"].unique())).items():
        by_layer = layers[layers["depth"] == depth].groupby("layer")["nc1"]
        mean, deviation = by_layer.mean(), by_layer.std(ddof=1).fillna(0)
        position = mean.index / depth
        axes.plot(
            position, mean, color=colour, label=f"$B$ = {depth}", marker="o", markersize=2.2, markeredgecolor="none"
        )
        axes.fill_between(
            position, (mean - deviation).clip(lower=mean / 10), mean + deviation, color=colour, alpha=0.2, linewidth=0
        )
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("blocks passed $l / B$ (0: embedding, 1: features)")
    axes.set_ylabel("NC1 of the normalised stream")
    log_axis(axes)
    legend_above(figure)
    return figure


def geometry_figure(geometry: pd.DataFrame) -> Figure:
    """Features and class means of the shallowest and the deepest network in the plane of the simplex ETF.

    Args:
        geometry: from `measure_networks`, with at least one row.
    """
    depths = sorted(geometry["depth"].unique())
    shown = depths if len(depths) == 1 else [depths[0], depths[-1]]
    names = geometry[geometry["kind"] == "class_mean"].drop_duplicates("label").set_index("label")["label_name"]
    has_names = len(names) <= _MOST_NAMES
    columns = 5 if names.astype(str).str.len().max() <= 8 else 4
    rows_of_names = -(-len(names) // columns) if has_names else 0
    figure, axes = new_figure(1.9 + 0.16 * rows_of_names, columns=len(shown), sharex=True, sharey=True)
    # The panels keep their aspect, which the layout does not see: a title needs room of its own above them.
    cast(ConstrainedLayoutEngine, figure.get_layout_engine()).set(rect=(0, 0, 1, 0.93))
    for panel, depth in zip(axes, shown, strict=True):
        _network(panel, geometry[geometry["depth"] == depth], len(names))
        panel.set_title(f"{depth} residual block{'s' if depth > 1 else ''}")
    if has_names:
        handles = [
            Line2D([], [], linestyle="none", marker="o", color=_colour(label), markeredgecolor="none")
            for label in names.index
        ]
        labels = [plain_text(name) for name in names]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=0.8, handletextpad=0.1)
    return figure


def _network(panel: Axes, points: pd.DataFrame, num_classes: int) -> None:
    angles = 2 * np.pi * np.arange(num_classes) / num_classes
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = np.concatenate([corners, corners[:1]])
    panel.plot(outline[:, 0], outline[:, 1], color=MUTED, linewidth=0.6, linestyle="--", zorder=1)
    features, means = points[points["kind"] == "feature"], points[points["kind"] == "class_mean"]
    colours = [_colour(label) for label in features["label"]]
    panel.scatter(features["x"], features["y"], s=4, c=colours, alpha=0.6, linewidths=0, zorder=2)
    colours = [_colour(label) for label in means["label"]]
    panel.scatter(means["x"], means["y"], s=20, c=colours, edgecolors=INK, linewidths=0.6, zorder=3)
    rows = points[points["kind"] == "classifier"]
    panel.scatter(rows["x"], rows["y"], s=14, c=INK, marker="x", linewidths=0.6, zorder=4)
    reach = max(1.15, 1.03 * points[["x", "y"]].abs().max().max(), panel.get_xlim()[1])
    panel.set(xlim=(-reach, reach), ylim=(-reach, reach))
    panel.set_aspect("equal")
    panel.grid(False)
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def _colour(label: int) -> str:
    return CLASSES[int(label) % len(CLASSES)]
