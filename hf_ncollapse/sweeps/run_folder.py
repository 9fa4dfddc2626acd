"""The folder of one run: an ordinary checkpoint and, written last, `metrics.json`; until then the Trainer's own."""

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError

from ..data import ClassificationData
from ..training.saving import explained_write_errors
from .files import read_json, sync_to_disk, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Network = TypeVar("Network", bound="PreTrainedModel")

# In a checkpoint, the SHA-256 of its other files; written last, so that one without it was not written to its end.
_HASHES = "sha256.json"


def seal_checkpoint(checkpoint: Path) -> None:
    """Write the hashes of a checkpoint's files beside them, when all processes have written theirs."""
    write_json(checkpoint / _HASHES, _files_sha256(checkpoint))


def last_checkpoint(folder: Path, say: Callable[[str], object] = lambda line: None) -> str | None:
    """Return the newest `checkpoint-<step>` of a run that is as it was written, or None.

    Args:
        folder: the run's folder.
        say: called with one line for every newer one that is not, and why.
    """
    found = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    for step in sorted(found, reverse=True):
        damage = _damage(found[step])
        if damage is None:
            return str(found[step])
        say(f"{found[step]} is skipped: {damage}")
    return None


def write_run(
    folder: Path,
    model: "PreTrainedModel",
    data: ClassificationData,
    log_history: list[dict[str, Any]],
    metrics: dict[str, Any],
) -> None:
    """Write the checkpoint, then `metrics.json`, which says that all of it is there, after a power cut too."""
    with explained_write_errors(folder):
        model.save_pretrained(folder)
    data.processor.save_pretrained(folder)
    write_json(folder / "log_history.json", {"log_history": log_history})
    (folder / "failure.json").unlink(missing_ok=True)
    metrics = {**metrics, "weights_sha256": weights_sha256(folder)}
    sweep_folder = folder.parent.parent
    for path in (*filter(Path.is_file, folder.iterdir()), folder, folder.parent, sweep_folder):
        sync_to_disk(path)
    write_json(folder / "metrics.json", metrics)
    discard_checkpoints(folder)


def weights_sha256(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of weights in a folder, by its name."""
    return {path.name: _sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def check_weights(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Check that a finished run's weights are those that it wrote.

    Args:
        folder: the run's folder.
        metrics: its `metrics.json`.

    Raises:
        ValueError: they are not; the message names the file.
    """
    found = weights_sha256(folder)
    for name, claimed in metrics.get("weights_sha256", {}).items():
        if found.get(name) != claimed:
            raise ValueError(
                f"{folder / name} is damaged: it is not what the run wrote, whose SHA-256 is in metrics.json; "
                f"restore it, or delete {folder} to train the run anew"
            )


def load_network(folder: Path, model_class: type[Network]) -> Network:
    """Load a finished run's network, in float32, when its weights are those that the run wrote.

    Raises:
        ValueError: they are not, or cannot be read; the message names the folder.
    """
    check_weights(folder, read_json(folder / "metrics.json"))
    try:
        return model_class.from_pretrained(folder, dtype=torch.float32)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{folder} is damaged ({error}); delete this folder to train the run anew") from error


def discard_checkpoints(folder: Path) -> None:
    """Remove the Trainer's checkpoints, which a finished run does not need."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _damage(checkpoint: Path) -> str | None:
    """What tells a checkpoint from the one that was written; None where nothing does."""
    if not (checkpoint / _HASHES).is_file():
        return "it was not written to its end"
    try:
        written = read_json(checkpoint / _HASHES)
    except ValueError:
        return f"its {_HASHES} is damaged"
    found = _files_sha256(checkpoint)
    changed = sorted(name for name in set(written) | set(found) if written.get(name) != found.get(name))
    return f"{', '.join(changed)} {'are' if len(changed) > 1 else 'is'} not as written" if changed else None


def _files_sha256(checkpoint: Path) -> dict[str, str]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != _HASHES)
    return {str(path.relative_to(checkpoint)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
