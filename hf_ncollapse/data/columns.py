"""Which column of a data set is classified, and which holds the classes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .arguments import DataArguments

_STRING_TYPES = ("string", "large_string")


def find_input_column(arguments: DataArguments, features: Mapping[str, Any], label_column: str) -> tuple[str, str]:
    """Return the modality and the column to classify: the named one, else the only image, else the only text."""
    import datasets

    columns = {
        "image": [name for name, feature in features.items() if isinstance(feature, datasets.Image)],
        "text": [name for name, feature in features.items() if getattr(feature, "dtype", None) in _STRING_TYPES],
    }
    for modality, name in (("image", arguments.image_column), ("text", arguments.text_column)):
        if name is not None and name not in columns[modality]:
            raise ValueError(f"{modality}_column is {name!r}; {_describe(features)}")
        if name is not None:
            return modality, name
    for modality, names in columns.items():
        candidates = [name for name in names if name != label_column]
        if len(candidates) == 1:
            return modality, candidates[0]
    raise ValueError(f"image_column and text_column are None and there is no single candidate; {_describe(features)}")


def find_label_column(arguments: DataArguments, features: Mapping[str, Any]) -> str:
    """Return the named column, else the only one of classes, else the only one that is called label or labels."""
    import datasets

    if arguments.label_column is not None:
        if arguments.label_column not in features:
            raise ValueError(f"label_column is {arguments.label_column!r}; {_describe(features)}")
        return arguments.label_column
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = classes or [name for name in features if name in ("label", "labels")]
    if len(candidates) != 1:
        raise ValueError(f"label_column is None and there is no single candidate; {_describe(features)}")
    return candidates[0]


def _describe(features: Mapping[str, Any]) -> str:
    return "the data set's columns are " + ", ".join(
        f"{name} ({getattr(feature, 'dtype', None) or type(feature).__name__})" for name, feature in features.items()
    )


def labels_of(rows: Any, label_column: str) -> np.ndarray:
    """Return a split's column of labels, (N,), as they are written there.

    Raises:
        ValueError: a row has none.
    """
    labels = rows[label_column][:]
    missing = [row for row, label in enumerate(labels) if label is None]
    if missing:
        raise ValueError(
            f"label_column {label_column!r} has {len(missing)} rows without a label: the first is row {missing[0]}"
        )
    return np.asarray(labels)


def classes_of(train: Any, label_column: str) -> tuple[list[str], Callable[[np.ndarray, str], np.ndarray]]:
    """Return the class names and a function that turns a split's column into labels 0 ... K − 1, or raises."""
    feature = train.features[label_column]
    if hasattr(feature, "names"):
        values, names = np.arange(len(feature.names)), list(feature.names)
    else:
        values = np.unique(labels_of(train, label_column))
        names = [str(value) for value in values]

    def encode(column: np.ndarray, split: str) -> np.ndarray:
        outside = ~np.isin(column, values)
        if outside.any():
            first = int(outside.argmax())
            raise ValueError(
                f"label_column {label_column!r} has {int(outside.sum())} labels outside the {len(names)} classes in "
                f"split {split!r}: the first is {column[first]} in row {first}"
            )
        return np.searchsorted(values, column).astype(np.int64)

    return names, encode
