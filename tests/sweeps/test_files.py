"""Files of a sweep are there whole or not at all, and damage is named."""

import pytest

from hf_ncollapse.sweeps.files import read_json, read_table, write_atomically, write_json
from hf_ncollapse.sweeps.results import COLUMNS, collect_results, read_results, results_table, write_results

ROW = dict.fromkeys(COLUMNS, 1 / 3) | dict.fromkeys(COLUMNS[:6], "x") | {"depth": 2, "seed": 0, "steps": 5}


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, fail)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"gap": float("nan")})
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ['{"a": ', "", "[1]", "\xff"])
def test_a_damaged_json_file_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metrics.json is damaged .*; delete it to make it anew"):
        read_json(path)


def test_a_table_is_read_back_with_every_digit_and_sorted_by_depth_and_seed(tmp_path):
    rows = [{**ROW, "depth": depth, "seed": seed} for depth, seed in ((10, 0), (2, 1), (2, 0))]
    results = results_table(rows)
    write_results(tmp_path, results)
    again = read_results(tmp_path)
    assert again[["depth", "seed"]].to_numpy().tolist() == [[2, 0], [2, 1], [10, 0]]
    assert again["gap"].tolist() == [1 / 3] * 3
    assert tuple(again.columns)[: len(COLUMNS)] == COLUMNS


def test_a_damaged_table_or_run_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results.csv does not exist"):
        read_results(tmp_path)
    (tmp_path / "results.csv").write_text("depth,seed\n1,2\n")
    with pytest.raises(ValueError, match=r"results.csv is damaged \(it has no column sweep"):
        read_table(tmp_path / "results.csv", COLUMNS)
    run = tmp_path / "depth-2" / "seed-0"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"seed-0/metrics.json is damaged"):
        collect_results(tmp_path)
