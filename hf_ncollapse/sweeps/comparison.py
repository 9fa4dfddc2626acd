"""Sweeps side by side, aligned by depth, and measurements side by side, aligned by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..neural_collapse.registry import MEASURES
from ..quantities import digits, title
from .files import read_json, write_atomically, write_table
from .latex import latex_table, latex_text
from .summary import LOSSES, mean_interval, slope_in_depth
from .trained_sweep import TrainedSweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_OF_SWEEPS = ("gap", "nc1", "nc2", "nc3", "train_accuracy", "test_accuracy", "test_nc1", "test_nc3")
_SCALINGS = {"constant": "constant λ", "inverse": "λ/B in the blocks", "inverse_all": "λ/B everywhere"}
_SLOPES = ("gap", "nc1", "nc2", "nc3")
_ENDINGS = (".html", ".tex", ".csv", ".png", ".svg")


@dataclass(frozen=True)
class Difference:
    """How much larger a value is than the first one's: the mean over the seeds that both have, and its 95% interval.

    Where no two seeds are in both, there is no interval, and `mean` is the difference of the means.
    """

    mean: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ComparedRow:
    """One quantity at one place.

    Args:
        quantity: its name.
        place: depth, or "slope" in depth; layer.
        values: one for each thing compared; None where it has none.
        differences: of each but the first, from the first.
    """

    quantity: str
    place: str
    values: tuple[float | None, ...]
    differences: tuple[Difference | None, ...]


@dataclass(frozen=True)
class Comparison:
    """Several sweeps or measurements in one table.

    Args:
        title: what is compared.
        places: what `place` is of the rows, "blocks" or "layer".
        names: of what is compared, in order; "A" is the first.
        rows: by quantity, then by place.
        notes: what a reader must know besides.
        figure: draws it; None where there is no figure of such things.
    """

    title: str
    places: str
    names: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...]
    figure: "Callable[[], Figure] | None" = None

    @property
    def letters(self) -> str:
        """A letter for each thing compared, to head a column with."""
        return "ABCDEF"[: len(self.names)]

    @property
    def headings(self) -> list[str]:
        """Of [`cells`]."""
        return [
            "quantity",
            self.places,
            *self.letters,
            *(f"{letter} − A{' [95%]' * self._has_intervals}" for letter in self.letters[1:]),
        ]

    @property
    def cells(self) -> list[list[str]]:
        """The table as a person reads it: four digits, intervals in brackets."""
        return [
            [title(row.quantity), row.place, *map(_shown, row.values), *map(_shown_difference, row.differences)]
            for row in self.rows
        ]

    @property
    def _has_intervals(self) -> bool:
        return any(difference and difference.interval for row in self.rows for difference in row.differences)

    def to_pandas(self) -> pd.DataFrame:
        """Return every digit: quantity, place, a column for each thing compared, and differences with their ends."""
        table = []
        for row in self.rows:
            line: dict[str, object] = {"quantity": row.quantity, self.places: row.place}
            line |= dict(zip(self.names, row.values, strict=True))
            for name, found in zip(self.names[1:], row.differences, strict=True):
                low, high = (None, None) if found is None or found.interval is None else found.interval
                line[f"{name} - {self.names[0]}"] = None if found is None else found.mean
                line |= {f"{name} - {self.names[0]}, low": low, f"{name} - {self.names[0]}, high": high}
            table.append(line)
        return pd.DataFrame(table)

    def to_latex(self) -> str:
        """Return a `tabular` for `booktabs`, with the names in comments above it."""
        named = [f"% {letter}: {name}" for letter, name in zip(self.letters, self.names, strict=True)]
        headings, *rows = ([latex_text(cell) for cell in line] for line in (self.headings, *self.cells))
        rows = [[cell.replace("−", "$-$").replace("–", "--") for cell in line] for line in (headings, *rows)]
        return "\n".join([*named, latex_table(rows[0], rows[1:], align="ll" + "r" * (len(headings) - 2))])

    def to_html(self) -> str:
        """Return a page of its own, with the figure."""
        from .figures import draw_figures
        from .report import page_figure, page_template

        figure = None
        if self.figure is not None:
            figure = page_figure("comparison", draw_figures({"comparison": self.figure})["comparison"]["svg"].decode())
        return page_template("comparison").render(comparison=self, figure=figure)

    def to_table(self) -> "Table":
        """Return it for a terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if index < 1 else "right", no_wrap=True)
        previous = None
        for row, line in zip(self.rows, self.cells, strict=True):
            if previous not in (None, row.quantity):
                table.add_section()
            table.add_row(line[0] if previous != row.quantity else "", *line[1:])
            previous = row.quantity
        return table

    def write(self, path: str | Path) -> Path:
        """Write a page (.html), a table (.tex, .csv) or the figure (.png, .svg); returns the path.

        Raises:
            ValueError: another ending, or there is no figure.
        """
        path = Path(path)
        check_ending(path)
        if path.suffix in (".png", ".svg"):
            if self.figure is None:
                raise ValueError(f"output is {path.name!r}, but measurements have no figure: .html, .tex or .csv")
            from .figures import draw_figures

            content = draw_figures({"comparison": self.figure})["comparison"][path.suffix[1:]]
            write_atomically(path, lambda temporary: temporary.write_bytes(content))
        elif path.suffix == ".csv":
            write_table(path, self.to_pandas())
        else:
            text = self.to_html() if path.suffix == ".html" else self.to_latex()
            write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return path

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(index=False, float_format="{:.4g}".format, na_rep="")


