"""What a downloaded network says of its size, looked at before anything of that size is built."""

import contextlib
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from ..sweeps.files import LARGEST_FILE, read_json
from .download import download

_BYTES_PER_WEIGHT = 4
_LARGEST_CONFIG = 2**20


def read_published_config(repo_id: str, revision: str, depth: int) -> dict[str, object]:
    """Download a network's `config.json`, and check that it is one of a depth.

    Args:
        repo_id, revision: where on the Hub.
        depth: number of blocks that it must have.

    Raises:
        ValueError: it is too large, damaged, or another depth's; the message names the repository.
    """
    remedy = f"{repo_id}@{revision} holds no network that a sweep wrote"
    path = download(repo_id, "config.json", largest=_LARGEST_CONFIG, revision=revision)
    config = read_json(path, remedy)
    if config.get("num_hidden_layers") != depth:
        raise ValueError(f"{path} says num_hidden_layers = {config.get('num_hidden_layers')!r}, not {depth}; {remedy}")
    if not isinstance(config.get("architectures"), list) or not all(
        isinstance(n, str) for n in config["architectures"]
    ):
        raise ValueError(f"{path} says architectures = {config.get('architectures')!r}; {remedy}")
    return config


def check_published_network(repo_id: str, revision: str, depth: int) -> None:
    """Check that a network's configuration asks for no more than its weights hold.

    Transformers builds what a configuration says before it reads the weights, and a million blocks or classes would
    take for ever. Each block has a tensor at least, and no dimension is larger than the number of all weights.

    Args:
        repo_id, revision: where on the Hub.
        depth: number of blocks that it must have.

    Raises:
        ValueError: it asks for more, or a file is damaged; the message names the repository.
    """
    config = read_published_config(repo_id, revision, depth)
    remedy = f"{repo_id}@{revision} holds no network that a sweep wrote"
    try:
        path = Path(hf_hub_download(repo_id, "model.safetensors", revision=revision))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        raise FileNotFoundError(f"{repo_id}@{revision} has no model.safetensors, and nothing else is loaded") from None
    try:
        with safe_open(path, framework="np") as tensors:
            count = len(tensors.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None
    weights = path.stat().st_size // _BYTES_PER_WEIGHT
    too_large = [
        name for name, value in config.items() if isinstance(value, int | float) and not -weights <= value <= weights
    ]
    if depth > count or too_large:
        raise ValueError(
            f"{repo_id}@{revision} has {count} tensors of {weights:,} weights, too few for its config.json "
            f"({', '.join(too_large) or 'num_hidden_layers'}); {remedy}"
        )


def download_network(repo_id: str, revision: str | None = None) -> Path:
    """Download a network and what is claimed of it: its weights and configuration, `metrics.json`, and its card.

    Args:
        repo_id, revision: where on the Hub; the `main` branch by default.

    Returns:
        The folder in the cache that holds them, as they are in one commit.

    Raises:
        ValueError: a file is larger than a sweep's, which is then left there, or damaged; or the configuration asks
            for more than the weights hold.
        FileNotFoundError: there is no `metrics.json` or no `model.safetensors`.
        HfHubHTTPError, LocalEntryNotFoundError: as huggingface_hub's, where the repository is not to be had.
    """
    try:
        path = download(repo_id, "metrics.json", largest=LARGEST_FILE, revision=revision)
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        raise FileNotFoundError(f"{repo_id} has no finished run: there is no metrics.json") from None
    commit = path.parent.name
    depth = read_json(path, f"{repo_id}@{commit} holds no network that a sweep wrote").get("depth")
    if not isinstance(depth, int):
        raise ValueError(f"{path} says depth = {depth!r}; {repo_id}@{commit} holds no network that a sweep wrote")
    check_published_network(repo_id, commit, depth)
    with contextlib.suppress(EntryNotFoundError):
        download(repo_id, "README.md", largest=LARGEST_FILE, revision=commit)
    return path.parent
