"""Every measure by name, and what it needs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import frames, imbalance, jackknife, measures, softmax_code, spectra, uniformity, worst_classes

# What a measure can need, and how somebody who lacks it is told.
NEEDS = {
    "statistics": "class statistics",
    "classifier": "classifier=W",
    "second_moment": "statistics made with second_moment=True",
    "directions": "statistics made with directions=True",
    "out_of_distribution": "out_of_distribution=features",
    "batches": "a second look at the features: batches",
}
# What it can use besides, if it is given.
_USES = {"bias", "weighting", "batches"}
# Of these, what the statistics hold; the others are arguments of the function.
_ACCUMULATED = {"second_moment", "directions"}
# Details of a value that number classes.
CLASS_NUMBERS = {"class", "pair"}


@dataclass(frozen=True)
class Measure:
    """A measure and what is known of it.

    Args:
        function: takes the needs and uses that are arguments, by keyword, and returns the value.
        convention: the formula, where packages differ.
        needs: without these it has no value: "statistics", "classifier", "second_moment", "directions",
            "out_of_distribution", "batches".
        uses: what it takes as well if it is there: "bias", "weighting", "batches".
        detail: what the function returns beside the value if asked by `return_<detail>=True`.
        derived_from: another measure, and the function that makes this one of its value and K.
        jackknife: what says its standard error, of the same arguments and `batches`.
        best_attainable: the best value for K classes in d dimensions, or a bound of it; None if that is 0.
        max_classes: "all" leaves it out for more classes, as its cost grows like K³.
    """

    function: Callable[..., Any]
    convention: str
    needs: frozenset[str]
    uses: frozenset[str] = frozenset()
    detail: str | None = None
    derived_from: tuple[str, Callable[[float, int], float]] | None = None
    jackknife: Callable[..., dict[str, float]] | None = None
    best_attainable: Callable[[int, int], float | None] | None = None
    max_classes: int | None = None

    @property
    def arguments(self) -> frozenset[str]:
        """The keywords of the function."""
        return (self.needs | self.uses) - _ACCUMULATED


def _of(function: Callable[..., Any], convention: str, needs: str, uses: str = "", **known: Any) -> Measure:
    needed, used = frozenset(needs.split()), frozenset(uses.split())
    if not (needed <= NEEDS.keys() and used <= _USES):
        raise ValueError(f"needs are among {', '.join(NEEDS)}, uses among {', '.join(_USES)}; got {needs}, {uses}")
    return Measure(function, convention, needed, used, **known)


_SMALL, _FEW = 2000, 100

# The order is the order of the result.
MEASURES: dict[str, Measure] = {
    "nc0": _of(measures.nc0, "‖Σ_k w_k‖₂", "classifier"),
    "nc0_relative": _of(measures.nc0_relative, "‖Σ_k w_k‖₂/‖W‖_F", "classifier"),
    "nc1": _of(measures.nc1, "tr Σ_W / tr Σ_B", "statistics", "weighting", jackknife=jackknife.nc1_jackknife),
    "nc1_pinv": _of(
        measures.nc1_pinv,
        "tr(Σ_W Σ_B⁺)/K, divided by K",
        "statistics second_moment",
        "weighting batches",
        detail="rank",
    ),
    "nc1_cdnv": _of(
        measures.nc1_cdnv, "mean over pairs of (v_j + v_k)/(2‖μ_j − μ_k‖²), distance to the power 2", "statistics"
    ),
    "nc1_worst": _of(
        worst_classes.nc1_worst, "max over classes of v_k/tr Σ_B", "statistics", "weighting", detail="class"
    ),
    "vci": _of(spectra.vci, "1 − tr(Σ_T⁺ Σ_B)/rank Σ_B", "statistics second_moment", "weighting batches"),
    "nc2": _of(
        measures.nc2,
        "min over c ≥ 0 of ‖WWᵀ − cE_K‖_F/‖WWᵀ‖_F, E_K = I − 11ᵀ/K: NC2A, not squared",
        "classifier",
        best_attainable=frames.least_sine_to_etf,
    ),
    "nc2_identity": _of(
        measures.nc2_identity,
        "min over c ≥ 0 of ‖WWᵀ − cI‖_F/‖WWᵀ‖_F: NC2B, not squared",
        "classifier",
        best_attainable=frames.least_sine_to_orthogonal,
    ),
    "nc2_etf": _of(
        measures.nc2_etf,
        "‖WWᵀ/‖WWᵀ‖_F − E*‖_F, not squared",
        "classifier",
        derived_from=("nc2", frames.chord_of_sine),
        best_attainable=frames.least_chord_to_etf,
    ),
    "nc2_means": _of(
        measures.nc2_means,
        "min over c ≥ 0 of ‖ṀṀᵀ − cE_K‖_F/‖ṀṀᵀ‖_F, E_K = I − 11ᵀ/K, not squared",
        "statistics",
        "weighting",
        best_attainable=frames.least_sine_to_etf,
    ),
    "nc2_orthogonal": _of(
        measures.nc2_orthogonal,
        "‖MMᵀ/‖MMᵀ‖_F − I/√K‖_F, M not centred",
        "statistics",
        best_attainable=frames.least_chord_to_orthogonal,
    ),
    "nc2_equinorm": _of(uniformity.nc2_equinorm, "std/mean of ‖ṁ_k‖, std divided by K", "statistics", "weighting"),
    "nc2_equinorm_classifier": _of(
        uniformity.nc2_equinorm_classifier, "std/mean of ‖w_k‖, std divided by K", "classifier"
    ),
    "nc2_equiangular": _of(
        uniformity.nc2_equiangular, "mean over pairs of |cos(ṁ_j, ṁ_k) + 1/(K − 1)|", "statistics", "weighting"
    ),
    "nc2_equiangular_classifier": _of(
        uniformity.nc2_equiangular_classifier, "mean over pairs of |cos(w_j, w_k) + 1/(K − 1)|", "classifier"
    ),
    "nc2_worst": _of(
        worst_classes.nc2_worst,
        "max over pairs of cos(ṁ_j, ṁ_k) + 1/(K − 1)",
        "statistics",
        "weighting",
        detail="pair",
    ),
    "nc2_seli": _of(
        imbalance.nc2_seli,
        "min over c ≥ 0 of ‖WWᵀ − cS‖_F/‖WWᵀ‖_F, S = (E_K diag(n_k) E_K)^½",
        "statistics classifier",
        max_classes=_SMALL,
    ),
    "nc2_means_seli": _of(
        imbalance.nc2_means_seli,
        "min over c ≥ 0 of ‖ṀṀᵀ − cS⁺‖_F/‖ṀṀᵀ‖_F, S = (E_K diag(n_k) E_K)^½, μ_G the mean of the μ_k",
        "statistics",
        max_classes=_SMALL,
    ),
    "minority_cosine": _of(
        imbalance.minority_cosine,
        "mean over pairs of the rarest classes of cos(ṁ_j, ṁ_k), μ_G the mean of the μ_k: 1 is minority collapse",
        "statistics",
    ),
    "minority_cosine_classifier": _of(
        imbalance.minority_cosine_classifier,
        "mean over pairs of the rarest classes of cos(w_j, w_k): 1 is minority collapse",
        "statistics classifier",
    ),
    "gnc2": _of(uniformity.gnc2, "mean over pairs of −log‖m̂_j − m̂_k‖, natural logarithm", "statistics", "weighting"),
    "gnc2_excess": _of(
        uniformity.gnc2_excess,
        "gnc2 + ½ log(2K/(K − 1))",
        "statistics",
        "weighting",
        derived_from=("gnc2", uniformity.above_etf),
    ),
    "softmax_code_margin": _of(
        softmax_code.softmax_code_margin,
        "min over k of the distance of ŵ_k to the convex hull of the other ŵ_j: large at collapse",
        "classifier",
        detail="class",
        best_attainable=softmax_code.largest_margin,
        max_classes=_FEW,
    ),
    "stable_rank": _of(spectra.stable_rank, "tr Σ_T/λ_1(Σ_T)", "statistics second_moment", "weighting batches"),
    "effective_rank": _of(
        spectra.effective_rank,
        "exp(−Σ p log p), p = σ/Σσ, σ² the eigenvalues of Σ_T",
        "statistics second_moment",
        "weighting batches",
    ),
    "stable_rank_classifier": _of(spectra.stable_rank_classifier, "‖W‖_F²/‖W‖₂²", "classifier"),
    "effective_rank_classifier": _of(
        spectra.effective_rank_classifier, "exp(−Σ p log p), p = σ/Σσ, σ the singular values of W", "classifier"
    ),
    "nc3": _of(
        measures.nc3,
        "1 − mean over samples of cos(h_i, w_{y_i})",
        "statistics classifier directions",
        jackknife=jackknife.nc3_jackknife,
    ),
    "nc3_self_duality": _of(
        measures.nc3_self_duality, "‖W/‖W‖_F − Ṁ/‖Ṁ‖_F‖_F, not squared", "statistics classifier", "weighting"
    ),
    "nc3_etf": _of(
        measures.nc3_etf,
        "‖WṀᵀ/‖WṀᵀ‖_F − E*‖_F, not squared",
        "statistics classifier",
        "weighting",
        best_attainable=frames.least_chord_to_etf,
    ),
    "nc3_uniformity": _of(
        measures.nc3_uniformity,
        "variance over classes of cos(w_k, ṁ_k), divided by K",
        "statistics classifier",
        "weighting",
    ),
    "nc3_worst": _of(
        worst_classes.nc3_worst,
        "max over classes of 1 − cos(w_k, ṁ_k)",
        "statistics classifier",
        "weighting",
        detail="class",
    ),
    "nc4": _of(
        measures.nc4,
        "share of samples where argmax(Wh + b) ≠ nearest class mean: mismatch, 0 is collapsed",
        "statistics classifier batches",
        "bias",
    ),
    "nc5": _of(
        measures.nc5, "mean over classes of |cos(μ_k, μ_O)|, means not centred", "statistics out_of_distribution"
    ),
    "bias_collapse": _of(measures.bias_collapse, "‖Wμ_G + b‖₂", "statistics classifier", "bias weighting"),
}
GROUPS: dict[str, tuple[str, ...]] = {"paper": ("nc1", "nc2", "nc3"), "all": tuple(MEASURES)}


def measure_names(measures: str | Iterable[str]) -> list[str]:
    """The names that "paper", "all", one name or several stand for; a `ValueError` for an unknown one."""
    if isinstance(measures, str):
        measures = GROUPS.get(measures, (measures,))
    names = list(dict.fromkeys(measures))
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise ValueError(f'measures must be "paper", "all" or among {", ".join(MEASURES)}; got {unknown or names}')
    return names


def to_accumulate(names: Iterable[str]) -> dict[str, bool]:
    """What `ClassStatistics` must accumulate for measures of these names, as its keywords.

    Example:
        >>> to_accumulate(["nc1", "nc3"])
        {'directions': True, 'second_moment': False}
    """
    needed = {need for name in names for need in MEASURES[name].needs}
    return {name: name in needed for name in sorted(_ACCUMULATED)}


def may_look_again(names: Iterable[str]) -> bool:
    """Whether some measure of these names needs the features a second time, or may."""
    return any("batches" in MEASURES[name].arguments for name in names)
