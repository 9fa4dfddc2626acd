"""The loopback Hub answers huggingface_hub's own client like the real one, and fails when it is told to."""

import hashlib
import re
from pathlib import Path

import pytest
from hub_server import READER, STRANGER, WRITER
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def api(hub, monkeypatch) -> HfApi:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=hub.endpoint, token=WRITER)


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


def commit(api: HfApi, files: dict[str, bytes], **keywords):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit("my-org/model", operations, commit_message="add", **keywords)


def test_a_folder_comes_back_as_it_was_uploaded_by_lfs(api, hub, tmp_path):
    api.create_repo("my-org/model")
    commit(api, {"weights.safetensors": CONTENT, "folder/notes.txt": b"regular"})
    folder = Path(api.snapshot_download("my-org/model", cache_dir=tmp_path))
    assert (folder / "weights.safetensors").read_bytes() == CONTENT
    assert (folder / "folder/notes.txt").read_bytes() == b"regular"
    assert hashlib.sha256(CONTENT).hexdigest() in hub.store.large_files
    assert len(hub.repository("my-org/model").history()) == 2


def test_a_folder_comes_back_as_it_was_uploaded_by_xet(xet_hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    api = HfApi(endpoint=xet_hub.endpoint, token=WRITER)
    api.create_repo("my-org/model")
    commit(api, {"weights.safetensors": CONTENT, "notes.txt": b"regular"})
    folder = Path(api.snapshot_download("my-org/model", cache_dir=tmp_path / "cache"))
    assert (folder / "weights.safetensors").read_bytes() == CONTENT
    assert xet_hub.repository("my-org/model").at("main").files["weights.safetensors"].xet_hash
    assert xet_hub.store.large_files == {}


def test_branches_and_tags_hold_their_own_states(api, hub):
    api.create_repo("my-org/model")
    api.create_branch("my-org/model", branch="seed/1")
    commit(api, {"notes.txt": b"one"}, revision="seed/1")
    api.create_tag("my-org/model", tag="v1", revision="seed/1")
    commit(api, {"notes.txt": b"two"}, revision="seed/1")
    assert {branch.name for branch in api.list_repo_refs("my-org/model").branches} == {"main", "seed/1"}
    assert hub.repository("my-org/model").files("v1")["notes.txt"] == b"one"
    assert hub.repository("my-org/model").files("seed/1")["notes.txt"] == b"two"
    assert api.list_repo_files("my-org/model") == [".gitattributes"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info("my-org/model", revision="seed/2")


def test_a_card_s_metadata_are_the_model_s_and_a_broken_one_is_refused(api):
    api.create_repo("my-org/model")
    commit(api, {"README.md": b"---\nlicense: mit\ntags: [depth]\n---\n# Card\n"})
    assert api.model_info("my-org/model").tags == ["depth"]
    assert [model.id for model in api.list_models(author="my-org", filter="depth")] == ["my-org/model"]
    for broken in ("a: [", "tags: depth", "model-index: [{name: m, results: [{task: {}}]}]"):
        with pytest.raises(ValueError, match="Invalid metadata"):
            commit(api, {"README.md": f"---\n{broken}\n---\n".encode()})


def test_a_collection_keeps_items_notes_and_order(api, hub):
    for name in ("a", "b"):
        api.create_repo(f"my-org/{name}")
    slug = api.create_collection("My Sweep", namespace="my-org", description="short").slug
    assert re.fullmatch(r"my-org/my-sweep-[0-9a-f]{24}", slug)
    assert api.create_collection("My Sweep", namespace="my-org", exists_ok=True).slug == slug
    for name in ("b", "a"):
        api.add_collection_item(slug, f"my-org/{name}", item_type="model", note=f"note {name}")
    item = api.get_collection(slug).items[1]
    api.update_collection_item(slug, item.item_object_id, note="changed", position=0)
    assert [(item.item_id, item.note) for item in api.get_collection(slug).items] == [
        ("my-org/a", "changed"),
        ("my-org/b", "note b"),
    ]
    with pytest.raises(HfHubHTTPError, match="500 characters"):
        api.update_collection_item(slug, item.item_object_id, note="x" * 501)
    assert [collection.slug for collection in api.list_collections(owner="my-org")] == [slug]


def test_who_may_not_read_or_write_is_told_so(api, hub):
    api.create_repo("my-org/model", private=True)
    stranger = HfApi(endpoint=hub.endpoint, token=STRANGER)
    with pytest.raises(RepositoryNotFoundError):
        stranger.model_info("my-org/model")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(endpoint=hub.endpoint, token=READER).create_repo("my-org/other")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=hub.endpoint, token=WRITER.upper()).whoami()
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("my-org/model", "absent.json")


def test_a_commit_on_another_parent_is_refused(api, hub):
    api.create_repo("my-org/model")
    first = api.model_info("my-org/model").sha
    commit(api, {"notes.txt": b"one"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, {"notes.txt": b"two"}, parent_commit=first)
    assert hub.repository("my-org/model").files()["notes.txt"] == b"one"


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"cut_after": 1000}])
def test_an_upload_that_fails_once_succeeds_when_the_client_tries_again(api, hub, no_waiting, fault):
    api.create_repo("my-org/model")
    hub.fail("PUT", "/large-files/", **fault)
    commit(api, {"weights.safetensors": CONTENT})
    assert hub.repository("my-org/model").files()["weights.safetensors"] == CONTENT
    assert [method for method, _, _ in hub.requests].count("PUT") == 2


def test_a_lost_answer_leaves_the_commit_made(api, hub):
    api.create_repo("my-org/model")
    hub.fail("POST", "/commit/", lose_answer=True)
    with pytest.raises(HTTPError):
        commit(api, {"notes.txt": b"one"})
    assert hub.repository("my-org/model").files()["notes.txt"] == b"one"
