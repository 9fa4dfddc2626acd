"""What a sweep is on the Hub: its repositories, what each of their branches holds, and its Collection."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

from .card import collection_note, model_card, results_card, seeds_table
from .explorer import explorer_files, explorer_repo
from .manifest import MANIFEST, Manifest, hashes
from .metric import METRIC_FOLDER
from .names import model_repo, results_repo, seed_branch
from .sweep_folder import SweepFolder

Kind = Literal["model", "dataset", "space"]
# The Hub's own limits: of a file that is not stored as a large one, and of a Collection's texts.
LARGEST_CARD = 10 * 2**20
LONGEST_NOTE, LONGEST_DESCRIPTION = 500, 150
# libyaml's where PyYAML was built with it, for a sweep of a thousand cards.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class RepositoryState:
    """What one branch of one repository shall hold.

    Args:
        repo_id, kind, branch: where.
        files: path in the repository → a file or its content.
        hashes: path → what the Hub knows the file by, as [`hashes`].
        configuration: the sweep's `sweep.json`; empty where there is no sweep.
    """

    repo_id: str
    kind: Kind
    branch: str
    files: dict[str, Path | bytes] = field(repr=False)
    hashes: dict[str, list[str]] = field(repr=False)
    configuration: dict[str, dict[str, Any]] = field(repr=False)

    @property
    def repository(self) -> str:
        """The repository for people: its kind, unless it is a model, and its id."""
        return self.repo_id if self.kind == "model" else f"{self.kind}s/{self.repo_id}"

    @property
    def name(self) -> str:
        """The repository and its branch, for people."""
        return f"{self.repository}@{self.branch}"

    def content(self, path: str) -> bytes:
        """The bytes of one file."""
        content = self.files[path]
        return content if isinstance(content, bytes) else content.read_bytes()

    def size(self, path: str) -> int:
        """Bytes of one file."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


@dataclass(frozen=True)
class Publication:
    """Everything that publishing a sweep brings to the Hub.

    Args:
        states: one a branch, in the order in which they are published.
        title, description: of the Collection.
        notes: (kind, repository) → what the Collection says of it, in the Collection's order.
    """

    states: list[RepositoryState]
    title: str
    description: str
    notes: dict[tuple[Kind, str], str]


def plan_publication(
    sweep: SweepFolder, namespace: str, *, with_metric: bool = False, with_explorer: bool = False
) -> Publication:
    """Render all cards and list every state; needs no network.

    Args:
        sweep: the sweep.
        namespace: user or organisation.
        with_metric: the metric's Space too.
        with_explorer: the Space in which the sweep is looked through too.

    Raises:
        ValueError: a name, card or note that the Hub would refuse; the message names it.
    """
    table: dict[str, Path | bytes] = {path.name: path for path in (sweep.folder / "results.csv", *sweep.figures)}
    known: dict[Path, list[str]] = {}
    states = []
    seeds = {depth: seeds_table(sweep, depth) for depth in sweep.depths}
    for run in sweep.runs:
        repo_id, branch = model_repo(namespace, sweep.name, run.depth), seed_branch(run.seed)
        files = {**{path.name: path for path in run.files}, **table}
        files["README.md"] = model_card(sweep, run, namespace, seeds[run.depth]).encode()
        state = _state(repo_id, "model", branch, files, sweep.configuration, known)
        if run is sweep.runs_of(run.depth)[0]:
            states.append(replace(state, branch="main"))
        states.append(state)
    files = {**table, **{path.name: path for path in sweep.tables}}
    files["README.md"] = results_card(sweep, namespace).encode()
    states.append(_state(results_repo(namespace, sweep.name), "dataset", "main", files, sweep.configuration, known))
    if with_metric:
        metric: dict[str, Path | bytes] = {
            path.name: path for path in sorted(METRIC_FOLDER.iterdir()) if path.is_file()
        }
        del metric["__init__.py"]
        states.append(_state(f"{namespace}/neural_collapse", "space", "main", metric, {}, known))
    if with_explorer:
        files = explorer_files(sweep)
        states.append(_state(explorer_repo(namespace, sweep.name), "space", "main", files, sweep.configuration, known))
    for state in states:
        _check_state(state)

    notes: dict[tuple[Kind, str], str] = {
        ("dataset", results_repo(namespace, sweep.name)): "The whole table, and the figures."
    }
    notes |= {
        ("model", model_repo(namespace, sweep.name, depth)): collection_note(sweep, depth) for depth in sweep.depths
    }
    if with_metric:
        notes["space", f"{namespace}/neural_collapse"] = "The metric, to try."
    if with_explorer:
        notes["space", explorer_repo(namespace, sweep.name)] = "The sweep, to look through."
    first = sweep.results.iloc[0]
    description = f"{first['architecture']} on {first['dataset']}: neural collapse and gap against depth"
    for text, longest in ((description, LONGEST_DESCRIPTION), *((note, LONGEST_NOTE) for note in notes.values())):
        if len(text) > longest:
            raise ValueError(f"the Collection's text has {len(text)} characters, the Hub takes {longest}: {text}")
    return Publication(states, sweep.name, description, notes)


def _state(
    repo_id: str,
    kind: Kind,
    branch: str,
    files: dict[str, Path | bytes],
    configuration: dict[str, dict[str, Any]],
    known: dict[Path, list[str]],
) -> RepositoryState:
    """The files with their manifest; `known` keeps the hashes of files that several branches share."""
    found = {}
    for path, content in files.items():
        if isinstance(content, bytes):
            found[path] = hashes(content)
        else:
            if content not in known:
                known[content] = hashes(content.read_bytes())
            found[path] = known[content]
    manifest = Manifest(configuration, found).to_bytes()
    all_hashes = {**found, MANIFEST: hashes(manifest)}
    return RepositoryState(repo_id, kind, branch, {**files, MANIFEST: manifest}, all_hashes, configuration)


def _check_state(state: RepositoryState) -> None:
    try:
        validate_repo_id(state.repo_id)
    except HFValidationError as error:
        raise ValueError(f"the Hub does not take the name {state.repo_id!r}: {error}") from None
    card = state.content("README.md")
    if len(card) > LARGEST_CARD:
        raise ValueError(f"the card of {state.name} has {len(card):,} bytes; the Hub takes {LARGEST_CARD:,}")
    start, _, rest = card.decode().partition("---\n")
    header, end, _ = rest.partition("\n---\n")
    try:
        metadata = _Loader(header).get_single_data()
        if start or not end or not isinstance(metadata, dict):
            raise ValueError("it must start with a YAML mapping between two lines of ---")
        if "model-index" in metadata:
            model_index_to_eval_results(metadata["model-index"])
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the card of {state.name} has damaged metadata: {' '.join(str(error).split())}") from None
