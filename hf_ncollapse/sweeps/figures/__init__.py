"""Figures of a sweep, each as PNG and SVG, for a paper's column, a model card and the report."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ...figure_style import encoded, styled
from ..files import write_atomically
from ..network_measurements import NetworkMeasurements
from ..paper_figures import PaperPanel
from ..results import finished_runs
from . import comparison, depth, networks, training
from .caption import Caption

__all__ = ["CAPTIONS", "Caption", "draw_figures", "sweep_figures", "write_figures"]

CAPTIONS = depth.CAPTIONS | training.CAPTIONS | networks.CAPTIONS | comparison.CAPTIONS


def sweep_figures(
    results: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    measured: NetworkMeasurements | None = None,
    panel: PaperPanel | None = None,
) -> dict[str, Callable[[], Figure]]:
    """Return what the tables allow to be drawn: a function by the figure's name, in reading order.

    Args:
        results: the sweep's table; diverged runs are in no figure.
        curves: from `training_curves`.
        measured: from `measure_networks`.
        panel: of the paper, to be drawn behind the collapse.
    """
    results = finished_runs(results)
    makers: dict[str, Callable[[], Figure]] = {"collapse": partial(depth.collapse_figure, results, panel)}
    if results["gap"].notna().any():
        makers["gap"] = partial(depth.gap_figure, results)
    if results["gap_spread"].notna().any():
        makers["gap_parts"] = partial(depth.gap_parts_figure, results)
    if results["gap"].notna().any() and results["depth"].nunique() > 1:
        makers["rates"] = partial(depth.rates_figure, results)
    makers["objective"] = partial(depth.objective_figure, results)
    makers["penalty"] = partial(depth.penalty_figure, results)
    beside = results if measured is None else measured.beside(results)
    makers["generalization"] = partial(depth.generalization_figure, beside)
    if curves is not None and len(curves):
        makers["training"] = partial(training.training_figure, curves)
    if measured is not None and len(measured.layers):
        makers["layers"] = partial(networks.layers_figure, measured.layers)
    if measured is not None and len(measured.geometry):
        makers["geometry"] = partial(networks.geometry_figure, measured.geometry)
    return makers


def draw_figures(makers: Mapping[str, Callable[[], Figure]]) -> dict[str, dict[str, bytes]]:
    """Draw figures, and return the content of each, "png" and "svg", by its name."""
    drawn = {}
    for name, make in makers.items():
        with styled():
            drawn[name] = encoded(make())
    return drawn


def write_figures(folder: Path, drawn: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write drawn figures into `folder`/figures, each file atomically."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, contents in drawn.items():
        for suffix, content in contents.items():
            path = folder / "figures" / f"{name}.{suffix}"
            write_atomically(path, partial(Path.write_bytes, data=content))
