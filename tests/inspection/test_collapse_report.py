"""A report as a notebook shows it: a table, a figure, a DataFrame."""

import math

import numpy as np
import pytest

from hf_ncollapse import CollapseReport
from hf_ncollapse.inspection import LayerCollapse
from hf_ncollapse.neural_collapse.registry import MEASURES
from hf_ncollapse.quantities import QUANTITIES

DETAILS = {"num_samples": 1200, "num_classes": 10, "num_absent_classes": 0, "class_means": "own"}


def layer(name: str, **values: float) -> LayerCollapse:
    return LayerCollapse(name, "mean", 16, values, DETAILS, {"nc4": "needs <batches>"})


@pytest.fixture
def report() -> CollapseReport:
    layers = [layer("encoder.layer.0", nc1=0.61, nc3=0.35), layer("features", nc1=0.38, nc2=0.0, nc3=0.22)]
    return CollapseReport("Net<script>", "found", layers, {})


def test_a_report_is_a_data_frame_and_a_table_whose_text_is_text(report):
    frame = report.to_pandas()
    assert frame["layer"].tolist() == ["encoder.layer.0", "features"]
    assert frame["nc1"].tolist() == [0.61, 0.38]
    assert math.isnan(frame["nc2"][0])
    html = report._repr_html_()
    assert "<script>" not in html
    assert "Net&lt;script&gt;: found" in html
    assert "not measured: nc4 (needs &lt;batches&gt;)" in html
    assert "<td>0.61</td>" in html


def test_a_figure_has_a_line_for_each_measure_with_a_positive_value_and_plain_ticks(report):
    (axes,) = report.plot().axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(lines) == {"NC1", "NC3"}  # the only value of nc2 is 0
    np.testing.assert_array_equal(lines["NC1"], [0.61, 0.38])
    axes.figure.draw_without_rendering()
    ticks = [text.get_text() for text in axes.get_yticklabels(which="both")]
    assert any(ticks)
    assert not any("e" in text or "10^" in text for text in ticks)


def test_every_measure_has_a_title_and_a_look_of_its_own():
    known = [QUANTITIES[name] for name in MEASURES]
    assert len({quantity.title for quantity in known}) == len(known)
    assert len({(quantity.colour, quantity.marker) for quantity in known}) == len(known)
    not_smaller = {quantity.name: quantity.better for quantity in known if quantity.better != "smaller"}
    assert not_smaller.pop("softmax_code_margin") == "larger"
    assert set(not_smaller.values()) == {None}
    assert all("rank" in name for name in not_smaller)


def test_the_separation_law_is_the_line_through_the_logarithms_of_the_layers():
    rng = np.random.default_rng(0)
    layers = np.arange(6)
    values = np.exp(2.0 - 0.3 * layers + 0.05 * rng.normal(size=6))
    slope, _ = np.polyfit(layers, np.log(values), 1)
    correlation = np.corrcoef(layers, np.log(values))[0, 1]
    rows = [layer(f"block.{index}", nc1_pinv=value) for index, value in enumerate(values)]
    measured = CollapseReport("Net", "found", [*rows, layer("features", nc1_pinv=1e-9)], {})
    law = measured.separation_law
    assert law.rate == pytest.approx(math.exp(slope), rel=1e-9)
    assert law.r_squared == pytest.approx(correlation**2, rel=1e-9)
    assert measured.as_dict()["separation_law"]["rate"] == law.rate
    assert "separation law: tr(Σ_W Σ_B⁺) is multiplied by ρ = 0.7" in str(measured)
    (axes,) = measured.plot().axes
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed.get_ydata(), law.fitted)
    np.testing.assert_allclose(np.diff(np.log(dashed.get_ydata())), slope, rtol=1e-9)


def test_two_layers_have_no_separation_law():
    rows = [layer("a", nc1_pinv=1.0), layer("b", nc1_pinv=0.5), layer("c", nc1=0.5), layer("features", nc1_pinv=0.2)]
    assert CollapseReport("Net", "found", rows, {}).separation_law is None
    assert CollapseReport("Net", "found", rows, {}).as_dict()["separation_law"] is None
