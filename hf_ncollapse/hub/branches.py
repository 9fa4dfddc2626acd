"""What the branches of a publication hold already, and whether this package put it there."""

from dataclasses import dataclass, field
from typing import cast

from huggingface_hub import DatasetInfo, HfApi, ModelInfo, SpaceInfo, constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ..sweeps.plan import differences
from .manifest import MANIFEST, Manifest
from .publication import RepositoryState

_WRITTEN_BY_THE_HUB = {".gitattributes"}


@dataclass(frozen=True)
class Branch:
    """One commit of a branch.

    Args:
        commit: its hash.
        private: whether the repository is.
        files: path → the hash that the Hub knows the file by; without what the Hub writes itself.
        manifest: of the publication that it comes from; None where it comes from none.
    """

    commit: str
    private: bool
    files: dict[str, str | None]
    manifest: Manifest | None

    @property
    def ours(self) -> list[str]:
        """The files that are there as a publication wrote them."""
        return sorted(
            path
            for path, remote_hash in self.files.items()
            if self.manifest is not None and (path == MANIFEST or self.manifest.wrote(path, remote_hash))
        )


@dataclass
class Branches:
    """Reads branches; the manifest of a commit is downloaded once."""

    api: HfApi
    _manifests: dict[str, Manifest | None] = field(default_factory=dict)

    def read(self, state: RepositoryState) -> Branch:
        """Return the branch that a state is for.

        Raises:
            RepositoryNotFoundError, RevisionNotFoundError: there is none.
            HfHubHTTPError, ConnectionError: the Hub answered something else, or nothing.
        """
        answer = self.api.repo_info(state.repo_id, repo_type=state.kind, revision=state.branch, files_metadata=True)
        info = cast(ModelInfo | DatasetInfo | SpaceInfo, answer)
        if info.sha is None or info.siblings is None:
            raise TypeError("it does not say what would be overwritten")  # as other odd answers
        files = {
            file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
            for file in info.siblings
            if file.rfilename not in _WRITTEN_BY_THE_HUB
        }
        if state.kind == "space" and list(files) == ["README.md"] and self._is_new(state):
            files = {}  # the Hub writes a README.md into a new Space
        if info.sha not in self._manifests:
            self._manifests[info.sha] = self._manifest(state, info.sha) if MANIFEST in files else None
        return Branch(info.sha, bool(info.private), files, self._manifests[info.sha])

    def _is_new(self, state: RepositoryState) -> bool:
        return len(self.api.list_repo_commits(state.repo_id, repo_type=state.kind)) == 1

    def _manifest(self, state: RepositoryState, commit: str) -> Manifest | None:
        address = hf_hub_url(
            state.repo_id, MANIFEST, repo_type=state.kind, revision=commit, endpoint=self.api.endpoint
        )
        answer = get_session().get(
            address,
            headers=build_hf_headers(token=self.api.token),
            follow_redirects=True,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        )
        hf_raise_for_status(answer)
        try:
            return Manifest.from_bytes(answer.content)
        except ValueError:
            return None  # somebody else's file of that name


def check_branch(branch: Branch, state: RepositoryState, *, replace: bool) -> None:
    """Check that bringing a branch to a state overwrites nothing but what an earlier publication of it wrote.

    Args:
        branch: what is there.
        state: what shall be there.
        replace: allow another configuration, and files that were changed on the Hub since they were published.

    Raises:
        FileExistsError: it would; the message says what.
    """
    if branch.files and branch.manifest is None:
        raise FileExistsError(
            f"the {state.kind} {state.repo_id} exists and holds something else (branch {state.branch}, "
            f"{len(branch.files)} files without a {MANIFEST} of this package); rename the sweep or that {state.kind}"
        )
    if branch.manifest is None or replace:
        return
    if changed := differences(branch.manifest.configuration, state.configuration):
        raise FileExistsError(
            f"{state.name} holds a sweep of that name with another configuration: {'; '.join(changed)}. Publish this "
            f"one under another name, or with --replace in its place"
        )
    others = set(branch.files) - set(branch.ours)
    edited = sorted(path for path in others & set(state.files) if branch.files[path] not in state.hashes[path])
    if edited:
        raise FileExistsError(
            f"{state.name} holds {', '.join(edited)}, changed there since it was published; keep that elsewhere, and "
            f"publish with --replace"
        )
