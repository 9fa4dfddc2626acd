"""Figures of a sweep, each as PNG and SVG, for a paper's column, a model card and the report."""

from pathlib import Path

import pandas as pd

from ..network_measurements import NetworkMeasurements
from .comparison import comparison_figure
from .depth import collapse_figure, gap_figure, objective_figure, penalty_figure
from .networks import geometry_figure, layers_figure
from .style import save, styled
from .training import training_figure

__all__ = ["draw_comparison", "draw_figures"]


def draw_figures(
    folder: Path,
    results: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    networks: NetworkMeasurements | None = None,
) -> list[str]:
    """Draw what the tables allow into `folder`/figures, and return the figures' names in reading order.

    Args:
        folder: the sweep's folder.
        results: its table.
        curves: from `training_curves`.
        networks: from `measure_networks`.
    """
    makers = {"collapse": lambda: collapse_figure(results)}
    if results["gap"].notna().any():
        makers["gap"] = lambda: gap_figure(results)
    makers["objective"] = lambda: objective_figure(results)
    makers["penalty"] = lambda: penalty_figure(results)
    if curves is not None and len(curves):
        makers["training"] = lambda: training_figure(curves)
    if networks is not None and len(networks.layers):
        makers["layers"] = lambda: layers_figure(networks.layers)
    if networks is not None and len(networks.geometry):
        makers["geometry"] = lambda: geometry_figure(networks.geometry)
    for name, make in makers.items():
        with styled():
            save(make(), folder / "figures", name)
    return list(makers)


def draw_comparison(folder: Path, sweeps: dict[str, pd.DataFrame]) -> None:
    """Draw several sweeps' results together, as comparison.png and comparison.svg in `folder`/figures."""
    with styled():
        save(comparison_figure(sweeps), folder / "figures", "comparison")
