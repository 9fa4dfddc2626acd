"""Labelled batches from data sets and loaders, shared out among processes without losing or repeating a sample."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)
from transformers import default_data_collator

from .classifier_head import accepted_columns

LABEL_NAMES = ("labels", "label")


def world() -> tuple[int, int]:
    """This process's rank, and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class LabelledBatches:
    """Batches of one set, as often as wanted: this process's share, or all of them.

    A map-style data set is cut into batches and process r of W takes the batches r, r + W, …; of a loader and of other
    iterables it keeps every W-th batch. No batch is padded, so no sample counts twice, and the last one may be short.

    Args:
        data: a data set (of dicts with a label, or of pairs), a `DataLoader`, a list of batches, or a pair of arrays
            (inputs, labels).
        model: its forward's names say which columns of a `datasets.Dataset` are kept.
        batch_size: for data sets.
        collate: makes a batch of a list of samples; by default transformers' `default_data_collator` for dicts and
            torch's `default_collate` for pairs.
        labels_from_inputs: whether batches without labels are their own, as in language modelling.

    Raises:
        ValueError: the data are empty, several splits at once, used up by one look, or already shared out.
    """

    def __init__(
        self,
        data: Any,
        model: nn.Module,
        *,
        batch_size: int,
        collate: Callable[[list[Any]], Any] | None = None,
        labels_from_inputs: bool = False,
    ):
        if isinstance(data, Mapping):
            raise ValueError(
                f"data must be one split, got several ({', '.join(map(str, data))}): name one with split=…"
            )
        if isinstance(data, Iterator):
            raise ValueError("data can be looked at only once; give a data set, a DataLoader or a list of batches")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(p, Tensor | np.ndarray) for p in data):
            if len(data[0]) != len(data[1]):
                raise ValueError(
                    f"data must be inputs and labels of one length, got {len(data[0])} and {len(data[1])}"
                )
            data = TensorDataset(*map(torch.as_tensor, data))
        self.labels_from_inputs = labels_from_inputs
        self.rank, self.world_size = world()
        self.loader: DataLoader[Any] | list[Any]
        self.batch_indices: list[range] | None = None
        if isinstance(data, DataLoader):
            if self.world_size > 1:
                _require_plain_order(data)
            self.loader = data
        elif isinstance(data, list) and data and _is_batch(data[0]):
            self.loader = data
        else:
            if hasattr(data, "select_columns") and getattr(data, "column_names", None) and collate is None:
                data = _without_unused_columns(data, model)
            if hasattr(data, "__len__") and len(data) == 0:
                raise ValueError("the data set is empty: choose another split or a larger limit")
            collate = _Collate(collate)
            if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
                self.loader = DataLoader(data, batch_size=batch_size, collate_fn=collate)
            else:
                starts = range(0, len(data), batch_size)
                self.batch_indices = [range(start, min(start + batch_size, len(data))) for start in starts]
                self.dataset, self.collate = data, collate
        self.num_batches = self._count()

    def first(self) -> tuple[Any, Tensor]:
        """The set's first batch, the same in every process."""
        batches: Iterable[Any] = self._load(self.batch_indices[:1]) if self.batch_indices is not None else self.loader
        for batch in batches:
            return self._split(batch)
        raise ValueError("the data are empty: choose another split")

    def share(self) -> Iterator[tuple[Any, Tensor]]:
        """This process's batches, as (inputs, labels)."""
        if self.batch_indices is not None:
            batches = self._load(self.batch_indices[self.rank :: self.world_size])
        else:
            batches = islice(self.loader, self.rank, None, self.world_size)
        return map(self._split, batches)

    def all(self) -> Iterator[tuple[Any, Tensor]]:
        """Every batch, in every process."""
        return map(self._split, self._load(self.batch_indices) if self.batch_indices is not None else self.loader)

    def _load(self, batch_indices: list[range]) -> Iterable[Any]:
        return DataLoader(self.dataset, batch_sampler=list(map(list, batch_indices)), collate_fn=self.collate)

    def _count(self) -> int | None:
        """How many batches this process will see, when that is known."""
        if self.batch_indices is not None:
            return len(self.batch_indices[self.rank :: self.world_size])
        try:
            return len(range(self.rank, len(self.loader), self.world_size))
        except TypeError:
            return None

    def _split(self, batch: Any) -> tuple[Any, Tensor]:
        if isinstance(batch, Mapping):
            inputs = dict(batch)
            found = [name for name in LABEL_NAMES if name in inputs]
            if found:
                labels = inputs.pop(found[0])
            elif self.labels_from_inputs and "input_ids" in inputs:
                labels = inputs["input_ids"]
                if "attention_mask" in inputs:
                    labels = labels.masked_fill(inputs["attention_mask"] == 0, -100)
            else:
                raise ValueError(
                    f"the data have no labels: a column named label or labels is needed, got {', '.join(inputs)}"
                )
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            inputs, labels = batch
        else:
            raise ValueError(
                f"a batch must be a dict with labels or a pair (inputs, labels), got {type(batch).__name__}: "
                "unlabeled data cannot be measured"
            )
        _require_numbers(labels)
        labels = torch.as_tensor(labels)
        if labels.is_floating_point():
            raise ValueError(
                f"labels must be whole numbers, one class a sample; got {labels.dtype}: regression has no classes; of "
                "several labels a sample measure those with one, rows where labels.sum(1) == 1, by labels.argmax(1)"
            )
        return inputs, labels


