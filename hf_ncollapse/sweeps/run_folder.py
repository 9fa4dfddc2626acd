"""The folder of one run: an ordinary checkpoint and, written last, `metrics.json`; until then the Trainer's own."""

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..training.data import ClassificationData
from ..training.saving import explained_write_errors
from .files import sync_to_disk, write_json

# The Trainer writes trainer_state.json last: where it is whole, so is the rest.
_CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest `checkpoint-<step>` of a run that can be read, or None; a cut-off one does not count."""
    found = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    for step in sorted(found, reverse=True):
        if _is_whole(found[step]):
            return str(found[step])
    return None


def write_run(folder: Path, model, data: ClassificationData, log_history: list[dict], metrics: dict) -> None:
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
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


def discard_checkpoints(folder: Path) -> None:
    """Remove the Trainer's checkpoints, which a finished run does not need."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file is there and can be read to its end; torch's files are zip archives with checksums."""
    if not all((checkpoint / name).is_file() for name in _CHECKPOINT_FILES):
        return False
    if not any(checkpoint.glob("rng_state*.pth")):  # one a process
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", framework="pt"):
            pass
        archives = [path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth")]
        return all(zipfile.ZipFile(path).testzip() is None for path in archives)
    except (ValueError, SafetensorError, zipfile.BadZipFile, EOFError):
        return False
