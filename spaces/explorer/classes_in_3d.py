"""The classes' geometry in 3-D, which a mouse or a finger turns: a figure of plotly.js, which comes with Gradio."""

import html
import json

import numpy as np
import pandas as pd
from gradio.components.plot import PlotData

from hf_ncollapse.figure_style import CLASSES, MUTED
from hf_ncollapse.sweeps.network_measurements import etf_corners

CAPTION = (
    "The same points in three of the simplex ETF's dimensions: features (dots), class means (circles) and classifier "
    "rows (crosses). From above it is the polygon of the other tab. The third direction bends it to a saddle, dashed, "
    "for four classes to a regular tetrahedron. Two classes have one such dimension and three have two; the rest are "
    "the directions of their features' largest spread. Drag to turn it."
)
_SYMBOLS = {"feature": ("circle", 2.5, 0.6), "class_mean": ("circle", 7, 1.0), "classifier": ("cross", 4, 1.0)}
_NOTHING = "rgba(0,0,0,0)"
# More names than this would hide the points.
_MOST_NAMES = 20


def classes_in_3d(geometry: pd.DataFrame) -> PlotData:
    """Return the figure, which has a slider for the depths of its own, so that one's point of view stays.

    Args:
        geometry: from `measure_networks`, with at least one row, and `z` in all.
    """
    depths = sorted(int(value) for value in geometry["depth"].unique())
    traces = [_outline(geometry["label"].nunique())]
    for depth in depths:
        of_depth = geometry[geometry["depth"] == depth]
        traces += [_points(of_depth, kind, depth == depths[0]) for kind in _SYMBOLS]
    steps = []
    for depth in depths:
        visible = [True, *np.repeat([depth == other for other in depths], len(_SYMBOLS)).tolist()]
        steps.append({"label": str(depth), "method": "restyle", "args": [{"visible": visible}]})
    # The same scale for every depth, or the classes would not be seen to draw together.
    reach = max(1.15, 1.03 * geometry[["x", "y", "z"]].abs().max(axis=None))
    axis = {"visible": False, "range": [-reach, reach]}
    layout = {
        "height": 520,
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "paper_bgcolor": _NOTHING,
        "font": {"color": MUTED},
        "showlegend": False,
        "scene": {
            "xaxis": axis,
            "yaxis": axis,
            "zaxis": axis,
            "aspectmode": "cube",
            "bgcolor": _NOTHING,
            "camera": {"eye": {"x": 0.75, "y": -0.95, "z": 0.75}},
        },
        "sliders": [
            {
                "steps": steps,
                "currentvalue": {"prefix": "residual blocks: "},
                "pad": {"l": 16, "r": 16, "b": 16},
                **dict.fromkeys(("bgcolor", "bordercolor", "tickcolor"), MUTED),
            }
        ],
    }
    figure = {"data": traces, "layout": layout, "config": {"scrollZoom": False, "displayModeBar": False}}
    return PlotData(type="plotly", plot=json.dumps(figure))


def _outline(num_classes: int) -> dict[str, object]:
    """The classes of an exact simplex ETF, joined in their order."""
    corners = etf_corners(num_classes)
    x, y, z = np.concatenate([corners, corners[:1]]).T.tolist()
    line = {"color": MUTED, "width": 2, "dash": "dash"}
    return {"type": "scatter3d", "mode": "lines", "x": x, "y": y, "z": z, "line": line, "hoverinfo": "skip"}


def _points(geometry: pd.DataFrame, kind: str, visible: bool) -> dict[str, object]:
    points = geometry[geometry["kind"] == kind]
    symbol, size, opacity = _SYMBOLS[kind]
    names = points["label_name"].astype(str)
    colours = [CLASSES[int(label) % len(CLASSES)] for label in points["label"]]
    marker = {"symbol": symbol, "size": size, "opacity": opacity, "color": MUTED if kind == "classifier" else colours}
    if kind == "class_mean":
        marker["line"] = {"color": MUTED, "width": 2}
    return {
        "type": "scatter3d",
        "mode": "markers+text" if kind == "class_mean" and len(names) <= _MOST_NAMES else "markers",
        **{axis: points[axis].tolist() for axis in "xyz"},
        "marker": marker,
        # Plotly reads tags in both, and entities in the second only: a name from outside may look like one.
        "text": [name.replace("<", "<\u200b") for name in names],
        "textfont": {"color": MUTED},
        "hovertext": [f"{html.escape(name)}: {kind.replace('_', ' ')}" for name in names],
        "hoverinfo": "text",
        "visible": visible,
    }
