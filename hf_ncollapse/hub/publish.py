"""Publish a sweep: a model repository a depth, a branch a seed, the results as a data set, one Collection."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .card import TAG, collection_note, model_card, model_repo, results_card, results_repo
from .sweep_folder import SweepFolder, read_sweep_folder

METRIC_FOLDER = Path(__file__).parent.parent / "neural_collapse"
MAX_CARD_BYTES = 10 * 2**20
MAX_NOTE, MAX_DESCRIPTION = 500, 150
_ATTEMPTS = 4
_TRANSIENT = (408, 412, 429, 500, 502, 503, 504)  # 412: somebody else committed meanwhile, look again
_HUB_S_OWN = (".gitattributes",)


class PublishError(OSError):
    """Publishing stopped; the message says what is on the Hub, what is not, and why."""


@dataclass(frozen=True)
class RepositoryState:
    """What one branch of one repository shall hold: path in the repository → a file or its content."""

    repo_id: str
    kind: str
    branch: str
    files: dict[str, Path | bytes] = field(repr=False)

    @property
    def name(self) -> str:
        """The repository and its branch, for people."""
        return f"{'' if self.kind == 'model' else self.kind + 's/'}{self.repo_id}@{self.branch}"

    def size(self, path: str) -> int:
        """Bytes of one file."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def plan_publication(sweep: SweepFolder, namespace: str, with_metric: bool = False) -> list[RepositoryState]:
    """List every state to publish, in order, with all cards rendered and checked; needs no network.

    Raises:
        ValueError: a repository name that the Hub would refuse, or a card with damaged metadata or over the limits.
    """
    table = {path.name: path for path in (sweep.folder / "results.csv", *sweep.figures)}
    states = []
    for run in sweep.runs:
        repo_id = model_repo(namespace, sweep.name, run.depth)
        card = str(model_card(sweep, run, namespace)).encode()
        files = {path.name: path for path in run.files} | table | {"README.md": card}
        if run is sweep.runs_of(run.depth)[0]:
            states.append(RepositoryState(repo_id, "model", "main", files))
        states.append(RepositoryState(repo_id, "model", seed_branch(run.seed), files))
    summary = {path.name: path for path in (sweep.folder / "results.parquet", sweep.folder / "summary.json")}
    files = table | summary | {"README.md": str(results_card(sweep, namespace)).encode()}
    states.append(RepositoryState(results_repo(namespace, sweep.name), "dataset", "main", files))
    if with_metric:
        metric = {path.name: path for path in sorted(METRIC_FOLDER.iterdir()) if path.is_file()}
        states.append(RepositoryState(f"{namespace}/neural_collapse", "space", "main", metric))
    for state in states:
        validate_repo_id(state.repo_id)
        card = state.files["README.md"]
        _check_card(state.name, (card if isinstance(card, bytes) else card.read_bytes()).decode())
    for depth in sweep.depths:
        if len(note := collection_note(sweep, depth)) > MAX_NOTE:
            raise ValueError(f"the Collection's note for depth {depth} has {len(note)} characters, over {MAX_NOTE}")
    return states


def seed_branch(seed: int) -> str:
    """The branch of one seed in its depth's repository."""
    return f"seed-{seed}"


