"""The figures: what they show, how large their type is, and what they leave alone."""

import itertools
import math
import shutil

import constructed
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from hf_ncollapse.figure_style import CLASSES, encoded, plain_decimals, styled
from hf_ncollapse.sweeps import read_results
from hf_ncollapse.sweeps.figures import CAPTIONS, draw_figures, sweep_figures, write_figures
from hf_ncollapse.sweeps.figures.comparison import comparison_figure
from hf_ncollapse.sweeps.figures.depth import (
    collapse_figure,
    gap_figure,
    gap_parts_figure,
    generalization_figure,
    objective_figure,
    penalty_figure,
    rates_figure,
)
from hf_ncollapse.sweeps.figures.networks import geometry_figure, layers_figure
from hf_ncollapse.sweeps.figures.training import training_figure
from hf_ncollapse.sweeps.network_measurements import measure_networks
from hf_ncollapse.sweeps.training_curves import training_curves

ALL = [
    "collapse", "gap", "gap_parts", "rates", "objective", "penalty", "generalization", "training", "layers",
    "geometry",
]  # fmt: skip


@pytest.fixture(scope="module")
def tables(trained_sweep, tmp_path_factory):
    folder = shutil.copytree(trained_sweep, tmp_path_factory.mktemp("figures") / "digits-rn1")
    results = read_results(folder)
    return results, training_curves(folder), measure_networks(folder, results)


@pytest.fixture(scope="module")
def figures(tables):
    results, curves, networks = tables
    with styled():
        return {
            "collapse": collapse_figure(results), "gap": gap_figure(results), "objective": objective_figure(results),
            "gap_parts": gap_parts_figure(results), "rates": rates_figure(results),
            "generalization": generalization_figure(networks.beside(results)),
            "penalty": penalty_figure(results), "training": training_figure(curves),
            "layers": layers_figure(networks.layers), "geometry": geometry_figure(networks.geometry),
            "comparison": comparison_figure({"one": results, "other": results}),
        }  # fmt: skip


def draw(folder, *tables) -> list[str]:
    """Draw and write all that the tables allow, and return the figures' names."""
    drawn = draw_figures(sweep_figures(*tables))
    write_figures(folder, drawn)
    return list(drawn)


def plotted(figure, label: str) -> np.ndarray:
    """The means drawn under the legend entry that starts with `label`."""
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            if text.startswith(label):
                line = handle.lines[0] if hasattr(handle, "lines") else handle
                return np.asarray(line.get_ydata(), dtype=float)
    raise AssertionError(f"nothing is labelled {label}")


def test_every_figure_is_a_png_of_a_columns_width_and_an_svg(tables, tmp_path):
    assert draw(tmp_path, *tables) == ALL
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert files == sorted(f"{name}.{suffix}" for name in ALL for suffix in ("png", "svg"))
    for name in ALL:
        assert Image.open(tmp_path / "figures" / f"{name}.png").width == 990  # 3.3 in at 300 dpi
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")


