"""What README and the site say can be done can be done: their code runs, their commands parse, their links resolve.

A block of the site is left out by a comment in the line before it, `<!-- not run: why -->`, or left to the slow tests
by `<!-- slow: why -->`. README has no such comments; its exceptions stand here.
"""

import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import evaluate
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from transformers import Trainer, TrainingArguments

import hf_ncollapse
from hf_ncollapse import cli
from hf_ncollapse.commands import train
from hf_ncollapse.commands.recipes import find_recipe
from hf_ncollapse.sweeps import parse_recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))
README_NOT_RUN = (
    r"^make |^source |^pip |"  # the demo has a test of its own, the others are what runs this
    r"^hf auth |^hf-ncollapse publish (?!.*--dry-run)|load_sweep\(|"  # a login, and what was published with it
    r"^hf-ncollapse measure textattack/|"  # a model and data of the Hub
    r"fashion_mnist/|fashion-mnist-generalization"  # hours
)
README_SLOW = r"rn1[-_]demo"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|slow): [^\n]+ -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


@dataclass(frozen=True)
class Step:
    """A Python block or one command of a page, the output shown below it, and whether it is left out."""

    page: Path
    line: int
    language: str
    code: str
    shown: str
    mark: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def words(self) -> list[str]:
        """A command as its program gets it."""
        return shlex.split(self.code, comments=True)


def steps(page: Path) -> list[Step]:
    text, found = page.read_text(encoding="utf-8"), []
    for block in _BLOCK.finditer(text):
        line, language = text[: block.start("code")].count("\n") + 1, block["language"]
        if language == "python":
            parts = [(block["code"], "")]
        elif language == "console":
            commands = re.split(r"^\$ ", block["code"].replace("\\\n", " "), flags=re.MULTILINE)
            parts = [(command.partition("\n")[0], command.partition("\n")[2]) for command in commands[1:]]
        else:
            parts = []
        for code, shown in parts:
            mark = block["mark"]
            if page == README:
                mark = (
                    "not run" if re.search(README_NOT_RUN, code) else "slow" if re.search(README_SLOW, code) else None
                )
            found.append(Step(page, line, language, code, shown.strip(), mark))
    return found


def run(page: Path, marks: tuple, names: dict, monkeypatch, capsys) -> None:
    """Run a page's steps from top to bottom in one set of names, as a reader would."""
    for step in steps(page):
        if step.mark not in marks:
            continue
        capsys.readouterr()
        if step.language == "python":
            # A traceback names the page's own lines.
            exec(compile("\n" * (step.line - 1) + step.code, str(page), "exec"), names)  # noqa: S102
        else:
            assert run_command(step.words, monkeypatch) == 0, step
        assert not step.shown or step.shown == capsys.readouterr().out.strip(), step


def run_command(words: list[str], monkeypatch) -> int:
    """Return the exit code; in this process where that is the same and saves a start."""
    if words[0] == "hf-ncollapse":
        return cli.main(words[1:])
    if "--config_file" in words:
        return subprocess.run([sys.executable, "-m", "accelerate.commands.launch", *words[2:]]).returncode
    arguments = words[2:] if words[0] == "accelerate" else words[1:]
    monkeypatch.setattr(sys, "argv", arguments)
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that has the repository's recipes; the sweep that several pages start with is trained in it once."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.fixture
def workspace(folder, request, monkeypatch):
    """The same as the working folder; only the slow tests render the pictures, which takes longer than the rest."""
    monkeypatch.chdir(folder)
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(
            Figure, "savefig", lambda self, file, **options: hasattr(file, "write") or Path(file).touch()
        )


