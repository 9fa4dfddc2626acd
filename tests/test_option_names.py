"""Options may be written with hyphens or underscores, and a mistyped one is told the nearest that there is."""

import pytest

from hf_ncollapse.cli import build_parser, main
from hf_ncollapse.commands import train
from hf_ncollapse.sweeps import parse_recipe

SWEEP = ["--sweep=a", "--architecture=L-RN1", "--depths=1", "--dataset=digits"]


def test_a_command_takes_hyphens_and_underscores():
    measured = build_parser().parse_args(["measure", "model", "--test_split=test", "--min-class-count", "3"])
    assert (measured.test_split, measured.min_class_count) == ("test", 3)
    assert build_parser().parse_args(["measure", "a_model", "--limit=2"]).model == "a_model"  # a value stays as it is


@pytest.mark.parametrize("written", ["--train_samples", "--train-samples"])
def test_a_recipe_takes_hyphens_and_underscores(written):
    for given in ([f"{written}=200"], [written, "200"]):
        (recipe,), _ = parse_recipe([*SWEEP, *given])
        assert recipe.data.train_samples == 200
    for dry_run in ("--dry-run", "--dry_run"):
        assert parse_recipe([*SWEEP, dry_run], extend=train.add_options)[1].dry_run


def test_a_mistyped_option_is_told_the_nearest_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["measure", "model", "--datset", "digits"])
    assert "there is no option --datset; did you mean --dataset?" in capsys.readouterr().err
    assert main(["train", "digits/rn1", "--train_sampels=3"]) == 2
    assert "there is no option --train_sampels; did you mean --train_samples?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["theory", "--classes", "3", "--l2", "1", "--qqqqqq"])
    assert "unrecognized arguments: --qqqqqq" in capsys.readouterr().err
