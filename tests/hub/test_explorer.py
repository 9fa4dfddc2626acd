"""The explorer's Space: published with its sweep it starts from its own files, and a visitor can click through it."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hub_server import WRITER
from huggingface_hub import HfApi, constants
from served_page import served

from hf_ncollapse.hub.publish import publish_sweep
from hf_ncollapse.sweeps import write_report

EXPLORER = Path(__file__).parents[2] / "spaces/explorer"


@pytest.fixture
def published(hub, sweep_copy, monkeypatch) -> dict[str, bytes]:
    """The files of the Space that comes with a sweep."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    api = HfApi(endpoint=hub.endpoint, token=WRITER)
    write_report(sweep_copy)
    publish_sweep(sweep_copy, "my-org", api=api, with_explorer=True)
    return hub.repository("my-org/digits-rn1-explorer", "space").files()


@pytest.mark.slow
def test_a_sweep_is_published_with_its_explorer_and_the_tables_that_it_shows(hub, published, sweep_copy):
    table = hub.repository("my-org/digits-rn1-results", "dataset").files()
    for name in ("results.csv", "layers.csv", "geometry.csv", "sweep.json"):
        assert published[f"sweeps/digits-rn1/{name}"] == table[name] == (sweep_copy / name).read_bytes()
    for path in EXPLORER.glob("*.py"):
        assert published[path.name] == path.read_bytes()
    assert b"sdk: gradio" in published["README.md"]
    assert {"hf_ncollapse/__init__.py", "hf_ncollapse/sweeps/paper_figures.yaml", "publication.json"} <= set(published)
    assert not [name for name in published if "__pycache__" in name]
    requirements = published["requirements.txt"].decode().splitlines()
    assert any(line.startswith("torch") for line in requirements)
    assert not any("extra" in line or line.startswith("hf_ncollapse") for line in requirements)
    (collection,) = hub.store.collections.values()
    items = [(item["type"], item["id"], item["note"]["text"]) for item in collection["items"]]
    assert ("space", "my-org/digits-rn1-explorer", "The sweep, to look through.") in items


@pytest.fixture
def visitor():
    """A page of a headless browser, which keeps the errors that it shows on its console."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(120_000)
        yield page
        browser.close()


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def seen(page, text: str) -> None:
    page.get_by_text(text).filter(visible=True).first.wait_for()


CAMERA = "plot => plot._fullLayout.scene._scene.getCamera().eye"


def shown_in_3d(plot) -> list[list[float]]:
    """The coordinates of what is seen but for the outline."""
    return plot.evaluate(
        """plot => plot._fullData.filter(trace => trace.visible === true && trace.mode != "lines")
            .flatMap(trace => trace.x.map((x, i) => [x, trace.y[i], trace.z[i]]))"""
    )


def points_of(sweep: Path, depth: int) -> list[list[float]]:
    """The coordinates in a sweep's table."""
    table = pd.read_csv(sweep / "geometry.csv")
    return table.loc[table["depth"] == depth, ["x", "y", "z"]].to_numpy().tolist()


