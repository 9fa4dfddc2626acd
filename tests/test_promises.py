"""Each promise of the documentation names tests that exist, and which of them are slow."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_promise_names_a_test_that_exists_once_and_says_whether_it_is_slow():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"^def (test_\w+)\(", sources, re.MULTILINE)
    decorated = re.findall(r"((?:^@.*\n(?:^[ )\]].*\n)*)*)^def (test_\w+)\(", sources, re.MULTILINE)
    # As a whole: single cases of others are slow too.
    slow = {name for decorators, name in decorated if re.search(r"^@pytest\.mark\.slow$", decorators, re.MULTILINE)}
    rows = re.findall(r"^\| (?!promise|---)(.+) \| (.+) \|$", (ROOT / "docs/promises.md").read_text(), re.MULTILINE)
    assert len(rows) > 25
    for promise, holders in rows:
        held_by = re.findall(r"`(test_\w+)`( \(slow\))?", holders)
        assert held_by, promise
        for name, is_called_slow in held_by:
            assert names.count(name) == 1, name
            assert bool(is_called_slow) == (name in slow), name
