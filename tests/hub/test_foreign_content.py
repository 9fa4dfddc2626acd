"""Publishing overwrites and deletes what an earlier publication wrote, and nothing else."""

import json

import pytest
from hub_server import WRITER, HubServer
from huggingface_hub import HfApi, constants

from hf_ncollapse import cli
from hf_ncollapse.hub.publish import PublicationError, publish_sweep
from hf_ncollapse.hub.repository import publish_state
from hf_ncollapse.sweeps.files import read_json, write_json

DEPTH_2, DEPTH_4, RESULTS = "my-org/digits-rn1-depth-2", "my-org/digits-rn1-depth-4", "my-org/digits-rn1-results"
CARD_WITH_OUR_TAG = b"---\ntags:\n- hf-ncollapse\n---\n# Mine\n"


@pytest.fixture(autouse=True)
def by_lfs(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def publish(hub: HubServer, folder, **keywords) -> str:
    return publish_sweep(folder, "my-org", api=HfApi(endpoint=hub.endpoint, token=WRITER), **keywords)


def written_to(hub: HubServer) -> list[str]:
    return [path for method, path, _ in hub.requests if method != "GET"]


@pytest.mark.parametrize(
    ("kind", "repo_id", "branch", "files"),
    [
        ("model", DEPTH_4, "main", {"README.md": b"# Mine\n", "data.txt": b"mine"}),
        ("model", DEPTH_4, "main", {"README.md": CARD_WITH_OUR_TAG, "data.txt": b"mine"}),
        ("model", DEPTH_4, "main", {"publication.json": b"[" * 100_000}),
        ("model", DEPTH_4, "main", {"publication.json": b'{"configuration": {"sweep": 1}, "files": {}}'}),
        ("model", DEPTH_4, "seed-1", {"my_weights.bin": b"mine"}),
        ("dataset", RESULTS, "main", {"results.csv": b"mine"}),
        ("space", "my-org/neural_collapse", "main", {"README.md": b"# Mine\n"}),
        ("space", "my-org/neural_collapse", "main", {"neural_collapse.py": b"mine"}),
    ],
)
def test_a_branch_that_no_publication_wrote_is_left_alone(hub, finished_sweep, kind, repo_id, branch, files):
    hub.store.put(kind, repo_id, files, branch)
    for replace in (False, True):
        with pytest.raises(
            FileExistsError, match=rf"{kind} {repo_id} exists and holds something else \(branch {branch}"
        ):
            publish(hub, finished_sweep, with_metric=True, replace=replace)
    assert written_to(hub) == []


def test_a_new_space_has_nobody_s_content_yet(hub, finished_sweep):
    space = hub.store.put("space", "my-org/neural_collapse", {})
    first = space.at("main").files
    space.commits.clear()
    space.branches.clear()
    hub.store.put("model", "my-org/other", {"README.md": b"---\nsdk: gradio\n---\n"})
    readme = hub.repository("my-org/other").at("main").files["README.md"]
    space.commit("main", {**first, "README.md": readme}, "initial commit")
    publish(hub, finished_sweep, with_metric=True)
    assert "neural_collapse.py" in space.files()


def test_what_a_user_added_to_our_repository_stays_and_what_is_gone_from_the_sweep_goes(hub, sweep_copy):
    publish(hub, sweep_copy)
    added = {"LICENSE": b"theirs", "notes/idea.md": b"theirs", "collapse.svg": b"theirs"}
    hub.store.put("model", DEPTH_2, added)
    hub.store.put("dataset", RESULTS, {"LICENSE": b"theirs"})
    before = hub.repository(DEPTH_2).files()
    (sweep_copy / "figures/generalization.png").unlink()
    publish(hub, sweep_copy)
    after = hub.repository(DEPTH_2).files()
    assert set(before) - set(after) == {"generalization.png"}
    assert after.items() >= added.items()
    assert hub.repository(RESULTS, "dataset").files()["LICENSE"] == b"theirs"
    listed = json.loads(after["publication.json"])["files"]
    assert set(listed) == set(after) - set(added) - {".gitattributes", "publication.json"}


def test_what_was_edited_on_the_hub_is_overwritten_only_when_asked(hub, finished_sweep):
    publish(hub, finished_sweep)
    as_published = hub.repository(DEPTH_2).files()
    hub.store.put("model", DEPTH_2, {"metrics.json": b"{}", "stray.txt": b"theirs"})
    with pytest.raises(FileExistsError, match=f"{DEPTH_2}@main holds metrics.json, changed there since .*--replace"):
        publish(hub, finished_sweep)
    assert hub.repository(DEPTH_2).files()["metrics.json"] == b"{}"
    publish(hub, finished_sweep, replace=True)
    assert hub.repository(DEPTH_2).files() == as_published | {"stray.txt": b"theirs"}


def test_another_configuration_under_the_same_name_is_published_only_when_asked(hub, sweep_copy, monkeypatch, capsys):
    publish(hub, sweep_copy)
    configuration = read_json(sweep_copy / "sweep.json")
    write_json(sweep_copy / "sweep.json", configuration | {"model": {**configuration["model"], "l2_coefficient": 0.1}})
    monkeypatch.setattr("hf_ncollapse.hub.publish.HfApi", lambda: HfApi(endpoint=hub.endpoint, token=WRITER))
    command = ["publish", str(sweep_copy), "--namespace", "my-org"]
    hub.requests.clear()
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert f"{DEPTH_2}@main holds a sweep of that name with another configuration" in error
    assert "l2_coefficient was None and is 0.1" in error
    assert written_to(hub) == []
    assert cli.main([*command, "--replace"]) == 0
    assert "l2_coefficient: 0.1" in hub.repository(DEPTH_2).files()["README.md"].decode()


def test_a_sweep_that_has_grown_is_no_other_sweep(hub, sweep_copy):
    configuration = read_json(sweep_copy / "sweep.json")
    grown = configuration | {"sweep": {**configuration["sweep"], "seeds": [0, 1, 5], "depths": [2, 4, 8]}}
    publish(hub, sweep_copy)
    write_json(sweep_copy / "sweep.json", grown)
    publish(hub, sweep_copy, partial=True)
    assert json.loads(hub.repository(DEPTH_4).files()["publication.json"])["configuration"] == grown


def test_content_that_comes_while_it_is_published_stops_it_and_says_what_is_there(hub, finished_sweep, monkeypatch):
    def intruding(api, branches, limit, state, **keywords):
        said = publish_state(api, branches, limit, state, **keywords)
        if state.name == f"{DEPTH_2}@seed-1":
            hub.store.put("model", DEPTH_4, {"README.md": b"# Theirs\n"})
        return said

    monkeypatch.setattr("hf_ncollapse.hub.publish.publish_state", intruding)
    with pytest.raises(PublicationError, match=f"stopped at {DEPTH_4}@main: .* holds something else") as stopped:
        publish(hub, finished_sweep)
    assert f"Published: {DEPTH_2} (main, seed-0, seed-1)." in str(stopped.value)
    assert hub.repository(DEPTH_4).files()["README.md"] == b"# Theirs\n"
