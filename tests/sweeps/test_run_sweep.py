"""A sweep on real digits, end to end: resumed, changed, failing, repeated."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_ncollapse.cli import main
from hf_ncollapse.commands import train
from hf_ncollapse.data import load_classification_data
from hf_ncollapse.sweeps import COLUMNS, parse_recipe, run, run_sweep
from hf_ncollapse.sweeps.plan import plan_runs
from hf_ncollapse.theory import gufm_optimum
from hf_ncollapse.training.losses import NonFiniteLossError
from hf_ncollapse.training.trainer import CollapseTrainer

TINY = [
    "--sweep=tiny", "--architecture=L-RN1", "--dataset=digits", "--train_samples=100", "--test_samples=50",
    "--hidden_size=16", "--max_steps=6", "--per_device_train_batch_size=100", "--logging_steps=3", "--eval_steps=3",
]  # fmt: skip


PENALTY = ("l2_coefficient", "classifier_l2_coefficient", "l2_depth_scaling")


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


@pytest.mark.parametrize("eval_steps", [1, 6])
def test_a_run_whose_loss_is_not_finite_is_a_row_of_the_table_and_the_others_go_on(tmp_path, eval_steps):
    # 2^100 times the learning rate at depth 2.
    overflow = ["--optim=sgd", "--learning_rate_depth_exponent=-100", "--warmup_steps=0", f"--eval_steps={eval_steps}"]
    outcome = sweep(tmp_path, *overflow, "--seeds", "0", "1", depths=("1", "2"))

    assert set(outcome.failed) == {"depth 2, seed 0", "depth 2, seed 1"}
    table = pd.read_csv(outcome.folder / "results.csv")
    assert table[["depth", "seed", "status"]].to_numpy().tolist() == [
        [1, 0, "finished"], [1, 1, "finished"], [2, 0, "diverged"], [2, 1, "diverged"],
    ]  # fmt: skip
    diverged = table[table["depth"] == 2]
    assert diverged[["objective", "gap", "nc1"]].isna().all(axis=None)
    assert (diverged["l2_coefficient"] == 0.005).all()
    failure = json.loads((outcome.folder / "depth-2" / "seed-0" / "failure.json").read_text())
    assert 0 < failure["steps"] < 6
    assert f"not finite at step {failure['steps'] + 1}" in failure["error"]
    assert failure["error"] == outcome.failed["depth 2, seed 0"]
    assert not (outcome.folder / "depth-2" / "seed-0" / "metrics.json").exists()


def fail_at_depth_2(monkeypatch, name, outcome):
    """Let one of the trainer's methods raise or return something else in the first run."""
    method = getattr(CollapseTrainer, name)

    def changed(trainer, *given, **keywords):
        if trainer.model.config.num_hidden_layers != 2:
            return method(trainer, *given, **keywords)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(CollapseTrainer, name, changed)


@pytest.mark.parametrize(
    ("name", "error", "steps", "reason"),
    [
        ("measure", torch.OutOfMemoryError("no memory.\nTried"), 3, "OutOfMemoryError: no memory. Tried"),
        pytest.param("_relative_gradient", MemoryError(), 6, "MemoryError", marks=pytest.mark.slow),
        ("training_step", RuntimeError("shapes"), 0, "RuntimeError: shapes"),
        pytest.param("training_step", ValueError("features"), 0, "ValueError: features", marks=pytest.mark.slow),
    ],
)
def test_an_error_of_one_run_is_named_and_the_others_go_on(tmp_path, monkeypatch, name, error, steps, reason):
    fail_at_depth_2(monkeypatch, name, error)
    outcome = sweep(tmp_path)
    assert outcome.failed == {"depth 2, seed 0": reason}
    assert [run.depth for run in outcome.finished] == [4]
    failure = json.loads((outcome.folder / "depth-2/seed-0/failure.json").read_text())
    assert (failure["status"], failure["steps"], failure["error"]) == ("failed", steps, reason)
    assert "in train_one" in failure["traceback"]
    assert pd.read_csv(outcome.folder / "results.csv")["depth"].tolist() == [4]

    monkeypatch.undo()
    assert not sweep(tmp_path).failed
    assert pd.read_csv(outcome.folder / "results.csv")["depth"].tolist() == [2, 4]


