"""What a measurement found: one row a layer, as a table, a file or a figure."""

import csv
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..neural_collapse.class_statistics import ClassStatistics
from ..neural_collapse.registry import MEASURES
from .separation_law import SeparationLaw, separation_law

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FEATURES = "features"
SEPARATING = "nc1_pinv"


@dataclass(frozen=True)
class LayerCollapse:
    """The collapse of one layer.

    Args:
        layer: the module's name; "features" is the classifier's input, or an encoder's output.
        pooling: how the module's output became one feature a sample.
        width: d.
        values: the measures, by name.
        details: everything else that `neural_collapse.compute.compute` says: counts, ranks, conventions.
        left_out: measure to reason, for those without a value.
    """

    layer: str
    pooling: str
    width: int
    values: dict[str, float]
    details: dict[str, Any]
    left_out: dict[str, str]


@dataclass(frozen=True)
class CollapseReport:
    """The collapse of a model on one set, layer by layer.

    Args:
        model: its class.
        head: the classifier that was found, in a sentence.
        layers: in order of depth; the last is the features'.
        statistics: the class statistics of every layer, to measure other samples about their means.
        num_rare_classes: classes with samples, but fewer than `min_class_count`.
    """

    model: str
    head: str
    layers: list[LayerCollapse]
    statistics: dict[str, ClassStatistics] = field(repr=False)
    num_rare_classes: int = 0

    def __getitem__(self, measure: str) -> float:
        """The features' value of a measure."""
        values = self.layers[-1].values
        if measure not in values:
            reason = self.layers[-1].left_out.get(measure, f"measured: {', '.join(values)}")
            raise KeyError(f"{measure} has no value: {reason}")
        return values[measure]

    @property
    def measures(self) -> list[str]:
        """Every measure that some layer has."""
        found = {name for layer in self.layers for name in layer.values}
        return [name for name in MEASURES if name in found]

    @property
    def separation_law(self) -> SeparationLaw | None:
        """The law of data separation over the layers before the features; `None` below 3 with `nc1_pinv`."""
        return separation_law([layer.values.get(SEPARATING) for layer in self.layers if layer.layer != FEATURES])

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a layer; a measure that a layer does not have is None."""
        return [
            {
                "layer": layer.layer,
                "pooling": layer.pooling,
                "width": layer.width,
                "num_samples": layer.details["num_samples"],
                "num_classes": layer.details["num_classes"],
                **{name: layer.values.get(name) for name in self.measures},
            }
            for layer in self.layers
        ]

    def to_pandas(self) -> "DataFrame":
        """Return [`rows`] as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def plot(self) -> "Figure":
        """Draw the measures against the layers; it can be saved, changed, or shown by a notebook."""
        from matplotlib import pyplot  # noqa: F401  (IPython learns with it how a figure is shown)

        from .figure import report_figure

        return report_figure(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the statistics, ready for JSON."""
        return {
            "model": self.model,
            "classifier": self.head,
            "num_rare_classes": self.num_rare_classes,
            "separation_law": None
            if (law := self.separation_law) is None
            else {"rate": law.rate, "r_squared": law.r_squared, "num_layers": law.num_layers},
            "layers": [
                {
                    "layer": layer.layer,
                    "pooling": layer.pooling,
                    "width": layer.width,
                    **layer.values,
                    **layer.details,
                    "left_out": layer.left_out,
                }
                for layer in self.layers
            ],
        }

    def write(self, path: str | Path) -> Path:
        """Write a table (.csv), everything (.json), or the per-layer figure (.png, .svg, .pdf); returns the path.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        writers = {".csv": self._write_csv, ".json": self._write_json}
        writers |= dict.fromkeys((".png", ".svg", ".pdf"), self._write_figure)
        if path.suffix not in writers:
            raise ValueError(f"output must end in {', '.join(writers)}, got {path.name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix](path)
        return path

    def __str__(self) -> str:
        columns = ["layer", "pooling", "width", *self.measures]
        cells = [[_shown(row[column]) for column in columns] for row in self.rows()]
        widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [columns, *cells]
        ]
        details = self.layers[-1].details
        counted = f"{details['num_samples']} samples of {details['num_classes']} classes"
        if details["num_absent_classes"] or self.num_rare_classes:
            counted += (
                f" (left out: {details['num_absent_classes']} without samples, {self.num_rare_classes} with too few)"
            )
        about = ", about the training set's class means" if details["class_means"] == "training" else ""
        notes = [f"not measured: {name} ({reason})" for name, reason in self.layers[-1].left_out.items()]
        law = [] if self.separation_law is None else [str(self.separation_law)]
        return "\n".join([f"{self.model}: {self.head}", f"{counted}{about}", *lines, *law, *notes])

    def _repr_html_(self) -> str:
        lines = str(self).splitlines()
        said = [*lines[:2], *(line for line in lines[2:] if line.startswith(("separation law: ", "not measured: ")))]
        table = self.to_pandas().to_html(index=False, float_format="{:.4g}".format, na_rep="–")
        return "\n".join([*(f"<p>{escape(line)}</p>" for line in said), table])

    def _write_csv(self, path: Path) -> None:
        rows = self.rows()
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def _write_json(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    def _write_figure(self, path: Path) -> None:
        from ..figure_style import encoded
        from .figure import report_figure

        (content,) = encoded(report_figure(self), path.suffix[1:]).values()
        path.write_bytes(content)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
