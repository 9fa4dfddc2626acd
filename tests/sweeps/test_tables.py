"""Tables hold names that no spreadsheet runs, and a stranger's table costs a bounded time."""

import csv

import pandas as pd
import pytest

from hf_ncollapse.sweeps.files import read_table, write_table

FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "-", "=", "'=1", "''-1", "'@"]
HARMLESS = ["L-RN1", "a=b", "'quoted'", "'", "", "1 - 2", "ångström", 'say "=1"', "a,b", "two\nlines"]


def test_a_text_that_a_spreadsheet_would_run_is_text_there_and_comes_back_as_it_was(tmp_path):
    texts = FORMULAS + HARMLESS
    table = pd.DataFrame({"name": texts, "gap": [-0.1 - i / 3 for i in range(len(texts))], "flag": True})
    write_table(tmp_path / "table.csv", table)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not [row["name"] for row in rows if row["name"].startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [row["name"] for row in rows][len(FORMULAS) :] == HARMLESS
    assert [float(row["gap"]) for row in rows] == table["gap"].tolist()  # negative, and numbers
    again = read_table(tmp_path / "table.csv", ["name"])
    assert again["name"].fillna("").tolist() == texts
    assert again[["gap", "flag"]].equals(table[["gap", "flag"]])


@pytest.mark.parametrize(
    ("start", "repeated", "times", "reason"),
    [
        ("", "a,", 10**6, "larger than a sweep's, of at most 1000 columns"),
        ("a,b\n", "1,", 10**6, "65,536 bytes a line"),
        ("a,b\n", "1,2\n", 2**22, "4,194,304 cells"),
        ("a\n", "1234567890123456\n", 2**21, r"35,651,586 bytes, a sweep's has at most 33,554,432"),
    ],
    ids=["columns", "row", "rows", "bytes"],
)
def test_a_table_larger_than_any_sweep_is_refused_before_it_is_parsed(
    tmp_path, monkeypatch, start, repeated, times, reason
):
    (tmp_path / "results.csv").write_text(start + repeated * times)
    monkeypatch.setattr(pd, "read_csv", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match=rf"results.csv is damaged .*{reason}.*; ask for another"):
        read_table(tmp_path / "results.csv", ["a"], "ask for another")
