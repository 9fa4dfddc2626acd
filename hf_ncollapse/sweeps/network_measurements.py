"""What the finished networks of a sweep do with their training data: collapse by layer, and the classes' geometry; the
collapse of held-out samples; and the ranks of their blocks' weights."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from ..data import ClassificationData, DataArguments, TensorDataset, TokenDataset, load_classification_data
from ..inspection.forward_pass import current_device, forward_passes
from ..models.regularized_objective import RegularizedObjectiveMixin
from ..neural_collapse import measures
from ..neural_collapse.class_statistics import ClassStatistics
from ..theory import simplex_etf
from .architectures import architecture_named
from .files import read_json, read_table, write_table
from .run_folder import check_weights, load_network

LAYER_COLUMNS = ("depth", "seed", "layer", "nc1")
WEIGHT_COLUMNS = ("depth", "seed", "block", "weight", "rows", "columns", "stable_rank", "numerical_rank")
HELD_OUT_COLUMNS = ("depth", "seed", "test_nc1", "test_nc3")
# Tables of before it was measured have no `z`.
GEOMETRY_COLUMNS = ("depth", "seed", "kind", "label", "label_name", "x", "y")
_OF_BLOCK = re.compile(r"network\.layers\.(\d+)\.(.+)")
_BATCH_SIZE = 256
# Features shown of a network, over all classes, and of one class at least.
_SHOWN_FEATURES, _SHOWN_PER_CLASS = 400, 4


@dataclass(frozen=True)
class NetworkMeasurements:
    """Four tables about a sweep's networks.

    Args:
        layers: NC1 of the normalised stream at the position that is classified, on the training data: one row for
            each depth, seed and layer, from 0, the embedding, to the number of blocks, whose value is the features'.
        geometry: the features of some training samples, the class means and the classifier's rows, `kind` "feature",
            "class_mean" or "classifier", in the coordinates `x`, `y` and `z` of [`etf_axes`]; the first seed's
            networks.
        weights: [`weight_ranks`] of every block's matrices.
        held_out: [`held_out_collapse`] of every network that has held-out samples.
    """

    layers: pd.DataFrame
    geometry: pd.DataFrame
    weights: pd.DataFrame
    held_out: pd.DataFrame

    def beside(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return the results table with the columns of `held_out`, empty where a network was not measured."""
        keys = list(HELD_OUT_COLUMNS[:2])
        return results.merge(self.held_out.astype(dict.fromkeys(keys, "int64")), how="left", on=keys)


def read_network_measurements(folder: str | Path) -> NetworkMeasurements:
    """Read the tables that `write_network_measurements` wrote: figures are drawn without weights or data too.

    Returns:
        Empty tables where nothing was measured.

    Raises:
        ValueError: if a file is damaged; the message names it.
    """
    tables = [
        read_table(path, columns) if path.is_file() else pd.DataFrame(columns=list(columns))
        for path, columns in (
            (Path(folder) / "layers.csv", LAYER_COLUMNS),
            (Path(folder) / "geometry.csv", GEOMETRY_COLUMNS),
            (Path(folder) / "weights.csv", WEIGHT_COLUMNS),
            (Path(folder) / "held_out.csv", HELD_OUT_COLUMNS),
        )
    ]
    return NetworkMeasurements(*tables)


def write_network_measurements(folder: str | Path, measured: NetworkMeasurements) -> None:
    """Write the tables that have rows beside the sweep's own: `layers.csv`, `geometry.csv`, and so on."""
    for name, table in vars(measured).items():
        if len(table):
            write_table(Path(folder) / f"{name}.csv", table)


def measure_networks(
    folder: str | Path, results: pd.DataFrame, data: ClassificationData | None = None
) -> NetworkMeasurements:
    """Measure every finished network that was not measured before; nothing is written.

    Args:
        folder: the sweep's folder.
        results: its table.
        data: the sweep's data; loaded by `sweep.json` when a network is to be measured and this is None.

    Returns:
        What was known, and what is new.

    Raises:
        ValueError: if a file is damaged; the message names it.
        OSError, ImportError: if the data cannot be loaded.
    """
    folder = Path(folder)
    kept = read_network_measurements(folder)
    layers, geometry, weights, held_out = [kept.layers], [kept.geometry], [kept.weights], [kept.held_out]
    known, ranked, tested = (
        set(zip(table["depth"], table["seed"], strict=True)) for table in (kept.layers, kept.weights, kept.held_out)
    )
    first_seed = results["seed"].min()
    for row in results.sort_values(["depth", "seed"]).itertuples():
        run_folder = folder / f"depth-{row.depth}" / f"seed-{row.seed}"
        if not (run_folder / "model.safetensors").is_file():
            continue
        if (row.depth, row.seed) not in ranked:
            check_weights(run_folder, read_json(run_folder / "metrics.json"))
            weights.append(_rows(row, **weight_ranks(run_folder / "model.safetensors")))
        has_layers = (row.depth, row.seed) in known
        has_held_out = (row.depth, row.seed) in tested or math.isnan(row.test_accuracy)
        if has_layers and has_held_out:
            continue
        if data is None:
            data = load_classification_data(DataArguments(**read_json(folder / "sweep.json")["data"]))
        model_class = architecture_named(row.architecture).family.classifiers[data.modality]
        model = load_network(run_folder, model_class)
        if not has_held_out:
            test_nc1, test_nc3 = held_out_collapse(model, data)
            held_out.append(_rows(row, test_nc1=[test_nc1], test_nc3=[test_nc3]))
        if has_layers:
            continue
        nc1, shown = measure_network(model, data)
        layers.append(_rows(row, layer=range(len(nc1)), nc1=nc1))
        if row.seed == first_seed:
            geometry.append(_rows(row, **shown))
    return NetworkMeasurements(*map(_together, (layers, geometry, weights, held_out)))