@pytest.fixture
def reader(workspace, monkeypatch):
    """What README takes for granted: a model with its Trainer and data, batches of features, the metric installed."""
    # Installing has tests of its own, in processes of their own.
    installed = {"neural_collapse": hf_ncollapse.load_metric()}
    monkeypatch.setattr(evaluate, "load", installed.__getitem__)
    data = hf_ncollapse.load_classification_data("digits", train_samples=100, test_samples=100)
    config = hf_ncollapse.CollapseResNetConfig(num_hidden_layers=1, image_size=8, num_channels=1, num_labels=10)
    model = hf_ncollapse.CollapseResNetForImageClassification(config)
    arguments = TrainingArguments("out", report_to="none", use_cpu=True)
    Image.new("L", (28, 28)).save("a_digit.png")
    return {
        "model": model,
        "trainer": Trainer(model, arguments, train_dataset=data.train),
        "train_set": data.train,
        "test_set": data.test,
        "batches": [(torch.randn(20, 64), torch.arange(20) % 10)],
        "pixel_values": torch.rand(20, 1, 28, 28),
        "labels": torch.arange(20) % 10,
    }


RUNNABLE = [page for page in PAGES if any(step.mark is None for step in steps(page))]
SLOW = [page for page in PAGES if any(step.mark == "slow" for step in steps(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page, workspace, monkeypatch, capsys):
    run(page, (None,), {}, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=lambda page: page.stem)
def test_a_page_runs_with_what_takes_long(page, workspace, monkeypatch, capsys):
    run(page, (None, "slow"), {}, monkeypatch, capsys)


def test_readme_runs_from_top_to_bottom(reader, monkeypatch, capsys):
    run(README, (None,), reader, monkeypatch, capsys)


@pytest.mark.slow
def test_readme_runs_with_its_demo(reader, monkeypatch, capsys):
    train = ["accelerate", "launch", "recipes/train.py", "--config", "recipes/mnist5k/rn1_demo.yaml"]
    assert run_command(train, monkeypatch) == 0  # as `make demo` does
    run(README, (None, "slow"), reader, monkeypatch, capsys)


def test_code_blocks_are_of_a_kind_that_is_looked_at():
    for page in [README, *PAGES]:
        fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(fences) <= {"python", "console", "text", "yaml", "bibtex", ""}, page


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_every_command_is_one_that_exists(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for step in steps(page):
        if step.language != "console":
            continue
        words = step.words
        if words[:2] == ["hf-ncollapse", "train"]:
            options = ["--config", str(find_recipe(words[2])), *words[3:]]
            assert parse_recipe(options, extend=train.add_options)[0], step
        elif words[0] == "hf-ncollapse":
            assert cli.build_parser().parse_args(words[1:]).run, step
        elif "recipes/train.py" in words:
            options = words[words.index("recipes/train.py") + 1 :]
            files = [word for word in words if word.endswith(".yaml")]
            assert all((ROOT / name).is_file() for name in files), step
            if "--help" not in options:
                at_root = [str(ROOT / word) if word in files else word for word in options]
                assert parse_recipe(at_root, extend=train.add_options)[0], step
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), step
        elif words[0] == "make":
            assert words[1] in targets, step
        else:
            assert words[:2] in (["hf", "auth"], ["source", ".venv/bin/activate"], ["pip", "install"]), step


def borrowed() -> dict[str, Path]:
    """Pages of the site that stand elsewhere in the repository."""
    return runpy.run_path(str(DOCS / "hooks/borrowed_pages.py"))["borrowed_files"]()


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_every_internal_link_resolves(page):
    on_site = {DOCS / address: path for address, path in borrowed().items()} if DOCS in page.parents else {}
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        target = on_site.get(target, target)
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_menu():
    def addresses(entries):
        for entry in entries:
            values = entry.values() if isinstance(entry, dict) else [entry]
            for value in values:
                yield from addresses(value) if isinstance(value, list) else [value]

    menu = set(addresses(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    own = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert menu - set(borrowed()) == own


def test_every_public_name_is_on_an_api_page():
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    asked = set(re.findall(r"\w+", " ".join(re.findall(r"members: \[(.*?)\]", pages, flags=re.DOTALL))))
    assert set(hf_ncollapse.__all__) - asked == {"__version__"}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "gallery/index.html").is_file()
