"""What a sweep trains on, in a few digits: a data set on the Hub or in a folder may change between two starts."""

import hashlib

import numpy as np
import torch

from ..data import ClassificationData, TensorDataset, TokenDataset
from ..models.image_processing_collapse import CollapseImageProcessor


def data_fingerprint(data: ClassificationData) -> dict[str, str]:
    """Return the SHA-256 of the training and of the test part: of every tensor, of what they were made by and of the
    classes' names.

    Args:
        data: as the networks get it, after subsets were drawn, images scaled and texts cut into tokens.
    """
    # Other words can have the same numbers, and other images the same distance from their mean.
    if isinstance(data.processor, CollapseImageProcessor):
        processor = np.asarray(data.processor.image_mean).tobytes()
    else:
        processor = data.processor.backend_tokenizer.to_str().encode()
    made_by = repr(data.label_names).encode() + processor
    return {f"{name}_sha256": _sha256(getattr(data, name), made_by) for name in ("train", "test")}


def changed_data(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return which parts differ, in words; what was not kept is not compared."""
    names = {"train_sha256": "training samples", "test_sha256": "held-out samples"}
    known = before.keys() & now.keys()
    return [words for name, words in names.items() if name in known and before[name] != now[name]]


def _sha256(part: TensorDataset | TokenDataset, made_by: bytes) -> str:
    tensors = part.tensors if hasattr(part, "tensors") else {name: getattr(part, name) for name in _OF_TEXTS}
    digest = hashlib.sha256(made_by)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


_OF_TEXTS = ("tokens", "lengths", "labels")
