"""What one pass over a data set says of a network: objective, gap and its parts, accuracy and collapse."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator

from ..models.collapse_config import CollapseConfig
from ..models.regularized_objective import RegularizedObjectiveMixin, fit
from ..models.residual_layers import feature_norm
from ..neural_collapse import measures
from ..neural_collapse.class_statistics import ClassStatistics
from ..theory import GUFMOptimum, gufm_optimum, split_gap


class NetworkSums:
    """Sums over samples, in float64, from which everything that `network_measures` returns follows.

    A loss that is not finite shows in `fit`, and the others are of no use then.

    Args:
        config: of the network that is measured.
        device: where the sums live.
    """

    def __init__(self, config: CollapseConfig, device: torch.device):
        self.loss = config.loss
        self.statistics = ClassStatistics(config.num_labels)
        self._totals = torch.zeros(4, dtype=torch.float64, device=device)  # fit, correct, N, ‖z‖²
        # By label, the sum of log p (cross-entropy) or of z (MSE); an optimum, whose gap this splits, needs d ≥ K.
        has_scores = config.num_labels <= config.hidden_size
        shape = (config.num_labels, config.num_labels)
        self._scores = torch.zeros(shape, dtype=torch.float64, device=device) if has_scores else None

    def update(self, output: Any, labels: torch.Tensor) -> None:
        """Add a batch: a classifier's output with features and logits, and labels (n,)."""
        logits = output.logits.double()
        self._totals += torch.stack(
            [
                fit(logits, labels, self.loss, num_items_in_batch=1),
                (logits.argmax(1) == labels).sum(),
                torch.tensor(len(labels), device=logits.device),
                logits.square().sum(),
            ]
        ).to(self._totals)
        if self._scores is not None:
            scores = logits.log_softmax(dim=1) if self.loss == "cross_entropy" else logits
            self._scores.index_add_(0, labels, scores)
        if torch.isfinite(self._totals[0]):
            self.statistics.update(output.features, labels)

    def reduce(self, accelerator: Accelerator) -> None:
        """Sum over the processes of an accelerator."""
        self._totals = accelerator.reduce(self._totals)
        if self._scores is not None:
            self._scores = accelerator.reduce(self._scores)
        self.statistics.all_reduce()

    @property
    def fit(self) -> float:
        """(1/N) Σ ℓ(z_i, y_i)."""
        return (self._totals[0] / self._totals[2]).item()

    @property
    def accuracy(self) -> float:
        """Share of samples whose largest logit is their label's."""
        return (self._totals[1] / self._totals[2]).item()

    @property
    def mean_squared_logits(self) -> float:
        """(1/N) Σ ‖z_i‖²."""
        return (self._totals[3] / self._totals[2]).item()

    @property
    def mean_scores(self) -> torch.Tensor:
        """(K, K): row k is the mean over class k of log p for cross-entropy, of z for MSE.

        Raises:
            ValueError: the features have fewer dimensions than there are classes, so there is no gap to split.
        """
        if self._scores is None:
            raise ValueError("hidden_size is less than num_labels; mean_scores takes features of K or more dimensions")
        return self._scores / self.statistics.counts[:, None].to(self._scores)


