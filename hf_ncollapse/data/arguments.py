"""What a recipe says about its data."""

from dataclasses import dataclass
from pathlib import Path

from .packaged import PACKAGED_SETS


@dataclass(frozen=True)
class DataArguments:
    """Which data set, which part of it, and how it becomes tensors.

    Args:
        dataset: a packaged set's name (`PACKAGED_SETS`), a folder or file that is here, or a Hub id, "namespace/name".
            What is here goes first, and its path is kept starting with "." or "/".
        dataset_config: configuration of a Hub data set that has several.
        train_split: split to train on; also a part of one, such as "train[:1000]". Packaged sets take none.
        test_split: split to test on; by default "test", else "validation", else none.
        image_column, text_column: column to classify; found by its type when there is only one.
        label_column: column with the classes; found by its type when there is only one.
        train_samples: size of the training subset, the same number of every class; None takes all.
        test_samples: size of the test subset, balanced too; None takes all. A set that has no test part of its own is
            divided: the test part is what `train_samples` leaves, or a fifth when that is None too.
        subset_seed: seed of the subsets, ≥ 0. The same seed draws nested training subsets.
        random_labels: train on labels that say nothing of their samples (Zhang et al., arXiv:1611.03530): the training
            subset's own, permuted by `subset_seed`, so that classes keep their sizes. The test part keeps its labels.
        image_size: side in pixels that images are resized to; None keeps their own, which must be one.
        tokenizer: kind of tokenizer to train on the training part, "wordpiece", "bpe" or "word", or the Hub id or
            folder of a trained one.
        vocabulary_size: largest size of a trained tokenizer's vocabulary, with its special tokens.
        lowercase: lower-case texts before a trained tokenizer sees them.
        max_length: largest number of tokens of a text; the rest is cut off.

    Raises:
        ValueError: a number outside its range.
    """

    dataset: str
    dataset_config: str | None = None
    train_split: str = "train"
    test_split: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    subset_seed: int = 0
    random_labels: bool = False
    image_size: int | None = None
    tokenizer: str = "wordpiece"
    vocabulary_size: int = 8000
    lowercase: bool = True
    max_length: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", _path_or_name(self.dataset))
        least = {"train_samples": 1, "test_samples": 1, "subset_seed": 0, "image_size": 1, "vocabulary_size": 10}
        for name, minimum in {**least, "max_length": 2}.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < minimum):
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {minimum}")
        if self.image_column is not None and self.text_column is not None:
            raise ValueError(
                f"image_column is {self.image_column!r} and text_column is {self.text_column!r}; give only one of them"
            )

    @property
    def title(self) -> str:
        """What tables and cards call the data."""
        return f"{self.dataset}, random labels" if self.random_labels else self.dataset


def _path_or_name(dataset: str) -> str:
    """The same data set, written so that a path can be told from a Hub id wherever it is read later."""
    if not isinstance(dataset, str):
        raise ValueError(f"dataset is {dataset!r}; it must be a name or a path")
    path = Path(dataset).expanduser()
    if dataset in PACKAGED_SETS or not path.exists():
        return dataset
    return str(path) if path.is_absolute() else f"./{path}"
