"""What the measures are made of: weighted moments of class statistics, checked classifiers, and the second look.

`weighting` says how classes count. "class": every class the same, w_k = 1/K, in Σ_W as in Σ_B. "sample": every sample
the same, w_k = n_k/N, in both. "hybrid": n_k/N in Σ_W and 1/K in Σ_B, as published code computes it.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .batch_checks import as_batch, counted_samples
from .class_statistics import ClassStatistics
from .devices import exact_products
from .held_out_statistics import HeldOutStatistics
from .snapshot import Snapshot

Statistics = ClassStatistics | HeldOutStatistics | Snapshot
Batches = Iterable[tuple[Tensor, Tensor]]

WEIGHTINGS = ("class", "sample", "hybrid")
# By how many units in the last place, of the features' own size, the float64 means of equal classes differ.
_ULPS = 8
# The error of a second moment's float32 products, relative to their factors' sizes: a quarter of ε, as was measured.
_SINGLE_ROUNDING = torch.finfo(torch.float32).eps / 4

# A triangular factor whose inverse is exact to so much of the values.
_WELL_CONDITIONED = 1e-7


class SecondLookNeeded(ValueError):
    """A measure is no function of one pass over these samples; `reason` says why and what to do."""

    def __init__(self, measure: str, reason: str):
        self.reason = f"a second look at the features: {reason}"
        super().__init__(f"{measure} needs {self.reason}")


# --- weights -------------------------------------------------------------------------------------------------------


def within_weights(statistics: Statistics, weighting: str) -> Tensor:
    """w_k of Σ_W: 1/K for "class", n_k/N otherwise."""
    return _weights(statistics.counts, by_sample=_checked(weighting) != "class")


def between_weights(statistics: Statistics, weighting: str) -> Tensor:
    """w_k of μ_G and Σ_B: n_k/N for "sample", 1/K otherwise."""
    return _weights(statistics.mean_counts, by_sample=_checked(weighting) == "sample")


def is_one_pass(statistics: Statistics, weighting: str) -> bool:
    """Whether one d×d matrix says Σ_W: 1/n_k of each class is known at the end only, and must then be the same."""
    return _checked(weighting) != "class" or bool((statistics.counts == statistics.counts[0]).all())


def _checked(weighting: str) -> str:
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be {', '.join(map(repr, WEIGHTINGS))}, got {weighting!r}")
    return weighting


def _weights(counts: Tensor, *, by_sample: bool) -> Tensor:
    require_every_class(counts)
    weights = counts.double() if by_sample else torch.ones_like(counts, dtype=torch.float64)
    return weights / weights.sum()


def require_every_class(counts: Tensor) -> None:
    """Raise a `ValueError` that names the classes without samples, if there are any."""
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        named = ", ".join(map(str, absent[:10])) + (", …" if len(absent) > 10 else "")
        raise ValueError(
            f'{len(absent)} of {len(counts)} classes have no sample ({named}): absent="exclude" leaves them out'
        )


# --- moments -------------------------------------------------------------------------------------------------------


def class_variances(statistics: Statistics) -> Tensor:
    """v_k = mean ‖h − μ_k‖² over the samples of class k."""
    require_every_class(statistics.counts)
    return statistics.within_class_scatter / statistics.counts


def class_means(statistics: Statistics) -> Tensor:
    """M, K×d."""
    require_every_class(statistics.counts)
    return statistics.class_means


def centred_means(statistics: Statistics, weighting: str) -> Tensor:
    """Ṁ = M − μ_G; what is within the rounding of class means that are equal is 0."""
    kept = statistics.centred_means if isinstance(statistics, Snapshot) else {}
    if weighting not in kept:
        kept[weighting] = _centred_means(statistics, weighting)
    return kept[weighting]


def _centred_means(statistics: Statistics, weighting: str) -> Tensor:
    means = class_means(statistics)
    differences = means - means[0]  # exact for means that are close, so that equal ones give exact zeros
    rounding = torch.linalg.vector_norm(means, ord=torch.inf, dim=0) + class_variances(statistics).max().sqrt()
    rounding *= _ULPS * torch.finfo(torch.float64).eps
    smallest, largest = differences.aminmax(dim=0)
    equal = largest - smallest <= rounding
    if equal.any():
        differences.masked_fill_(equal, 0)
    return differences.sub_(between_weights(statistics, weighting) @ differences)


def between_class_trace(statistics: Statistics, weighting: str) -> Tensor:
    """tr Σ_B."""
    squares = torch.linalg.vector_norm(centred_means(statistics, weighting), dim=1).square_()
    return between_weights(statistics, weighting) @ squares


def between_class_factor(statistics: Statistics, weighting: str) -> Tensor:
    """√w Ṁ, K×d: Σ_B is the sum of its rows' outer products."""
    return between_weights(statistics, weighting).sqrt().unsqueeze(1) * centred_means(statistics, weighting)


