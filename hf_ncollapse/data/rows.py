"""The rows of a data set by its name: of a package, of the Hub, or of a folder or file here."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .packaged import PACKAGED_SETS
from .source import Part, Source

# Ending of a file -> the builder of `datasets` that reads it.
_BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SAVED = ("dataset_info.json", "dataset_dict.json")


class PackagedRows:
    """A part of a packaged set as rows of a raw input, in the column "image" or "text", and its "label".

    Args:
        part: the samples.
        modality: the input's column.
        features: the columns' types, as of a [`datasets.Dataset`].
    """

    def __init__(self, part: Part, modality: str, features: Mapping[str, Any]):
        self.part, self.modality, self.features = part, modality, features

    def __len__(self) -> int:
        return len(self.part.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {self.modality: self.part.take(np.array([index]))[0], "label": int(self.part.labels[index])}

    def select(self, indices: Sequence[int]) -> "PackagedRows":
        """The rows at these indices."""
        chosen = np.asarray(indices, dtype=np.int64)
        part = Part(self.part.labels[chosen], lambda rows: self.part.take(chosen[rows]))
        return PackagedRows(part, self.modality, self.features)


def is_hub_id(dataset: str) -> bool:
    """Whether it is written as an id, "namespace/name"; a path begins with ".", "/" or "~"."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", dataset, flags=re.ASCII) is not None


def load_splits(dataset: str, config: str | None = None) -> Mapping[str, Any]:
    """Return the splits of a data set by their names, each with `features`, rows as dictionaries, and `select`.

    Args:
        dataset: a packaged set's name (`PACKAGED_SETS`); a folder of images or of data files, or one that
            `save_to_disk` wrote; a CSV, JSON, JSON Lines or Parquet file; or a Hub id, "namespace/name".
        config: configuration of a Hub data set that has several.

    Raises:
        ValueError: it is none of these, or is empty, damaged, or closed to this user.
        ImportError: the package that ships the data set is not installed.
        ConnectionError: a Hub data set that is neither cached nor reachable.
    """
    packaged = PACKAGED_SETS.get(dataset)
    if packaged is not None:
        source = packaged.load()
        if source is not None:
            return _packaged_splits(source)
    if packaged is not None and packaged.hub_id is not None:
        try:
            return _load_hub(packaged.hub_id, None)
        except ConnectionError as error:
            raise ConnectionError(f"{error}. {packaged.remedy}") from error
    path = Path(dataset).expanduser()
    if path.is_file():
        return _load_file(path)
    if path.is_dir():
        return _load_folder(path, config)
    if is_hub_id(dataset):
        return _load_hub(dataset, config)
    raise ValueError(
        f"dataset is {dataset!r}; it takes one of {', '.join(sorted(PACKAGED_SETS))}, a folder or file that is here, "
        "or a Hub data set's id, namespace/name"
    )


def split_named(splits: Mapping[str, Any], name: str, argument: str = "split") -> Any:
    """Return a split, or a part of one in the notation of `datasets`, such as "train[:1000]".

    Args:
        splits: from [`load_splits`].
        name: the split's name or notation.
        argument: that the error message names.

    Raises:
        ValueError: there is none of that name.
    """
    if name in splits:
        return splits[name]
    split = name.partition("[")[0]
    if split in splits and "+" not in name:
        from datasets import ReadInstruction

        (part,) = ReadInstruction.from_spec(name).to_absolute({split: len(splits[split])})
        return splits[split].select(range(part.from_, part.to))
    raise ValueError(f"{argument} is {name!r}; the data set has {', '.join(splits)}")


def _packaged_splits(source: Source) -> dict[str, PackagedRows]:
    from datasets import ClassLabel, Image, Value

    features = {
        source.modality: Image() if source.modality == "image" else Value("string"),
        "label": ClassLabel(names=source.label_names),
    }
    parts = {"train": source.train, "test": source.test}
    return {name: PackagedRows(part, source.modality, features) for name, part in parts.items() if part is not None}


def _load_file(path: Path) -> Mapping[str, Any]:
    import datasets

    if path.suffix not in _BUILDERS:
        raise ValueError(f"dataset is {str(path)!r}; a file must end in {', '.join(_BUILDERS)}")
    try:
        return datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path))
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset {str(path)!r} is empty or damaged: {error}") from error


def _load_folder(path: Path, config: str | None) -> Mapping[str, Any]:
    import datasets

    if any((path / name).is_file() for name in _SAVED):
        saved = datasets.load_from_disk(str(path))
        return saved if isinstance(saved, dict) else {"train": saved}
    try:
        return datasets.load_dataset(str(path), config)
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset {str(path)!r} with dataset_config {config!r}: {error}") from error


def _load_hub(hub_id: str, config: str | None) -> Mapping[str, Any]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    try:
        return datasets.load_dataset(hub_id, config)
    except DatasetNotFoundError as error:
        raise ValueError(f"dataset {hub_id!r} is not on the Hub, or not open to you: {error}") from error
    except (ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise ConnectionError(
            f"dataset {hub_id!r} is neither in the cache nor reachable: {error}. With no network there are files and "
            f"folders here, and {', '.join(sorted(PACKAGED_SETS))}"
        ) from error
    except ValueError as error:  # no data in it, or a configuration that it does not have
        raise ValueError(f"dataset {hub_id!r} with dataset_config {config!r}: {error}") from error