def test_the_same_tables_give_the_same_bytes(tables, tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        draw(folder, tables[0])
    for path in (tmp_path / "one" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "figures" / path.name).read_bytes(), path.name


def test_no_type_is_smaller_than_seven_points(figures):
    for name, figure in figures.items():
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
        assert sizes, name
        assert min(sizes) >= 7, name


def test_collapse_shows_the_means_over_the_seeds_and_their_slopes(figures, tables):
    results, _, _ = tables
    for label, quantity in (("NC1", "nc1"), ("NC2", "nc2"), ("NC3", "nc3")):
        by_depth = results.groupby("depth")[quantity].mean()
        np.testing.assert_allclose(plotted(figures["collapse"], label), by_depth)
    geometric = np.log(results["nc1"]).groupby(results["depth"]).mean()
    slope = (geometric[4] - geometric[2]) / math.log(2)
    labels = figures["collapse"].axes[0].get_legend_handles_labels()[1]
    assert f"B^{{{slope:.2f}}}" in next(label for label in labels if label.startswith("NC1"))


def test_the_penaltys_two_parts_add_up_to_what_is_drawn_as_the_whole(figures):
    parts = [plotted(figures["penalty"], label) for label in ("classifier", "blocks")]
    np.testing.assert_allclose(sum(parts), plotted(figures["penalty"], "penalty"), rtol=1e-6)


def test_the_gaps_four_parts_add_up_to_what_is_drawn_as_the_gap(figures):
    parts = [plotted(figures["gap_parts"], label) for label in ("blocks", "outputs", "classifier", "spread")]
    np.testing.assert_allclose(sum(parts), plotted(figures["gap_parts"], "gap"), rtol=1e-5)


def test_generalization_shows_both_kinds_of_samples_and_only_what_there_is(figures, tables):
    results, _, networks = tables
    beside = results.merge(networks.held_out)
    panels = figures["generalization"].axes
    assert [panel.get_ylabel() for panel in panels] == ["accuracy", "NC1", "gap $J - J^{*}$"]
    drawn = [[np.asarray(bars.lines[0].get_ydata(), dtype=float) for bars in panel.containers] for panel in panels]
    expected = [["train_accuracy", "test_accuracy"], ["nc1", "test_nc1"], ["gap"]]
    for curves, quantities in zip(drawn, expected, strict=True):
        for curve, quantity in zip(curves, quantities, strict=True):
            np.testing.assert_allclose(curve, beside.groupby("depth")[quantity].mean())
    with styled():
        alone = generalization_figure(results.assign(test_accuracy=math.nan, gap=math.nan))
    assert [len(panel.containers) for panel in alone.axes] == [1, 1]
    assert alone.axes[0].get_legend_handles_labels()[1] == ["training"]


def test_rates_are_flat_where_the_theory_s_are_reached_and_rise_where_they_are_not(figures, tables):
    at_the_rate = constructed.table(nc2=lambda depth, seed: 0.3 * depth**-0.5)
    slower = constructed.table(slope=-0.5, nc2=lambda depth, seed: 0.3 * depth**-0.25)
    with styled():
        flat, rising = rates_figure(at_the_rate), rates_figure(slower)
    depths = np.array(constructed.DEPTHS) / constructed.DEPTHS[0]
    for label, power in (("gap", 0.5), ("NC1", 0.5), ("NC2", 0.25)):
        np.testing.assert_allclose(plotted(flat, label), 1)
        np.testing.assert_allclose(plotted(rising, label), depths**power)


@pytest.mark.parametrize(
    ("make", "slopes"), [(collapse_figure, {"slope −1": ("nc1", -1), "slope −0.5": ("nc2", -0.5)}),
                         (gap_figure, {"slope −1": ("gap", -1)})],
)  # fmt: skip
def test_guides_have_the_slopes_that_the_theory_expects_and_start_at_the_curve(make, slopes):
    results = constructed.table(slope=-0.3)
    with styled():
        (axes,) = make(results).axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines if str(line.get_label()).startswith("slope")}
    assert set(lines) == set(slopes)
    for label, (quantity, slope) in slopes.items():
        (first, last) = np.log(lines[label])
        assert (last - first)[1] / (last - first)[0] == pytest.approx(slope)
        assert np.exp(first[1]) == pytest.approx(results[results["depth"] == 2][quantity].mean())


def test_the_training_band_is_the_range_of_the_seeds_and_never_below_the_optimum(tables):
    curves = tables[1]
    with styled():
        panel = training_figure(curves).axes[0]
    lowest = min(band.get_paths()[0].vertices[:, 1].min() for band in panel.collections)
    assert lowest == pytest.approx(curves["objective"].min())
    assert lowest >= curves["gufm_optimum"].max()


def test_ticks_are_plain_decimals():
    for value, text in ((0.6, "0.6"), (0.0003, "0.0003"), (1e-5, "$10^{-5}$"), (3e-6, r"$3\cdot10^{-6}$")):
        assert plain_decimals(value) == text
    results = constructed.table(nc1=lambda depth, seed: 0.6 - 0.001 * depth, nc2=0.61, nc3=0.62)
    with styled():
        figure = collapse_figure(results)
        figure.draw_without_rendering()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert any(labels)
    assert not any("e" in label for label in labels)


def test_nothing_of_a_figure_is_cut_off(figures):
    for name, figure in figures.items():
        figure.draw_without_rendering()
        box, whole = figure.get_tightbbox(), figure.bbox_inches
        for side, edge in (("x0", 0), ("y0", 0)):
            assert getattr(box, side) >= edge - 0.02, (name, side)
        assert box.x1 <= whole.width + 0.02, name
        assert box.y1 <= whole.height + 0.02, name


def test_every_figure_has_a_caption_and_zero_is_called_complete_only_where_it_is():
    assert set(CAPTIONS) == {*ALL, "comparison"}
    assert "complete" not in CAPTIONS["collapse"].words()
    assert "Zero is complete collapse." in CAPTIONS["collapse"].words(is_balanced=True)
    assert "corner" not in CAPTIONS["geometry"].words()
    assert "the paper's panel" in CAPTIONS["collapse"].words(has_panel=True)


