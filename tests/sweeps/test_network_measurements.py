"""Collapse by layer and the classes' geometry, against the features themselves and against frames."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from hf_ncollapse.data import load_classification_data
from hf_ncollapse.sweeps import read_results
from hf_ncollapse.sweeps.network_measurements import (
    etf_axes,
    etf_corners,
    measure_networks,
    read_network_measurements,
    weight_ranks,
    write_network_measurements,
)


def rotated_simplex(num_classes: int, dimension: int = 16) -> np.ndarray:
    """Unit vectors with pairwise cosine −1/(K − 1), in a random orientation; made without the package."""
    centred = np.eye(num_classes) - 1 / num_classes
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dimension, dimension)))[0]
    return centred / np.linalg.norm(centred[0]) @ rotation[:num_classes]


@pytest.mark.parametrize("num_classes", [3, 4, 5, 10, 33])
def test_a_simplex_etf_seen_along_its_axes_is_a_regular_polygon_bent_to_a_saddle(num_classes):
    frame = rotated_simplex(num_classes, dimension=40)
    seen = frame @ etf_axes(2.5 * frame, residuals=np.zeros((2, 40)))
    assert seen.shape == (num_classes, 3)
    np.testing.assert_allclose(seen, etf_corners(num_classes), atol=1e-12)
    for k, (x, y, z) in enumerate(seen):
        corner = np.exp(2j * np.pi * k / num_classes)
        assert x + 1j * y == pytest.approx(corner, abs=1e-12)
        # (x + iy)² is at the double angle.
        expected = {3: 0, 4: (corner**2).real / np.sqrt(2)}.get(num_classes, (corner**2).real)
        assert z == pytest.approx(expected, abs=1e-12)


def test_four_classes_are_seen_as_they_are_a_regular_tetrahedron():
    seen = rotated_simplex(4) @ etf_axes(rotated_simplex(4), residuals=np.zeros((2, 16)))
    cosines = seen @ seen.T / (seen[0] @ seen[0])
    np.testing.assert_allclose(cosines, np.where(np.eye(4), 1, -1 / 3), atol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10])
def test_the_view_is_an_orthogonal_projection_up_to_one_factor(num_classes):
    noise = np.random.default_rng(1).normal(size=(num_classes, 16))
    axes = etf_axes(rotated_simplex(num_classes) + 0.1 * noise, residuals=noise)
    gram = axes.T @ axes
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(3), atol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_what_two_or_three_classes_lack_are_the_directions_of_the_largest_spread_outside_them(num_classes):
    frame = rotated_simplex(num_classes)
    # An orthonormal basis of what is outside; the residuals spread 5, 2 and 1 along three of it, and more inside.
    left = np.linalg.svd(frame)[2][num_classes - 1 :]
    sizes = np.random.default_rng(2).normal(size=(500, 3)) * [5, 2, 1]
    sizes = np.linalg.qr(sizes - sizes.mean(0))[0] * [5, 2, 1]
    axes = etf_axes(frame, residuals=sizes @ left[[4, 7, 9]] + np.outer(np.arange(500), frame[0]))
    np.testing.assert_allclose(frame @ axes, etf_corners(num_classes), atol=1e-12)
    lacking = 4 - num_classes
    along = abs(left[[4, 7, 9]] @ axes) / np.linalg.norm(axes[:, 0])
    np.testing.assert_allclose(along[:, 3 - lacking :], np.eye(3)[:, :lacking], atol=1e-9)


def test_a_direction_for_which_there_is_no_room_is_zero():
    frame = np.array([[1.0, 0.0], [-1.0, 0.0]])
    seen = np.array([[0.5, 2.0]]) @ etf_axes(frame, residuals=np.array([[0.1, 0.3], [-0.1, -0.2], [0.0, -0.1]]))
    np.testing.assert_allclose(abs(seen), [[0.5, 2.0, 0.0]], atol=1e-12)


def test_the_last_layers_nc1_is_the_runs_own_and_there_is_one_value_for_each_block(sweep):
    results = read_results(sweep)
    layers = measure_networks(sweep, results).layers
    for row in results.itertuples():
        of_run = layers[(layers["depth"] == row.depth) & (layers["seed"] == row.seed)]
        assert of_run["layer"].tolist() == list(range(row.depth + 1))
        assert of_run["nc1"].iloc[-1] == pytest.approx(row.nc1, rel=1e-5)


def test_a_hidden_layers_nc1_is_that_of_its_normalised_states(sweep):
    layers = measure_networks(sweep, read_results(sweep)).layers
    data = load_classification_data("digits", train_samples=500, test_samples=200)
    model = AutoModelForImageClassification.from_pretrained(sweep / "depth-4" / "seed-1")
    with torch.no_grad():
        states = model(data.train.tensors["pixel_values"], output_hidden_states=True).hidden_states[2].double()
    states = states - states.mean(1, keepdim=True)
    states = states / states.norm(dim=1, keepdim=True)
    means = torch.stack([states[data.train.labels == label].mean(0) for label in range(10)])
    within = (states - means[data.train.labels]).square().sum(1).mean()
    between = (means - means.mean(0)).square().sum(1).mean()
    measured = layers[(layers["depth"] == 4) & (layers["seed"] == 1)]["nc1"].iloc[2]
    assert measured == pytest.approx((within / between).item(), rel=1e-5)


def test_held_out_collapse_is_that_of_the_test_samples_about_their_own_means(sweep):
    results = read_results(sweep)
    measured = measure_networks(sweep, results)
    assert measured.held_out[["depth", "seed"]].values.tolist() == results[["depth", "seed"]].values.tolist()
    data = load_classification_data("digits", train_samples=500, test_samples=200)
    model = AutoModelForImageClassification.from_pretrained(sweep / "depth-4" / "seed-1")
    with torch.no_grad():
        features = model(data.test.tensors["pixel_values"]).features.double()
    labels = data.test.labels
    means = torch.stack([features[labels == label].mean(0) for label in range(10)])
    within = (features - means[labels]).square().sum(1).mean()
    between = (means - means.mean(0)).square().sum(1).mean()
    rows = model.classifier.weight.detach().double()[labels]
    row = measured.held_out.query("depth == 4 and seed == 1").iloc[0]
    assert row["test_nc1"] == pytest.approx((within / between).item(), rel=1e-5)
    assert row["test_nc3"] == pytest.approx(1 - torch.cosine_similarity(features, rows).mean().item(), rel=1e-5)

    assert measured.beside(results)["test_nc1"].tolist() == measured.held_out["test_nc1"].tolist()
    write_network_measurements(sweep, measured)
    unmeasured = read_network_measurements(sweep).beside(results.assign(seed=results["seed"] + 7))
    assert unmeasured["test_nc1"].isna().all()
    without = measure_networks(sweep, results.assign(test_accuracy=np.nan))
    assert len(without.held_out) == len(results), "what is known is kept"
    (sweep / "held_out.csv").unlink()
    assert measure_networks(sweep, results.assign(test_accuracy=np.nan)).held_out.empty


def test_what_was_measured_is_kept_and_read_without_the_weights(sweep):
    results = read_results(sweep)
    first = measure_networks(sweep, results)
    write_network_measurements(sweep, first)
    for weights in sweep.glob("depth-*/seed-*/model.safetensors"):
        weights.unlink()
    (sweep / "sweep.json").unlink()
    again = measure_networks(sweep, results)
    pd.testing.assert_frame_equal(again.layers, first.layers)
    assert len(again.geometry) == len(first.geometry) == 2 * (400 + 10 + 10)
    assert np.isfinite(again.geometry[["x", "y", "z"]]).all(axis=None)


def test_a_new_depth_is_measured_and_the_known_ones_are_not_again(sweep):
    results = read_results(sweep)
    write_network_measurements(sweep, measure_networks(sweep, results[results["depth"] == 2]))
    kept = pd.read_csv(sweep / "layers.csv").assign(nc1=-1.0)
    kept.to_csv(sweep / "layers.csv", index=False)
    layers = measure_networks(sweep, results).layers
    assert (layers[layers["depth"] == 2]["nc1"] == -1).all()
    assert (layers[layers["depth"] == 4]["nc1"] > 0).all()


def test_the_ranks_of_blocks_are_those_of_their_singular_values(sweep):
    weights = measure_networks(sweep, read_results(sweep)).weights
    of_run = weights[(weights["depth"] == 4) & (weights["seed"] == 1)]
    assert of_run["block"].tolist() == [1, 2, 3, 4]
    model = AutoModelForImageClassification.from_pretrained(sweep / "depth-4" / "seed-1")
    for row, block in zip(of_run.itertuples(), model.base_model.layers, strict=True):
        matrix = block.get_submodule(row.weight).weight.detach()
        assert (row.rows, row.columns) == matrix.shape
        gram = np.linalg.eigvalsh(matrix.double().numpy() @ matrix.double().numpy().T)
        assert row.stable_rank == pytest.approx(gram.sum() / gram[-1], rel=1e-6)
        assert row.numerical_rank == np.linalg.matrix_rank(matrix.numpy())


def test_ranks_of_a_matrix_that_is_known_and_of_zero(tmp_path):
    low = torch.outer(torch.arange(1.0, 5), torch.ones(3)) + torch.outer(torch.ones(4), torch.tensor([1.0, -1, 0]))
    tensors = {"network.layers.1.linear.weight": low, "network.layers.0.linear.weight": torch.zeros(2, 2),
               "network.layers.0.linear.bias": torch.ones(2), "classifier.weight": torch.eye(3)}  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    ranks = weight_ranks(tmp_path / "model.safetensors")
    assert (ranks["block"], ranks["weight"], ranks["rows"], ranks["columns"]) == (
        [1, 2],
        ["linear"] * 2,
        [2, 4],
        [2, 3],
    )
    assert ranks["numerical_rank"] == [0, 2]
    assert np.isnan(ranks["stable_rank"][0])
    assert ranks["stable_rank"][1] == pytest.approx(float(low.norm() ** 2 / torch.linalg.matrix_norm(low, 2) ** 2))


def test_a_damaged_table_of_layers_is_named(sweep):
    (sweep / "layers.csv").write_text("depth,seed\n2,0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"layers\.csv is damaged \(it has no column layer, nc1\)"):
        measure_networks(sweep, read_results(sweep))