def check_ending(path: Path) -> None:
    """Raise a `ValueError` where a comparison is not written as such a file."""
    if path.suffix not in _ENDINGS:
        raise ValueError(f"output must end in {', '.join(_ENDINGS)}, got {path.name!r}")


def compare_sweeps(sweeps: Sequence[TrainedSweep]) -> Comparison:
    """Compare sweeps depth by depth with the first of them.

    A difference is taken seed by seed, over the seeds that both sweeps have at that depth; its interval is Student's t
    over these. The slopes in depth are compared in the same way.

    Args:
        sweeps: two to six, from `load_sweep`.

    Raises:
        ValueError: another number of sweeps, one of them twice, or no depth in common.
    """
    _check_count(sweeps)
    tables = _named(sweeps)
    first, *others = tables.values()
    common = set(first["depth"]).intersection(*(table["depth"] for table in others))
    if not common:
        raise ValueError(f"{' and '.join(tables)} have no depth in common")
    rows = []
    for quantity in _OF_SWEEPS:
        if all(table[quantity].isna().all() for table in tables.values()):
            continue
        for depth in sorted({int(depth) for table in tables.values() for depth in table["depth"]}):
            at_depth = [_by_seed(table[table["depth"] == depth], quantity) for table in tables.values()]
            rows.append(_row(quantity, str(depth), at_depth))
        if quantity in _SLOPES:
            slopes = [slope_in_depth(table[table["depth"].isin(common)], quantity) for table in tables.values()]
            rows.append(_row(quantity, "slope", [pd.Series(slope.per_seed, dtype=float) for slope in slopes]))

    def figure() -> "Figure":
        from .figures.comparison import comparison_figure

        return comparison_figure(tables)

    notes = (
        "Values are means over the seeds. A difference is the mean over the seeds that both sweeps have, with its 95% "
        "interval (Student's t); one such seed has none. Slopes are those of the depths that all sweeps have.",
    )
    return Comparison("Sweeps by depth", "blocks", tuple(tables), tuple(rows), notes, figure)


def compare_measurements(paths: Sequence[str | Path]) -> Comparison:
    """Compare what `hf-ncollapse measure --output x.json` wrote: checkpoints, or training samples with others.

    Args:
        paths: two to six of these files. Layers are aligned by name; the features, which all have, always are.

    Raises:
        ValueError: another number of files, one of them twice, or a file that is no measurement; the message names it.
    """
    _check_count(paths)
    files = [Path(path) for path in paths]
    if len({path.resolve() for path in files}) < len(files):
        raise ValueError(f"one measurement is named twice: {', '.join(map(str, paths))}")
    names = [path.stem for path in files]
    if len(set(names)) < len(names):
        names = [str(path) for path in files]
    measured = [_layers(path) for path in files]
    places = list(dict.fromkeys(layer for layers in measured for layer in layers))
    shared = [place for place in places if sum(place in layers for layers in measured) > 1]
    rows, notes = [], []
    for quantity in MEASURES:
        for place in shared:
            values = [layers.get(place, {}).get(quantity) for layers in measured]
            if any(value is not None for value in values):
                rows.append(_row(quantity, place, [pd.Series([] if v is None else [v], dtype=float) for v in values]))
    about = [next(reversed(layers.values())).get("class_means") == "training" for layers in measured]
    for name, is_about_training in zip(names, about, strict=True):
        if is_about_training:
            notes.append(f"{name} is about the training set's class means.")
    if len(shared) < len(places):
        notes.append(
            f"Left out, because one measurement alone has them: {', '.join(sorted(set(places) - set(shared)))}."
        )
    return Comparison("Measurements by layer", "layer", tuple(names), tuple(rows), tuple(notes))


