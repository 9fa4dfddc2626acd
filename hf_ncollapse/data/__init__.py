"""Labelled images and texts as in-memory tensors, from packages, from the Hub, and from files and folders here."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_ncollapse.models.image_processing_collapse import CollapseImageProcessor

from .arguments import DataArguments
from .images import TensorDataset, fit_image_processor, image_dataset
from .packaged import PACKAGED_SETS, PackagedSet
from .rows import is_hub_id, load_splits, split_named
from .sources import load_source
from .subsets import draw_subsets, permuted_labels
from .texts import TokenDataset, fit_tokenizer, text_dataset


@dataclass(frozen=True)
class ClassificationData:
    """A training and a test set ready for the Trainer.

    Args:
        train, test: in-memory data sets whose `batch(indices)` is a dict of tensors; `labels` is their int64 tensor.
        label_names: name of each class, in the order of the labels.
        processor: what turns a raw image or text into the model's input; saved beside the model.
        modality: "image" or "text".
    """

    train: TensorDataset | TokenDataset
    test: TensorDataset | TokenDataset
    label_names: list[str]
    processor: CollapseImageProcessor | PreTrainedTokenizerBase
    modality: str


def load_classification_data(dataset: str | DataArguments, **keywords: Any) -> ClassificationData:
    """Load a data set, draw its subsets and make its tensors.

    Pixel scale, mean image and vocabulary come from the training subset alone.

    Args:
        dataset: a packaged set's name (`PACKAGED_SETS`), a folder or file, a Hub id, or all arguments at once.
        **keywords: the other fields of [`DataArguments`], when `dataset` is a name.

    Raises:
        ValueError: unknown data set, column, split or value; labels outside the classes; one class only; more samples
            than there are, or a number of them that the classes do not divide.
        ImportError: a data package is missing; the message says what to install.
        ConnectionError: the Hub is not reachable and the data set is not in the cache.

    Example:

        >>> data = load_classification_data("digits", train_samples=500)
        >>> data.train.tensors["pixel_values"].shape, len(data.test)
        (torch.Size([500, 1, 8, 8]), 1297)
    """
    arguments = dataset if isinstance(dataset, DataArguments) else DataArguments(dataset, **keywords)
    source = load_source(arguments)
    train_indices, test_indices = draw_subsets(
        source.train.labels,
        source.test.labels if source.test is not None else None,
        len(source.label_names),
        arguments.train_samples,
        arguments.test_samples,
        arguments.subset_seed,
    )
    test_part = source.test or source.train
    train_inputs, test_inputs = source.train.take(train_indices), test_part.take(test_indices)
    train_labels, test_labels = source.train.labels[train_indices], test_part.labels[test_indices]
    if arguments.random_labels:
        train_labels = permuted_labels(train_labels, arguments.subset_seed)
    train: TensorDataset | TokenDataset
    test: TensorDataset | TokenDataset
    processor: CollapseImageProcessor | PreTrainedTokenizerBase
    if source.modality == "image":
        processor = fit_image_processor(train_inputs, arguments.image_size, source.largest_pixel)
        train = image_dataset(train_inputs, train_labels, processor)
        test = image_dataset(test_inputs, test_labels, processor)
    else:
        processor = fit_tokenizer(train_inputs, arguments)
        train = text_dataset(train_inputs, train_labels, processor)
        test = text_dataset(test_inputs, test_labels, processor)
    return ClassificationData(train, test, source.label_names, processor, source.modality)


__all__ = [
    "PACKAGED_SETS",
    "ClassificationData",
    "DataArguments",
    "PackagedSet",
    "TensorDataset",
    "TokenDataset",
    "is_hub_id",
    "load_classification_data",
    "load_splits",
    "split_named",
]
