"""What a run's folder or its repository says of a network, held against a certificate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from ..data import DataArguments, TensorDataset, TokenDataset, load_classification_data
from ..hub.published_network import download_network
from ..quantities import digits, title
from ..sweeps.architectures import architecture_named
from ..sweeps.files import read_json
from ..sweeps.results import finished_runs, read_results
from ..sweeps.run_folder import weights_sha256
from ..training.measurement import conflicting_label_counts
from .certificate import Certificate, certify_network

# Sums in another order, or images centred on another processor, move J by less than this share of itself.
_OBJECTIVE_TOLERANCE = 1e-7
_IN_UNITS_OF_J = (
    "fit", "regularization", "regularization_body", "regularization_classifier", "objective", "gufm_optimum", "gap",
    "gufm_lower_bound", "gap_fit", "gap_classifier", "gap_spread",
)  # fmt: skip
_TOLERANCE = 1e-5
_BATCH_SIZE = 2000


@dataclass(frozen=True)
class Check:
    """One claim: where it stands, what it says, and what was found.

    Args:
        where: the file that makes the claim.
        name: of the quantity, or of the file that a hash is of.
        claimed, found: numbers, or a number as the card writes it, or hashes.
        holds: whether they agree.
    """

    where: str
    name: str
    claimed: object
    found: object
    holds: bool


@dataclass(frozen=True)
class Verification:
    """A network's certificate, and every claim that was held against it."""

    folder: Path
    certificate: Certificate
    checks: list[Check]

    @property
    def holds(self) -> bool:
        """Whether every claim does."""
        return all(check.holds for check in self.checks)

    def __str__(self) -> str:
        certificate = self.certificate
        lines = [f"{self.folder}", f"{'quantity':26}{'claimed':>14}{'found':>14}"]
        for check in self.checks:
            if check.where == "metrics.json" and isinstance(check.found, float):
                mark = "" if check.holds else "  differs"
                lines.append(f"{check.name:26}{digits(check.claimed):>14}{digits(check.found):>14}{mark}")
        lines.append(f"{'gradient norm':26}{'':14}{digits(certificate.gradient_norm):>14}")
        if certificate.curvature is not None:
            lines.append(
                f"{'smallest curvature':26}{'':14}{digits(certificate.curvature):>14}"
                f"  (residual {digits(certificate.curvature_residual)})"
            )
        wrong = [check for check in self.checks if not check.holds]
        lines += [f"{check.where} says {check.name} is {check.claimed}; found {check.found}" for check in wrong]
        lines.append(f"{len(self.checks) - len(wrong)} of {len(self.checks)} claims hold")
        return "\n".join(lines)


def certify(target: str | Path, *, revision: str | None = None, curvature_steps: int = 40) -> Iterator[Verification]:
    """Check the claims of a run, of every finished run of a sweep, or of a published network.

    Everything is computed anew in float64 from the weights and the data that `metrics.json` names; then that file, a
    table `results.csv` two folders above and a card `README.md` beside the weights are held against it.

    Args:
        target: a run's folder, a sweep's folder, or a Hub id.
        revision: of a Hub id, "seed-1" for example.
        curvature_steps: as for [`certify_network`].

    Raises:
        ValueError: there is no network to certify, or it does not say what it was trained on, or one of the Hub has a
            file that is larger than a sweep's, which is left there.
    """
    folder = Path(target)
    if not folder.is_dir():
        if str(target).startswith((".", "/", "~")) or str(target).count("/") != 1:
            raise FileNotFoundError(f"{target} is no folder here and no Hub id, namespace/name")
        folder = download_network(str(target), revision)
    elif revision is not None:
        raise ValueError(f"revision is {revision!r}; it goes with a Hub id, and {target} is a folder")
    runs = [folder]
    if (folder / "sweep.json").is_file():
        runs = sorted(path.parent for path in folder.glob("depth-*/seed-*/metrics.json"))
    if not runs or not (runs[0] / "metrics.json").is_file():
        raise ValueError(f"{target} has no finished run: there is no metrics.json")
    for run in runs:
        yield _verify(run, curvature_steps)


