"""What is installed: the wheel's contents, the public names, and arrows that point one way."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hf_ncollapse
from hf_ncollapse.models.collapse_config import CollapseConfig
from hf_ncollapse.quantities import QUANTITIES
from hf_ncollapse.sweeps import COLUMNS, ModelArguments

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "hf_ncollapse").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    recipes = {
        f"hf_ncollapse/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "recipes").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    explorer = {
        f"hf_ncollapse/{path.relative_to(ROOT / 'spaces').as_posix()}"
        for path in (ROOT / "spaces/explorer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == package | recipes | explorer
    for needed in (
        "hf_ncollapse/py.typed",
        "hf_ncollapse/neural_collapse/README.md",
        "hf_ncollapse/neural_collapse/requirements.txt",
        "hf_ncollapse/sweeps/templates/report.html.jinja",
    ):
        assert needed in held


def test_the_wheel_says_its_licence_and_its_command(wheel):
    information = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(information["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "licenses/LICENSE" in information
    assert b"hf-ncollapse = hf_ncollapse.cli:main" in wheel.read(information["entry_points.txt"])


def test_every_public_name_exists_and_another_is_an_error():
    assert set(hf_ncollapse.__all__) == {"__version__", *hf_ncollapse._PUBLIC_NAMES}
    for name in hf_ncollapse.__all__:
        assert getattr(hf_ncollapse, name) is not None
    assert sorted(dir(hf_ncollapse)) == sorted(hf_ncollapse.__all__)
    assert hf_ncollapse.__version__ == importlib.metadata.version("hf_ncollapse")
    with pytest.raises(AttributeError, match="module 'hf_ncollapse' has no attribute 'CollapseNet'; it has"):
        _ = hf_ncollapse.CollapseNet


def test_imports_between_the_parts_point_one_way():
    finished = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout


MODULES = sorted((ROOT / "hf_ncollapse").rglob("*.py"))


def test_a_data_sets_name_becomes_rows_in_one_module():
    readers = {"load_dataset", "load_from_disk", "load_dataset_builder"}
    callers = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", None)) in readers
    }
    assert callers == {"hf_ncollapse/data/rows.py"}


def test_the_penalty_has_one_name_from_the_recipe_to_the_table():
    names = ["l2_coefficient", "classifier_l2_coefficient", "l2_depth_scaling"]
    for fields in (ModelArguments.__dataclass_fields__, CollapseConfig.__dataclass_fields__, COLUMNS, QUANTITIES):
        assert [name for name in fields if "l2_" in name or "lambda" in name or "decay" in name] == (
            names if fields is not QUANTITIES else names[:2]
        )


def test_no_module_is_longer_than_400_lines():
    assert [path.name for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []


def imported_by(statement):
    """The packages that an interpreter has imported after a statement."""
    finished = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(finished.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import hf_ncollapse", "from hf_ncollapse.cli import build_parser; build_parser()"]
)
def test_the_package_and_the_help_of_its_command_import_nothing_heavy(statement):
    heavy = {"torch", "transformers", "accelerate", "datasets", "evaluate", "pandas", "matplotlib", "numpy"}
    assert not imported_by(statement) & heavy


@pytest.mark.parametrize("module", ["neural_collapse.measures", "neural_collapse.compute", "theory"])
def test_measures_and_theory_import_no_transformers(module):
    assert not imported_by(f"import hf_ncollapse.{module}") & {"transformers", "accelerate", "datasets", "pandas"}


AUTO_CLASSES = "from transformers import AutoConfig, AutoModel, AutoImageProcessor"
LAYERS = "from transformers.modeling_layers import GradientCheckpointingLayer"


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param(f"import hf_ncollapse; {AUTO_CLASSES}", id="package first"),
        pytest.param(f"{AUTO_CLASSES}; import hf_ncollapse", id="package last"),
        pytest.param(
            f"import hf_ncollapse; hf_ncollapse.CollapseTransformerModel; {AUTO_CLASSES}",
            id="network first",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            f"import hf_ncollapse; {LAYERS}; {AUTO_CLASSES}",
            id="layers of networks first",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_auto_classes_know_the_families_in_every_order_of_imports(imports, tmp_path):
    code = f"""{imports}
for family in ("collapse_resnet", "collapse_transformer"):
    model = AutoModel.from_config(AutoConfig.for_model(family))
    model.save_pretrained({str(tmp_path)!r})
    hf_ncollapse.CollapseImageProcessor().save_pretrained({str(tmp_path)!r})
    assert type(AutoModel.from_pretrained({str(tmp_path)!r})) is type(model)
    assert isinstance(AutoImageProcessor.from_pretrained({str(tmp_path)!r}), hf_ncollapse.CollapseImageProcessor)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
