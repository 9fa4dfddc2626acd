"""Names with markup are shown letter by letter, wherever a card or the report shows them."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml
from hub_store import card_errors
from markdown_it import MarkdownIt

from hf_ncollapse.hub.card import model_card, results_card
from hf_ncollapse.hub.markdown import code_span, fence, plain
from hf_ncollapse.hub.sweep_folder import read_sweep_folder
from hf_ncollapse.sweeps.report import write_report

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b | c",
    "`a` ``b",
    "```\n\n# Heading\n\n<img src=x onerror=alert(1)>\n\n```",
    "---\ntags: [stolen]\n---",
    "[click](javascript:alert(1)) *bold* _x_ ~~y~~ $z$ &lt;",
    'a": [b\n#',
    "=cmd|' /C calc'!A0",
]
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Elements(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *sorted(name for name, _ in attributes)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_a_line_is_text_and_as_code_is_code(name):
    line = " ".join(name.split())
    for markdown, tags in ((plain(name), [("p",)]), (code_span(name), [("p",), ("code",)])):
        shown = Elements(MARKDOWN.render(f"Named {markdown}."))
        assert shown.tags == tags
        assert "".join(shown.texts).strip() == f"Named {line}."
    cells = Elements(MARKDOWN.render(f"| a | b |\n|---|---|\n| {plain(name)} | end |\n"))
    assert [tag for tag, *_ in cells.tags].count("td") == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_a_block_of_code_holds_its_text_and_ends_where_it_should(name):
    text = yaml.safe_dump({"dataset": name, "next": f"  {name}"}, width=20)
    shown = Elements(MARKDOWN.render(f"{fence(text)}yaml\n{text}{fence(text)}\n\nAfter."))
    assert [tag for tag, *_ in shown.tags] == ["pre", "code", "p"]
    assert yaml.safe_load("".join(shown.texts).removesuffix("After.\n")) == {"dataset": name, "next": f"  {name}"}


@pytest.fixture(scope="module")
def sweep(finished_sweep):
    return read_sweep_folder(finished_sweep)


@pytest.mark.parametrize("name", HOSTILE)
def test_cards_keep_their_structure_whatever_the_data_set_is_called(sweep, name):
    def called(dataset: str):
        settings = {**sweep.configuration, "data": {**sweep.configuration["data"], "dataset": dataset}}
        runs = [replace(run, row={**run.row, "dataset": dataset}) for run in sweep.runs]
        return replace(sweep, configuration=settings, results=sweep.results.assign(dataset=dataset), runs=runs)

    hostile, harmless = called(name), called("mine")
    for render in (lambda s: model_card(s, s.runs[0], "my-org"), lambda s: results_card(s, "my-org")):
        cards = [render(each) for each in (hostile, harmless)]
        assert card_errors(cards[0]) == []
        headers, bodies = zip(
            *(re.fullmatch(r"---\n(.*?)\n---\n(.*)", c, re.DOTALL).groups() for c in cards), strict=True
        )
        metadata = [yaml.safe_load(header) for header in headers]
        assert metadata[0].keys() == metadata[1].keys()
        assert metadata[0]["tags"] == metadata[1]["tags"]
        assert metadata[0].get("datasets", [name]) == [name]
        shown = [Elements(MARKDOWN.render(body)) for body in bodies]
        assert shown[0].tags == shown[1].tags
        assert " ".join(name.split()) in " ".join("".join(shown[0].texts).split())


def test_the_report_shows_names_as_text(sweep_copy):
    name = HOSTILE[0] + '"`|'
    path = sweep_copy / "sweep.json"
    configuration = json.loads(path.read_text())
    path.write_text(json.dumps(configuration | {"data": configuration["data"] | {"image_column": name}}))
    table = sweep_copy / "results.csv"
    table.write_text(table.read_text().replace(",digits,", ',"{}",'.format(name.replace('"', '""'))))
    geometry = "depth,seed,kind,label,label_name,x,y\n"
    for kind in ("feature", "class_mean", "classifier"):
        geometry += "".join(f'2,0,{kind},{label},"</svg>{HOSTILE[0]}$",{label}.0,1.0\n' for label in range(2))
    (sweep_copy / "geometry.csv").write_text(geometry)
    layers = "".join(f"{d},{s},{layer},0.5\n" for d in (2, 4) for s in (0, 1) for layer in range(d + 1))
    (sweep_copy / "layers.csv").write_text(f"depth,seed,layer,nc1\n{layers}")
    shown = Elements(write_report(sweep_copy).read_text(encoding="utf-8"))
    assert not [tag for tag in shown.tags if tag[0] == "script" or "onerror" in tag]
    assert name in "".join(shown.texts)