def _check_count(things: Sequence[object]) -> None:
    if not 2 <= len(things) <= 6:
        raise ValueError(f"a comparison takes 2 to 6 sweeps or measurements, got {len(things)}")


def _by_seed(table: pd.DataFrame, quantity: str) -> pd.Series:
    return table.set_index("seed")[quantity].dropna().astype(float)


def _row(quantity: str, place: str, values: list[pd.Series]) -> ComparedRow:
    """The means of values by seed, and the differences from the first."""
    first, *others = values
    means = tuple(float(series.mean()) if len(series) else None for series in values)
    return ComparedRow(quantity, place, means, tuple(_difference(series, first) for series in others))


def _difference(values: pd.Series, first: pd.Series) -> Difference | None:
    if values.empty or first.empty:
        return None
    seeds = values.index.intersection(first.index)
    if seeds.empty:
        return Difference(float(values.mean() - first.mean()))
    by_seed = (values[seeds] - first[seeds]).to_numpy()
    return Difference(float(by_seed.mean()), mean_interval(by_seed))


def _named(sweeps: Sequence[TrainedSweep]) -> dict[str, pd.DataFrame]:
    """The finished runs by what tells the sweeps apart, or by the sweeps' names where that does not."""
    facts = []
    for sweep in sweeps:
        first = sweep.results.iloc[0]
        facts.append(
            {
                "architecture": first["architecture"],
                "norm_placement": f"{first['norm_placement']}-LN",
                "dataset": first["dataset"],
                "loss": LOSSES[first["loss"]],
                "classifier_bias": f"{'a' if first['classifier_bias'] else 'no'} classifier bias",
                "samples": f"N = {_training_samples(sweep)}",
                "l2": _l2_in_short(first),
                "l2_depth_scaling": _SCALINGS[first["l2_depth_scaling"]],
                "initialization": "from scratch" if first["initialization"] == "scratch" else first["initialization"],
            }
        )
    differing = [name for name in facts[0] if len({fact[name] for fact in facts}) > 1]
    labels = [", ".join(str(fact[name]) for name in differing) for fact in facts]
    if len(set(labels)) < len(labels):
        labels = [sweep.name for sweep in sweeps]
    if len(set(labels)) < len(labels):
        labels = [sweep.address for sweep in sweeps]
    if len(set(labels)) < len(labels):
        raise ValueError(f"one sweep is named twice: {', '.join(labels)}")
    return {label: sweep.record.networks.beside(sweep.results) for label, sweep in zip(labels, sweeps, strict=True)}


def _l2_in_short(settings: pd.Series) -> str:
    blocks, classifier = settings["l2_coefficient"], settings["classifier_l2_coefficient"]
    return f"λ = {blocks:g}" + ("" if blocks == classifier else f", λ_L = {classifier:g}")


def _training_samples(sweep: TrainedSweep) -> str:
    samples = sweep.record.configuration.get("data", {}).get("train_samples")
    return "all" if samples is None else f"{samples:,}"


def _layers(path: Path) -> dict[str, dict[str, object]]:
    """The layers of a measurement, by their names."""
    layers = read_json(path, "`hf-ncollapse measure --output FILE.json` writes a measurement").get("layers")
    are_layers = isinstance(layers, list) and all(isinstance(one, dict) and "layer" in one for one in layers)
    if not layers or not are_layers:
        raise ValueError(f"{path} is no measurement, which `hf-ncollapse measure --output FILE.json` writes")
    return {str(layer["layer"]): layer for layer in layers}


def _shown(value: float | None) -> str:
    return "–" if value is None else digits(value).replace("-", "−")


def _shown_difference(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    if difference.mean == 0 and difference.interval in (None, (0, 0)):
        return "0"
    shown = f"{difference.mean:+.3g}"
    if difference.interval is not None:
        shown += " [{:+.2g}, {:+.2g}]".format(*difference.interval)
    return shown.replace("-", "−")
