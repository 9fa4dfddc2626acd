"""Files of a sweep are there whole or not at all, and damage is named."""

import errno
import fcntl
import math
import os

import pandas as pd
import pytest

from hf_ncollapse import CollapseResNetConfig, CollapseResNetForImageClassification
from hf_ncollapse.data import load_classification_data
from hf_ncollapse.sweeps.files import read_json, read_table, sole_use, write_atomically, write_json
from hf_ncollapse.sweeps.results import (
    COLUMNS,
    collect_results,
    finished_runs,
    read_results,
    results_table,
    write_results,
)
from hf_ncollapse.sweeps.run_folder import write_run

SETTINGS = {"sweep": "s", "architecture": "L-RN1", "norm_placement": "post", "norm_scale": "sqrt", "dataset": "digits"}
SETTINGS |= {"loss": "mse", "classifier_bias": True, "initialization": "scratch", "l2_depth_scaling": "inverse"}
SETTINGS |= {"l2_coefficient": 0.005, "classifier_l2_coefficient": 0.01}
ROW = dict.fromkeys(COLUMNS, 1 / 3) | SETTINGS | {"depth": 2, "seed": 0, "steps": 5, "status": "finished"}


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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_open_to_whom_the_umask_allows(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_a_folder_without_locks_is_named_with_what_to_do(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(OSError, match=rf"{tmp_path} cannot be locked \(No locks available\).*--output_dir"),
        sole_use(tmp_path),
    ):
        pytest.fail("the folder is not locked")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", {}, "it has no sweep, architecture, "),
        ("metrics.json", {name: value for name, value in ROW.items() if name != "nc1"}, "it has no nc1"),
        ("metrics.json", ROW | {"nc1": "many"}, "nc1 is no number"),
        ("failure.json", {"status": "diverged"}, "it has no sweep, architecture, "),
    ],
)
def test_a_run_without_what_every_run_has_is_named_and_not_the_table(tmp_path, name, content, said):
    run = tmp_path / "depth-2" / "seed-0"
    run.mkdir(parents=True)
    write_json(run / name, content)
    with pytest.raises(ValueError, match=rf"depth-2/seed-0/{name} is damaged \({said}"):
        collect_results(tmp_path)


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
    assert tuple(again.columns) == COLUMNS
    assert again["classifier_bias"].tolist() == [True] * 3
    assert set(zip(again["l2_coefficient"], again["classifier_l2_coefficient"], strict=True)) == {(0.005, 0.01)}


def test_a_diverged_run_keeps_its_row_with_its_settings_and_no_numbers(tmp_path):
    for depth, name, content in (
        (2, "metrics.json", ROW),
        (4, "failure.json", {**SETTINGS, "depth": 4, "seed": 0, "status": "diverged", "steps": 7, "error": "NaN"}),
        (8, "failure.json", {**SETTINGS, "depth": 8, "seed": 0, "error": "out of memory"}),
    ):
        folder = tmp_path / f"depth-{depth}" / "seed-0"
        folder.mkdir(parents=True)
        write_json(folder / name, content)
    write_results(tmp_path, collect_results(tmp_path))
    results = read_results(tmp_path)
    assert results[["depth", "status", "steps"]].values.tolist() == [[2, "finished", 5], [4, "diverged", 7]]
    diverged = results.iloc[1]
    assert diverged[list(SETTINGS)].to_dict() == SETTINGS
    numbers = [name for name in COLUMNS if name not in (*SETTINGS, "depth", "seed", "steps", "status")]
    assert diverged[numbers].isna().all()
    assert finished_runs(results)["depth"].tolist() == [2]


@pytest.mark.parametrize("name", ["test_accuracy", "gufm_optimum", "gap", "gap_fit", "nc1_bound", "start_gap"])
def test_what_not_every_run_has_may_be_empty(tmp_path, name):
    write_results(tmp_path, results_table([ROW | {name: None}]))
    assert math.isnan(read_results(tmp_path)[name].item())


@pytest.mark.parametrize(("name", "value"), [("nc1", None), ("nc1", "many"), ("status", "stopped"), ("loss", None)])
def test_a_finished_run_without_what_every_run_has_is_damage(tmp_path, name, value):
    pd.DataFrame([ROW | {name: value}], columns=list(COLUMNS)).to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(ValueError, match=r"results.csv is damaged"):
        read_results(tmp_path)


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


@pytest.fixture
def disk(monkeypatch) -> list[tuple[str, str]]:
    """What is synced to the disk and what is renamed, in order, by name."""
    done = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        done.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def recorded_replace(source, target, **keywords):
        done.append(("rename", str(target)))
        replace(source, target, **keywords)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return done


def test_a_file_and_then_its_name_are_on_the_disk_when_it_is_written(tmp_path, disk):
    write_json(tmp_path / "a.json", {})
    temporary = disk[0][1]
    assert temporary.startswith(f"{tmp_path}/.a.json.")
    assert disk == [("sync", temporary), ("rename", str(tmp_path / "a.json")), ("sync", str(tmp_path))]


def test_a_run_is_on_the_disk_with_its_folders_before_its_metrics_say_so(tmp_path, disk):
    folder = tmp_path / "sweep" / "depth-1" / "seed-0"
    (folder / "checkpoint-5").mkdir(parents=True)
    (folder / "checkpoint-5" / "optimizer.pt").touch()
    data = load_classification_data("digits", train_samples=50)
    config = CollapseResNetConfig(num_hidden_layers=1, hidden_size=16, image_size=8, num_channels=1, num_labels=10)
    write_run(folder, CollapseResNetForImageClassification(config), data, [], {"gap": 1.0})

    end = disk.index(("rename", str(folder / "metrics.json")))
    before = {path for what, path in disk[:end] if what == "sync"}
    written = {str(path) for path in folder.iterdir()} - {str(folder / "metrics.json")}
    assert {"model.safetensors", "config.json"} <= {os.path.basename(path) for path in written}
    assert before >= written | {str(folder), str(folder.parent), str(folder.parent.parent)}
    assert disk[end + 1 :] == [("sync", str(folder))]
    assert not (folder / "checkpoint-5").exists()
