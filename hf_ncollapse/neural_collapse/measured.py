"""What `compute` returns: a dictionary that a notebook shows as a table."""

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

# The blue of the package's figures, of which nothing can be imported here: evaluate copies this folder alone.
_BLUE = "#0072B2"


class MeasuredCollapse(dict[str, Any]):
    """The dictionary of `compute`, every measure under its name; as such it is saved, merged and compared."""

    def to_pandas(self) -> "DataFrame":
        """Return a table with one row a measure, by its name: `value`, `standard_error` where computed, `formula`."""
        import pandas as pd

        rows = {name: {"value": self[name], "formula": formula} for name, formula in self["conventions"].items()}
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "formula"]).rename_axis("measure")
        errors = {name: self[error] for name in rows if (error := f"{name}_standard_error") in self}
        if errors:
            table.insert(1, "standard_error", table.index.map(errors))
        return table

    def plot(self) -> "Figure":
        """Draw |value| of each measure on a logarithmic axis: hollow where negative, no dot at 0.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib import pyplot  # noqa: F401  (IPython learns with it how a figure is shown)
        from matplotlib.figure import Figure

        names = list(self["conventions"])
        figure = Figure(figsize=(6.4, 1 + 0.28 * len(names)), layout="constrained")
        axes = figure.subplots()
        for height, name in enumerate(names):
            value = self[name]
            if value:
                axes.plot(abs(value), height, "o", color=_BLUE, fillstyle="full" if value > 0 else "none")
            axes.annotate(f"{value:.3g}", (1, height), (4, 0), ("axes fraction", "data"), "offset points", va="center")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.set_xlabel("|value|; 0 has no dot")
        axes.grid(visible=True, axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    def _repr_html_(self) -> str:
        import pandas as pd

        counted = f"{self['num_samples']} samples of {self['num_classes']} classes"
        if self["num_absent_classes"]:
            counted += f" ({self['num_absent_classes']} without samples left out)"
        about = "the training set's class means" if self["class_means"] == "training" else "their own class means"
        said = [f"{counted}, about {about}, weighted by {self['weighting']}"]
        said += [f"not measured: {name} ({reason})" for name, reason in self["left_out"].items()]
        with pd.option_context("display.max_colwidth", None):
            table = self.to_pandas().to_html(float_format="{:.4g}".format, na_rep="–")
        return "\n".join([*(f"<p>{escape(line)}</p>" for line in said), table])
