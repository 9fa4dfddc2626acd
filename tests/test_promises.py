"""Each promise of the documentation names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_promise_names_a_test_that_exists_once():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    names = re.findall(r"^def (test_\w+)\(", "\n".join(sources), re.MULTILINE)
    rows = re.findall(r"^\| (?!promise|---)(.+) \| (.+) \|$", (ROOT / "docs/promises.md").read_text(), re.MULTILINE)
    assert len(rows) > 25
    for promise, holders in rows:
        held_by = re.findall(r"`(test_\w+)`", holders)
        assert held_by, promise
        for name in held_by:
            assert names.count(name) == 1, name
