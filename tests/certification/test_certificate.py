"""A certificate against what the networks' own code says, closed forms, dense Hessians, and altered claims."""

import copy
import json
import math
import shutil

import pandas as pd
import pytest
import torch

from hf_ncollapse import (
    CollapseResNetConfig,
    CollapseResNetForImageClassification,
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
)
from hf_ncollapse.certification import certify, certify_network
from hf_ncollapse.certification.curvature import smallest_curvature
from hf_ncollapse.cli import main
from hf_ncollapse.hub.card import write_cards
from hf_ncollapse.sweeps import run_sweep
from hf_ncollapse.sweeps.arguments import parse_recipe

# Numbers


def test_the_smallest_curvature_is_the_dense_matrix_s():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    parameters = [torch.zeros(5, 4).double(), torch.zeros(10).double()]

    def product(direction):
        image = matrix @ torch.cat([part.flatten() for part in direction])
        return [part.view_as(p) for part, p in zip(image.split([20, 10]), parameters, strict=True)]

    exact = torch.linalg.eigvalsh(matrix)[0].item()
    value, residual = smallest_curvature(product, parameters, 30)
    assert value == pytest.approx(exact, abs=1e-9)
    assert residual < 1e-7
    early, residual = smallest_curvature(product, parameters, 6)
    assert exact <= early
    assert (torch.linalg.eigvalsh(matrix) - early).abs().min() <= residual