def weight_ranks(path: str | Path) -> dict[str, list[object]]:
    """Return the ranks of the matrices in the blocks of one of the package's networks.

    Args:
        path: its `model.safetensors`.

    Returns:
        Columns: `block` from 1, `weight` (the matrix's name in it), `rows`, `columns`, `stable_rank` ‖A‖_F²/‖A‖₂² (NaN
        for A = 0), and `numerical_rank`, the number of singular values above max(rows, columns)·ε of the largest, ε
        of the precision that A is stored in.
    """
    columns: dict[str, list[object]] = {name: [] for name in WEIGHT_COLUMNS[2:]}
    for block, name, matrix in _block_matrices(path):
        sizes = torch.linalg.svdvals(matrix.double())
        cutoff = max(matrix.shape) * torch.finfo(matrix.dtype).eps * sizes[0]
        stable = float((sizes / sizes[0]).square().sum())
        row = (block, name, *matrix.shape, stable, int((sizes > cutoff).sum()))
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return columns


def _block_matrices(path: str | Path) -> Iterator[tuple[int, str, torch.Tensor]]:
    """The blocks' matrices, in the order of the blocks."""
    with safe_open(path, framework="pt") as tensors:
        found = [(int(match[1]), match[2], match[0]) for match in map(_OF_BLOCK.fullmatch, tensors.keys()) if match]
        for index, name, key in sorted(found):
            tensor = tensors.get_tensor(key)
            if tensor.ndim == 2:
                yield index + 1, name.removesuffix(".weight"), tensor