def network_measures(
    model: RegularizedObjectiveMixin, sums: NetworkSums, optimum: GUFMOptimum | None, *, splits_gap: bool
) -> dict[str, float]:
    """Return objective, gap and collapse of a network on its training set.

    Args:
        model: a classifier of the package.
        sums: of all training samples.
        optimum: J* of this network's objective on these classes; None leaves out what needs it.
        splits_gap: whether the gap has parts, so whether equal inputs have equal labels.

    Returns:
        `fit`, `regularization` and its parts `regularization_body` and `regularization_classifier`, `objective`,
        `gufm_optimum`, `gap`, the other parts of the gap `gap_fit`, `gap_classifier` and `gap_spread`, which with
        `regularization_body` sum to it, `nc1_bound` and `nc3_bound` where the gap proves one, and `nc1`, `nc2`, `nc3`.
        Where J* is numerical also its certified `gufm_lower_bound`, to which the parts then refer, and its geometry's
        own `gufm_nc2` and `gufm_nc3`, which are not 0.
        `nc2` is the paper's NC2A, or NC2B for MSE without a classifier bias.
    """
    config, statistics = model.config, sums.statistics
    classifier = model.classifier.weight.detach()
    with torch.no_grad():
        parts = {name: part.item() for name, part in model.regularization_parts().items()}
    regularization = sum(parts.values())
    measured: dict[str, float | None] = {
        "fit": sums.fit,
        "regularization": regularization,
        **{f"regularization_{name}": value for name, value in parts.items()},
        "objective": sums.fit + regularization,
    }
    if optimum is not None:
        measured["gufm_optimum"] = optimum.objective
        measured["gap"] = sums.fit + regularization - optimum.objective
        if optimum.is_numerical:
            measured["gufm_lower_bound"] = optimum.lower_bound
            measured |= {"gufm_nc2": optimum.nc2, "gufm_nc3": optimum.nc3}
        if splits_gap:
            split = split_gap(
                optimum,
                classifier=classifier,
                class_means=statistics.class_means,
                within_class_variances=statistics.within_class_scatter / statistics.counts,
                mean_scores=sums.mean_scores,
                mean_squared_logits=sums.mean_squared_logits,
                body=parts["body"],
            )
            measured |= {"gap_fit": split.fit, "gap_classifier": split.classifier, "gap_spread": split.spread}
            measured |= {"nc1_bound": split.nc1_bound, "nc3_bound": split.nc3_bound}
    frame = measures.nc2_identity if config.loss == "mse" and not config.classifier_bias else measures.nc2
    collapse = {
        "nc1": measures.nc1(statistics),
        "nc2": frame(classifier),
        "nc3": measures.nc3(statistics, classifier),
    }
    return {name: value for name, value in (measured | collapse).items() if value is not None}


def network_optimum(
    config: CollapseConfig, class_counts: Iterable[int], conflicts: list[list[int]] | None = None
) -> GUFMOptimum | None:
    """Return J* of a network's objective on these classes; None, with a warning, where the theory has none.

    Args:
        config: of the network.
        class_counts: n_k.
        conflicts: from [`conflicting_label_counts`].
    """
    try:
        return gufm_optimum(
            list(class_counts),
            config.resolved_classifier_l2_coefficient,
            loss=config.loss,
            radius=feature_norm(config.norm_scale, config.hidden_size),
            hidden_size=config.hidden_size,
            classifier_bias=config.classifier_bias,
            conflicts=conflicts or None,
        )
    except ValueError as reason:
        warnings.warn(f"no gufm_optimum and no gap: {reason}", stacklevel=2)
        return None


def conflicting_label_counts(batches: Iterable[Mapping[str, torch.Tensor]], num_classes: int) -> list[list[int]]:
    """Return how often each label occurs with every input that has several labels, a row of K counts an input.

    A network gives equal inputs one feature, so such data have a higher J*.

    Args:
        batches: dictionaries of tensors with `labels`; an `attention_mask` says which tokens count.
        num_classes: K.
    """
    labels_of: dict[bytes, list[int]] = {}
    for batch in batches:
        names = sorted(name for name in batch if name not in ("labels", "attention_mask"))
        mask = batch.get("attention_mask")
        for row, label in enumerate(batch["labels"].tolist()):
            digest = hashlib.blake2b(digest_size=16)
            for name in names:
                value = batch[name][row] if mask is None else batch[name][row][mask[row].bool()]
                # As bytes, because numpy has no bfloat16.
                digest.update(value.cpu().flatten().view(torch.uint8).numpy().tobytes())
            labels_of.setdefault(digest.digest(), []).append(label)
    mixed = [labels for labels in labels_of.values() if len(set(labels)) > 1]
    return [torch.bincount(torch.tensor(labels), minlength=num_classes).tolist() for labels in mixed]
