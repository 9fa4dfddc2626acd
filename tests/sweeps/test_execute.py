"""A sweep on real digits, end to end: resumed, changed, failing, repeated."""

import importlib.util
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForImageClassification

from hf_ncollapse.sweeps import COLUMNS, parse_recipe, run_sweep

TINY = [
    "--sweep=tiny", "--architecture=L-RN1", "--dataset=digits", "--train_samples=100", "--test_samples=50",
    "--hidden_size=16", "--max_steps=6", "--per_device_train_batch_size=100", "--logging_steps=3", "--eval_steps=3",
]  # fmt: skip


def sweep(folder, *arguments, depths=("2", "4")):
    (recipe,), _ = parse_recipe([*TINY, "--output_dir", str(folder), "--depths", *depths, *arguments])
    return run_sweep(recipe)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished sweep; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    assert not sweep(folder).failed
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_sweep_leaves_a_table_and_a_checkpoint_for_every_run(finished):
    table = pd.read_csv(finished / "tiny" / "results.csv")
    assert list(table.columns)[: len(COLUMNS)] == list(COLUMNS)
    assert table["depth"].tolist() == [2, 4]
    assert (table["gap"] > 0).all()
    assert table[["train_accuracy", "test_accuracy"]].stack().between(0, 1).all()
    for depth in (2, 4):
        folder = finished / "tiny" / f"depth-{depth}" / "seed-0"
        assert AutoModelForImageClassification.from_pretrained(folder).config.num_hidden_layers == depth
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["status"] == "finished"
        assert not list(folder.glob("checkpoint-*"))
    table = pd.read_parquet(finished / "tiny" / "results.parquet")
    assert len(table) == 2


def test_the_same_seed_gives_the_same_table_but_for_the_seconds(finished, tmp_path):
    sweep(tmp_path)
    first, second = (pd.read_csv(f / "tiny" / "results.csv").drop(columns="seconds") for f in (finished, tmp_path))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_finished_runs_are_left_alone_while_depths_and_seeds_are_added(copy):
    files = [copy / "tiny" / f"depth-{depth}" / "seed-0" / "model.safetensors" for depth in (2, 4)]
    times = [file.stat().st_mtime_ns for file in files]
    outcome = sweep(copy, "--seeds", "0", "1", depths=("2", "4", "5"))
    assert len(outcome.finished) == 6
    assert [file.stat().st_mtime_ns for file in files] == times
    table = pd.read_csv(copy / "tiny" / "results.csv")
    assert table[["depth", "seed"]].to_numpy().tolist() == [[2, 0], [2, 1], [4, 0], [4, 1], [5, 0], [5, 1]]


def test_another_configuration_in_the_same_folder_is_an_error_that_names_the_difference(copy):
    with pytest.raises(
        ValueError, match=r"max_steps was 6 and is 7\. Give this one another --sweep name or --output_dir"
    ):
        sweep(copy, "--max_steps", "7")
    with pytest.raises(ValueError, match=r"depths was \[2, 4\] and is \[4\]"):
        sweep(copy, depths=("4",))


def test_a_run_whose_loss_is_not_finite_is_recorded_and_the_others_go_on(tmp_path):
    overflow = ["--optim=sgd", "--learning_rate=1e30", "--warmup_steps=0", "--lr_scheduler_type=constant"]
    outcome = sweep(tmp_path, *overflow, "--norm_scale=sqrt", depths=("2", "3"))
    assert set(outcome.failed) == {"depth 2, seed 0", "depth 3, seed 0"}
    failure = json.loads((outcome.folder / "depth-2" / "seed-0" / "failure.json").read_text())
    assert 0 < failure["step"] < 6
    assert f"not finite at step {failure['step'] + 1}" in failure["error"]
    assert not (outcome.folder / "depth-2" / "seed-0" / "metrics.json").exists()


def test_a_continuation_does_not_start_from_a_parent_that_failed(tmp_path):
    outcome = sweep(
        tmp_path, "--initialization=continuation", "--optim=sgd", "--learning_rate=1e30", "--warmup_steps=0",
        depths=("2", "4"),
    )  # fmt: skip
    assert outcome.failed["depth 4, seed 0"] == "its parent, depth 2, seed 0, is not finished"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--architecture=L-RN3"], ValueError, r"architecture is 'L-RN3'; it takes one of L-RN1"),
        (["--dataset=digit"], ValueError, r"dataset is 'digit'; it takes one of .*digits"),
        (["--train_samples=105"], ValueError, r"train_samples is 105; a balanced subset of 10 classes"),
        (["--train_samples=5000"], ValueError, r"train_samples is 5000"),
        (["--hidden_size=1"], Exception, r"hidden_size is 1"),
        (["--patch_size=2"], ValueError, r"patch_size cannot be set for L-RN1"),
    ],
)
def test_a_mistake_is_an_error_before_any_training(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        sweep(tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_before_any_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        sweep(tmp_path / "file")


def test_the_script_tells_success_failure_and_mistakes_apart(copy, tmp_path, capsys):
    path = Path(__file__).parents[2] / "recipes" / "train.py"
    specification = importlib.util.spec_from_file_location("train", path)
    train = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(train)
    common = [*TINY, "--depths", "2", "4", "--output_dir"]

    assert train.main([*common, str(copy)]) == 0
    assert "tiny: L-RN1 on digits" in capsys.readouterr().out
    assert train.main([*common, str(tmp_path / "a"), "--optim=sgd", "--learning_rate=1e30", "--warmup_steps=0"]) == 1
    assert "depth 2, seed 0: the loss is not finite at step" in capsys.readouterr().err
    assert train.main([*common, str(tmp_path / "b"), "--depths", "none"]) == 2
    assert capsys.readouterr().err == "train.py: error: argument --depths: invalid int value: 'none'\n"
