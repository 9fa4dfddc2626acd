"""Use a sweep that was trained: from a folder here, from the Hub, or from the cache."""

import contextlib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import get_collection
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ..sweeps.files import LARGEST_FILE
from ..sweeps.sweep_record import SweepRecord, read_sweep
from ..sweeps.trained_sweep import TrainedSweep
from .download import download
from .names import model_repo, results_repo, seed_branch
from .published_network import check_published_network, read_published_config

# A Collection's address ends in the 24 hexadecimal digits of its identity.
_COLLECTION = re.compile(r"(?P<namespace>[^/]+)/(?P<title>[^/]+)-[0-9a-f]{24}")
_TAKES = "a sweep's folder, namespace/sweep, or a Collection's namespace/sweep-<24 digits>"
_NOT_THERE = (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled)


class PublishedSweep(TrainedSweep):
    """The networks of a sweep on the Hub; nothing but the table is downloaded before it is asked for.

    Args:
        namespace: user or organisation.
        name: the sweep's name.

    Raises:
        FileNotFoundError: there is no such sweep, or the Hub cannot be reached and it is not in the cache.
        ValueError: its table is larger than a sweep's.
    """

    def __init__(self, namespace: str, name: str):
        self.namespace, self._name = namespace, name
        repo_id = results_repo(namespace, name)
        try:
            table = download(repo_id, "results.csv", largest=LARGEST_FILE, repo_type="dataset")
        except _NOT_THERE as error:
            raise FileNotFoundError(
                f"no sweep {namespace}/{name}: there is no such folder here, and the data set {repo_id} is not on the "
                f"Hub, not open to you, or neither reachable nor in the cache ({' '.join(str(error).split())})"
            ) from error
        super().__init__(table.parent)

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._name

    @cached_property
    def record(self) -> SweepRecord:
        """Its table, and its configuration where that is published too."""
        repo_id = results_repo(self.namespace, self.name)
        # Beside the table, in the snapshot of its commit.
        with contextlib.suppress(*_NOT_THERE):
            download(repo_id, "sweep.json", largest=LARGEST_FILE, repo_type="dataset", revision=self.folder.name)
        return read_sweep(self.folder, f"the data set {repo_id} holds no table that a sweep wrote")

    def report(self, output: str | Path | None = None) -> Path:
        """Write the report of the published table, as `output`; nothing is measured.

        Raises:
            ValueError: `output` is None, for the cache is no place for it.
        """
        from ..sweeps.figures import draw_figures, sweep_figures
        from ..sweeps.report import write_page

        if output is None:
            raise ValueError("output is None; the report of a published sweep takes the name of an HTML file")
        record = self.record
        return write_page(record, draw_figures(sweep_figures(record.results, panel=record.panel)), output)

    @property
    def address(self) -> str:
        """Its id on the Hub."""
        return f"{self.namespace}/{self.name}"

    def _where(self, depth: int, seed: int) -> dict[str, Any]:
        return {
            "pretrained_model_name_or_path": model_repo(self.namespace, self.name, depth),
            "revision": seed_branch(seed),
            "trust_remote_code": False,
        }

    def _checked_config(self, where: dict[str, Any], depth: int) -> dict[str, Any]:
        return read_published_config(str(where["pretrained_model_name_or_path"]), str(where["revision"]), depth)

    def _check_weights(self, where: dict[str, Any], depth: int) -> None:
        check_published_network(str(where["pretrained_model_name_or_path"]), str(where["revision"]), depth)


def load_sweep(name: str | os.PathLike[str]) -> TrainedSweep:
    """Open a sweep that was trained.

    Args:
        name: a sweep's folder, "namespace/sweep" on the Hub, or the Collection's "namespace/sweep-<24 hexadecimal
            digits>". A folder that exists wins.

    Raises:
        ValueError: `name` is no such thing, or the Hub's table is larger than a sweep's.
        FileNotFoundError: the folder holds no sweep, there is none of that name, or the Hub cannot be reached and it
            is not in the cache.

    Example:
        >>> sweep = load_sweep("my-org/mnist5k-rn1-demo")  # doctest: +SKIP
        >>> sweep.results[["depth", "gap", "nc1"]]  # doctest: +SKIP
        >>> model = sweep.load(depth=16, seed=0)  # doctest: +SKIP
    """
    if isinstance(name, str | os.PathLike) and os.path.isdir(name):
        return TrainedSweep(os.fspath(name))
    if isinstance(name, os.PathLike):
        raise FileNotFoundError(f"there is no folder {os.fspath(name)}")
    if not isinstance(name, str) or name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"name is {name!r}; it takes {_TAKES}")
    if match := _COLLECTION.fullmatch(name):
        return PublishedSweep(match["namespace"], _name_in_collection(name) or match["title"])
    return PublishedSweep(*name.split("/"))


def _name_in_collection(slug: str) -> str | None:
    """The sweep's name by the Collection's results; None where the Hub is not reachable and the address must do."""
    try:
        items = get_collection(slug).items
    except (OfflineModeIsEnabled, HfHubHTTPError, ConnectionError):
        return None
    tables = [item.item_id for item in items if item.item_type == "dataset" and item.item_id.endswith("-results")]
    return tables[0].split("/")[1].removesuffix("-results") if len(tables) == 1 else None