def _verify(folder: Path, curvature_steps: int) -> Verification:
    metrics = read_json(folder / "metrics.json")
    if not (isinstance(metrics.get("data"), dict) and isinstance(metrics.get("architecture"), str)):
        raise ValueError(f"{folder / 'metrics.json'} does not say which network was trained on which data")
    unknown = sorted(set(metrics["data"]) - {field.name for field in fields(DataArguments)})
    if unknown:
        raise ValueError(
            f"{folder / 'metrics.json'} says {', '.join(unknown)} of the data, which is no setting of them"
        )
    data = load_classification_data(DataArguments(**metrics["data"]))
    train = _batches(data.train)
    model_class = architecture_named(metrics["architecture"]).family.classifiers[data.modality]
    model = model_class.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    certificate = certify_network(
        model,
        train,
        test_batches=_batches(data.test),
        conflicts=conflicting_label_counts(train, model.config.num_labels),
        curvature_steps=curvature_steps,
    )
    claims = (_weights(folder, metrics), _numbers(metrics, certificate), _row(folder, metrics), _card(folder, metrics))
    return Verification(folder, certificate, [check for checks in claims for check in checks])


def _batches(dataset: TensorDataset | TokenDataset) -> list[dict[str, torch.Tensor]]:
    return [dataset.batch(indices) for indices in torch.arange(len(dataset)).split(_BATCH_SIZE)]


def _weights(folder: Path, metrics: dict[str, Any]) -> Iterator[Check]:
    claimed = metrics.get("weights_sha256", {})
    found = weights_sha256(folder)
    for name in sorted(set(claimed) | set(found)):
        yield Check("metrics.json", name, claimed.get(name), found.get(name), claimed.get(name) == found.get(name))


def _numbers(metrics: dict[str, Any], certificate: Certificate) -> Iterator[Check]:
    objective = abs(certificate.measured["objective"])
    for name, found in certificate.measured.items():
        claimed = metrics.get(name)
        if claimed is None:
            continue
        tolerance = _OBJECTIVE_TOLERANCE * objective if name in _IN_UNITS_OF_J else _TOLERANCE * abs(found) + 1e-12
        holds = isinstance(claimed, int | float) and math.isfinite(claimed) and abs(claimed - found) <= tolerance
        yield Check("metrics.json", name, claimed, found, holds)


def _row(folder: Path, metrics: dict[str, Any]) -> Iterator[Check]:
    """The run's row of the sweep's table, digit by digit."""
    sweep = folder.resolve().parent.parent
    if not ((sweep / "sweep.json").is_file() and (sweep / "results.csv").is_file()):
        return
    results = finished_runs(read_results(sweep))
    rows = results[(results["depth"] == metrics["depth"]) & (results["seed"] == metrics["seed"])]
    if len(rows) != 1:
        yield Check("results.csv", "rows of this run", len(rows), 1, False)
        return
    for name, claimed in rows.iloc[0].items():
        found = metrics.get(name)
        if isinstance(found, float):
            yield Check("results.csv", str(name), claimed, found, float(claimed) == found)


def _card(folder: Path, metrics: dict[str, Any]) -> Iterator[Check]:
    """The card's `model-index`, digit by digit, and the first column of facts, as it rounds them."""
    if not (folder / "README.md").is_file():
        return
    card = ModelCard.load(folder / "README.md")
    numbers = {title(name): value for name, value in metrics.items() if isinstance(value, int | float)}
    for result in card.data.eval_results or []:
        found = numbers.get(result.metric_name)
        yield Check("README.md", result.metric_name, result.metric_value, found, result.metric_value == found)
    facts = card.text.partition("\n## ")[0]
    for line in facts.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 2 and cells[0] in numbers:
            rounded = digits(numbers[cells[0]])
            yield Check("README.md", cells[0], cells[1], rounded, cells[1] == rounded)
