"""From YAML and command line to recipes."""

from pathlib import Path

import pytest

from hf_ncollapse.sweeps import EngineArguments, parse_engine, parse_recipe

REQUIRED = {"sweep": "tiny", "architecture": "L-RN1", "depths": [2, 4], "dataset": "digits"}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("[!a]*/*.yaml"))


def as_yaml(**content):
    return "".join(f"{key}: {value}\n" for key, value in {**REQUIRED, **content}.items())


@pytest.fixture
def parse(tmp_path):
    def parse(*arguments, text=None, **content):
        path = tmp_path / "recipe.yaml"
        path.write_text(as_yaml(**content) if text is None else text, encoding="utf-8")
        return parse_recipe(["--config", str(path), *arguments])[0]

    return parse


def test_numbers_that_yaml_reads_as_text_are_cast(parse):
    (recipe,) = parse(learning_rate="1e-4", l2_coefficient="5e-3", classifier_bias="false", seeds="[0, 1]")
    assert recipe.training["learning_rate"] == 1e-4
    assert recipe.model.given() == {"l2_coefficient": 0.005, "classifier_bias": False}
    assert recipe.sweep.seeds == [0, 1]


def test_every_field_of_the_objective_reaches_the_networks(parse):
    fields = {
        "l2_coefficient": 0.01, "classifier_l2_coefficient": 0.02, "l2_depth_scaling": "inverse_all",
        "classifier_bias": True, "is_causal": False, "pooling": "mean",
    }  # fmt: skip
    (recipe,) = parse(**fields)
    assert recipe.model.given() == fields


def test_a_full_batch_is_part_of_the_training(parse):
    (recipe,) = parse(full_batch="true", per_device_train_batch_size=500)
    assert recipe.training == {"full_batch": True, "per_device_train_batch_size": 500, "output_dir": "runs"}


def test_the_command_line_wins_over_the_file(parse):
    (recipe,) = parse("--learning_rate", "0.5", "--depths", "3", "--sweep=mine", learning_rate=0.1)
    assert recipe.training["learning_rate"] == 0.5
    assert (recipe.sweep.depths, recipe.sweep.sweep) == ([3], "mine")


def test_only_what_differs_from_the_defaults_is_recorded(parse):
    (recipe,) = parse(warmup_steps=0.1, max_steps=7)
    assert recipe.to_dict() == {
        "sweep": recipe.to_dict()["sweep"],
        "model": {},
        "data": recipe.to_dict()["data"],
        "training": {"max_steps": 7},
    }


def test_where_runs_are_trained_is_said_in_the_file_too_and_is_no_part_of_the_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(as_yaml(engine="slurm", partition="gpu", gpus_per_run=1, slurm_options="[account=me, mem=8G]"))
    (recipe,), options = parse_recipe(["--config", str(path), "--workers", "4"])
    assert parse_engine(options) == EngineArguments(
        "slurm", workers=4, partition="gpu", gpus_per_run=1.0, slurm_options=["account=me", "mem=8G"]
    )
    assert not {"engine", "workers", "partition"} & {name for group in recipe.to_dict().values() for name in group}


def test_lists_of_grid_fields_are_a_sweep_for_every_combination(parse):
    recipes = parse(loss="[cross_entropy, mse]", architecture="[L-RN1, L-RN2]", norm_scale="[unit]")
    assert [recipe.sweep.sweep for recipe in recipes] == [
        "tiny-l-rn1-cross-entropy", "tiny-l-rn1-mse", "tiny-l-rn2-cross-entropy", "tiny-l-rn2-mse",
    ]  # fmt: skip
    assert [(recipe.sweep.architecture, recipe.model.loss) for recipe in recipes][1] == ("L-RN1", "mse")
    assert all(recipe.model.norm_scale == "unit" for recipe in recipes)


def test_numbers_of_a_grid_are_cast_and_name_its_sweeps(parse):
    recipes = parse(train_samples="[500, 2000]", l2_coefficient="[0.002, 1e-2]")
    assert [recipe.sweep.sweep for recipe in recipes] == [
        "tiny-500-0.002", "tiny-500-0.01", "tiny-2000-0.002", "tiny-2000-0.01",
    ]  # fmt: skip
    assert [(recipe.data.train_samples, recipe.model.l2_coefficient) for recipe in recipes][3] == (2000, 0.01)
    (recipe,) = parse(train_samples=500)
    assert (recipe.data.train_samples, recipe.sweep.sweep) == (500, "tiny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lerning_rate": 0.1}, r"unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ({"zzzzzz": 1}, r"unknown key 'zzzzzz'; --help lists the keys"),
        ({"depths": "two"}, r"--depths: invalid int value: 'two'"),
        ({"depths": "[0]"}, r"depths is \[0\]; it takes different whole numbers of at least 1"),
        ({"depths": "[4, 2]"}, r"depths is \[4, 2\]; they go from shallow to deep"),
        ({"depths": "[2, 2]"}, r"depths is \[2, 2\]; it takes different"),
        ({"seeds": "[-1]"}, r"seeds is \[-1\]; it takes different whole numbers of at least 0"),
        ({"depths": "[2, 5]", "initialization": "continuation"}, r"so 5 cannot follow 2: put a depth of at most 4"),
        ({"sweep": "../up"}, r"sweep is '../up'; a name has letters"),
        ({"loss": "hinge"}, r"loss"),
        ({"train_samples": 0}, r"train_samples is 0"),
        ({"optim": "adamw_torch"}, r"optim is 'adamw_torch'; for the exact objective"),
        ({"weight_decay": 0.005}, r"weight_decay is 0.005; the penalty is l2_coefficient and classifier_l2"),
        (
            {"full_batch": "true", "gradient_accumulation_steps": 2},
            r"gradient_accumulation_steps is 2; with",
        ),
        ({"pooling": "cls"}, r"--pooling"),
        ({"l2_depth_scaling": "linear"}, r"--l2_depth_scaling"),
        ({"max_grad_norm": 1}, r"max_grad_norm is 1.0; for the exact objective"),
        ({"seed": 3}, r"seed is 3; a sweep sets it for each run"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_the_key_takes(parse, content, message):
    with pytest.raises(ValueError, match=message):
        parse(**content)


def test_a_file_that_is_no_recipe_is_an_error(parse, tmp_path):
    with pytest.raises(ValueError, match="is not valid YAML"):
        parse(text="depths: [2")
    with pytest.raises(ValueError, match="holds a list; it takes keys with values"):
        parse(text="- 1\n")
    with pytest.raises(ValueError, match="the following arguments are required: --sweep, --architecture"):
        parse(text="depths: [2]\n")
    with pytest.raises(OSError, match=r"missing.yaml"):
        parse_recipe(["--config", str(tmp_path / "missing.yaml")])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_that_is_shipped_parses(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    for recipe in parse_recipe(["--config", str(path)])[0]:
        assert recipe.sweep.depths
