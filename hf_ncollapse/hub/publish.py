"""Publish a sweep: a model repository a depth, a branch a seed, the results as a data set, one Collection."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import disable_progress_bars
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..sweeps.progress import plain_console
from .branches import Branches, check_branch
from .publication import Kind, Publication, RepositoryState, plan_publication
from .repository import HUB_ERRORS, publish_state, reason, try_again
from .sweep_folder import read_sweep_folder
from .time_limit import TimeLimit


class PublicationError(OSError):
    """Publishing stopped; the message says why, what is on the Hub and what is not."""


def publish_sweep(
    folder: Path,
    namespace: str,
    *,
    private: bool = False,
    partial: bool = False,
    with_metric: bool = False,
    with_explorer: bool = False,
    replace: bool = False,
    api: HfApi | None = None,
) -> str:
    """Publish a sweep's folder, and return the Collection's address.

    Only what a run writes is published; what else lies in its folder is named and left out. Content that is on the Hub
    already is not committed again, so the same call continues a publication that was interrupted. Overwritten and
    deleted is only what an earlier publication wrote, which each branch keeps in its `publication.json`; files that
    were added on the Hub stay.

    Args:
        folder: `<output_dir>/<sweep>`.
        namespace: user or organisation to publish under.
        private: make new repositories and the Collection private.
        partial: publish the finished runs of a sweep that has unfinished ones.
        with_metric: publish the metric as a Space as well.
        with_explorer: publish a Space in which to look through the sweep as well.
        replace: overwrite an earlier publication that has another configuration, or was changed on the Hub.
        api: the Hub and the login; huggingface_hub's own, `hf auth login`, by default.

    Raises:
        FileNotFoundError, ValueError: the folder cannot be published as it is; before any request.
        PermissionError: nobody is logged in, or may not write to the namespace; before any upload.
        FileExistsError: a repository or Collection of that name holds something else, or what only `replace` allows
            to overwrite; before any upload.
        PublicationError: the Hub refused something, the connection was lost for good, or Ctrl-C.
    """
    sweep = read_sweep_folder(folder, partial=partial)
    publication = plan_publication(sweep, namespace, with_metric=with_metric, with_explorer=with_explorer)
    api = HfApi() if api is None else api
    branches = Branches(api)
    with TimeLimit() as limit:
        try:
            _check_namespace(api, limit, namespace)
            for state in publication.states:
                _check_branch(branches, limit, state, private=private, replace=replace)
            _check_collection(api, limit, namespace, publication)
        except HUB_ERRORS as error:
            raise PublicationError(f"{reason(error)}. Nothing was published") from error
        console = plain_console()
        if sweep.left_out:
            console.print(f"left out, because no run writes it: {', '.join(sweep.left_out)}")
        slug = _publish(api, branches, limit, publication, console, namespace, private=private, replace=replace)
    address = f"{api.endpoint}/collections/{slug}"
    console.print(address)
    return address


def _publish(
    api: HfApi, branches: Branches, limit: TimeLimit, publication: Publication, console: Console, namespace: str,
    *, private: bool, replace: bool,
) -> str:  # fmt: skip
    """Bring every state and the Collection to the Hub; return the Collection's address's end."""
    disable_progress_bars()  # of single files; the publication shows its own
    done: list[RepositoryState] = []
    columns = (TextColumn("publishing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        try:
            for state in progress.track(publication.states):
                what = publish_state(api, branches, limit, state, private=private, replace=replace)
                console.print(f"{state.name}: {what}")
                done.append(state)
            return _publish_collection(api, limit, namespace, publication, private)
        except (*HUB_ERRORS, FileExistsError, KeyboardInterrupt) as error:
            left = publication.states[len(done) :]
            where = f"stopped at {left[0].name if left else 'the Collection'}: {reason(error)}"
            raise PublicationError(
                f"{where}. Published: {_listed(done)}. Not published: {_listed(left)}{', ' if left else ''}"
                f"the Collection. The same command continues"
            ) from error


def _check_namespace(api: HfApi, limit: TimeLimit, namespace: str) -> None:
    def ask() -> tuple[bool, list[str]]:
        user = api.whoami()
        may_write = user.get("auth", {}).get("accessToken", {}).get("role") != "read"
        organisations = [org["name"] for org in user.get("orgs", ()) if org.get("roleInOrg") != "read"]
        return may_write, [str(name) for name in (user["name"], *organisations)]

    try:
        may_write, writable = try_again(limit, ask)
    except LocalTokenNotFoundError:
        raise PermissionError("nobody is logged in to the Hub: `hf auth login`") from None
    if not may_write:
        raise PermissionError("the token may only read: `hf auth login` with one that may write")
    if namespace not in writable:
        raise PermissionError(f"namespace is {namespace!r}; this login may write to {', '.join(writable)}")


def _check_branch(
    branches: Branches, limit: TimeLimit, state: RepositoryState, *, private: bool, replace: bool
) -> None:
    try:
        branch = try_again(limit, lambda: branches.read(state))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return
    check_branch(branch, state, replace=replace)
    if private and not branch.private:
        raise FileExistsError(
            f"the {state.kind} {state.repo_id} exists and is public, which --private does not change"
        )


def _check_collection(api: HfApi, limit: TimeLimit, namespace: str, publication: Publication) -> None:
    def ask() -> tuple[str | None, set[str]]:
        listed = list(api.list_collections(owner=namespace))
        slug = next((collection.slug for collection in listed if collection.title == publication.title), None)
        # A list shows four items at most.
        return slug, set() if slug is None else {item.item_id for item in api.get_collection(slug).items}

    slug, items = try_again(limit, ask)
    if items and not items & {repo_id for _, repo_id in publication.notes}:
        raise FileExistsError(f"the Collection {slug} exists and holds something else; rename the sweep or it")


def _publish_collection(api: HfApi, limit: TimeLimit, namespace: str, publication: Publication, private: bool) -> str:
    """Make the Collection, or bring its items, notes and order up to date; return its address's end."""
    texts = {"namespace": namespace, "description": publication.description}

    def make() -> str:
        return api.create_collection(publication.title, private=private, exists_ok=True, **texts).slug

    slug = try_again(limit, make)
    for position, ((kind, repo_id), note) in enumerate(publication.notes.items()):

        def bring(position: int = position, kind: Kind = kind, repo_id: str = repo_id, note: str = note) -> None:
            collection = api.get_collection(slug)
            item = next((item for item in collection.items if (item.item_type, item.item_id) == (kind, repo_id)), None)
            if item is None:
                collection = api.add_collection_item(slug, repo_id, kind, note=note, exists_ok=True)
                item = next(item for item in collection.items if (item.item_type, item.item_id) == (kind, repo_id))
            if (item.position, item.note) != (position, note):
                api.update_collection_item(slug, item.item_object_id, note=note, position=position)

        try_again(limit, bring)
    return slug


def _listed(states: Iterable[RepositoryState]) -> str:
    """Repositories with their branches, or "nothing"."""
    branches: dict[str, list[str]] = {}
    for state in states:
        branches.setdefault(state.repository, []).append(state.branch)
    return ", ".join(f"{name} ({', '.join(names)})" for name, names in branches.items()) or "nothing"