def measure_network(
    model: RegularizedObjectiveMixin, data: ClassificationData
) -> tuple[list[float], dict[str, Sequence[object] | np.ndarray]]:
    """Pass the training data through one network.

    Args:
        model: a classifier of the package.
        data: what it was trained on.

    Returns:
        NC1 after the embedding and after every block (one value more than blocks; NaN where the classes' means are
        equal, as before the first block where all texts end in one token), and the columns `kind`, `label`,
        `label_name`, `x`, `y` and `z` of its geometry.
    """
    network = model.base_model
    labels = data.train.labels
    num_classes = len(data.label_names)
    statistics = [ClassStatistics(num_classes, directions=False) for _ in range(model.config.num_hidden_layers + 1)]
    is_shown = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(num_classes):
        members = (labels == label).nonzero()[: max(_SHOWN_PER_CLASS, _SHOWN_FEATURES // num_classes)]
        is_shown[members] = True
    shown = []
    passes = _passes(model, data.train, output_hidden_states=True)
    for indices, (batch, batch_labels, output) in zip(_chunks(data.train), passes, strict=True):
        for layer, states in enumerate(output.hidden_states):
            if states.dim() == 3:
                states = network.pool(states, batch.get("attention_mask"))
            # Of a post-LN ResNet, whose stream is normalised already, `norm` is the identity.
            statistics[layer].update(network.norm(states), batch_labels)
        shown.append(output.features[is_shown[indices].to(output.features.device)].double().cpu())
    nc1 = [_nc1_or_nan(layer) for layer in statistics]
    means = statistics[-1].class_means.cpu().numpy()
    classifier = model.classifier.weight.detach().double().cpu().numpy()
    return nc1, _geometry(torch.cat(shown).numpy(), labels[is_shown].numpy(), means, classifier, data.label_names)


def held_out_collapse(model: RegularizedObjectiveMixin, data: ClassificationData) -> tuple[float, float]:
    """Return NC1 of the held-out samples' features, about their own class means, and NC3, with the classifier.

    The theory is about training samples; Hui, Belkin and Nakkiran (arXiv:2202.08384) ask whether others collapse too.

    Args:
        model: a classifier of the package.
        data: what it was trained on, with its held-out part.

    Returns:
        NC1, ≥ 0, and NC3, from 0 to 2 (NaN where a class has no held-out sample, or the means are equal).
    """
    statistics = ClassStatistics(len(data.label_names))
    for _, labels, output in _passes(model, data.test):
        statistics.update(output.features, labels)
    if not statistics.counts.all():
        return math.nan, math.nan
    return _nc1_or_nan(statistics), measures.nc3(statistics, model.classifier.weight.detach())


def _chunks(dataset: TensorDataset | TokenDataset) -> Sequence[torch.Tensor]:
    return torch.arange(len(dataset)).split(_BATCH_SIZE)


def _passes(model: RegularizedObjectiveMixin, dataset: TensorDataset | TokenDataset, **options: bool) -> Iterator[Any]:
    """The batches, their labels and the model's outputs, in the data's order."""
    batches = map(dataset.batch, _chunks(dataset))
    return forward_passes(model.to(current_device()), ((batch, batch.pop("labels")) for batch in batches), **options)


def etf_corners(num_classes: int) -> np.ndarray:
    """Return where the classes of a simplex ETF are, seen along [`etf_axes`].

    Class k is at angle θ_k = 2πk/K on the unit circle of the first two coordinates, a regular polygon in which all K
    show at once. The third is its next Fourier mode, cos 2θ_k, which bends the polygon to a saddle; for K = 4 that is
    ±1 and gets the factor 1/√2, which makes the regular tetrahedron that this simplex is.

    Returns:
        Of shape (K, 3), with columns of mean 0, orthogonal and of one norm; those beyond the K − 1 dimensions of the
        simplex are 0.
    """
    angles = 2 * np.pi * np.arange(num_classes) / num_classes
    saddle = np.cos(2 * angles) / (math.sqrt(2) if num_classes == 4 else 1)
    corners = np.stack([np.cos(angles), np.sin(angles), saddle], axis=1)
    corners[:, num_classes - 1 :] = 0
    return corners


def etf_axes(classifier: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return the three directions along which the simplex ETF nearest to the classifier is at [`etf_corners`].

    The nearest ETF is the orthogonal Procrustes solution, so that a collapsed feature sits at its class's corner. The
    three are an orthogonal projection up to one factor. Those that the simplex of two or three classes lacks are the
    directions of the residuals' largest variance outside it.

    Args:
        classifier: W, of shape (K, d).
        residuals: features minus their class's mean, of shape (n, d), n ≥ 2; used for K ≤ 3.

    Returns:
        Of shape (d, 3): multiply centred vectors by it. A direction for which d has no room is 0.
    """
    num_classes = len(classifier)
    frame = simplex_etf(num_classes)
    left, _, right = np.linalg.svd(frame.T @ classifier, full_matrices=False)
    aligned = frame @ left @ right
    axes = (num_classes - 1) / num_classes * aligned.T @ etf_corners(num_classes)
    lacking = max(4 - num_classes, 0)
    if lacking:
        scale = np.linalg.norm(axes[:, 0])
        outside = np.eye(len(axes)) - axes @ axes.T / scale**2
        # Projected once more, for where the residuals have fewer dimensions than are lacking.
        spread = np.linalg.svd(residuals @ outside, full_matrices=False)[2][:lacking] @ outside
        axes[:, 3 - lacking :] = scale * spread.T
    return axes


def _geometry(
    features: np.ndarray, labels: np.ndarray, means: np.ndarray, classifier: np.ndarray, label_names: Sequence[str]
) -> dict[str, Sequence[object] | np.ndarray]:
    """Features and means about the global mean, in units of the means' mean norm; W in units of its rows'."""
    axes = etf_axes(classifier, features - means[labels])
    centre = means.mean(axis=0)
    radius = np.linalg.norm(means - centre, axis=1).mean()
    classes = np.arange(len(means))
    points = {
        "feature": ((features - centre) / radius, labels),
        "class_mean": ((means - centre) / radius, classes),
        "classifier": (classifier / np.linalg.norm(classifier, axis=1).mean(), classes),
    }
    projected = np.concatenate([vectors @ axes for vectors, _ in points.values()]).round(5)
    every_label = np.concatenate([of for _, of in points.values()])
    return {
        "kind": np.repeat(list(points), [len(of) for _, of in points.values()]),
        "label": every_label,
        "label_name": [label_names[label] for label in every_label],
        "x": projected[:, 0],
        "y": projected[:, 1],
        "z": projected[:, 2],
    }


def _nc1_or_nan(statistics: ClassStatistics) -> float:
    means = statistics.class_means
    if (means - means.mean(0)).norm() <= 1e-6 * means.norm():
        return math.nan
    return measures.nc1(statistics)


def _together(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """The known rows and the new ones, by depth and seed."""
    if len(parts) == 1:
        return parts[0]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled).sort_values(["depth", "seed"], kind="stable", ignore_index=True)


def _rows(run: Any, **columns: Sequence[object] | np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.insert(0, "seed", run.seed)
    frame.insert(0, "depth", run.depth)
    return frame
