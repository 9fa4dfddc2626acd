"""Measure the collapse of a model that exists already: one forward pass, layer by layer, in constant memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..neural_collapse.class_statistics import ClassStatistics
from ..neural_collapse.compute import compute, renumber_classes
from ..neural_collapse.registry import MEASURES, measure_names, to_accumulate
from .acting_classifier import ActingClassifier
from .batches import LabelledBatches
from .collapse_report import FEATURES, CollapseReport, LayerCollapse
from .feature_tap import FeatureTap
from .forward_pass import evaluation_mode
from .layers import POOLINGS, described_head
from .wrappers import base_model, encoder_of, is_sequence_to_sequence, predicts_next_token, unwrapped

DEFAULT_MEASURES = ("nc1", "nc2", "nc2_means", "nc3")


def measure_collapse(
    model: nn.Module,
    data: Any,
    *,
    split: str | None = None,
    layers: str | list[str] = "last",
    measures: str | Iterable[str] = DEFAULT_MEASURES,
    classifier: str | None = "auto",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    pooling: str = "mean",
    training: CollapseReport | None = None,
    min_class_count: int | None = None,
    weighting: str = "class",
    ignore_index: int = -100,
    batch_size: int = 32,
    collate: Callable[[list[Any]], Any] | None = None,
    progress: bool = True,
) -> CollapseReport:
    """Measure the neural collapse of a classifier or encoder on labelled data.

    The features are what the model's own forward pass hands to its last linear layer, so pooling, masks and
    projections are the model's. One pass in evaluation mode; nothing is kept but the class statistics of every layer
    (16·K·d bytes each, 8·K·d more for `nc3`, 8·d² more for `nc1_pinv`). Every process of an initialised
    `torch.distributed` takes its share and gets the numbers of all.

    Args:
        model: any `AutoModelFor…Classification`, a causal language model (the classes are the next tokens), an encoder
            (`AutoModel`, sentence-transformers), or a torch module whose output is logits; also behind PEFT,
            `torch.compile` (then run without its compiled code), `DataParallel` or `DistributedDataParallel`.
        data: a data set, `DataLoader`, list of batches with labels, or a pair of arrays (inputs, labels); of a
            `DatasetDict` name the `split`. Labels are 0 … K − 1, one an input, or one a token for token
            classification; language models need none.
        split: which split of a dict of data sets.
        layers: "last" for the features alone, "all" for every block and the features, or names of modules.
        measures: "paper", "all", or names (`neural_collapse.registry.MEASURES`). Those of W are of the features only.
            `nc4`, when named, costs a second pass; "all" leaves it out.
        classifier: name of the last linear layer; "auto" finds it; `None` takes the model's output as the feature, of
            a transformers model with a head the output of what is below the head. A head with one logit z has the two
            classes 0 and 1, of (−z/2, z/2).
        weight: W, K×d, where the classifier is no linear layer: a 1×1 convolution's weight, a bare parameter. The
            features are then the input or output of a module that W turns into the logits.
        bias: b, K values, beside `weight`; by default what the logits have above W h.
        pooling: over the tokens of a block's output, "mean", "first" or "last"; decoders' heads read one token, whose
            hidden states are then measured in the blocks too.
        training: the report on the training set, to measure these samples about its class means.
        min_class_count: leave out classes with fewer samples, at least 1; by default every class needs a sample.
        weighting: "class" or "sample".
        ignore_index: label of samples to skip.
        batch_size: for data sets.
        collate: makes a batch of samples, such as a tokenizer's `DataCollatorWithPadding`.
        progress: show a bar, on a terminal.

    Returns:
        [`CollapseReport`]: print it, index it by measure, or `write` it.

    Raises:
        ValueError: the classifier cannot be told, labels and classes disagree, a class has no sample, the data are
            empty or unlabeled, a name is unknown. The message says what to do.

    Example:

        >>> from datasets import load_dataset
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from hf_ncollapse.inspection import measure_collapse
        >>> name = "textattack/bert-base-uncased-imdb"
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> reviews = load_dataset("stanfordnlp/imdb", split="train").shuffle(seed=0).select(range(2000))
        >>> reviews = reviews.map(lambda row: tokenizer(row["text"], truncation=True))
        >>> report = measure_collapse(  # doctest: +SKIP
        ...     model, reviews.remove_columns("text"), layers="all", collate=DataCollatorWithPadding(tokenizer)
        ... )
    """
    names = measure_names(measures)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be {', '.join(POOLINGS)}, got {pooling!r}")
    if min_class_count is not None and min_class_count < 1:
        raise ValueError(f"min_class_count must be at least 1, got {min_class_count}")
    if split is not None:
        if not isinstance(data, Mapping) or split not in data:
            known = ", ".join(map(str, data)) if isinstance(data, Mapping) else "no splits"
            raise ValueError(f"split is {split!r}, but the data have {known}")
        data = data[split]
    model = encoder_of(model) if classifier is None else unwrapped(model)
    if classifier is not None and is_sequence_to_sequence(model):
        raise ValueError(
            f"the model is {type(base_model(model)).__name__}, which writes one sequence from another and has no "
            "class for a sample: measure its encoder, model.get_encoder(), on labelled inputs"
        )
    if bias is not None and weight is None:
        raise ValueError("bias goes with weight: the bias of a linear layer is found with it")
    if weight is not None and classifier != "auto":
        raise ValueError(f"classifier is {classifier!r} and weight is given: take one, they say where W is")
    is_language_model = predicts_next_token(model)
    batches = LabelledBatches(
        data, model, batch_size=batch_size, collate=collate, labels_from_inputs=is_language_model
    )
    options = MeasurementOptions(measures, names, weighting, training, min_class_count)
    # Compiled code, also of a part of the model, would not call the hooks.
    with evaluation_mode(model), torch.compiler.set_stance("force_eager"):
        tap = FeatureTap(
            model,
            batches,
            layers,
            classifier,
            weight=weight,
            bias=bias,
            pooling=pooling,
            next_token=is_language_model,
            ignore_index=ignore_index,
        )
        return Measurement(tap, batches, options).report(progress)


@dataclass(frozen=True)
class MeasurementOptions:
    """What is computed of the statistics.

    Args:
        measures: as they were asked for; "all" leaves out what has no value.
        names: the measures that these are.
        weighting: "class" or "sample".
        training: the report about whose class means these samples are measured.
        min_class_count: leave out classes with fewer samples.
    """

    measures: str | Iterable[str]
    names: list[str]
    weighting: str
    training: CollapseReport | None
    min_class_count: int | None


class Measurement:
    """One model on one set: the statistics that a tap fills, and the numbers that follow from them.

    Args:
        tap: on the model.
        batches: of the set.
        options: what is computed.
    """

    def __init__(self, tap: FeatureTap, batches: LabelledBatches, options: MeasurementOptions):
        self.tap, self.batches, self.options = tap, batches, options
        self.statistics = {name: self._empty_statistics(name) for name in tap.names}

    def report(self, progress: bool) -> CollapseReport:
        """Pass this process's share of the set through the model, and return the numbers of all processes."""
        bar = tqdm(
            self.batches.share(),
            total=self.batches.num_batches,
            desc="measuring collapse",
            disable=None if progress and self.batches.rank == 0 else True,
        )
        for _ in self.tap.passes(bar, self._update):
            pass
        if self.tap.head is None:
            self.statistics = {name: _without_room(statistics) for name, statistics in self.statistics.items()}
        self._join_processes()
        if self.statistics[FEATURES].num_samples == 0:
            raise ValueError("no sample has a label other than ignore_index: the set is empty or unlabeled")
        rows, num_rare = [], 0
        for name in self.statistics:
            row, num_rare = self._row(name)
            rows.append(row)
        head = described_head(self.tap.head, self.tap.next_token)
        return CollapseReport(type(base_model(self.tap.model)).__name__, head, rows, self.statistics, num_rare)

    def features(self, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
        """A layer's features and labels once more, all of them in every process."""
        found: list[Tensor] = []

        def keep(name: str, features: Tensor, labels: Tensor) -> None:
            if name == layer:
                found.append(features)

        for labels in self.tap.passes(self.batches.all(), keep):
            yield found.pop(), labels

    def _update(self, name: str, features: Tensor, labels: Tensor) -> None:
        statistics = self.statistics[name]
        if self.tap.head is None:
            statistics = self.statistics[name] = statistics.grown_for(features, labels)
        elif len(labels) and int(labels.max()) >= statistics.num_classes:
            raise ValueError(
                f"a label is {int(labels.max())}, but the model has num_labels = {statistics.num_classes} classes, "
                f"0 … {statistics.num_classes - 1}: the data set is not the one that it classifies"
            )
        statistics.update(features, labels)

    def _empty_statistics(self, name: str) -> ClassStatistics:
        num_classes = 2 if self.tap.head is None else self.tap.head.num_classes
        classifies = self._classifies(name)
        measured = [name for name in self.options.names if classifies or "classifier" not in MEASURES[name].needs]
        return ClassStatistics(num_classes, **to_accumulate(measured))

    def _classifies(self, name: str) -> bool:
        """Whether a known W acts on the layer's features."""
        return self._acting_on(name) is not None

    def _acting_on(self, name: str) -> ActingClassifier | None:
        """W and b that act on the layer's features, where they are known."""
        return self.tap.head.acting if name == FEATURES and self.tap.head is not None else None

    def _join_processes(self) -> None:
        if self.batches.world_size == 1:
            return
        for name, statistics in self.statistics.items():
            sizes: list[Any] = [None] * self.batches.world_size
            dist.all_gather_object(sizes, (statistics.num_classes, self.tap.pooling.get(name)))
            if statistics.num_classes < max(size for size, _ in sizes):
                self.statistics[name] = statistics = statistics.resized(max(size for size, _ in sizes))
            self.tap.pooling.setdefault(name, next((text for _, text in sizes if text is not None), "none"))
            statistics.all_reduce()

    def _row(self, name: str) -> tuple[LayerCollapse, int]:
        options = self.options
        statistics = self.statistics[name]
        reference = None
        if options.training is not None:
            if name not in options.training.statistics:
                raise ValueError(f"training has no layer {name!r}: measure the training set with the same layers")
            reference = options.training.statistics[name]
        acting = self._acting_on(name)
        weight, bias = (None, None) if acting is None else (acting.weight, acting.bias)
        kept, num_rare = None, 0
        if options.min_class_count is not None:
            kept = statistics.counts >= options.min_class_count
            num_rare = int((statistics.present_classes & ~kept).sum())
            if int(kept.sum()) < 2:
                raise ValueError(
                    f"min_class_count is {options.min_class_count}: fewer than 2 classes have as many samples"
                )
        if kept is not None and num_rare:
            statistics = statistics.select_classes(kept)
            reference = None if reference is None else reference.select_classes(kept.to(reference.device))
            weight = None if weight is None else weight[kept.to(weight.device)]
            bias = None if bias is None else bias[kept.to(bias.device)]
        left_out, reason = {}, self._reason_without_classifier(name)
        if weight is None:
            left_out = {measure: reason for measure in options.names if "classifier" in MEASURES[measure].needs}
        if len(left_out) == len(options.names):
            raise ValueError(
                f"measures {', '.join(options.names)} have no value for layer {name!r}, as {reason}: add nc1"
            )
        is_everything = options.measures == "all"
        found = compute(
            statistics,
            classifier=weight,
            bias=bias,
            measures="all" if is_everything else [measure for measure in options.names if measure not in left_out],
            weighting=options.weighting,
            absent="error" if options.min_class_count is None else "exclude",
            training_statistics=reference,
            batches=None if is_everything else _SecondLook(self, name, kept if num_rare else None),
        )
        left_out = found.pop("left_out") | left_out
        values = {measure: found.pop(measure) for measure in options.names if measure in found}
        width = cast(int, statistics.num_features)  # of statistics with samples
        absent = found.pop("absent_classes")
        if len(absent) <= 100:
            found["absent_classes"] = absent
        if kept is not None and num_rare:
            renumber_classes(found, kept.nonzero().flatten())
            found["num_absent_classes"] = int((self.statistics[name].counts == 0).sum())
        return LayerCollapse(name, self.tap.pooling[name], width, values, found, left_out), num_rare

    def _reason_without_classifier(self, name: str) -> str:
        if self.tap.head is None:
            return "the model has no classifier"
        return "the classifier's output is not W x + b" if name == FEATURES else "W acts on the features alone"


class _SecondLook:
    """A layer's features once more, for measures that need the final means first; runs the model when iterated."""

    def __init__(self, measurement: Measurement, layer: str, kept: Tensor | None):
        self.measurement, self.layer, self.kept = measurement, layer, kept

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for features, labels in self.measurement.features(self.layer):
            if self.kept is not None:
                kept = self.kept.to(labels.device)
                features, labels = features[kept[labels]], (kept.cumsum(0) - 1)[labels[kept[labels]]]
            yield features, labels


def _without_room(statistics: ClassStatistics) -> ClassStatistics:
    """The statistics without classes after the last that has samples."""
    if statistics.num_samples == 0:
        return statistics
    return statistics.resized(max(2, int(statistics.counts.nonzero().max()) + 1))