def batches(count=24, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randn(count, 1, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1)
    return [{"pixel_values": p, "labels": y} for p, y in zip(pixels.split(7), labels.split(7), strict=True)]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("family", ["resnet", "transformer"])
@pytest.mark.parametrize("scaling", ["constant", "inverse", "inverse_all"])
def test_objective_and_gradient_are_those_of_the_networks_own_penalty_and_loss(loss, family, scaling):
    torch.manual_seed(1)
    keywords = {
        "hidden_size": 8, "num_hidden_layers": 2, "image_size": 4, "num_labels": 3, "loss": loss,
        "l2_coefficient": 0.02, "classifier_l2_coefficient": 0.05, "l2_depth_scaling": scaling,
        "classifier_bias": loss == "mse",
    }  # fmt: skip
    if family == "resnet":
        model = CollapseResNetForImageClassification(CollapseResNetConfig(norm_placement="pre", **keywords))
    else:
        model = CollapseTransformerForImageClassification(CollapseTransformerConfig(patch_size=2, **keywords))
    before = copy.deepcopy(model.state_dict())
    data = batches()
    certificate = certify_network(model, data, test_batches=batches(seed=5), curvature_steps=5)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.dtype == torch.float32
    model.double()
    whole = {name: torch.cat([batch[name] for batch in data]) for name in data[0]}
    output = model(**whole)
    objective = output.loss + model.regularization()
    objective.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert certificate.measured["objective"] == pytest.approx(objective.item(), rel=1e-12)
    assert certificate.gradient_norm == pytest.approx(gradient, rel=1e-10)
    parts = ("regularization_body", "gap_fit", "gap_classifier", "gap_spread")
    assert sum(certificate.measured[name] for name in parts) == pytest.approx(certificate.measured["gap"], abs=1e-10)
    assert certificate.measured["gap"] > 0
    assert 0 <= certificate.measured["test_accuracy"] <= 1
    assert math.isfinite(certificate.curvature)


@pytest.mark.parametrize(
    "fields",
    [
        {"l2_coefficient": 0.0},
        {"classifier_l2_coefficient": 0.0},
        {"loss": "mse", "hidden_size": 3},  # an orthogonal frame of 3 needs 4 dimensions
        {"hidden_size": 2},
    ],
)
def test_where_the_theory_has_no_optimum_the_rest_is_certified(fields):
    model = CollapseResNetForImageClassification(
        CollapseResNetConfig(**{"hidden_size": 8, "num_hidden_layers": 1, "image_size": 4, "num_labels": 3, **fields})
    )
    measured = certify_network(model, batches(), curvature_steps=0).measured
    assert "gap" not in measured
    assert {"objective", "nc1", "nc2", "nc3", "train_accuracy"} <= set(measured)


def test_an_imbalanced_optimum_is_certified_from_below():
    model = CollapseResNetForImageClassification(
        CollapseResNetConfig(hidden_size=8, num_hidden_layers=1, image_size=4, num_labels=3)
    )
    measured = certify_network(model, batches(count=20), curvature_steps=0).measured  # 7, 7 and 6 of a class
    assert measured["gufm_lower_bound"] <= measured["gufm_optimum"] <= measured["objective"]
    parts = ("regularization_body", "gap_fit", "gap_classifier", "gap_spread")
    total = sum(measured[name] for name in parts)
    assert total == pytest.approx(measured["objective"] - measured["gufm_lower_bound"], abs=1e-9)


def test_the_curvature_is_that_of_the_objective():
    torch.manual_seed(1)
    config = CollapseResNetConfig(
        hidden_size=4, num_hidden_layers=1, image_size=2, num_labels=2, hidden_act="gelu", norm_placement="pre"
    )
    model = CollapseResNetForImageClassification(config).double()
    data = [{"pixel_values": torch.randn(6, 1, 2, 2).double(), "labels": torch.arange(6) % 2}]
    certificate = certify_network(model, data, curvature_steps=1000)
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def objective(vector):
        parts = {name: part.view_as(p) for (name, p), part in zip(named.items(), vector.split(sizes), strict=True)}
        output = torch.func.functional_call(model, parts, kwargs=data[0])
        return output.loss + sum(model.l2_coefficient_of(n) / 2 * p.square().sum() for n, p in parts.items())

    start = torch.cat([p.detach().flatten() for p in named.values()])
    dense = torch.autograd.functional.hessian(objective, start)
    assert certificate.curvature == pytest.approx(torch.linalg.eigvalsh(dense)[0].item(), abs=1e-9)


# Claims


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (recipe,), _ = parse_recipe(
        [
            *("--sweep=tiny", "--architecture=L-RN1", "--norm_placement=pre", "--dataset=digits", "--hidden_size=16"),
            *("--train_samples=60", "--test_samples=40", "--depths", "1", "2", "--initialization=continuation"),
            *("--full_batch", "--max_steps=40", "--polish_steps=0.5", f"--output_dir={folder}"),
        ]
    )
    return run_sweep(recipe).folder


@pytest.fixture
def copied(sweep, tmp_path):
    shutil.copytree(sweep, tmp_path / "tiny")
    write_cards(sweep, tmp_path / "cards", "my-org")
    for depth in (1, 2):
        shutil.copy(tmp_path / "cards" / f"depth-{depth}.md", tmp_path / f"tiny/depth-{depth}/seed-0/README.md")
    return tmp_path / "tiny"


def test_every_claim_of_a_sweep_holds(copied, capsys):
    assert main(["certify", str(copied)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("claims hold") == 2
    assert "smallest curvature" in printed
    (one,) = certify(copied / "depth-2" / "seed-0", curvature_steps=0)
    assert {check.where for check in one.checks} == {"metrics.json", "results.csv", "README.md"}
    assert len(one.checks) > 40
    assert one.certificate.curvature is None
    # The measurement at the end of the training is in float64 too, so the two agree far beyond the tolerance.
    metrics = json.loads((copied / "depth-2" / "seed-0" / "metrics.json").read_text())
    assert one.certificate.measured["objective"] == pytest.approx(metrics["objective"], rel=1e-12)


def altered_digit(text, number):
    """The text with the fourth significant digit of a number changed."""
    digits = repr(number)
    first = next(i for i, c in enumerate(digits) if c in "123456789")
    place = first + 3 + (digits[first + 1] == "." or digits[first + 2] == "." or digits[first + 3] == ".")
    changed = digits[:place] + str((int(digits[place]) + 1) % 10) + digits[place + 1 :]
    assert digits in text
    return text.replace(digits, changed)


IN_THE_CARD = ["gap", "nc1", "nc2", "nc3", "objective"]
CLAIMS = [("README.md", name) for name in IN_THE_CARD]
CLAIMS += [("metrics.json", name) for name in [*IN_THE_CARD, "gap_spread", "nc1_bound", "regularization_body"]]


@pytest.mark.parametrize(("where", "name"), CLAIMS)
def test_one_altered_digit_is_found(copied, where, name):
    run = copied / "depth-2" / "seed-0"
    number = json.loads((run / "metrics.json").read_text())[name]
    path = run / where
    path.write_text(altered_digit(path.read_text(), number))
    (verification,) = certify(run, curvature_steps=0)
    wrong = [check for check in verification.checks if not check.holds]
    assert wrong
    assert any(check.where in (where, "results.csv") for check in wrong)


def test_an_altered_fact_of_the_card_is_found(copied, capsys):
    path = copied / "depth-2" / "seed-0" / "README.md"
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| NC3 |"))
    lines[at] = "| NC3 | 0.0123 |"
    path.write_text("\n".join(lines))
    assert main(["certify", str(path.parent), "--curvature-steps", "0"]) == 1
    assert "README.md says NC3 is 0.0123; found" in capsys.readouterr().out


def test_an_altered_row_of_the_table_is_found(copied):
    table = pd.read_csv(copied / "results.csv")
    table.loc[1, "nc1"] *= 1.001
    table.to_csv(copied / "results.csv", index=False)
    first, second = certify(copied, curvature_steps=0)
    assert first.holds
    assert [check.where for check in second.checks if not check.holds] == ["results.csv"]


def test_one_altered_bit_of_the_weights_is_found(copied):
    path = copied / "depth-1" / "seed-0" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    (verification,) = certify(path.parent, curvature_steps=0)
    assert "model.safetensors" in [check.name for check in verification.checks if not check.holds]


def test_another_subset_of_the_data_is_found(copied):
    path = copied / "depth-1" / "seed-0" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["data"]["subset_seed"] = 1
    path.write_text(json.dumps(metrics))
    (verification,) = certify(path.parent, curvature_steps=0)
    assert {"fit", "objective", "gap", "nc1"} <= {check.name for check in verification.checks if not check.holds}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all"], "nowhere/at/all is no folder here and no Hub id"),
        (["{folder}"], "has no finished run: there is no metrics.json"),
        (["{folder}", "--revision", "seed-1"], "revision is 'seed-1'; it goes with a Hub id"),
        (["{folder}", "--curvature-steps", "-1"], "--curvature-steps must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_certified_is_said(tmp_path, capsys, arguments, message):
    assert main(["certify", *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_metrics_that_name_no_data_are_refused(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text("{}")
    assert main(["certify", str(tmp_path)]) == 2
    assert "does not say which network was trained on which data" in capsys.readouterr().err


def test_metrics_that_name_data_by_an_unknown_setting_are_refused(copied, capsys):
    path = copied / "depth-1" / "seed-0" / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {"data": metrics["data"] | {"rows": 5}}))
    assert main(["certify", str(path.parent)]) == 2
    assert "metrics.json says rows of the data, which is no setting of them" in capsys.readouterr().err
