"""Use a published sweep: its table, and its networks by depth and seed, from the Hub or the cache."""

import re
from functools import cached_property
from pathlib import Path

import pandas as pd
from huggingface_hub import get_collection, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ..sweeps.results import finished_runs, read_results
from .card import model_repo, results_repo, seed_branch
from .published_network import check_published_network, read_published_config

# A Collection's address ends in the 24 hexadecimal digits of its identity.
_COLLECTION = re.compile(r"(?P<namespace>[^/]+)/(?P<title>[^/]+)-[0-9a-f]{24}")


class PublishedSweep:
    """The networks of a sweep on the Hub; nothing but the table is downloaded before it is asked for.

    Args:
        namespace: user or organisation.
        name: the sweep's name.

    Raises:
        FileNotFoundError: there is no such sweep, or the Hub cannot be reached and it is not in the cache.
    """

    def __init__(self, namespace: str, name: str):
        self.namespace, self.name = namespace, name
        repo_id = results_repo(namespace, name)
        try:
            table = hf_hub_download(repo_id, "results.csv", repo_type="dataset")
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise FileNotFoundError(
                f"no sweep {namespace}/{name}: the data set {repo_id} is not on the Hub, not open to you, or neither "
                f"reachable nor in the cache ({' '.join(str(error).split())})"
            ) from error
        self._folder = Path(table).parent

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row a network; the columns are those of `results.csv`, whose diverged runs have none."""
        repo_id = results_repo(self.namespace, self.name)
        return finished_runs(read_results(self._folder, f"the data set {repo_id} holds no table that a sweep wrote"))

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Depth and seed of every network."""
        return [
            (int(depth), int(seed)) for depth, seed in zip(self.results["depth"], self.results["seed"], strict=True)
        ]

    @property
    def depths(self) -> list[int]:
        """Numbers of blocks, in increasing order."""
        return sorted({depth for depth, _ in self.runs})

    @property
    def seeds(self) -> list[int]:
        """Seeds, in increasing order."""
        return sorted({seed for _, seed in self.runs})

    def load(self, depth: int, seed: int | None = None):
        """Load a network with this package's code; `seed=None` is the smallest seed of that depth, as on `main`.

        Raises:
            ValueError: the sweep has no such network, or what the Hub holds for it is damaged or none of this depth.
        """
        from transformers import (
            AutoConfig,
            AutoModelForImageClassification,
            AutoModelForSequenceClassification,
        )

        where = self._where(depth, seed)
        check_published_network(where["pretrained_model_name_or_path"], where["revision"], depth)
        config = AutoConfig.from_pretrained(**where)
        texts = config.architectures[0].endswith("ForSequenceClassification")
        auto_class = AutoModelForSequenceClassification if texts else AutoModelForImageClassification
        return auto_class.from_pretrained(**where, config=config, use_safetensors=True)

    def processor(self, depth: int, seed: int | None = None):
        """Load the image processor or tokenizer that goes with a network."""
        from transformers import AutoImageProcessor, AutoTokenizer

        where = self._where(depth, seed)
        config = read_published_config(where["pretrained_model_name_or_path"], where["revision"], depth)
        texts = config["architectures"][0].endswith("ForSequenceClassification")
        return (AutoTokenizer if texts else AutoImageProcessor).from_pretrained(**where)

    def _where(self, depth: int, seed: int | None) -> dict[str, object]:
        seeds = [other for d, other in self.runs if d == depth]
        if not seeds:
            raise ValueError(f"depth is {depth!r}; {self.name} has {', '.join(map(str, self.depths))}")
        if seed is not None and seed not in seeds:
            raise ValueError(f"seed is {seed!r}; depth {depth} has {', '.join(map(str, seeds))}")
        return {
            "pretrained_model_name_or_path": model_repo(self.namespace, self.name, depth),
            "revision": seed_branch(min(seeds) if seed is None else seed),
            # The installed classes are registered, so that no downloaded code runs and no question is asked.
            "trust_remote_code": False,
        }

    def __repr__(self) -> str:
        depths, seeds = ", ".join(map(str, self.depths)), ", ".join(map(str, self.seeds))
        return (
            f"PublishedSweep({self.namespace}/{self.name}: {len(self.runs)} networks, depths {depths}, seeds {seeds})"
        )


def load_sweep(name: str) -> PublishedSweep:
    """Open a published sweep.

    Args:
        name: "namespace/sweep", or the Collection's "namespace/sweep-<24 hexadecimal digits>".

    Raises:
        ValueError: `name` is no such thing.
        FileNotFoundError: there is no such sweep, or the Hub cannot be reached and it is not in the cache.

    Example:
        >>> sweep = load_sweep("my-org/mnist5k-rn1-demo")  # doctest: +SKIP
        >>> sweep.results[["depth", "gap", "nc1"]]  # doctest: +SKIP
        >>> model = sweep.load(depth=16, seed=0)  # doctest: +SKIP
    """
    if not isinstance(name, str) or name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"name is {name!r}; it takes namespace/sweep, or a Collection's namespace/sweep-<24 digits>")
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
