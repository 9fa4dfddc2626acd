"""Takes features out of a model's own forward pass, with hooks on its layers and on its classifier."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from .axes import axes_of
from .batches import LabelledBatches, first_samples
from .classifier_head import ClassifierHead, find_classifier, logits_of
from .collapse_report import FEATURES
from .forward_pass import Hook, forward_passes, hooked, watched_pass
from .given_weight import find_features
from .layers import SampleSelection, named_layers, states_of

# Takes a layer's name, its features (n×d) and their labels (n).
Receiver = Callable[[str, Tensor, Tensor], None]


class FeatureTap:
    """The layers of one model whose features are wanted, and where in the layers' states they are.

    Args:
        model: in evaluation mode.
        batches: the first one is looked at to find the classifier and the axes.
        layers: "last", "all" or names of modules.
        classifier: name of the last linear layer; "auto" finds it; `None` takes the model's output as the feature.
        weight, bias: W and b, where the classifier is no linear layer.
        pooling, next_token, ignore_index: of [`SampleSelection`].

    Raises:
        ValueError: the classifier cannot be told, or a layer is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: LabelledBatches,
        layers: str | list[str],
        classifier: str | None,
        *,
        weight: Tensor | None,
        bias: Tensor | None,
        pooling: str,
        next_token: bool,
        ignore_index: int,
    ):
        self.model = model
        self.next_token = next_token
        self._select = partial(SampleSelection, pooling=pooling, next_token=next_token, ignore_index=ignore_index)
        inputs, labels = batches.first()
        few = first_samples(inputs, 2)
        self.head = None
        if weight is not None:
            self.head = find_features(model, few, weight, bias)
        elif classifier is not None:
            self.head = find_classifier(model, few, None if classifier == "auto" else classifier)
        self._samples = "inputs" if self.head is None else self.head.samples
        self._modules = named_layers(model, layers)
        self._axes = self._probed_axes(few, labels[:2])
        self.pooling: dict[str, str] = {}
        self._selection: SampleSelection
        self._ran: list[str] = []

    @property
    def names(self) -> list[str]:
        """Of the layers, in order; the last is the features'."""
        return [*self._modules, FEATURES]

    def passes(self, batches: Iterable[tuple[Any, Tensor]], receive: Receiver) -> Iterator[Tensor]:
        """Run the model on every batch, and hand each layer's features over as soon as they are there.

        Returns:
            The labels of each batch's samples, after its features were received.

        Raises:
            ValueError: a layer does not run exactly once, or what it gives is not one feature a sample.
        """
        hooks: list[tuple[nn.Module, Hook]] = [
            (module, partial(self._take_output, receive, name)) for name, module in self._modules.items()
        ]
        if self.head is not None:
            hooks.append((self.head.module, partial(self._take_input, receive)))
        with hooked(hooks):
            for _, _, output in forward_passes(self.model, self._selected(batches)):
                if self.head is None:
                    self._take(receive, FEATURES, states_of(output))
                elif self._samples == "last_token":
                    self._require_returned_token(output)
                missing = [name for name in self.names if name not in self._ran]
                if missing:
                    raise ValueError(
                        f"layer {missing[0]!r} does not run in the model's forward pass: leave it out of layers"
                    )
                yield self._selection.labels

    def _selected(self, batches: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
        """The batches, each with its selection made just before the model runs on it."""
        for inputs, labels in batches:
            self._selection = self._select(self.model, self._samples, inputs, labels)
            self._ran.clear()
            yield inputs, labels

    def _probed_axes(self, few: Any, labels: Tensor) -> dict[str, tuple[int, ...]]:
        """Where samples and features are in the states of every layer that runs."""
        axes: dict[str, tuple[int, ...]] = {}

        def probe(name: str, arguments: tuple[Any, ...], output: Any) -> None:
            axes[name] = axes_of(self._modules[name], states_of(output), len(labels))

        if self._modules or self.head is None:
            output = watched_pass(self.model, few, self._modules, probe)
            if self.head is None:
                axes[FEATURES] = axes_of(self.model, states_of(output), len(labels))
        return axes

    def _take_output(
        self, receive: Receiver, name: str, module: nn.Module, arguments: tuple[Any, ...], output: Any
    ) -> None:
        self._take(receive, name, states_of(output))

    def _take_input(self, receive: Receiver, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        """The classifier's: its input are the features."""
        if self._selection.positions is not None:
            rows = torch.arange(len(output), device=output.device)
            self._returned_logits = output[rows, self._selection.positions.to(output.device)]
        self._take(receive, FEATURES, cast(ClassifierHead, self.head).features_of(arguments, output))

    def _take(self, receive: Receiver, name: str, states: Tensor) -> None:
        if name in self._ran:
            raise ValueError(f"layer {name!r} runs several times in one forward pass: leave it out of layers")
        self._ran.append(name)
        if name in self._axes:
            states = states.permute(self._axes[name])
        self.pooling[name] = self._selection.described_pooling(states)
        try:
            receive(name, self._selection.features(states), self._selection.labels)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error

    def _require_returned_token(self, output: Any) -> None:
        logits = logits_of(output)
        if logits is None or not torch.equal(self._returned_logits.to(logits.dtype), logits):
            raise ValueError(
                "the model's logits are not its classifier's output at the last token that is not padding: check "
                "config.pad_token_id against the tokenizer's"
            )
