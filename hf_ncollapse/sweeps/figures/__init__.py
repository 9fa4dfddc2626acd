"""Figures of a sweep, each as PNG and SVG, for a paper's column, a model card and the report."""

from pathlib import Path

import pandas as pd

from ..network_measurements import NetworkMeasurements
from ..paper_figures import PaperPanel
from ..results import finished_runs
from . import comparison, depth, networks, training
from .caption import Caption
from .style import save, styled

__all__ = ["CAPTIONS", "Caption", "draw_comparison", "draw_figures"]

CAPTIONS = depth.CAPTIONS | training.CAPTIONS | networks.CAPTIONS | comparison.CAPTIONS


def draw_figures(
    folder: Path,
    results: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    measured: NetworkMeasurements | None = None,
    panel: PaperPanel | None = None,
) -> list[str]:
    """Draw what the tables allow into `folder`/figures, and return the figures' names in reading order.

    Args:
        folder: the sweep's folder.
        results: its table.
        curves: from `training_curves`.
        measured: from `measure_networks`.
        panel: of the paper, to be drawn behind the collapse.
    """
    results = finished_runs(results)
    makers = {"collapse": lambda: depth.collapse_figure(results, panel)}
    if results["gap"].notna().any():
        makers["gap"] = lambda: depth.gap_figure(results)
    if results["gap_spread"].notna().any():
        makers["gap_parts"] = lambda: depth.gap_parts_figure(results)
    makers["objective"] = lambda: depth.objective_figure(results)
    makers["penalty"] = lambda: depth.penalty_figure(results)
    makers["accuracy"] = lambda: depth.accuracy_figure(results)
    if curves is not None and len(curves):
        makers["training"] = lambda: training.training_figure(curves)
    if measured is not None and len(measured.layers):
        makers["layers"] = lambda: networks.layers_figure(measured.layers)
    if measured is not None and len(measured.geometry):
        makers["geometry"] = lambda: networks.geometry_figure(measured.geometry)
    for name, make in makers.items():
        with styled():
            save(make(), folder / "figures", name)
    return list(makers)


def draw_comparison(folder: Path, sweeps: dict[str, pd.DataFrame]) -> None:
    """Draw several sweeps' results together, as comparison.png and comparison.svg in `folder`/figures."""
    with styled():
        save(
            comparison.comparison_figure({name: finished_runs(results) for name, results in sweeps.items()}),
            folder / "figures",
            "comparison",
        )
