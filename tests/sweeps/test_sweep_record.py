"""Reading a sweep writes and draws nothing, and imports nothing that trains or draws."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from transformers import AutoModelForImageClassification

import hf_ncollapse
from hf_ncollapse.hub.sweep_folder import FIGURES, read_sweep_folder
from hf_ncollapse.sweeps import read_results, read_sweep, summarize, write_report
from hf_ncollapse.sweeps.network_measurements import measure_networks
from hf_ncollapse.sweeps.report import finish_sweep


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_reading_a_sweep_its_curves_and_its_networks_writes_nothing(sweep):
    before = contents(sweep)
    record = read_sweep(str(sweep))
    assert record.summary["runs"] == 4
    assert len(record.curves) == 8
    assert record.networks.layers.empty
    assert len(measure_networks(str(sweep), record.finished).layers) == 2 * 3 + 2 * 5
    assert len(read_sweep_folder(str(sweep)).runs) == 4
    assert contents(sweep) == before


READ = """
import sys, hf_ncollapse
sweep = hf_ncollapse.load_sweep(sys.argv[1])
sweep.results, sweep.summary, sweep.to_latex(), sweep._repr_html_(), list(sweep)
trains_or_draws = ("matplotlib", "transformers.trainer", "transformers.training_args", "hf_ncollapse.training",
                   "hf_ncollapse.sweeps.report", "hf_ncollapse.sweeps.figures", "hf_ncollapse.hub.card")
print([name for name in sys.modules if name.startswith(trains_or_draws)])
"""


def test_loading_a_sweep_imports_nothing_that_trains_or_draws(trained_sweep):
    program = [sys.executable, "-c", READ, str(trained_sweep)]
    finished = subprocess.run(program, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_a_sweep_is_not_published_with_the_figures_of_another_table(sweep):
    assert read_sweep(sweep).has_current_figures
    results = read_results(sweep)
    results[results["seed"] == 0].to_csv(sweep / "results.csv", index=False)
    before = contents(sweep)
    with pytest.raises(ValueError, match=r"has no figures of this results\.csv.*`hf-ncollapse report .*` draws them"):
        read_sweep_folder(sweep, partial=True)
    assert contents(sweep) == before
    finish_sweep(str(sweep))
    assert len(read_sweep_folder(sweep, partial=True).figures) == len(FIGURES)


def test_a_folder_is_opened_as_a_published_sweep_is(trained_sweep):
    sweep = hf_ncollapse.load_sweep(str(trained_sweep))
    assert hf_ncollapse.load_sweep(trained_sweep).name == "digits-rn1"
    pd.testing.assert_frame_equal(sweep.results, read_results(trained_sweep))
    assert sweep.summary["slopes"] == summarize(sweep.results)["slopes"]
    assert (sweep.depths, sweep.seeds, len(sweep)) == ([2, 4], [0, 1], 4)
    for run in sweep:
        folder = trained_sweep / f"depth-{run.depth}" / f"seed-{run.seed}"
        assert run.metrics["gap"] == json.loads((folder / "metrics.json").read_text())["gap"]
    pixels = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    expected = AutoModelForImageClassification.from_pretrained(trained_sweep / "depth-4" / "seed-0")(pixels).logits
    torch.testing.assert_close(sweep.load(4)(pixels).logits, expected, rtol=0, atol=0)
    assert type(sweep.processor(2, 1)).__name__ == "CollapseImageProcessor"
    with pytest.raises(ValueError, match="depth is 3; digits-rn1 has 2, 4"):
        sweep.load(3)


def test_what_is_no_sweep_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no sweep: it has no results\.csv"):
        hf_ncollapse.load_sweep(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        hf_ncollapse.load_sweep(tmp_path / "absent")


def test_changed_weights_are_not_loaded(sweep):
    weights = sweep / "depth-2" / "seed-0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        hf_ncollapse.load_sweep(sweep).load(2, 0)


def test_a_notebook_plots_one_figure_and_writes_the_same_report(sweep, tmp_path):
    opened = hf_ncollapse.load_sweep(sweep)
    figure = opened.plot("gap")
    assert isinstance(figure, Figure)
    shown = figure.axes[0].containers[0].lines[0].get_ydata()
    assert shown.tolist() == pytest.approx(opened.results.groupby("depth")["gap"].mean().tolist())
    with pytest.raises(ValueError, match="figure is 'gapp'; digits-rn1 has collapse, gap, "):
        opened.plot("gapp")
    path = opened.report(str(tmp_path / "report.html"))
    assert path.read_text() == write_report(sweep, tmp_path / "again.html").read_text()
    assert f"{opened.results['gap'].iloc[0]:.4g}" in opened._repr_html_()


def test_a_latex_table_has_the_means_over_the_seeds(trained_sweep):
    sweep = hf_ncollapse.load_sweep(trained_sweep)
    lines = sweep.to_latex(["gap", "nc1"]).splitlines()
    assert lines[0] == r"\begin{tabular}{rrr}"
    assert lines[2] == r"$B$ & $J - J^{*}$ & NC1 \\"
    gap = sweep.results[sweep.results["depth"] == 2]["gap"]
    assert lines[4].startswith(rf"2 & ${gap.mean():#.4g} \pm {gap.std():#.2g}$ & $")
    with pytest.raises(ValueError, match="quantities has gab"):
        sweep.to_latex(["gab"])
