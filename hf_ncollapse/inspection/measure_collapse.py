"""Measure the collapse of a model that exists already: one forward pass, layer by layer, in constant memory."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..neural_collapse import measures as collapse_measures
from ..neural_collapse.class_statistics import ClassStatistics
from .axes import axes_of
from .batches import LabelledBatches, first_samples, to_device
from .classifier_head import call_model, find_classifier, logits_of
from .collapse_report import FEATURES, CollapseReport, LayerCollapse
from .layers import POOLINGS, SampleSelection, described_head, named_layers, states_of
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
    pooling: str = "mean",
    training: CollapseReport | None = None,
    min_class_count: int | None = None,
    weighting: str = "class",
    ignore_index: int = -100,
    batch_size: int = 32,
    collate: Callable | None = None,
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
        measures: "paper", "all", or names (`neural_collapse.measures.MEASURES`). Those of W are of the features only.
            `nc4`, when named, costs a second pass; "all" leaves it out.
        classifier: name of the last linear layer; "auto" finds it; `None` takes the model's output as the feature, of
            a transformers model with a head the output of what is below the head.
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
    names = collapse_measures.measure_names(measures)
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
    is_language_model = predicts_next_token(model)
    batches = LabelledBatches(
        data, model, batch_size=batch_size, collate=collate, labels_from_inputs=is_language_model
    )
    # Compiled code, also of a part of the model, would not call the hooks.
    with _evaluation_mode(model), torch.compiler.set_stance("force_eager"):
        return _Measurement(
            model,
            batches,
            layers,
            classifier,
            pooling=pooling,
            next_token=is_language_model,
            ignore_index=ignore_index,
            second_moment="nc1_pinv" in names,
            directions="nc3" in names,
        ).report(measures, names, training, min_class_count, weighting, progress)


class _Measurement:
    """One model on one set: its hooks, and the statistics that they fill."""

    def __init__(
        self,
        model: nn.Module,
        batches: LabelledBatches,
        layers: str | list[str],
        classifier: str | None,
        *,
        pooling: str,
        next_token: bool,
        ignore_index: int,
        second_moment: bool,
        directions: bool,
    ):
        self.model, self.batches = model, batches
        parameter = next(model.parameters(), torch.empty(0))
        self.device = parameter.device
        self.half_precision = parameter.dtype if parameter.dtype in (torch.float16, torch.bfloat16) else None
        self.second_moment, self.directions = second_moment, directions
        self.selecting = {"pooling": pooling, "next_token": next_token, "ignore_index": ignore_index}
        inputs, labels = self.batches.first()
        few = to_device(first_samples(inputs, 2), self.device, self.half_precision)
        self.head = None
        if classifier is not None:
            self.head = find_classifier(model, few, None if classifier == "auto" else classifier)
        self.samples = "inputs" if self.head is None else self.head.samples
        self.modules = named_layers(model, layers)
        self.axes = self._probed_axes(few, min(2, len(labels)))
        self.statistics = {name: self._empty_statistics(name) for name in [*self.modules, FEATURES]}
        self.pooling: dict[str, str] = {}
        self.selection: SampleSelection | None = None
        self.ran: list[str] = []

    # --- the pass ------------------------------------------------------------------------------------------------

    def report(self, measures, names, training, min_class_count, weighting, progress) -> CollapseReport:
        rank = self.batches.rank
        bar = tqdm(
            self.batches.share(),
            total=self.batches.num_batches,
            desc="measuring collapse",
            disable=None if progress and rank == 0 else True,
        )
        with self._hooked(self._update):
            for inputs, labels in bar:
                self._forward(inputs, labels)
        if self.head is None:
            self.statistics = {name: _without_room(statistics) for name, statistics in self.statistics.items()}
        self._join_processes()
        if self.statistics[FEATURES].num_samples == 0:
            raise ValueError("no sample has a label other than ignore_index: the set is empty or unlabeled")
        rows, num_rare = [], 0
        for name in self.statistics:
            row, num_rare = self._row(name, measures, names, training, min_class_count, weighting)
            rows.append(row)
        head = described_head(self.head, self.selecting["next_token"])
        return CollapseReport(type(base_model(self.model)).__name__, head, rows, self.statistics, num_rare)

    def features(self, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
        """A layer's features and labels once more, all of them in every process."""
        found = []
        with self._hooked(lambda name, features: found.append(features) if name == layer else None):
            for inputs, labels in self.batches.all():
                self._forward(inputs, labels)
                yield found.pop(), self.selection.labels

    def _forward(self, inputs: Any, labels: Tensor) -> None:
        inputs = to_device(inputs, self.device, self.half_precision)
        self.selection = SampleSelection(self.model, self.samples, inputs, labels.to(self.device), **self.selecting)
        self.ran.clear()
        with torch.no_grad():
            output = call_model(self.model, inputs)
        if self.head is None:
            self._take(FEATURES, states_of(output))
        elif self.samples == "last_token":
            self._require_returned_token(logits_of(output))
        missing = [name for name in self.statistics if name not in self.ran]
        if missing:
            raise ValueError(f"layer {missing[0]!r} does not run in the model's forward pass: leave it out of layers")

    @contextmanager
    def _hooked(self, receive: Callable[[str, Tensor], None]):
        self.receive = receive
        hooks = [
            module.register_forward_hook(
                lambda module, arguments, output, name=name: self._take(name, states_of(output))
            )
            for name, module in self.modules.items()
        ]
        if self.head is not None:
            hooks.append(self.head.module.register_forward_hook(self._take_classifier))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _probed_axes(self, few: Any, num_samples: int) -> dict[str, tuple[int, ...]]:
        """Where samples and features are in the states of every layer that runs."""
        axes = {}

        def probe(name: str, module: nn.Module, output: Any) -> None:
            axes[name] = axes_of(module, states_of(output), num_samples)

        hooks = [
            module.register_forward_hook(lambda module, arguments, output, name=name: probe(name, module, output))
            for name, module in self.modules.items()
        ]
        try:
            if self.modules or self.head is None:
                with torch.no_grad():
                    output = call_model(self.model, few)
                if self.head is None:
                    probe(FEATURES, self.model, output)
        finally:
            for hook in hooks:
                hook.remove()
        return axes

    def _take_classifier(self, module: nn.Module, arguments: tuple, output: Tensor) -> None:
        states = arguments[0]
        if self.samples == "inputs":
            states = states.reshape(-1, states.shape[-1])
        if self.samples == "last_token":
            rows = torch.arange(len(output), device=output.device)
            self.returned_logits = output[rows, self.selection.positions.to(output.device)]
        self._take(FEATURES, states)

    def _take(self, name: str, states: Tensor) -> None:
        if name in self.ran:
            raise ValueError(f"layer {name!r} runs several times in one forward pass: leave it out of layers")
        self.ran.append(name)
        if name in self.axes:
            states = states.permute(self.axes[name])
        self.pooling[name] = self.selection.described_pooling(states)
        try:
            self.receive(name, self.selection.features(states))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error

    def _update(self, name: str, features: Tensor) -> None:
        labels = self.selection.labels
        statistics = self.statistics[name]
        if self.head is None:
            statistics = self.statistics[name] = statistics.grown_for(features, labels)
        elif len(labels) and int(labels.max()) >= statistics.num_classes:
            raise ValueError(
                f"a label is {int(labels.max())}, but the model has num_labels = {statistics.num_classes} classes, "
                f"0 … {statistics.num_classes - 1}: the data set is not the one that it classifies"
            )
        statistics.update(features, labels)

    def _require_returned_token(self, logits: Tensor) -> None:
        if not torch.equal(self.returned_logits.to(logits.dtype), logits):
            raise ValueError(
                "the model's logits are not its classifier's output at the last token that is not padding: check "
                "config.pad_token_id against the tokenizer's"
            )

    def _empty_statistics(self, name: str) -> ClassStatistics:
        num_classes = 2 if self.head is None else self.head.module.out_features
        directions = self.directions and self._classifies(name)
        return ClassStatistics(num_classes, second_moment=self.second_moment, directions=directions)

    def _classifies(self, name: str) -> bool:
        """Whether a known W acts on the layer's features."""
        return name == FEATURES and self.head is not None and self.head.acting is not None

    def _join_processes(self) -> None:
        if self.batches.world_size == 1:
            return
        for name, statistics in self.statistics.items():
            sizes = [None] * self.batches.world_size
            dist.all_gather_object(sizes, (statistics.num_classes, self.pooling.get(name)))
            if statistics.num_classes < max(size for size, _ in sizes):
                self.statistics[name] = statistics = statistics.resized(max(size for size, _ in sizes))
            self.pooling.setdefault(name, next((text for _, text in sizes if text is not None), "none"))
            statistics.all_reduce()

    # --- the numbers ---------------------------------------------------------------------------------------------

    def _row(self, name, measures, names, training, min_class_count, weighting) -> tuple[LayerCollapse, int]:
        statistics = self.statistics[name]
        reference = None
        if training is not None:
            if name not in training.statistics:
                raise ValueError(f"training has no layer {name!r}: measure the training set with the same layers")
            reference = training.statistics[name]
        weight, bias = None, None
        if self._classifies(name):
            weight, bias = self.head.acting.weight, self.head.acting.bias
        kept, num_rare = None, 0
        if min_class_count is not None:
            kept = statistics.counts >= min_class_count
            num_rare = int((statistics.present_classes & ~kept).sum())
            if int(kept.sum()) < 2:
                raise ValueError(f"min_class_count is {min_class_count}: fewer than 2 classes have as many samples")
        if num_rare:
            statistics = statistics.select_classes(kept)
            reference = None if reference is None else reference.select_classes(kept.to(reference.device))
            weight = None if weight is None else weight[kept.to(weight.device)]
            bias = None if bias is None else bias[kept.to(bias.device)]
        left_out = {}
        if weight is None:
            left_out = {measure: self._reason_without_classifier(name) for measure in names if _needs_w(measure)}
        if len(left_out) == len(names):
            reason = self._reason_without_classifier(name)
            raise ValueError(f"measures {', '.join(names)} have no value for layer {name!r}, as {reason}: add nc1")
        is_everything = measures == "all"
        found = collapse_measures.compute(
            statistics,
            classifier=weight,
            bias=bias,
            measures="all" if is_everything else [measure for measure in names if measure not in left_out],
            weighting=weighting,
            absent="error" if min_class_count is None else "exclude",
            training_statistics=reference,
            batches=None if is_everything else _SecondLook(self, name, kept if num_rare else None),
        )
        left_out = found.pop("left_out") | left_out
        values = {measure: found.pop(measure) for measure in names if measure in found}
        width = statistics.num_features
        absent = found.pop("absent_classes")
        if len(absent) <= 100:
            found["absent_classes"] = absent
        if num_rare:
            found["num_absent_classes"] = int((self.statistics[name].counts == 0).sum())
        return LayerCollapse(name, self.pooling[name], width, values, found, left_out), num_rare

    def _reason_without_classifier(self, name: str) -> str:
        if self.head is None:
            return "the model has no classifier"
        return "the classifier's output is not W x + b" if name == FEATURES else "W acts on the features alone"


class _SecondLook:
    """A layer's features once more, for measures that need the final means first; runs the model when iterated."""

    def __init__(self, measurement: _Measurement, layer: str, kept: Tensor | None):
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


def _needs_w(measure: str) -> bool:
    return "classifier" in inspect.signature(collapse_measures.MEASURES[measure][0]).parameters


@contextmanager
def _evaluation_mode(model: nn.Module):
    """Every module in evaluation mode, and afterwards in the mode it was in, frozen parts included.

    The random state comes back as well: a DataLoader draws from it, which would change the training around it.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module in training:
            module.training = True
