"""Sweeps and measurements side by side: aligned, with the differences of the seeds that both have."""

import json
import math

import constructed
import numpy as np
import pandas as pd
import pytest

from hf_ncollapse.cli import main
from hf_ncollapse.sweeps.comparison import compare_measurements, compare_sweeps
from hf_ncollapse.sweeps.results import write_results
from hf_ncollapse.sweeps.trained_sweep import TrainedSweep

# Student's t of 95% and two degrees of freedom, from a printed table.
T_OF_THREE_SEEDS = 4.302653


def made(folder, name: str, **columns) -> TrainedSweep:
    (folder / name).mkdir()
    write_results(folder / name, constructed.table(sweep=name, **columns))
    return TrainedSweep(folder / name)


@pytest.fixture
def pair(tmp_path):
    """B has other depths, an NC1 that is lower by 0.01, 0.02 and 0.03 by seed, and another slope of the gap."""
    first = made(tmp_path, "a", depths=(1, 2, 4))
    nc1 = {"nc1": lambda depth, seed: 0.1 / depth - 0.01 * (seed + 1)}
    gap = {"gap": lambda depth, seed: 0.1 * depth**-0.5}
    return first, made(tmp_path, "b", depths=(2, 4, 8), norm_placement="pre", **nc1, **gap)


def test_sweeps_are_aligned_by_depth_and_differ_by_what_their_seeds_do(pair):
    comparison = compare_sweeps(pair)
    assert comparison.names == ("post-LN", "pre-LN")
    rows = {(row.quantity, row.place): row for row in comparison.rows}
    assert [place for quantity, place in rows if quantity == "nc1"] == ["1", "2", "4", "8", "slope"]
    assert rows["nc1", "1"].values == (pytest.approx(0.1), None)
    assert rows["nc1", "1"].differences == (None,)
    (difference,) = rows["nc1", "2"].differences
    half = T_OF_THREE_SEEDS * 0.01 / math.sqrt(3)
    assert difference.mean == pytest.approx(-0.02)
    assert difference.interval == pytest.approx((-0.02 - half, -0.02 + half), rel=1e-5)
    assert rows["gap", "slope"].values == pytest.approx((-1.0, -0.5))
    assert rows["gap", "slope"].differences[0].mean == pytest.approx(0.5)


def test_sweeps_of_other_lambdas_and_sizes_are_named_by_them_and_compared_on_held_out_samples(tmp_path):
    sweeps = []
    for name, coefficient, samples in (("a", 0.002, 500), ("b", 0.02, 500), ("c", 0.02, None)):
        sweep = made(tmp_path, name, l2_coefficient=coefficient, classifier_l2_coefficient=coefficient)
        (sweep.folder / "sweep.json").write_text(json.dumps({"sweep": {}, "data": {"train_samples": samples}}))
        held_out = sweep.results[["depth", "seed"]].assign(test_nc1=coefficient, test_nc3=0.1)
        held_out.to_csv(sweep.folder / "held_out.csv", index=False)
        sweeps.append(sweep)
    comparison = compare_sweeps(sweeps)
    assert comparison.names == ("N = 500, λ = 0.002", "N = 500, λ = 0.02", "N = all, λ = 0.02")
    row = next(row for row in comparison.rows if (row.quantity, row.place) == ("test_nc1", "4"))
    assert row.values == pytest.approx((0.002, 0.02, 0.02))
    labels = [axes.get_ylabel() for axes in comparison.figure().axes]
    assert labels == ["gap $J - J^{*}$", "NC1", "NC2", "held-out NC1", "held-out accuracy"]
    assert {row.quantity for row in compare_sweeps([made(tmp_path, "d"), sweeps[0]]).rows} >= {"test_nc1"}


def test_seeds_that_one_sweep_alone_has_count_in_its_mean_but_not_in_a_difference(tmp_path):
    by_seed = {"nc1": lambda depth, seed: 0.1 * (seed + 1)}
    comparison = compare_sweeps(
        [made(tmp_path, "a", seeds=(0, 1), **by_seed), made(tmp_path, "b", seeds=(1, 5), **by_seed)]
    )
    row = next(row for row in comparison.rows if row.quantity == "nc1")
    assert row.values == pytest.approx((0.15, 0.4))
    assert row.differences[0].mean == 0
    assert row.differences[0].interval is None
    assert comparison.names == ("a", "b")  # nothing else tells them apart


def test_what_cannot_be_compared_is_named(pair, tmp_path):
    with pytest.raises(ValueError, match="2 to 6 sweeps or measurements, got 1"):
        compare_sweeps(pair[:1])
    with pytest.raises(ValueError, match="one sweep is named twice"):
        compare_sweeps([pair[0], pair[0]])
    with pytest.raises(ValueError, match="have no depth in common"):
        compare_sweeps([pair[0], made(tmp_path, "c", depths=(3, 5), norm_placement="pre")])


def test_the_command_prints_and_writes_what_python_gives(pair, tmp_path, capsys):
    folders = [str(sweep.folder) for sweep in pair]
    outputs = [str(tmp_path / f"out.{ending}") for ending in ("html", "tex", "csv", "png")]
    assert main(["compare", *folders, "--output", *outputs]) == 0
    printed = capsys.readouterr().out
    assert "B: pre-LN" in printed
    comparison = compare_sweeps(pair)
    table = pd.read_csv(outputs[2])
    pd.testing.assert_frame_equal(table, comparison.to_pandas(), check_dtype=False)
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml;base64," in page
    shown = next(line[-1] for line in comparison.cells if line[:2] == ["NC1", "2"])
    assert shown == "−0.02 [−0.045, +0.0048]"
    assert shown in printed
    assert shown in page
    latex = (tmp_path / "out.tex").read_text(encoding="utf-8")
    assert r"NC1 & 2 & 0.05000 & 0.03000 & $-$0.02 [$-$0.045, +0.0048] \\" in latex
    assert latex.isascii()
    assert main(["compare", *folders, "--output", "out.docx"]) == 2
    assert "output must end in .html" in capsys.readouterr().err


def measurement(path, class_means="own", **layers):
    rows = [{"layer": name, "nc1": nc1, "nc2": 0.5, "class_means": class_means} for name, nc1 in layers.items()]
    path.write_text(json.dumps({"model": "m", "layers": rows}))
    return path


def test_measurements_are_aligned_by_layer(tmp_path, capsys):
    first = measurement(tmp_path / "train.json", block_0=4.0, block_1=2.0, features=1.0)
    second = measurement(tmp_path / "test.json", "training", block_1=2.5, features=3.0)
    comparison = compare_measurements([str(first), second])
    rows = {(row.quantity, row.place): row for row in comparison.rows}
    assert [place for quantity, place in rows if quantity == "nc1"] == ["block_1", "features"]
    assert rows["nc1", "features"].values == (1.0, 3.0)
    assert rows["nc1", "features"].differences[0].mean == 2.0
    assert np.isfinite(comparison.to_pandas()["test - train"]).all()
    assert main(["compare", str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "test is about the training set's class means." in printed
    assert "Left out, because one measurement alone has them: block_0." in printed
    for arguments, said in (
        ([str(first), "runs/x"], "sweeps are not compared with measurements"),
        ([str(first), str(first)], "one measurement is named twice"),
        ([str(first), str(first), "--output", str(tmp_path / "x.png")], "named twice"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "other.json").write_text('{"layers": [1]}')
    assert main(["compare", str(first), str(tmp_path / "other.json")]) == 2
    assert "is no measurement" in capsys.readouterr().err
