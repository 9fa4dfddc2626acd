"""The examples in the docstrings run, and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import hf_ncollapse
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics

PACKAGE = Path(hf_ncollapse.__file__).parent
NEEDS_A_NETWORK = {"hf_ncollapse.inspection.measurement"}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
}


@pytest.mark.parametrize("name", sorted(MODULES - NEEDS_A_NETWORK))
def test_the_docstrings_examples_run_as_printed(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"ClassStatistics": ClassStatistics}).failed == 0
