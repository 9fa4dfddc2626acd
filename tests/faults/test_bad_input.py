"""Every mistake a user can make is one line that names the argument, what it got and what it takes."""

import gzip
import importlib.util
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ncollapse import CollapseResNetConfig, CollapseTransformerConfig
from hf_ncollapse.cli import main as command
from hf_ncollapse.data import DataArguments, load_classification_data
from hf_ncollapse.data.packaged import read_idx
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.sweeps import Recipe, parse_recipe
from hf_ncollapse.theory import gufm_optimum
from hf_ncollapse.training.arguments import CollapseTrainingArguments

RECIPE = {"sweep": "tiny", "architecture": "L-RN1", "depths": [2, 4], "dataset": "digits"}
nan, inf = math.nan, math.inf


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "recipes" / "train.py"
    specification = importlib.util.spec_from_file_location("train_script_of_bad_input", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


CONFIGS = [
    (CollapseResNetConfig, {"hidden_size": 1}, "hidden_size is 1; it must be at least 2"),
    (CollapseResNetConfig, {"hidden_size": "64"}, "hidden_size"),
    (CollapseResNetConfig, {"hidden_size": 6.5}, "hidden_size"),
    (CollapseResNetConfig, {"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be at least 1"),
    (CollapseResNetConfig, {"num_hidden_layers": None}, "num_hidden_layers"),
    (CollapseResNetConfig, {"norm_placement": "middle"}, "norm_placement"),
    (CollapseResNetConfig, {"norm_scale": 1}, "norm_scale"),
    (CollapseResNetConfig, {"hidden_act": "rleu"}, "did you mean 'relu'"),
    (CollapseResNetConfig, {"loss": "hinge"}, "loss"),
    (CollapseResNetConfig, {"l2_coefficient": -1.0}, "l2_coefficient is -1.0; it must be a finite number ≥ 0"),
    (CollapseResNetConfig, {"l2_coefficient": nan}, "l2_coefficient is nan"),
    (CollapseResNetConfig, {"l2_coefficient": inf}, "l2_coefficient is inf"),
    (CollapseResNetConfig, {"l2_coefficient": "5e-3"}, "l2_coefficient"),
    (CollapseResNetConfig, {"l2_depth_scaling": "linear"}, "l2_depth_scaling"),
    (
        CollapseResNetConfig, {"classifier_l2_coefficient": -0.1},
        "classifier_l2_coefficient is -0.1; it must be a finite number ≥ 0",
    ),
    (CollapseResNetConfig, {"classifier_l2_coefficient": inf}, "classifier_l2_coefficient is inf"),
    (CollapseResNetConfig, {"classifier_l2_coefficient": "same"}, "classifier_l2_coefficient"),
    (CollapseResNetConfig, {"clasifier_l2_coefficient": 1}, "did you mean 'classifier_l2_coefficient'"),
    (CollapseResNetConfig, {"classifier_bias": 1}, "classifier_bias"),
    (CollapseResNetConfig, {"classifier_bias": None}, "classifier_bias"),
    (CollapseResNetConfig, {"linear_layers_per_block": 3}, "linear_layers_per_block"),
    (CollapseResNetConfig, {"image_size": 0}, "image_size is 0; it takes one side or"),
    (CollapseResNetConfig, {"image_size": [8, 8, 8]}, r"image_size is \[8, 8, 8\]; it takes one side or"),
    (CollapseResNetConfig, {"num_channels": 0}, "num_channels is 0; it must be at least 1"),
    (CollapseResNetConfig, {"hiden_size": 8}, "no field 'hiden_size'; did you mean 'hidden_size'"),
    (
        CollapseTransformerConfig, {"attention_linear_layers": 2, "num_attention_heads": 3},
        "num_attention_heads is 3; it must divide hidden_size = 64",
    ),
    (CollapseTransformerConfig, {"num_attention_heads": 0}, "num_attention_heads is 0; it must be at least 1"),
    (CollapseTransformerConfig, {"is_causal": "yes"}, "is_causal"),
    (CollapseTransformerConfig, {"attention_linear_layers": 3}, "attention_linear_layers"),
    (CollapseTransformerConfig, {"mlp_linear_layers": 0}, "mlp_linear_layers"),
    (CollapseTransformerConfig, {"patch_size": 5}, "patch_size is 5; it must divide image_size = 28"),
    (CollapseTransformerConfig, {"patch_size": 0}, "patch_size is 0"),
    (CollapseTransformerConfig, {"pooling": "cls"}, "pooling"),
    (CollapseTransformerConfig, {"is_causual": False}, "no field 'is_causual'; did you mean 'is_causal'"),
    (CollapseTransformerConfig, {"vocab_size": 0}, "vocab_size is 0; it must be at least 1"),
    (
        CollapseTransformerConfig, {"vocab_size": 9, "max_position_embeddings": 0},
        "max_position_embeddings is 0; it must be at least 1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "fields", "message"), CONFIGS)
def test_a_config_names_the_field(config, fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        config(**fields)


TRAINING = [
    ({"optim": "adamw_torch"}, "optim is 'adamw_torch'; for the exact objective it takes one of adam, sgd, lbfgs"),
    ({"max_grad_norm": 1.0}, "max_grad_norm is 1.0; for the exact objective it takes 0"),
    ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
    ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is 5.0"),
    ({"average_tokens_across_devices": False}, "average_tokens_across_devices is False"),
    ({"weight_decay": 0.005}, "weight_decay is 0.005; the penalty is l2_coefficient and classifier_l2_coefficient"),
    ({"full_batch": True, "gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4; with full_batch"),
    ({"optim_args": "momentum"}, "optim_args is 'momentum'; it takes key=value"),
    ({"optim_args": "weight_decay=1"}, "optim_args names weight_decay"),
    ({"optim": "sgd", "optim_args": "momentum=high"}, "it takes numbers, not 'high'"),
    ({"optim": "sgd", "optim_args": "moment=0.9"}, "optim_args names moment; sgd takes"),
    ({"lr_scheduler_type": "cosin"}, "cosin"),
    ({"eval_strategy": "often"}, "often"),
]


@pytest.mark.parametrize(("fields", "message"), TRAINING)
def test_training_arguments_name_the_argument(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        CollapseTrainingArguments(output_dir=str(tmp_path), **fields)


DATA = [
    ({"train_samples": 0}, "train_samples is 0; it must be a whole number of at least 1"),
    ({"train_samples": 2.5}, "train_samples is 2.5"),
    ({"train_samples": True}, "train_samples is True"),
    ({"test_samples": -1}, "test_samples is -1"),
    ({"subset_seed": -1}, "subset_seed is -1; it must be a whole number of at least 0"),
    ({"image_size": 0}, "image_size is 0"),
    ({"vocabulary_size": 9}, "vocabulary_size is 9; it must be a whole number of at least 10"),
    ({"max_length": 1}, "max_length is 1; it must be a whole number of at least 2"),
    ({"image_column": "a", "text_column": "b"}, "give only one of them"),
    ({"dataset": "digit"}, "dataset is 'digit'; it takes one of digits"),
    ({"dataset": "a/b/c"}, "dataset is 'a/b/c'; it takes one of digits"),
    ({"dataset": "../up"}, "dataset .*'../up'"),
    ({"train_samples": 105}, "train_samples is 105; a balanced subset of 10 classes"),
    ({"train_samples": 5000}, "train_samples is 5000"),
]


@pytest.mark.parametrize(("fields", "message"), DATA)
def test_data_arguments_name_the_argument(fields, message):
    with pytest.raises(ValueError, match=message):
        load_classification_data(DataArguments(**{"dataset": "digits", **fields}))


RECIPES = [
    ({"lerning_rate": 1}, "unknown key 'lerning_rate'; did you mean 'learning_rate'"),
    ({1: 2}, "unknown key 1"),
    ({"depths": "two"}, "--depths: invalid int value: 'two'"),
    ({"depths": [0]}, r"depths is \[0\]; it takes different whole numbers of at least 1"),
    ({"depths": [4, 2]}, "they go from shallow to deep"),
    ({"depths": {"a": 1}}, "--depths: invalid int value"),
    ({"depths": [2, 8], "initialization": "continuation"}, "so 8 cannot follow 2"),
    ({"seeds": [0, 0]}, r"seeds is \[0, 0\]; it takes different"),
    ({"sweep": "../up"}, "sweep is '../up'; a name has letters"),
    ({"sweep": ""}, "sweep is ''; a name has letters"),
    ({"sweep": "a--b"}, "sweep is 'a--b'; the Hub takes no such name. Cannot have -- or .. in repo_id"),
    ({"sweep": "a..b"}, "sweep is 'a..b'; the Hub takes no such name"),
    ({"sweep": "a-"}, "sweep is 'a-'; the Hub takes no such name"),
    ({"sweep": "a" * 90}, "the Hub takes no such name. .*length is 96"),
    ({"initialization": "warm"}, "--initialization"),
    ({"shallowest_max_steps": 0}, "shallowest_max_steps is 0; it must be at least 1"),
    ({"max_steps_depth_exponent": -1}, "max_steps_depth_exponent is -1.0; it must be at least 0"),
    ({"norm_scale": "big"}, "--norm_scale"),
    ({"pooling": "cls"}, "--pooling"),
    ({"l2_depth_scaling": "linear"}, "--l2_depth_scaling"),
    ({"classifier_l2_coefficient": "same"}, "--classifier_l2_coefficient.*: invalid float value: 'same'"),
    ({"classifier_l2_coefficient": -1}, "classifier_l2_coefficient is -1.0; it must be a finite number ≥ 0"),
    ({"hidden_size": 1}, "^(hf-ncollapse train: error: )?hidden_size is 1; it must be at least 2"),
    ({"is_causal": "maybe"}, "--is_causal"),
    ({"is_causal": True}, "is_causal cannot be set for L-RN1, which has no such part"),
    ({"classifier_bias": "maybe"}, "--classifier_bias"),
    ({"weight_decay": 0.005}, "weight_decay is 0.005; the penalty is l2_coefficient"),
    ({"full_batch": True, "gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2; with full_batch"),
    ({"use_cpu": "maybe"}, "--use_cpu"),
    ({"seed": 3}, "seed is 3; a sweep sets it for each run"),
    ({"learning_rate": "fast"}, "--learning_rate.*: invalid float value: 'fast'"),
    ({"train_samples": "many"}, "--train_samples.*: invalid int value: 'many'"),
]


@pytest.mark.parametrize(("fields", "message"), RECIPES)
def test_a_recipe_names_the_key(script, tmp_path, capsys, fields, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **fields}))
    assert script.main(["--config", str(path), "--output_dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-ncollapse train: error: ")
    assert re.search(message, error)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match=message):
        script.main(["--config", str(path), "--traceback"])


_TEN_TIMES = "\n".join(
    f"{key}: &{key} [{', '.join(['*' + before] * 10)}]"
    for before, key in itertools.pairwise(["sweep", "depths", "seeds", "dataset", "loss", "max_steps", "hidden_size"])
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("sweep: s\n".encode("utf-16"), "recipe.yaml is not valid YAML in UTF-8", id="UTF-16"),
        pytest.param(b"[" * 10**5, "recipe.yaml is not valid YAML in UTF-8", id="nested"),
        pytest.param(
            f"sweep: &sweep [x]\n{_TEN_TIMES}\n".encode(), r"recipe.yaml has the alias \*sweep", id="aliases"
        ),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named(script, tmp_path, capsys, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert script.main(["--config", str(path)]) == 2
    assert re.search(message, capsys.readouterr().err)


CLASSES, WIDTH = 3, 4
FEATURES, LABELS = torch.eye(WIDTH).repeat(3, 1), torch.arange(12) % CLASSES
ARRAYS = [
    (FEATURES[0], LABELS, "features"),
    (FEATURES, LABELS[:-1], "labels"),
    (FEATURES, LABELS.float() + 0.5, "labels"),
    (FEATURES, LABELS + 1, "labels"),
    (FEATURES, LABELS - 1, "labels"),
    (FEATURES * nan, LABELS, "features"),
    (FEATURES / 0, LABELS, "features"),
    (FEATURES.double() * 1e300, LABELS, "features"),
    (FEATURES.to(torch.complex64), LABELS, "features"),
]


@pytest.mark.parametrize(("features", "labels", "message"), ARRAYS)
def test_statistics_name_the_array_and_stay_as_they_were(features, labels, message):
    statistics = ClassStatistics(CLASSES)
    statistics.update(FEATURES, LABELS)
    before = measures.nc1(statistics)
    with pytest.raises((ValueError, TypeError), match=message):
        statistics.update(features, labels)
    assert measures.nc1(statistics) == before


THEORY = [
    (([5], 0.1), {}, r"class_counts is .*at least 2 classes"),
    (([5, 0], 0.1), {}, r"class_counts is .*at least 1 sample"),
    (([5, 5], 0.0), {}, "l2_coefficient is 0.0; it must be > 0"),
    (([5, 5], nan), {}, "l2_coefficient is nan"),
    (([5, 5], 0.1), {"radius": 0.0}, "radius is 0.0; it must be > 0"),
    (([5, 5], 0.1), {"loss": "hinge"}, "loss is 'hinge'; it takes 'cross_entropy' or 'mse'"),
    (([5, 5, 5], 0.1), {"hidden_size": 2}, "hidden_size is 2; the simplex ETF of 3 classes"),
    (([5, 5], 0.1), {"conflicts": [[1, 1, 1]]}, r"conflicts has shape \(1, 3\)"),
    (([5, 5], 0.1), {"conflicts": [[6, 1]]}, "conflicts has 6 samples of class 0"),
]


@pytest.mark.parametrize(("arguments", "keywords", "message"), THEORY)
def test_the_theory_names_the_argument(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        gufm_optimum(*arguments, **{"radius": 1.0, **keywords})


COMMANDS = [
    (["theory", "--classes", "1", "--l2", "0.1"], "class_counts is"),
    (["theory", "--classes", "10", "--l2", "-1"], "l2_coefficient is -1.0; it must be > 0"),
    (["theory", "--classes", "-3", "--l2", "0.1"], "class_counts is"),
    (["theory", "--classes", "3", "--l2", "0.1", "--hidden-size", "-4"], "--hidden-size must be at least 1, got -4"),
    (["theory", "--classes", "65", "--l2", "0.1"], "hidden_size is 64; the simplex ETF of 65 classes"),
    (["theory", "--classes", "64", "--l2", "0.1", "--loss", "mse"], "hidden_size is 64; the orthogonal frame of 64"),
    (["theory", "--class-counts", "4", "0", "--l2", "0.1"], "class_counts is"),
    (["report", "nowhere"], "nowhere"),
    (["publish", "nowhere", "--namespace", "me", "--dry-run"], "nowhere"),
    (["publish", "nowhere", "--namespace", "me", "--cards", "x"], "--cards goes with --dry-run"),
    (["measure", "x", "--dataset", "digits", "--output", "a.txt"], "--output must end in .csv"),
    (["measure", "x", "--dataset", "digits", "--limit", "0"], "--limit must be at least 1, got 0"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS)
def test_a_command_prints_one_line_and_debug_the_traceback(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-ncollapse: error: ")
    assert re.search(message, error)
    with pytest.raises((ValueError, OSError), match=message):
        command(["--debug", *arguments])


def idx(shape, values: bytes) -> bytes:
    return b"\x00\x00\x08" + bytes([len(shape)]) + np.array(shape, dtype=">u4").tobytes() + values


WHOLE = gzip.compress(idx((2, 3), bytes(6)))


DAMAGED = {
    "empty": b"",
    "no trailer": WHOLE[:-9],
    "cut in the header": WHOLE[:12],
    "not compressed": b"plain",
    "nothing compressed": gzip.compress(b""),
    "one pixel short": gzip.compress(idx((2, 3), bytes(5))),
    "cut in the shape": gzip.compress(idx((2, 3), b"")[:9]),
    "pixels of another type": gzip.compress(b"\x00\x00\x0d\x02" + bytes(20)),
    "a flipped byte": WHOLE[:15] + bytes([WHOLE[15] ^ 255]) + WHOLE[16:],
}


# Named: the bytes themselves hold the second of their compression, and two workers would collect different tests.
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_image_file_is_named(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(WHOLE)
    assert read_idx(path).shape == (2, 3)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.gz is (damaged|no IDX file)"):
        read_idx(path)


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 9), max_size=3),
)
FIELDS = {
    CollapseResNetConfig: [
        "hidden_size", "num_hidden_layers", "norm_placement", "norm_scale", "hidden_act", "loss",
        "classifier_bias", "l2_coefficient", "classifier_l2_coefficient", "l2_depth_scaling",
        "linear_layers_per_block", "image_size", "num_channels",
    ],
    CollapseTransformerConfig: [
        "attention_linear_layers", "mlp_linear_layers", "num_attention_heads", "is_causal", "pooling", "image_size",
        "num_channels", "patch_size", "vocab_size", "max_position_embeddings", "pad_token_id",
    ],
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([(config, name) for config, fields in FIELDS.items() for name in fields]), anything)
def test_any_value_of_any_field_is_taken_or_refused_by_name(field, value):
    config_class, name = field
    try:
        config = config_class(**{name: value})
    except (ValueError, StrictDataclassError) as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert config.resolved_l2_coefficient >= 0
        assert config.resolved_classifier_l2_coefficient >= 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), max_size=5),
    st.lists(st.integers(-2, 4), max_size=5),
)
def test_any_features_and_labels_are_counted_or_refused(features, labels):
    statistics = ClassStatistics(3)
    features = torch.tensor(features).reshape(-1, 2)
    valid = len(features) == len(labels) and features.isfinite().all() and all(0 <= label < 3 for label in labels)
    if valid:
        statistics.update(features, torch.tensor(labels, dtype=torch.int64))
        assert statistics.num_samples == len(labels)
    else:
        with pytest.raises(ValueError, match=r"features|labels"):
            statistics.update(features, torch.tensor(labels, dtype=torch.int64))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*RECIPE, "seeds", "loss", "learning_rate", "optim", "full_batch", "train_samples", "use_cpu",
                         "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "optim_args", "output_dir",
                         "warmup_steps"])
        | st.text(max_size=4),
        anything | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        max_size=4,
    )
)  # fmt: skip
def test_any_yaml_mapping_is_a_recipe_or_a_value_error(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}), encoding="utf-8")
    try:
        recipes, _ = parse_recipe(["--config", str(path)])
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert all(isinstance(recipe, Recipe) for recipe in recipes)