def test_a_network_that_does_not_fit_into_memory_fails_its_run_alone(tmp_path, monkeypatch):
    build = run.build_model

    def build_model(name, config, data):
        if config.num_hidden_layers == 4:
            raise MemoryError
        return build(name, config, data)

    monkeypatch.setattr(run, "build_model", build_model)
    assert sweep(tmp_path).failed == {"depth 4, seed 0": "MemoryError"}
    assert json.loads((tmp_path / "tiny/depth-4/seed-0/failure.json").read_text())["steps"] == 0


def test_a_number_that_is_first_not_finite_when_measured_is_a_diverged_run(tmp_path, monkeypatch):
    fail_at_depth_2(monkeypatch, "_relative_gradient", math.nan)
    outcome = sweep(tmp_path)
    assert outcome.failed == {"depth 2, seed 0": "not finite after 6 steps: relative_gradient"}
    table = pd.read_csv(outcome.folder / "results.csv")
    assert table[["depth", "status", "steps"]].to_numpy().tolist() == [[2, "diverged", 6], [4, "finished", 6]]


def test_a_sweep_of_failures_alone_has_no_table(tmp_path, monkeypatch):
    fail_at_depth_2(monkeypatch, "measure", RuntimeError("broken"))
    outcome = sweep(tmp_path, depths=("2",))
    assert outcome.failed
    assert not (outcome.folder / "results.csv").exists()


def test_a_run_that_diverged_is_trained_again_and_its_row_replaced(tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise NonFiniteLossError(3)

    with monkeypatch.context() as patched:
        patched.setattr("hf_ncollapse.sweeps.run_trainer.RunTrainer.train", fail)
        assert sweep(tmp_path).failed
    outcome = sweep(tmp_path)
    assert not outcome.failed
    assert (pd.read_csv(outcome.folder / "results.csv")["status"] == "finished").all()
    assert not list(outcome.folder.rglob("failure.json"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (0.005, 0.005, "constant")),
        pytest.param(["--l2_coefficient=0.01"], (0.01, 0.01, "constant"), marks=pytest.mark.slow),
        pytest.param(
            ["--l2_coefficient=0.01", "--l2_depth_scaling=inverse_all"],
            (0.01, 0.01, "inverse_all"),
            marks=pytest.mark.slow,
        ),
        (["--classifier_l2_coefficient=0.02", "--l2_depth_scaling=inverse"], (0.005, 0.02, "inverse")),
    ],
)
def test_a_row_has_the_penalty_of_the_recipe_before_depth_scaling(tmp_path, options, expected):
    folder = sweep(tmp_path, *options, depths=("2",)).folder
    metrics = json.loads((folder / "depth-2" / "seed-0" / "metrics.json").read_text())
    row = pd.read_csv(folder / "results.csv").iloc[0]
    for found in (metrics, row):
        assert tuple(found[name] for name in PENALTY) == expected


def test_without_a_penalty_there_is_no_optimum_and_no_gap(tmp_path):
    with pytest.warns(UserWarning, match="l2_coefficient is 0"):
        folder = sweep(tmp_path, "--l2_coefficient=0", depths=("2",)).folder
    row = pd.read_csv(folder / "results.csv").iloc[0]
    assert row[["gap", "gufm_optimum", "relative_gradient"]].isna().all()
    assert row["objective"] == row["fit"] > 0


# Depth


def test_a_depths_learning_rate_does_not_depend_on_the_other_depths(tmp_path):
    def rates(*depths):
        (recipe,), _ = parse_recipe([*TINY, "--learning_rate_depth_exponent=0.5", "--depths", *map(str, depths)])
        return {run.depth: run.learning_rate for run in plan_runs(recipe, learning_rate=0.01, max_steps=6)}

    assert rates(16) == {16: 0.0025}
    assert rates(1, 2, 4, 8, 16) == {depth: pytest.approx(0.01 / depth**0.5) for depth in (1, 2, 4, 8, 16)}


def test_a_depths_steps_follow_the_law_but_for_a_shallowest_that_is_said():
    def steps(*options):
        (recipe,), _ = parse_recipe([*TINY, "--max_steps_depth_exponent=0.5", "--depths", "2", "4", "9", *options])
        return [run.max_steps for run in plan_runs(recipe, learning_rate=0.01, max_steps=60)]

    assert steps() == [43, 30, 20]
    assert steps("--shallowest_max_steps=70") == [70, 30, 20]


