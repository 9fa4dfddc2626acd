"""`evaluate.load("neural_collapse")` works literally: from any folder, offline, without the package imported."""

import os
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
import torch

import hf_ncollapse
from hf_ncollapse import cli
from hf_ncollapse.hub import metric as metric_installation


@pytest.fixture
def modules_cache(tmp_path, monkeypatch):
    cache = tmp_path / "modules"
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(cache))
    return cache


def copies(modules_cache):
    return sorted(path.parent for path in modules_cache.glob("**/neural_collapse.py"))


FRESH_PROCESS = """
import sys
sys.modules["hf_ncollapse"] = None  # any import of the package fails
import evaluate
metric = evaluate.load("neural_collapse")
features = [[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]
result = metric.compute(predictions=features, references=[0, 0, 1, 1], classifier=[[1.0, 0.0], [-1.0, 0.0]])
assert (result["nc1"], result["nc3"]) == (0.0, 0.0) and abs(result["nc2"]) < 1e-12, result
print(sys.modules[type(metric).__module__].__file__)
"""


def test_the_literal_call_works_in_a_process_without_the_package(modules_cache, tmp_path):
    installed = metric_installation.install_metric()
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_MODULES_CACHE": str(modules_cache),
        "HF_HUB_OFFLINE": "1",
    }
    (tmp_path / "elsewhere").mkdir()
    finished = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert Path(finished.stdout.strip()).parent == installed


def test_installing_twice_changes_nothing(modules_cache):
    first = metric_installation.install_metric()
    before = {path: path.read_bytes() for path in first.iterdir()}
    assert metric_installation.install_metric() == first
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    assert copies(modules_cache) == [first]


def test_another_version_of_the_package_replaces_the_copy_but_not_what_others_put_there(modules_cache, monkeypatch):
    old = metric_installation.install_metric()
    downloaded = old.with_name("d" * 64)
    downloaded.mkdir()
    (downloaded / "neural_collapse.py").write_text("# what evaluate downloaded once\n")
    monkeypatch.setattr(metric_installation, "version", lambda name: "9.9.9")
    new = metric_installation.install_metric()
    assert new != old
    assert copies(modules_cache) == sorted([new, downloaded])
    newest = max(copies(modules_cache), key=lambda copy: (copy / "neural_collapse.py").stat().st_mtime)
    assert newest == new


def test_the_command_installs_and_uninstalls(modules_cache, capsys):
    assert cli.main(["install-metric"]) == 0
    (installed,) = copies(modules_cache)
    assert str(installed) in capsys.readouterr().out
    assert cli.main(["install-metric", "--uninstall"]) == 0
    assert copies(modules_cache) == []
    assert str(installed) in capsys.readouterr().out
    assert cli.main(["install-metric", "--uninstall"]) == 0
    assert "nothing was installed" in capsys.readouterr().out


def test_the_package_loads_its_own_metric(modules_cache, tmp_path):
    metric = hf_ncollapse.load_metric(cache_dir=str(tmp_path), keep_features_mib=1)
    metric.add_batch(predictions=torch.eye(3), references=torch.arange(3))
    assert metric.compute(measures="nc2_means")["nc2_means"] == pytest.approx(0, abs=1e-12)