@pytest.mark.slow
def test_it_starts_offline_on_the_sweeps_beside_it_and_shows_another_when_asked(visitor, tmp_path):
    folder = Path(shutil.copytree(EXPLORER, tmp_path / "space"))
    root = str(EXPLORER.parents[1])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": root}
    with served(folder, environment) as address:
        visitor.goto(address)
        open_tab(visitor, "In 3-D")
        seen(visitor, "without a third coordinate")
        for name in sorted(path.name for path in (EXPLORER / "sweeps").iterdir()):
            visitor.get_by_label("sweep", exact=True).click()
            visitor.get_by_role("option", name=re.compile(f"^{name}:|{name}:")).click()
            open_tab(visitor, "Against depth")
            visitor.get_by_role("heading", name=name, exact=True).wait_for()
            assert visitor.locator(".sweep-figure svg:visible").count() == 2
        open_tab(visitor, "Inside the networks")
        visitor.get_by_role("img", name="Collapse through the network").wait_for()
        open_tab(visitor, "The classes")
        shallow = visitor.get_by_role("img", name="The classes' geometry").inner_html()
        visitor.get_by_role("slider").filter(visible=True).press("End")
        visitor.wait_for_function(
            "before => document.querySelector('svg[aria-label^=\"The classes\"]').innerHTML != before", arg=shallow
        )
        open_tab(visitor, "In 3-D")
        plot = visitor.locator(".js-plotly-plot")
        assert shown_in_3d(plot) == points_of(EXPLORER / "sweeps/mnist5k-rn1-demo", depth=1)
        facing = plot.evaluate(CAMERA)
        scene = plot.locator(".gl-container canvas")
        scene.drag_to(scene, source_position={"x": 300, "y": 200}, target_position={"x": 400, "y": 240}, force=True)
        turned = plot.evaluate(CAMERA)
        assert turned != facing
        rail = plot.locator(".slider-rail-touch-rect")
        rail.click(position={"x": rail.bounding_box()["width"] - 2, "y": 4})
        seen(visitor, "residual blocks: 16")
        assert shown_in_3d(plot) == points_of(EXPLORER / "sweeps/mnist5k-rn1-demo", depth=16)
        assert plot.evaluate(CAMERA) == pytest.approx(turned, abs=1e-9)  # plotly.js rounds as it draws
        open_tab(visitor, "Your own J*")
        seen(visitor, "0.02275937")  # ten classes, λ = 0.005, r = 8: the closed form
        visitor.get_by_label("squared error").check()
        seen(visitor, "an orthogonal frame")
        seen(visitor, f"{0.005 / 2 / (64 / 10 + 0.005):.8f}")  # (λ/2) Σ π/(π r² + λ)


@pytest.mark.slow
def test_as_published_it_runs_from_its_own_files_and_opens_a_sweep_of_the_hub(hub, published, visitor, tmp_path):
    folder = tmp_path / "space"
    for name, content in published.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    # A second sweep, to go from and come back.
    shutil.copytree(EXPLORER / "sweeps/mnist5k-rn1-demo", folder / "sweeps/mnist5k-rn1-demo")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= hub.environment(tmp_path, token=None)
    where = [sys.executable, "-c", "import hf_ncollapse; print(hf_ncollapse.__file__)"]
    found = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == folder / "hf_ncollapse/__init__.py"
    with served(folder, environment) as address:
        visitor.goto(address)
        visitor.get_by_role("heading", name="digits-rn1", exact=True).wait_for()
        hub_id = visitor.get_by_label("or one on the Hub")
        hub_id.fill("my-org/none")
        visitor.get_by_role("button", name="Open").click()
        seen(visitor, "no sweep my-org/none")
        visitor.get_by_label("sweep", exact=True).click()
        visitor.get_by_role("option", name=re.compile("^mnist5k-rn1-demo:")).click()
        visitor.get_by_role("heading", name="mnist5k-rn1-demo", exact=True).wait_for()
        hub_id.fill("my-org/digits-rn1")
        visitor.get_by_role("button", name="Open").click()
        visitor.get_by_role("heading", name="digits-rn1", exact=True).wait_for()
        open_tab(visitor, "The classes")
        visitor.get_by_role("img", name="The classes' geometry").wait_for()
        open_tab(visitor, "In 3-D")
        visitor.locator(".gl-container canvas").wait_for()


@pytest.mark.slow
def test_a_class_name_is_no_markup_in_3d(monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.syspath_prepend(EXPLORER)
    from classes_in_3d import classes_in_3d

    names = ["<b>bold</b>", "&lt;", "<a href='https://example.org'>link</a>"]
    rows = [
        {"depth": 2, "kind": kind, "label": label, "label_name": name, "x": 0.0, "y": 0.0, "z": 0.0}
        for kind in ("feature", "class_mean", "classifier")
        for label, name in enumerate(names)
    ]
    points = json.loads(classes_in_3d(pd.DataFrame(rows)).plot)["data"][1:]
    for trace in points:
        assert [
            text.replace("\u200b", "") for text in trace["text"]
        ] == names  # no tag begins with a space of no width
        assert not any(re.search(r"<[^\u200b]", text) for text in trace["text"])
        assert [html.unescape(text).rpartition(":")[0] for text in trace["hovertext"]] == names
        assert not any("<" in text for text in trace["hovertext"])
