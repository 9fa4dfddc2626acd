"""What the figures of arXiv:2505.15239 show, to hold a sweep's own numbers against."""

import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from ..quantities import COLLAPSE, title
from .results import finished_runs


@dataclass(frozen=True)
class PaperPanel:
    """One panel of the paper's figures, as read from its axes, to the nearest tick.

    Args:
        key: how a recipe names it, as `paper_panel`.
        title: the figure and what it is about.
        depths: the paper's L of its shallowest and its deepest network.
        log10: log10 of NC1, NC2 and NC3, each at the shallowest and at the deepest network; of a flat panel, the range
            of its figure.
        is_flat: the paper says that the metrics do not go with depth.
    """

    key: str
    title: str
    depths: tuple[int, int]
    log10: dict[str, tuple[float, float]]
    is_flat: bool = False

    def blocks(self, architecture: str) -> tuple[int, int]:
        """The numbers of residual blocks of its two networks: a ResNet's L counts the classifier too."""
        counted = 1 if architecture.startswith("L-RN") else 0
        return self.depths[0] - counted, self.depths[1] - counted


def paper_panels() -> dict[str, PaperPanel]:
    """Return the panels by key."""
    content = yaml.safe_load(files("hf_ncollapse.sweeps").joinpath("paper_figures.yaml").read_text(encoding="utf-8"))
    return {
        key: PaperPanel(
            key=key,
            title=panel["title"],
            depths=tuple(panel["depths"]),
            log10={name: tuple(panel[name]) for name in COLLAPSE},
            is_flat=panel.get("flat", False),
        )
        for key, panel in content.items()
    }


def paper_panel(configuration: dict[str, dict[str, Any]]) -> PaperPanel | None:
    """Return the panel that a sweep's `sweep.json` names, if it names one.

    Raises:
        ValueError: if there is no panel of that name.
    """
    key = configuration.get("sweep", {}).get("paper_panel")
    if key is None:
        return None
    panels = paper_panels()
    if key not in panels:
        raise ValueError(f"paper_panel is {key!r}; it takes one of {', '.join(panels)}")
    return panels[key]


def beside_the_paper(panel: PaperPanel, results: pd.DataFrame) -> list[tuple[str, str, str, str, str]]:
    """Return the rows "log10 NC1, the paper's shallowest and deepest, ours", ours the means over the seeds."""
    finished = finished_runs(results)
    rows = []
    for name in COLLAPSE:
        means = finished.groupby("depth")[name].mean()
        first, last = (_decimal(value) for value in panel.log10[name])
        if panel.is_flat:
            first = last = f"flat, from {first} to {last}"
        shallowest, deepest = (_decimal(math.log10(value), 2) for value in (means.iloc[0], means.iloc[-1]))
        rows.append((f"log10 {title(name)}", first, last, shallowest, deepest))
    return rows


def _decimal(value: float, places: int = 1) -> str:
    return f"{value:.{places}f}".replace("-", "−")