def test_a_diverged_run_is_in_no_figure(tmp_path):
    results = constructed.table(status=lambda depth, seed: "diverged" if depth == 16 else "finished")
    assert draw(tmp_path, results) == [
        "collapse",
        "gap",
        "gap_parts",
        "rates",
        "objective",
        "penalty",
        "generalization",
    ]


def test_the_optimum_is_drawn_below_the_objective(figures):
    assert (plotted(figures["objective"], "optimum") < plotted(figures["objective"], "objective")).all()


def test_runs_without_an_optimum_get_no_gap_and_no_line_for_it(tables, tmp_path):
    results, curves, networks = tables
    without = results.assign(gap=math.nan, gufm_optimum=math.nan, gap_spread=math.nan)
    drawn = draw(tmp_path, without, curves.assign(gap=math.nan, gufm_optimum=math.nan), networks)
    assert drawn == [name for name in ALL if not name.startswith("gap") and name != "rates"]
    with styled():
        labels = objective_figure(without).axes[0].get_legend_handles_labels()[1]
    assert not any(label.startswith("optimum") for label in labels)


@pytest.mark.filterwarnings("error")
def test_a_sweep_without_penalty_is_drawn_without_a_warning(tmp_path):
    zeros = ("regularization", "regularization_body", "regularization_classifier")
    results = constructed.table(l2_coefficient=0.0, classifier_l2_coefficient=0.0, **dict.fromkeys(zeros, 0.0))
    assert "penalty" in draw(tmp_path, results)
    assert draw(tmp_path, results.assign(gap=0.0, nc1=0.0, nc2=0.0, nc3=0.0))


def test_one_run_alone_is_drawn(tables, tmp_path):
    results, curves, networks = tables
    one = [table[(table["depth"] == 2) & (table["seed"] == 0)] for table in (results, curves)]
    assert draw(tmp_path, *one, networks) == [name for name in ALL if name != "rates"]


def test_no_class_is_grey_and_no_two_look_alike_to_colour_blind_readers():
    colours = np.array([to_rgb(colour) for colour in CLASSES])
    assert (colours.max(1) - colours.min(1)).min() > 0.35
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen_without_green(colours), 2)) > 0.14


def seen_without_green(colours: np.ndarray) -> np.ndarray:
    """What complete deuteranopia leaves of sRGB colours (Machado, Oliveira & Fernandes 2009)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = linear @ np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]).T
    return np.clip(seen, 0, 1) ** (1 / 2.4)


def test_a_collapsed_network_sits_at_the_corners(tables):
    angles = 2 * np.pi * np.arange(3) / 3
    corners = pd.DataFrame({"depth": 5, "seed": 0, "label": range(3), "label_name": list("abc")})
    corners = corners.assign(x=np.cos(angles), y=np.sin(angles))
    geometry = pd.concat([corners.assign(kind=kind) for kind in ("feature", "class_mean", "classifier")])
    with styled():
        (axes,) = geometry_figure(geometry).axes
    outline = axes.lines[0].get_xydata()[:3]
    for points in axes.collections:
        np.testing.assert_allclose(points.get_offsets(), outline, atol=1e-12)


def test_names_with_dollars_are_shown_letter_by_letter(tables, tmp_path):
    points = pd.DataFrame({"depth": 5, "seed": 0, "label": range(3), "label_name": ["$5_{bill", "$\\nomath$", "US$"]})
    points = points.assign(x=[1.0, 0.0, -1.0], y=[0.0, 1.0, 0.0])
    geometry = pd.concat([points.assign(kind=kind) for kind in ("feature", "class_mean", "classifier")])
    with styled():
        figure = geometry_figure(geometry)
        figure.savefig(tmp_path / "geometry.svg")
    shown = [text.get_text().replace(r"\$", "$") for text in figure.legends[0].get_texts()]
    assert shown == points["label_name"].tolist()
    with styled():
        encoded(comparison_figure(dict.fromkeys(("$5_{bill", "$x$"), tables[0])))


def test_sweeps_are_compared_under_their_names(figures):
    assert figures["comparison"].legends[0].get_texts()[1].get_text() == "other"


@pytest.mark.parametrize("count", [1, 7])
def test_a_comparison_takes_two_to_six_sweeps(tables, count):
    with pytest.raises(ValueError, match=rf"sweeps has {count} tables; a comparison takes 2 to 6"):
        comparison_figure({str(index): tables[0] for index in range(count)})


def test_drawing_leaves_the_settings_of_matplotlib_alone(tables, tmp_path):
    before = dict(matplotlib.rcParams)
    draw(tmp_path, tables[0])
    assert dict(matplotlib.rcParams) == before
