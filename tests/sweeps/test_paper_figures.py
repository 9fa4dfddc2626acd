"""What the paper's figures show, and how a sweep stands beside it."""

from importlib.resources import files

import numpy as np
import pytest
import yaml
from constructed import table

from hf_ncollapse.sweeps.figures import styled
from hf_ncollapse.sweeps.figures.depth import collapse_figure
from hf_ncollapse.sweeps.paper_figures import beside_the_paper, paper_panel, paper_panels

CONTENT = yaml.safe_load(files("hf_ncollapse.sweeps").joinpath("paper_figures.yaml").read_text(encoding="utf-8"))


def test_every_panel_has_its_three_ranges_and_no_metric_gets_worse_with_depth():
    assert set(paper_panels()) == set(CONTENT)
    for panel in paper_panels().values():
        assert set(panel.log10) == {"nc1", "nc2", "nc3"}
        assert all(first > last for first, last in panel.log10.values())
        assert panel.depths[1] == 34


def test_the_paper_counts_a_resnets_classifier_as_a_layer():
    panels = paper_panels()
    assert panels["figure-1-l-rn1-cifar10"].blocks("L-RN1") == (2, 33)
    assert panels["figure-1-l-t11-cifar10"].blocks("L-T11") == (3, 34)


@pytest.mark.parametrize("key", [key for key, panel in CONTENT.items() if not panel.get("flat")])
def test_the_table_beside_the_paper_has_the_data_files_numbers_and_the_sweeps_means(key):
    results = table(nc1=lambda depth, seed: (1 + 0.1 * seed) / depth)
    rows = {row[0]: row[1:] for row in beside_the_paper(paper_panels()[key], results)}
    for name in ("nc1", "nc2", "nc3"):
        shown = [float(text.replace("−", "-")) for text in rows[f"log10 {name.upper()}"]]
        assert shown[:2] == CONTENT[key][name]
        means = results.groupby("depth")[name].mean()
        assert shown[2:] == pytest.approx(np.log10([means.iloc[0], means.iloc[-1]]), abs=0.0051)


def test_a_flat_panel_gives_no_end_to_its_curve():
    rows = beside_the_paper(paper_panels()["figure-2-l-rn2-mnist"], table("L-RN2"))
    assert rows[0][1:3] == ("flat, from −0.4 to −1.4",) * 2


def test_a_sweep_names_its_panel_or_none_and_a_wrong_name_is_refused():
    assert paper_panel({}) is None
    assert paper_panel({"sweep": {"paper_panel": None}}) is None
    assert paper_panel({"sweep": {"paper_panel": "figure-2-l-t11-mnist"}}).depths == (2, 34)
    with pytest.raises(ValueError, match=r"paper_panel is 'figure-9'; it takes one of figure-1-l-rn1-cifar10"):
        paper_panel({"sweep": {"paper_panel": "figure-9"}})


def test_the_collapse_figure_draws_the_papers_range_at_its_own_depths():
    panel = paper_panels()["figure-1-l-rn1-cifar10"]
    with styled():
        (axes,) = collapse_figure(table(), panel).axes
        (without,) = collapse_figure(table()).axes
    drawn = [line.get_xydata() for line in axes.lines if list(line.get_xdata()) == [2, 33]]
    for first, last in panel.log10.values():
        expected = [[2, 10**first], [33, 10**last]]
        assert any(np.allclose(line, expected) for line in drawn)
    assert axes.get_xlim()[1] > 33
    assert "the paper" in axes.get_legend_handles_labels()[1]
    assert "the paper" not in without.get_legend_handles_labels()[1]
