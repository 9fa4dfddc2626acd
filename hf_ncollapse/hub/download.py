"""Files of the Hub, whose size is asked for before they are downloaded: they may come from a stranger."""

from pathlib import Path

from huggingface_hub import hf_hub_download


def download(repo_id: str, name: str, *, largest: int, repo_type: str = "model", revision: str | None = None) -> Path:
    """Download a file, or find it in the cache.

    Args:
        repo_id, name, repo_type, revision: as huggingface_hub's.
        largest: in bytes.

    Raises:
        ValueError: it is larger; nothing was downloaded.
        HfHubHTTPError, LocalEntryNotFoundError: as huggingface_hub's, where it is not to be had.
    """
    size = hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision, dry_run=True).file_size
    if size is not None and size > largest:
        raise ValueError(f"{repo_id} has a {name} of {size:,} bytes, a sweep's has at most {largest:,}: left there")
    return Path(hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision))
