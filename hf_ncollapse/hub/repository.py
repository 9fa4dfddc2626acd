"""Bring a branch of a repository to a state in one commit, whatever the network does in between."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from .branches import Branches, check_branch
from .publication import RepositoryState
from .time_limit import HubTimeoutError, TimeLimit, asked_pause

if TYPE_CHECKING:
    import httpx2

Result = TypeVar("Result")

# What huggingface_hub's calls raise: an answer that says no, a lost connection, a failed upload, a refused card.
HUB_ERRORS = (HfHubHTTPError, HTTPError, ConnectionError, RuntimeError, ValueError)
# 412: somebody committed in between, so look again.
_MAY_PASS = {408, 412, 429, 500, 502, 503, 504}
_WAITS = (1.0, 2.0, 4.0)


def publish_state(
    api: HfApi, branches: Branches, limit: TimeLimit, state: RepositoryState, *, private: bool, replace: bool
) -> str:
    """Make the repository and the branch if they are not there, and commit what differs, all at once.

    The state is compared with the branch before every attempt, and the commit names its parent, so that an answer that
    was lost leads to no second commit. Deleted is only what an earlier publication wrote.

    Returns:
        What was done, for people.

    Raises:
        FileExistsError: somebody else's content came into the branch, as [`check_branch`] says.
        HUB_ERRORS: what did not pass after several attempts, or in time.
    """
    size = sum(map(state.size, state.files))
    return try_again(limit, lambda: _publish_once(api, branches, state, private, replace), size)


def _publish_once(api: HfApi, branches: Branches, state: RepositoryState, private: bool, replace: bool) -> str:
    space_sdk = "gradio" if state.kind == "space" else None
    api.create_repo(state.repo_id, private=private, repo_type=state.kind, space_sdk=space_sdk, exist_ok=True)
    if state.branch != "main":
        api.create_branch(state.repo_id, repo_type=state.kind, branch=state.branch, exist_ok=True)
    branch = branches.read(state)
    check_branch(branch, state, replace=replace)
    changed = [path for path in state.files if branch.files.get(path) not in state.hashes[path]]
    gone = [path for path in branch.ours if path not in state.files]
    if not changed and not gone:
        return "up to date"
    # create_commit makes one commit by LFS and by Xet; upload_folder splits Xet uploads over several.
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(path, state.files[path]) for path in changed),
        *(CommitOperationDelete(path, is_folder=False) for path in gone),
    ]
    api.create_commit(
        state.repo_id,
        operations,
        repo_type=state.kind,
        revision=state.branch,
        commit_message="Publish with hf_ncollapse",
        parent_commit=branch.commit,
    )
    size = sum(state.size(path) for path in changed)
    return f"{len(changed)} files, {size / 1e6:.2f} MB"


def try_again(limit: TimeLimit, step: Callable[[], Result], upload: int = 0) -> Result:
    """Call `step`, and again after a while where its error may pass; a step looks before it changes anything.

    Args:
        limit: that all attempts together have.
        step: asks the Hub, and takes what it needs out of the answers.
        upload: bytes that it may send.
    """
    with limit.step(upload):
        for wait in _WAITS:
            limit.join()
            try:
                return step()
            except HUB_ERRORS as error:
                answer = _answer(error)
                if answer is None:
                    may_pass = not isinstance(error, ValueError | HubTimeoutError)
                else:
                    may_pass = answer.status_code in _MAY_PASS
                if not may_pass or limit.is_over:
                    raise
                time.sleep((asked_pause(answer) if answer is not None else 0) or wait)
        limit.join()
        return step()


def reason(error: BaseException) -> str:
    """An error of the Hub in one line, with the upload's own error behind huggingface_hub's."""
    server_message = getattr(error, "server_message", None)
    answer = getattr(error, "response", None)
    if server_message and answer is not None:
        line = f"the Hub answered {answer.status_code}: {server_message}"
    else:
        line = " ".join(str(error).split()) or type(error).__name__
    line = line.rstrip(".")
    return f"{line}: {reason(error.__cause__)}" if isinstance(error, RuntimeError) and error.__cause__ else line


def _answer(error: BaseException) -> "httpx2.Response | None":
    """The HTTP answer behind an error, or None where there was none: LFS uploads wrap theirs."""
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    return getattr(cause, "response", None) if isinstance(cause, HfHubHTTPError) else None
