"""The examples in the docstrings, and what the card says, are true."""

import doctest
import re
from pathlib import Path

import pytest

from hf_ncollapse.neural_collapse import class_statistics, measures

CARD = Path(measures.__file__).with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [class_statistics, measures], ids=lambda module: module.__name__)
def test_the_docstrings_examples_run_as_printed(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_measure_documents_its_source_or_sibling_and_has_an_example():
    for name, (function, _) in measures.MEASURES.items():
        assert ">>> " in function.__doc__, name
        assert "Source:" in function.__doc__ or re.search(r"`nc\d\w*` of", function.__doc__), name


def test_the_card_names_every_measure_and_every_argument():
    for name in measures.MEASURES:
        assert f"`{name}`" in CARD, name
    for argument in ("classifier", "bias", "measures", "weighting", "absent", "ignore_index", "training_statistics"):
        assert f"| `{argument}` |" in CARD, argument
