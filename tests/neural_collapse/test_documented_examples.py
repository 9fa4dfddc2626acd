"""The examples in the docstrings, and what the card says, are true."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

from hf_ncollapse.neural_collapse import (
    class_statistics,
    compute,
    imbalance,
    jackknife,
    measures,
    softmax_code,
    spectra,
    worst_classes,
)
from hf_ncollapse.neural_collapse.compute import MEASURES

CARD = Path(measures.__file__).with_name("README.md").read_text(encoding="utf-8")


MODULES = [class_statistics, compute, imbalance, jackknife, measures, softmax_code, spectra, worst_classes]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_docstrings_examples_run_as_printed(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_measure_documents_its_source_or_sibling_and_has_an_example():
    for name, measure in MEASURES.items():
        assert ">>> " in measure.function.__doc__, name
        assert "Source:" in measure.function.__doc__ or re.search(r"`nc\d\w*` of", measure.function.__doc__), name


def test_the_card_names_every_measure_and_every_argument():
    for name in MEASURES:
        assert f"`{name}`" in CARD, name
    arguments = inspect.signature(compute.compute).parameters.keys() - {"statistics", "batches"}
    for argument in [*arguments, "num_classes"]:
        assert f"| `{argument}` |" in CARD, argument
