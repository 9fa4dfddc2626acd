"""How far few samples move NC1 and NC3: standard errors and bias, by leaving out each sample in turn.

Classes are strata: their counts are fixed, and the samples of each are what chance drew. With θ_i the value without
sample i, θ̄_k their mean over class k, the variance is Σ_k (n_k − 1)/n_k Σ_{i in k} (θ_i − θ̄_k)² and the bias
Σ_k (n_k − 1)(θ̄_k − θ). Every θ_i is computed exactly, from ‖h_i − μ_k‖² and (h_i − μ_k)·ṁ_k, in one second look at the
features. W is taken as given: that it was trained on the samples is not accounted for.

Source: Efron & Stein 1981 for the variance; Jones 1974 for strata.
"""

import torch
from torch import Tensor

from .measures import nc1
from .moments import (
    Batches,
    Statistics,
    as_classifier,
    between_class_trace,
    between_weights,
    centred_means,
    class_variances,
    second_look,
    within_weights,
)


def nc1_jackknife(statistics: Statistics, batches: Batches, *, weighting: str = "class") -> dict[str, float]:
    r"""The standard error of `nc1`, and its bias: what `nc1` minus the bias has of it is of second order in 1/n_k.

    Args:
        statistics: of the same samples, at least 2 of every class.
        batches: the samples once more, `(features, labels)` at a time.
        weighting (`str`): "class", "sample" or "hybrid".

    Returns:
        `dict`: `standard_error` and `bias`. About training means both Σ_W's are means of independent terms: no bias.

    Raises:
        ValueError: a class has a single sample.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> batch = (torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> statistics.update(*batch)
        >>> {name: round(value, 4) for name, value in nc1_jackknife(statistics, [batch]).items()}
        {'standard_error': 0.1006, 'bias': -0.1978}
    """
    _require_pairs(statistics.counts)
    counts, num_samples = statistics.counts.double(), statistics.num_samples
    means, centred = statistics.class_means, centred_means(statistics, weighting)
    value, between = nc1(statistics, weighting=weighting), between_class_trace(statistics, weighting)
    within_w, between_w = within_weights(statistics, weighting), between_weights(statistics, weighting)
    variances = class_variances(statistics)
    within = within_w @ variances
    by_class, between_by_class = weighting == "class", weighting != "sample"
    differences = _Strata(statistics)
    for features, labels in second_look(statistics, batches):
        deviations, n = features.double() - means[labels], counts[labels]
        squares = torch.linalg.vecdot(deviations, deviations)
        if not statistics.has_own_means:
            # The class's sum of squares loses one term, and its number of samples stays known.
            left = within + within_w[labels] * (variances[labels] - squares) / (n - 1)
            differences.add(left / between - value, labels)
            continue
        products = torch.linalg.vecdot(deviations, centred[labels])
        lost = n / (n - 1) * squares
        if by_class:
            left = within + within_w[labels] * (variances[labels] - lost) / (n - 1)
        else:
            left = (num_samples * within - lost) / (num_samples - 1)
        if between_by_class:
            w = between_w[labels]
            moved = squares / (n - 1) ** 2
            left_between = between - 2 * w * products / (n - 1) + w * (1 - w) * moved
        else:
            from_centre = squares + 2 * products + torch.linalg.vecdot(centred[labels], centred[labels])
            total = num_samples * (within + between) - num_samples / (num_samples - 1) * from_centre
            left_between = total / (num_samples - 1) - left
        differences.add(left / left_between - value, labels)
    return {
        "standard_error": differences.standard_error(),
        **({"bias": differences.bias()} if statistics.has_own_means else {}),
    }


def nc3_jackknife(statistics: Statistics, classifier: Tensor, batches: Batches) -> dict[str, float]:
    r"""The standard error of `nc3`, a mean over samples, which has no bias.

    Args:
        statistics: of the same samples, at least 2 of every class.
        classifier (`Tensor`): K×d.
        batches: the samples once more, `(features, labels)` at a time.

    Returns:
        `dict`: `standard_error`.

    Raises:
        ValueError: a class has a single sample.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> batch = (torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0, 1, 1]))
        >>> statistics.update(*batch)
        >>> nc3_jackknife(statistics, torch.eye(2), [batch])
        {'standard_error': 0.25}
    """
    _require_pairs(statistics.counts)
    directions = torch.nn.functional.normalize(as_classifier(classifier, statistics), eps=0).nan_to_num_(nan=0)
    counts, differences = statistics.counts.double(), _Strata(statistics)
    mean_cosines = torch.linalg.vecdot(statistics.direction_sums, directions) / counts
    for features, labels in second_look(statistics, batches):
        units = torch.nn.functional.normalize(features.double(), eps=0).nan_to_num_(nan=0)
        cosines = torch.linalg.vecdot(units, directions[labels])
        n = counts[labels]
        # The class's mean moves, and keeps its share n_k/N.
        differences.add(n / statistics.num_samples * (cosines - mean_cosines[labels]) / (n - 1), labels)
    return {"standard_error": differences.standard_error()}


class _Strata:
    """Sums over each class of θ_i − θ and of its square."""

    def __init__(self, statistics: Statistics):
        self.counts = statistics.counts.double()
        self.sums, self.squares = torch.zeros_like(self.counts), torch.zeros_like(self.counts)

    def add(self, differences: Tensor, labels: Tensor) -> None:
        self.sums.index_add_(0, labels, differences)
        self.squares.index_add_(0, labels, differences.square())

    def standard_error(self) -> float:
        scatter = (self.squares - self.sums.square() / self.counts).clamp(min=0)
        return float(((self.counts - 1) / self.counts * scatter).sum().sqrt())

    def bias(self) -> float:
        return float(((self.counts - 1) / self.counts * self.sums).sum())


def _require_pairs(counts: Tensor) -> None:
    single = (counts == 1).nonzero().flatten().tolist()
    if single:
        raise ValueError(f"standard errors need 2 samples of every class; {len(single)} have one, first {single[0]}")