def split_of_the_parent(folder):
    return AutoModelForImageClassification.from_pretrained(folder / "depth-1" / "seed-0").deepen(2)


@pytest.mark.parametrize("architecture", ["L-RN1", "L-RN2", "L-T11"])
def test_a_continuation_starts_at_the_gap_of_its_parents_split(tmp_path, architecture):
    options = ["--patch_size=4"] if architecture == "L-T11" else []
    folder = sweep(
        tmp_path, "--initialization=continuation", f"--architecture={architecture}", *options, depths=("1", "2")
    ).folder
    data = load_classification_data("digits", train_samples=100).train
    split = split_of_the_parent(folder)
    with torch.no_grad():
        objective = split(**data.batch(torch.arange(100))).loss + split.regularization()
    optimum = gufm_optimum([10] * 10, 0.005, radius=4).objective

    table = pd.read_csv(folder / "results.csv").set_index("depth")
    assert table["start_gap"][2] == pytest.approx(objective.item() - optimum, abs=1e-6)
    assert table["gap"][2] <= table["start_gap"][2]
    assert pd.isna(table["start_gap"][1])


def test_a_split_that_training_makes_worse_is_kept(tmp_path):
    # 4,096 times the learning rate at depth 2; the weights grow, and the loss stays finite.
    folder = sweep(
        tmp_path, "--initialization=continuation", "--learning_rate_depth_exponent=-12", "--warmup_steps=0",
        depths=("1", "2"),
    ).folder  # fmt: skip
    kept = AutoModelForImageClassification.from_pretrained(folder / "depth-2" / "seed-0")
    for name, weight in split_of_the_parent(folder).state_dict().items():
        assert torch.equal(kept.state_dict()[name], weight), name
    row = pd.read_csv(folder / "results.csv").iloc[1]
    assert row["gap"] == row["start_gap"]
    assert (row["depth"], row["status"], row["steps"]) == (2, "finished", 6)
    log = json.loads((folder / "depth-2" / "seed-0" / "log_history.json").read_text())["log_history"]
    assert max(entry["gap"] for entry in log if "gap" in entry) > row["gap"] + 1


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
        (["--hidden_size=1"], ValueError, r"hidden_size is 1"),
        (["--classifier_l2_coefficient=-1"], ValueError, r"classifier_l2_coefficient is -1"),
        (["--pooling=mean"], ValueError, r"pooling cannot be set for L-RN1"),
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
    common = [*TINY, "--depths", "2", "4", "--output_dir"]

    assert train.main([*common, str(copy)]) == 0
    assert "tiny: L-RN1 on digits" in capsys.readouterr().out
    assert train.main([*common, str(tmp_path / "a"), "--optim=sgd", "--learning_rate=1e30", "--warmup_steps=0"]) == 1
    assert "depth 2, seed 0: the loss is not finite at step" in capsys.readouterr().err
    assert train.main([*common, str(tmp_path / "b"), "--depths", "none"]) == 2
    assert capsys.readouterr().err == "hf-ncollapse train: error: argument --depths: invalid int value: 'none'\n"


def test_a_recipe_of_the_package_trains_by_its_name(tmp_path, capsys):
    smaller = ["--depths", "1", "--hidden_size", "16", "--max_steps", "2", "--output_dir", str(tmp_path)]
    assert main(["train", "digits/rn1", *smaller, "--shallowest_max_steps", "2"]) == 0
    assert (tmp_path / "digits-rn1" / "results.csv").is_file()
    assert main(["train", "digits/rn2"]) == 2
    assert "recipe is 'digits/rn2', which is no file here and none of the package's: " in capsys.readouterr().err
    assert main(["recipes"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    recipes = Path(__file__).parents[2] / "recipes"
    paths = [path for path in recipes.glob("*/*.yaml") if path.parent.name != "accelerate_configs"]
    assert names == sorted(f"{path.parent.name}/{path.stem}" for path in paths)
    assert main(["recipes", "mnist5k/rn1-demo"]) == 0
    assert capsys.readouterr().out == (recipes / "mnist5k/rn1_demo.yaml").read_text()
