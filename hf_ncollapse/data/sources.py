"""From a data set's name to its labels and raw inputs, before subsets are drawn."""

from typing import Any

from .arguments import DataArguments
from .columns import classes_of, find_input_column, find_label_column, labels_of
from .packaged import PACKAGED_SETS
from .rows import load_splits, split_named
from .source import Part, Source


def load_source(arguments: DataArguments) -> Source:
    """Load the data set `arguments.dataset`.

    Raises:
        ValueError: it is nothing that [`load_splits`] finds; columns or splits that do not exist.
        ImportError: the package that ships the data set is not installed.
        ConnectionError: a Hub data set that is neither cached nor reachable.
    """
    packaged = PACKAGED_SETS.get(arguments.dataset)
    source = packaged.load() if packaged is not None else None
    return _source_of_rows(arguments) if source is None else source


def _source_of_rows(arguments: DataArguments) -> Source:
    splits = load_splits(arguments.dataset, arguments.dataset_config)
    train = split_named(splits, arguments.train_split, "train_split")
    test_split = arguments.test_split or next((name for name in ("test", "validation") if name in splits), None)
    if test_split == arguments.train_split:
        raise ValueError(f"test_split is {test_split!r}, which is trained on; give another split")
    label_column = find_label_column(arguments, train.features)
    modality, column = find_input_column(arguments, train.features, label_column)
    label_names, encode = classes_of(train, label_column)

    def part(rows: Any, split: str) -> Part:
        return Part(encode(labels_of(rows, label_column), split), lambda indices: rows.select(indices)[column][:])

    test = None if test_split is None else part(split_named(splits, test_split, "test_split"), test_split)
    return Source(modality, part(train, arguments.train_split), test, label_names)