def first_samples(inputs: Any, number: int) -> Any:
    """The first samples of a batch."""
    if isinstance(inputs, Mapping):
        return {name: first_samples(value, number) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(first_samples(value, number) for value in inputs)
    return inputs[:number] if isinstance(inputs, Tensor) and inputs.ndim > 0 else inputs


class _Collate:
    """Makes a batch of a list of dicts or pairs, and leaves alone what the data set's `__getitems__` already made."""

    def __init__(self, collate: Callable[[list[Any]], Any] | None):
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        if isinstance(samples, Mapping):
            return samples
        if self.collate is not None:
            return self.collate(samples)
        if isinstance(samples[0], Mapping):
            _require_numbers([samples[0][name] for name in LABEL_NAMES if name in samples[0]])
        return default_data_collator(samples) if isinstance(samples[0], Mapping) else default_collate(samples)


def _require_numbers(labels: Any) -> None:
    names = [label for label in labels if isinstance(label, str)] if isinstance(labels, tuple | list) else []
    if names:
        raise ValueError(
            f"labels must be whole numbers 0 … K − 1, got {names[0]!r}: number the names as the model's "
            'config.label2id does, or with dataset.class_encode_column("label")'
        )


def _is_batch(value: Any) -> bool:
    """Whether a list's first element is a batch rather than a sample: its labels are several."""
    if isinstance(value, Mapping):
        labels = next((value[name] for name in (*LABEL_NAMES, "input_ids") if name in value), None)
    else:
        labels = value[1] if isinstance(value, tuple | list) and len(value) == 2 else None
    return isinstance(labels, Tensor) and labels.ndim > 0


def _without_unused_columns(dataset: Any, model: nn.Module) -> Any:
    accepted = accepted_columns(model)
    if accepted is None:
        return dataset
    kept = [name for name in dataset.column_names if name in accepted or name in LABEL_NAMES]
    inputs = [name for name in kept if name not in LABEL_NAMES]
    if not inputs:
        raise ValueError(
            f"the data set's columns are {', '.join(dataset.column_names)}, and the model takes "
            f"{', '.join(sorted(accepted))}: tokenize or process it first, or give collate=…"
        )
    return dataset.select_columns(kept).with_format("torch")


def _require_plain_order(loader: DataLoader[Any]) -> None:
    """Several processes keep every W-th batch of the same sequence, so each must see the same one."""
    sampler = loader.batch_sampler
    is_plain = isinstance(loader.dataset, IterableDataset) or (
        type(sampler) is BatchSampler and type(loader.sampler) is SequentialSampler
    )
    if not is_plain:
        name = type(loader.sampler if type(sampler) is BatchSampler else sampler).__name__
        advice = "the order does not matter" if type(loader.sampler) is RandomSampler else "padding repeats samples"
        raise ValueError(
            f"in several processes a DataLoader must be neither shuffled nor shared out already, got {name} "
            f"({advice}): give the data set itself, or a plain DataLoader"
        )