def publish_sweep(
    folder: Path, namespace: str, *, private: bool = False, partial: bool = False, with_metric: bool = False
) -> str:
    """Publish a sweep's folder with the token of `hf auth login`, and return the Collection's address.

    Content that is on the Hub already is not committed again, so the same call continues a publication that was
    interrupted.

    Args:
        folder: `<output_dir>/<sweep>`.
        namespace: user or organisation to publish under.
        private: make new repositories and the Collection private.
        partial: publish the finished runs of a sweep that has unfinished ones.
        with_metric: publish the metric as a Space as well.

    Raises:
        FileNotFoundError, ValueError: the folder cannot be published as it is; before any request.
        PermissionError: the namespace is not one that the token may write to; before any upload.
        FileExistsError: a repository of that name holds something else; before any upload.
        PublishError: the Hub refused something, or the connection was lost for good.
    """
    sweep = read_sweep_folder(folder, partial=partial)
    states = plan_publication(sweep, namespace, with_metric)
    api = HfApi()
    _retry(lambda: _check_namespace(api, namespace))
    for repo_id, kind in dict.fromkeys((state.repo_id, state.kind) for state in states):
        _retry(lambda repo_id=repo_id, kind=kind: _check_name(api, repo_id, kind))

    steps = [(state.name, lambda state=state: _publish_state(api, state, private)) for state in states]
    steps.append(("the Collection", lambda: _publish_collection(api, sweep, namespace, states, private)))
    done: list[str] = []
    console = Console(soft_wrap=True, highlight=False)
    columns = (TextColumn("publishing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(steps))
        for name, step in steps:
            try:
                outcome = _retry(step)
            except (HfHubHTTPError, httpx2.HTTPError, ConnectionError, ValueError, RuntimeError) as error:
                left = [other for other, _ in steps[len(done) :]]
                raise PublishError(
                    f"{_cause(error)}. Published: {', '.join(done) or 'nothing'}. Not published: {', '.join(left)}. "
                    "The same command continues"
                ) from error
            done.append(name)
            console.print(f"{name}: {outcome}")
            progress.advance(task)
    return outcome


def _check_card(name: str, text: str) -> None:
    """Refuse a card whose metadata are no YAML mapping, or that is over the Hub's size for a file in git itself."""
    size = len(text.encode())
    if size > MAX_CARD_BYTES:
        raise ValueError(f"the card of {name} has {size:,} bytes, the Hub takes {MAX_CARD_BYTES:,}; split the sweep")
    try:
        metadata = yaml.safe_load(text.split("---\n", 2)[1]) if text.startswith("---\n") else None
    except (IndexError, yaml.YAMLError) as error:
        raise ValueError(f"the card of {name} has damaged metadata: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"the card of {name} has no metadata: it must start with a YAML mapping between --- lines")


def _check_namespace(api: HfApi, namespace: str) -> None:
    user = api.whoami()
    token = user.get("auth", {}).get("accessToken", {})
    writable = [user["name"]] + [org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read"]
    if token.get("role") == "read":
        raise PermissionError("the token may only read: log in with one that may write, `hf auth login`")
    if namespace not in writable:
        raise PermissionError(f"--namespace {namespace!r} is not one you may write to: {', '.join(writable)}")


def _check_name(api: HfApi, repo_id: str, kind: str) -> None:
    """Refuse a repository that holds what this package did not publish; an empty one is an interrupted beginning."""
    try:
        info = api.repo_info(repo_id, repo_type=kind)
    except RepositoryNotFoundError:
        return
    files = {sibling.rfilename for sibling in info.siblings or []} - {*_HUB_S_OWN}
    ours = "neural_collapse.py" in files if kind == "space" else TAG in (info.tags or [])
    if files and not ours:
        raise FileExistsError(f"the {kind} {repo_id} exists and holds something else; rename the sweep or remove it")


def _publish_state(api: HfApi, state: RepositoryState, private: bool) -> str:
    """Bring one branch to its state in at most one commit."""
    sdk = "gradio" if state.kind == "space" else None
    api.create_repo(state.repo_id, repo_type=state.kind, private=private, space_sdk=sdk, exist_ok=True)
    if state.branch != "main":
        api.create_branch(state.repo_id, branch=state.branch, repo_type=state.kind, exist_ok=True)
    where = {"repo_id": state.repo_id, "repo_type": state.kind, "revision": state.branch}
    head = api.repo_info(**where).sha
    remote = {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in api.list_repo_tree(**where, recursive=True)
        if isinstance(entry, RepoFile)
    }
    changed = [path for path, content in state.files.items() if remote.get(path) not in _hashes(content)]
    gone = [path for path in remote if path not in state.files and path not in _HUB_S_OWN]
    if not changed and not gone:
        return "unchanged"
    operations = [CommitOperationAdd(path, state.files[path]) for path in changed]
    operations += [CommitOperationDelete(path) for path in gone]
    api.create_commit(**where, operations=operations, commit_message="Publish with hf_ncollapse", parent_commit=head)
    size = sum(state.size(path) for path in changed)
    return f"{len(changed)} files, {size / 1e6:.2f} MB"


def _hashes(content: Path | bytes) -> tuple[str, str]:
    """The git blob's SHA-1 and the SHA-256: what the Hub knows a regular and a large file by."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return git.hexdigest(), hashlib.sha256(data).hexdigest()


def _publish_collection(
    api: HfApi, sweep: SweepFolder, namespace: str, states: list[RepositoryState], private: bool
) -> str:
    first = sweep.results.iloc[0]
    description = f"{first['architecture']} on {first['dataset']}: neural collapse over depth"
    collection = api.create_collection(
        sweep.name, namespace=namespace, description=description[:MAX_DESCRIPTION], private=private, exists_ok=True
    )
    notes = {
        (model_repo(namespace, sweep.name, depth), "model"): collection_note(sweep, depth) for depth in sweep.depths
    }
    notes[results_repo(namespace, sweep.name), "dataset"] = "The whole table, and the figures."
    notes |= {(state.repo_id, "space"): "The metric." for state in states if state.kind == "space"}
    there = {(item.item_id, item.item_type): item for item in api.get_collection(collection.slug).items}
    for (repo_id, kind), note in notes.items():
        item = there.get((repo_id, kind))
        if item is None:
            api.add_collection_item(collection.slug, repo_id, kind, note=note, exists_ok=True)
        elif item.note != note:
            api.update_collection_item(collection.slug, item.item_object_id, note=note)
    return f"{constants.ENDPOINT}/collections/{collection.slug}"


def _retry(step: Callable[[], object]):
    """Run a step that looks at the Hub before it changes it, again where the fault may pass."""
    for attempt in range(_ATTEMPTS):
        try:
            return step()
        except (HfHubHTTPError, httpx2.HTTPError, ConnectionError, RuntimeError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if attempt + 1 == _ATTEMPTS or (status is not None and status not in _TRANSIENT):
                raise
            time.sleep(2**attempt)


def _cause(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
