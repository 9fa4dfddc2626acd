"""Every measure is documented, in its docstring and in the card."""

import inspect
import re
from pathlib import Path

from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.compute import compute
from hf_ncollapse.neural_collapse.registry import MEASURES

CARD = Path(measures.__file__).with_name("README.md").read_text(encoding="utf-8")


def test_every_measure_documents_its_source_or_sibling_and_has_an_example():
    for name, measure in MEASURES.items():
        assert ">>> " in measure.function.__doc__, name
        assert "Source:" in measure.function.__doc__ or re.search(r"`nc\d\w*` of", measure.function.__doc__), name


def test_the_card_names_every_measure_and_every_argument():
    for name in MEASURES:
        assert f"`{name}`" in CARD, name
    arguments = inspect.signature(compute).parameters.keys() - {"statistics", "batches"}
    for argument in [*arguments, "num_classes"]:
        assert f"| `{argument}` |" in CARD, argument