def between_class_whitening(statistics: Statistics, weighting: str) -> Tensor:
    """d×rank, whose columns' outer products sum to Σ_B⁺: V S⁻¹ of √w Ṁ = U S Vᵀ, or R⁻¹ of √w Ṁ = Q R."""
    factor = between_class_factor(statistics, weighting)
    cutoff = max(factor.shape) * torch.finfo(torch.float64).eps
    if len(factor) > factor.shape[1]:
        # More classes than dimensions: Σ_B = RᵀR has an inverse as a rule, which costs a quarter of an SVD.
        triangle = torch.linalg.qr(factor, mode="r").R
        inverse = torch.linalg.solve_triangular(triangle, torch.eye(len(triangle)).to(triangle), upper=True)
        if torch.linalg.matrix_norm(triangle) * torch.linalg.matrix_norm(inverse) * cutoff < _WELL_CONDITIONED:
            return inverse
    _, singular_values, directions = torch.linalg.svd(factor, full_matrices=False)
    rank = min(int((singular_values > cutoff * singular_values[0]).sum()), statistics.num_classes - 1)
    return directions[:rank].T / singular_values[:rank]


def within_class_covariance(statistics: Statistics, weighting: str, batches: Batches | None = None) -> Tensor:
    """Σ_W, d×d: from the second moment, or with `batches` from a second look at the features, in float64."""
    if batches is None:
        return statistics.within_class_second_moment / statistics.num_samples
    means, weights = statistics.class_means, within_weights(statistics, weighting) / statistics.counts
    covariance = torch.zeros(2 * [means.shape[1]], dtype=torch.float64, device=means.device)
    with exact_products(means.device):
        for features, labels in second_look(statistics, batches):
            deviations = features.double() - means[labels]
            covariance += (weights[labels].unsqueeze(1) * deviations).T @ deviations
    return covariance


def rounding_error(statistics: Statistics, directions: Tensor) -> float:
    """By how much float32 products may have changed Σ_r x_rᵀ Σ_W x_r, for directions X, d×r."""
    squares = statistics.single_precision_squares / statistics.num_samples
    return _SINGLE_ROUNDING * float((squares @ directions.square()).sum())


def single_rounding(statistics: Statistics) -> float:
    """By how much float32 products may have changed an eigenvalue of Σ_W."""
    squares = statistics.single_precision_squares / statistics.num_samples
    return 2 * _SINGLE_ROUNDING * float((squares.sum() * squares.max()).sqrt())


def second_look(statistics: Statistics, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches on the statistics' device; raises at the end unless they held the samples of the statistics."""
    counts = torch.zeros_like(statistics.counts)
    for batch in batches:
        features, labels = counted_samples(*as_batch(*batch), statistics.num_classes)
        features, labels = features.to(statistics.device), labels.to(statistics.device)
        counts.index_add_(0, labels, torch.ones_like(labels))
        yield features, labels
    if not torch.equal(counts, statistics.counts):
        raise ValueError(
            f"batches must give the samples of the statistics once more, all {statistics.num_samples} with their "
            f"labels; got {int(counts.sum())} (a generator can be iterated only once)"
        )


# --- the classifier ------------------------------------------------------------------------------------------------


def as_classifier(classifier: Tensor, statistics: Statistics | None = None) -> Tensor:
    """W in float64, on the statistics' device, after a look at its shape and values."""
    classifier = torch.as_tensor(classifier).detach()
    if classifier.ndim != 2 or len(classifier) < 2:
        raise ValueError(f"classifier must be classes × width (K×d) with K at least 2, got {tuple(classifier.shape)}")
    bad = int((~classifier.isfinite()).sum())
    if bad:
        raise ValueError(f"classifier must be finite, got {bad} NaN or infinite values")
    if statistics is None:
        return classifier.double()
    expected = (statistics.num_classes, statistics.num_features)
    if classifier.shape != expected:
        raise ValueError(f"classifier must have the class means' shape {expected}, got {tuple(classifier.shape)}")
    return classifier.to(statistics.device, torch.float64)


def as_bias(bias: Tensor | None, statistics: Statistics) -> Tensor:
    """b in float64, zeros for none, on the statistics' device."""
    if bias is None:
        return torch.zeros(statistics.num_classes, dtype=torch.float64, device=statistics.device)
    bias = torch.as_tensor(bias).detach()
    if bias.shape != (statistics.num_classes,) or not bias.isfinite().all():
        raise ValueError(f"bias must be {statistics.num_classes} finite values, got shape {tuple(bias.shape)}: {bias}")
    return bias.to(statistics.device, torch.float64)
