"""Several measures at once."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import worst_classes
from .batch_checks import as_batch, counted_samples
from .class_statistics import ClassStatistics
from .devices import exact_products
from .held_out_statistics import HeldOutStatistics
from .measured import MeasuredCollapse
from .moments import Batches, SecondLookNeeded, as_bias, as_classifier, require_every_class
from .registry import CLASS_NUMBERS, MEASURES, NEEDS, Measure, measure_names
from .snapshot import Snapshot


def compute(
    statistics: ClassStatistics,
    *,
    classifier: Tensor | None = None,
    bias: Tensor | None = None,
    measures: str | Iterable[str] = "paper",
    weighting: str = "class",
    absent: str = "error",
    training_statistics: ClassStatistics | None = None,
    batches: Batches | None = None,
    ignore_index: int | None = None,
    out_of_distribution: Tensor | None = None,
    per_class: bool = False,
    standard_errors: bool = False,
) -> MeasuredCollapse:
    """Several measures at once, with the conventions, counts and ranks that make them comparable.

    Args:
        statistics (`ClassStatistics`): of the samples to measure.
        classifier (`Tensor`, *optional*): W, K×d; the measures of W need it.
        bias (`Tensor`, *optional*): b, K values; `nc4` and `bias_collapse` use it.
        measures: "paper" (nc1, nc2, nc3), "all", or names.
        weighting (`str`): "class" (every class counts the same), "sample" (every sample does), or "hybrid" (Σ_W by
            samples, Σ_B by classes, as published code has it).
        absent (`str`): what classes without samples get: "error", or "exclude" to measure the others alone.
        training_statistics (`ClassStatistics`, *optional*): measure test samples about the training set's means.
        batches (*optional*): the same samples once more, an iterable of `(features, labels)`: `nc4` needs them, and
            `nc1_pinv` for unequal class counts under `weighting="class"` or much less scatter along the means.
        ignore_index (`int`, *optional*): skip samples with this label in `batches`, as in `update`.
        out_of_distribution (`Tensor`, *optional*): M×d, features of inputs of no class; `nc5` needs them.
        per_class (`bool`): add `per_class`, a dict of K values each: see `worst_classes.per_class`.
        standard_errors (`bool`): add `nc1_standard_error`, `nc1_bias` and `nc3_standard_error` for those of them that
            are computed, by the jackknife: needs `batches` and 2 samples a class.

    Returns:
        `MeasuredCollapse`: a dict with every measure under its name, and `weighting`, `class_means` ("own" or
        "training"), `num_samples`, `num_classes` (those measured), `num_absent_classes`, `absent_classes`,
        `conventions` (name to formula), `left_out` (name to reason; only "all" leaves anything out), `nc1_pinv_rank`
        with `nc1_pinv`, which class or pair the worst is (`nc1_worst_class`, …), and for more classes than an ETF has
        room for (K > d + 1; K > d for the orthogonal frame) `<name>_best_attainable`.

    Raises:
        ValueError: an argument is not among its values or has another shape, a named measure lacks what it needs, or
            classes are absent and `absent="error"`.
    """
    names = measure_names(measures)
    if absent not in ("error", "exclude"):
        raise ValueError(f'absent must be "error" or "exclude", got {absent!r}')
    chosen: ClassStatistics | HeldOutStatistics = statistics
    if training_statistics is not None:
        chosen = HeldOutStatistics(statistics, training_statistics.class_means, training_statistics.counts)
    present = chosen.present_classes
    classifier = None if classifier is None else as_classifier(classifier, chosen)
    bias = as_bias(bias, chosen)
    if absent == "error":
        require_every_class(chosen.counts)
    elif not present.all():
        if int(present.sum()) < 2:
            raise ValueError(f"at least 2 classes must have samples, got {int(present.sum())} of {len(present)}")
        chosen = chosen.select_classes(present)
        classifier = None if classifier is None else classifier[present]
        bias = bias[present]
    if batches is not None:
        batches = _Renumbered(batches, present, ignore_index)

    if standard_errors and batches is None:
        raise ValueError(f"standard_errors need {NEEDS['batches']}")
    measured = Snapshot(chosen)
    kept = present.nonzero().flatten()
    given = {
        "statistics": measured, "classifier": classifier, "bias": bias, "weighting": weighting, "batches": batches,
        "out_of_distribution": out_of_distribution,
    }  # fmt: skip
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in names:
        measure = MEASURES[name]
        lacking = _lacking(measure, given)
        if measures == "all" and measure.max_classes is not None and measured.num_classes > measure.max_classes:
            left_out[name] = f"for more than {measure.max_classes} classes it costs much: name it"
            continue
        if lacking is None:
            try:
                with exact_products(measured.device):
                    values[name], detail = _value(measure, given, values)
            except SecondLookNeeded as error:
                if measures != "all":
                    raise
                left_out[name] = f"needs {error.reason}"
                continue
            if measure.detail is not None:
                details[f"{name}_{measure.detail}"] = detail
            if standard_errors and measure.jackknife is not None:
                for what, number in measure.jackknife(**_arguments(measure, given), batches=batches).items():
                    details[f"{name}_{what}"] = number
            best = measure.best_attainable and measure.best_attainable(measured.num_classes, measured.num_features)
            if best is not None:
                details[f"{name}_best_attainable"] = best
        elif measures == "all":
            left_out[name] = f"needs {NEEDS[lacking]}"
        else:
            without_w = lacking == "classifier"
            hint = '; without one, name other measures, such as measures="nc1"' if without_w else ""
            raise ValueError(f"{name} needs {NEEDS[lacking]}{hint}")
    if per_class:
        with exact_products(measured.device):
            table = worst_classes.per_class(measured, classifier=classifier, weighting=weighting)
        table["nearest_class"] = kept[table["nearest_class"]]
        details["per_class"] = {"class": kept.tolist()} | {name: column.tolist() for name, column in table.items()}
    renumber_classes(details, kept)
    return MeasuredCollapse(
        values
        | details
        | {
            "weighting": weighting,
            "class_means": "own" if training_statistics is None else "training",
            "num_samples": measured.num_samples,
            "num_classes": measured.num_classes,
            "num_absent_classes": int((~present).sum()),
            "absent_classes": (~present).nonzero().flatten().tolist(),
            "conventions": {name: MEASURES[name].convention for name in values},
            "left_out": left_out,
        }
    )


def renumber_classes(result: dict[str, Any], numbers: Tensor) -> None:
    """Where a result of `compute` names classes, put `numbers[k]` for class k: those that the caller knows them by."""
    for name, measure in MEASURES.items():
        detail = f"{name}_{measure.detail}"
        if measure.detail in CLASS_NUMBERS and detail in result:
            result[detail] = numbers[torch.tensor(result[detail])].tolist()


def _lacking(measure: Measure, given: dict[str, Any]) -> str | None:
    """The first of the measure's needs, in the table's order, that is not there."""
    statistics = given["statistics"]
    held = {"second_moment": statistics.has_second_moment, "directions": statistics.has_directions}
    for need in NEEDS:
        if need in measure.needs and not (held[need] if need in held else given[need] is not None):
            return need
    return None


def _value(measure: Measure, given: dict[str, Any], values: dict[str, float]) -> tuple[float, object]:
    """The measure and its detail, None without one."""
    if measure.derived_from is not None:
        origin, function = measure.derived_from
        if origin in values:
            return function(values[origin], given["statistics"].num_classes), None
    arguments = _arguments(measure, given)
    if measure.detail is None:
        return measure.function(**arguments), None
    return measure.function(**arguments, **{f"return_{measure.detail}": True})


def _arguments(measure: Measure, given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in measure.arguments}


class _Renumbered:
    """Batches whose labels count the present classes only, without the samples to ignore."""

    def __init__(self, batches: Batches, present: Tensor, ignore_index: int | None):
        self.batches, self.present, self.ignore_index = batches, present, ignore_index

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        new_labels = self.present.cumsum(0) - 1
        for batch in self.batches:
            features, labels = counted_samples(*as_batch(*batch), len(self.present), self.ignore_index)
            yield features, new_labels[labels.to(new_labels.device)]
