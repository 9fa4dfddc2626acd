"""Publishing brings exactly the sweep to the Hub, once, through every fault, or says clearly why not."""

import json
import logging
import os
import subprocess
import sys
import time

import pytest
from hub_server import READER, STRANGER, WRITER, HubServer
from huggingface_hub import HfApi, constants

from hf_ncollapse import cli
from hf_ncollapse.hub import publication
from hf_ncollapse.hub.publish import PublicationError, publish_sweep
from hf_ncollapse.hub.sweep_folder import read_sweep_folder
from hf_ncollapse.sweeps.report import finish_sweep

DEPTH_2, DEPTH_4, RESULTS = "my-org/digits-rn1-depth-2", "my-org/digits-rn1-depth-4", "my-org/digits-rn1-results"
EVALUATE = """
import sys
sys.modules["hf_ncollapse"] = None  # any import of the package fails
import evaluate
metric = evaluate.load("my-org/neural_collapse")
features = [[0.5], [1.5], [-0.5], [-1.5]]
print(metric.compute(predictions=features, references=[0, 0, 1, 1], measures=["nc1"])["nc1"])
"""


@pytest.fixture(autouse=True)
def by_lfs_without_waiting(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def publish(hub: HubServer, folder, token: str = WRITER, **keywords) -> str:
    return publish_sweep(folder, "my-org", api=HfApi(endpoint=hub.endpoint, token=token), **keywords)


def state_of(hub: HubServer) -> dict:
    """Every file of every branch, and what the Collections say."""
    state = {
        (*key, branch): repository.files(branch)
        for key, repository in hub.store.repositories.items()
        for branch in repository.branches
    }
    for collection in hub.store.collections.values():
        state[collection["title"]] = [(item["type"], item["id"], item["note"]["text"]) for item in collection["items"]]
    return state


def large_files_of(undisturbed: dict, repo_id: str) -> set[bytes]:
    """The weights and figures of all branches of a repository."""
    branches = [files for key, files in undisturbed["state"].items() if key[:2] == ("model", repo_id)]
    return {
        content for files in branches for name, content in files.items() if name.endswith((".safetensors", ".png"))
    }


def commits_of(hub: HubServer) -> int:
    return sum(len(repository.commits) for repository in hub.store.repositories.values())


@pytest.fixture(scope="session")
def undisturbed(finished_sweep) -> dict:
    """What is on a Hub after a publication in which nothing went wrong."""
    with pytest.MonkeyPatch.context() as patch, HubServer() as hub:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        publish(hub, finished_sweep)
        return {"state": state_of(hub), "commits": commits_of(hub)}


def test_every_branch_holds_its_checkpoint_card_figure_and_table(undisturbed, finished_sweep):
    states = undisturbed["state"]
    for depth in (2, 4):
        for seed in (0, 1):
            folder = finished_sweep / f"depth-{depth}" / f"seed-{seed}"
            files = states["model", f"my-org/digits-rn1-depth-{depth}", f"seed-{seed}"]
            for name in ("model.safetensors", "config.json", "preprocessor_config.json", "metrics.json"):
                assert files[name] == (folder / name).read_bytes()
            assert files["results.csv"] == (finished_sweep / "results.csv").read_bytes()
            assert files["collapse.png"] == (finished_sweep / "figures/collapse.png").read_bytes()
            assert {path.name for path in folder.glob("*.py")} < set(files)
            assert f"seed {seed}, this revision" in files["README.md"].decode()
            assert "log_history.json" not in files
        assert states["model", f"my-org/digits-rn1-depth-{depth}", "main"] == files | {
            name: states["model", f"my-org/digits-rn1-depth-{depth}", "seed-0"][name]
            for name in ("model.safetensors", "config.json", "metrics.json", "README.md", "publication.json")
        }
    assert set(states["dataset", RESULTS, "main"]) >= {"results.csv", "README.md", "collapse.png", "sweep.json"}


def test_the_collection_shows_the_table_and_each_depth_with_its_numbers(undisturbed, finished_sweep):
    sweep = read_sweep_folder(finished_sweep)
    items = undisturbed["state"]["digits-rn1"]
    assert [item[:2] for item in items] == [("dataset", RESULTS), ("model", DEPTH_2), ("model", DEPTH_4)]
    for depth, (_, _, note) in zip((2, 4), items[1:], strict=True):
        rows = sweep.results[sweep.results["depth"] == depth]
        assert note.startswith(f"B = {depth}: NC1 {rows['nc1'].mean():#.4g}")
        assert f"gap J − J* {rows['gap'].mean():#.4g}" in note
        assert note.endswith("(2 seeds)")


def test_each_state_is_one_commit_and_publishing_again_makes_none(hub, finished_sweep, capsys):
    publish(hub, finished_sweep)
    # The Hub's own first commit, main with seed 0, and seed 1; for the table one.
    assert {key[1]: len(repository.commits) for key, repository in hub.store.repositories.items()} == {
        DEPTH_2: 3, DEPTH_4: 3, RESULTS: 2,
    }  # fmt: skip
    before = state_of(hub)
    assert f"{DEPTH_2}@seed-1: 4 files" in capsys.readouterr().out
    publish(hub, finished_sweep)
    assert "files" not in capsys.readouterr().out
    assert (state_of(hub), commits_of(hub)) == (before, 8)


def test_xet_uploads_the_same_in_as_many_commits(xet_hub, finished_sweep, undisturbed, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    publish(xet_hub, finished_sweep)
    assert state_of(xet_hub) == undisturbed["state"]
    assert commits_of(xet_hub) == undisturbed["commits"]
    assert xet_hub.store.large_files == {}
    publish(xet_hub, finished_sweep)
    assert commits_of(xet_hub) == undisturbed["commits"]


def test_a_fault_of_xet_storage_is_survived_or_named_and_completed(xet_hub, finished_sweep, undisturbed, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    xet_hub.fail("GET", f"{DEPTH_4}/xet-write-token/main", status=403, times=100)
    with pytest.raises(PublicationError, match=f"stopped at {DEPTH_4}@main"):
        publish(xet_hub, finished_sweep)
    xet_hub.heal()
    xet_hub.fail("GET", f"{DEPTH_4}/xet-write-token/main", status=503)
    publish(xet_hub, finished_sweep)
    assert state_of(xet_hub) == undisturbed["state"]
    assert commits_of(xet_hub) == undisturbed["commits"]


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("POST", "/commit/", {"status": 500}),
        ("POST", "/commit/", {"status": 503, "times": 3}),
        ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("POST", "/commit/", {"status": 412}),
        ("POST", "/commit/", {"cut_after": 100}),
        ("POST", "/commit/", {"lose_answer": True, "times": 3}),
        ("PUT", "/large-files/", {"status": 503}),
        ("PUT", "/large-files/", {"cut_after": 1000}),
        ("POST", "/objects/batch", {"status": 502}),
        ("POST", "/repos/create", {"lose_answer": True}),
        ("POST", "/branch/", {"lose_answer": True}),
        ("POST", "/preupload/", {"status": 504}),
        ("POST", "/validate-yaml", {"status": 429}),
        ("GET", "/whoami-v2", {"status": 503}),
        ("GET", "/models/", {"status": 500}),
        ("POST", "/collections$", {"lose_answer": True}),
        ("POST", "/items", {"lose_answer": True}),
    ],
)
def test_a_fault_that_passes_is_survived_and_leaves_no_trace(hub, finished_sweep, undisturbed, method, path, fault):
    struck = hub.fail(method, path, **fault)
    publish(hub, finished_sweep)
    assert struck.times == 0
    assert state_of(hub) == undisturbed["state"]
    assert commits_of(hub) == undisturbed["commits"]


@pytest.mark.parametrize(
    ("method", "path", "fault", "reason"),
    [
        ("POST", f"{DEPTH_4}/commit/main", {"status": 503}, "503"),
        ("POST", f"{DEPTH_4}/commit/main", {"status": 403}, "the Hub answered 403: made to fail"),
        ("POST", f"{DEPTH_4}/commit/main", {"status": 401}, "401"),
        ("POST", f"{DEPTH_4}/commit/main", {"status": 412}, "412"),
        ("POST", f"{DEPTH_4}/commit/main", {"cut_after": 10}, "disconnected|reset"),
        ("PUT", "/large-files/", {"cut_after": 1000}, "uploading"),
        ("PUT", "/large-files/", {"status": 403}, "uploading .*403"),
        ("POST", "/validate-yaml", {"status": 400, "skip": 2}, "Invalid metadata"),
        ("POST", f"{DEPTH_4}/preupload/main", {"interrupt": True}, "KeyboardInterrupt"),
    ],
)
def test_a_fault_that_stays_is_named_and_the_next_publication_completes_the_rest(
    hub, finished_sweep, undisturbed, method, path, fault, reason
):
    if path == "/large-files/":
        fault = {**fault, "skip": len(large_files_of(undisturbed, DEPTH_2))}
    hub.fail(method, path, times=10_000, **fault)
    with pytest.raises(PublicationError, match=reason) as stopped:
        publish(hub, finished_sweep)
    message = str(stopped.value)
    assert "\n" not in message
    assert f"stopped at {DEPTH_4}@main" in message
    assert f"Published: {DEPTH_2} (main, seed-0, seed-1)." in message
    assert f"Not published: {DEPTH_4} (main, seed-0, seed-1), datasets/{RESULTS} (main), the Collection." in message
    hub.heal()
    publish(hub, finished_sweep)
    assert state_of(hub) == undisturbed["state"]
    assert commits_of(hub) == undisturbed["commits"]


def test_it_waits_as_long_as_the_hub_asks(hub, finished_sweep, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.fail("POST", "/commit/", status=429, headers={"Retry-After": "17"})
    publish(hub, finished_sweep)
    assert waits == [17]


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (STRANGER, "namespace is 'my-org'; this login may write to stranger, elsewhere"),
        (READER, "the token may only read"),
        (None, "nobody is logged in"),
    ],
)
def test_who_may_not_write_is_told_before_anything_is_sent(hub, finished_sweep, monkeypatch, tmp_path, token, reason):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(PermissionError, match=reason):
        publish(hub, finished_sweep, token)
    assert [method for method, _, _ in hub.requests if method != "GET"] == []


def test_a_token_that_is_not_valid_is_told_before_anything_is_sent(hub, finished_sweep):
    with pytest.raises(PublicationError, match=r"Invalid user.*Nothing was published"):
        publish(hub, finished_sweep, WRITER + "x")
    assert [method for method, _, _ in hub.requests if method != "GET"] == []


def test_a_collection_that_holds_something_else_is_left_alone(hub, finished_sweep):
    hub.store.put("model", "my-org/other", {})
    collection = hub.store.create_collection("my-org", "digits-rn1", None, False)
    hub.store.add_item(collection, {"type": "model", "id": "my-org/other"}, None)
    with pytest.raises(FileExistsError, match=r"Collection my-org/digits-rn1-0{24} exists"):
        publish(hub, finished_sweep)
    assert [method for method, _, _ in hub.requests if method != "GET"] == []


def test_private_makes_everything_private_and_refuses_what_is_public(hub, finished_sweep):
    publish(hub, finished_sweep, private=True)
    assert all(repository.private for repository in hub.store.repositories.values())
    assert all(collection["private"] for collection in hub.store.collections.values())
    hub.repository(DEPTH_2).private = False
    with pytest.raises(FileExistsError, match=f"{DEPTH_2} exists and is public"):
        publish(hub, finished_sweep, private=True)


@pytest.mark.slow
def test_the_metric_is_published_as_a_space_that_evaluate_loads(hub, finished_sweep, tmp_path):
    publish(hub, finished_sweep, with_metric=True)
    files = hub.repository("my-org/neural_collapse", "space").files()
    assert {"neural_collapse.py", "class_statistics.py", "measures.py", "README.md", "app.py"} <= set(files)
    assert ("space", "my-org/neural_collapse", "The metric, to try.") in state_of(hub)["digits-rn1"]
    finished = subprocess.run(
        [sys.executable, "-c", EVALUATE],
        env=os.environ | hub.environment(tmp_path, token=None),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # Means at ±1, deviations of ½ about them: 0.25 within, 1 between.
    assert finished.stdout.split() == ["0.25"], finished.stderr[-3000:]


def test_unfinished_runs_are_left_out_only_when_asked(hub, sweep_copy):
    configuration = json.loads((sweep_copy / "sweep.json").read_text())
    configuration["sweep"]["seeds"] = [0, 1, 7]
    (sweep_copy / "sweep.json").write_text(json.dumps(configuration))
    with pytest.raises(ValueError, match=r"2 unfinished of 6 runs: depth 2 seed 7 .*--partial"):
        publish(hub, sweep_copy)
    assert hub.requests == []
    publish(hub, sweep_copy, partial=True)
    assert set(hub.repository(DEPTH_2).branches) == {"main", "seed-0", "seed-1"}


def test_without_seed_0_main_is_the_smallest_seed(hub, sweep_copy):
    table = (sweep_copy / "results.csv").read_text().splitlines(keepends=True)
    (sweep_copy / "results.csv").write_text("".join(line for line in table if ",0,0.005," not in line))
    finish_sweep(sweep_copy)
    publish(hub, sweep_copy, partial=True)
    assert set(hub.repository(DEPTH_2).branches) == {"main", "seed-1"}
    assert hub.repository(DEPTH_2).files("main") == hub.repository(DEPTH_2).files("seed-1")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("training_args.bin", b"\x80\x04", "holds training_args.bin: pickles"),
        ("optimizer.pt", b"\x80\x04", "holds optimizer.pt: pickles"),
        ("model.safetensors", b"\x80\x04 a pickle by another name", "model.safetensors is damaged"),
        ("metrics.json", b"{", "metrics.json is damaged"),
    ],
)
def test_pickles_and_damaged_files_are_refused_before_any_request(hub, sweep_copy, name, content, reason):
    (sweep_copy / "depth-4/seed-1" / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        publish(hub, sweep_copy)
    assert hub.requests == []


def test_a_table_that_contradicts_a_run_is_refused(hub, sweep_copy):
    path = sweep_copy / "depth-4/seed-1/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"nc1": 0.5}))
    with pytest.raises(ValueError, match=r"metrics.json says nc1 = 0.5, results.csv says \d\.\d+"):
        publish(hub, sweep_copy)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "modeling_collapse_resnet.py"])
def test_a_missing_file_is_named(hub, sweep_copy, name):
    (sweep_copy / "depth-4/seed-1" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"depth-4/seed-1 has no {name}"):
        publish(hub, sweep_copy)
    assert hub.requests == []


def test_cards_notes_and_names_over_the_limits_are_refused(hub, finished_sweep, sweep_copy, monkeypatch):
    monkeypatch.setattr(publication, "LARGEST_CARD", 1000)
    with pytest.raises(ValueError, match=rf"the card of {DEPTH_2}@main has [\d,]+ bytes; the Hub takes 1,000"):
        publish(hub, finished_sweep)
    monkeypatch.undo()
    monkeypatch.setattr(publication, "LONGEST_NOTE", 20)
    with pytest.raises(ValueError, match=r"text has \d+ characters, the Hub takes 20"):
        publish(hub, finished_sweep)
    monkeypatch.undo()
    configuration = json.loads((sweep_copy / "sweep.json").read_text())
    configuration["sweep"]["sweep"] = "long" * 25
    (sweep_copy / "sweep.json").write_text(json.dumps(configuration))
    with pytest.raises(ValueError, match=r"the Hub does not take the name .*maximum length is 96"):
        publish(hub, sweep_copy)
    assert hub.requests == []


@pytest.mark.parametrize("header", ["a: [", "", "model-index: [{name: m, results: [{}]}]"])
def test_a_card_with_damaged_metadata_is_refused_before_any_request(hub, finished_sweep, monkeypatch, header):
    monkeypatch.setattr(publication, "results_card", lambda *_: f"---\n{header}\n---\n# Card\n")
    with pytest.raises(ValueError, match=f"the card of datasets/{RESULTS}@main has damaged metadata"):
        publish(hub, finished_sweep)
    assert hub.requests == []


def test_the_token_is_never_shown_logged_or_written(hub, finished_sweep, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    hub.fail("POST", f"{DEPTH_4}/commit/main", status=403)
    with pytest.raises(PublicationError) as stopped:
        publish(hub, finished_sweep)
    publish(hub, finished_sweep)
    shown = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in finished_sweep.rglob("*") if path.is_file())
    published = b"".join(content for key in state_of(hub) if len(key) == 3 for content in state_of(hub)[key].values())
    for text in (str(stopped.value), shown.out, shown.err, caplog.text):
        assert WRITER not in text
    assert WRITER.encode() not in written + published


def test_a_dry_run_lists_every_repository_file_and_size_without_a_network(finished_sweep, capsys, monkeypatch):
    monkeypatch.setattr(HfApi, "whoami", lambda *_: pytest.fail("a dry run asked the Hub"))
    assert cli.main(["publish", str(finished_sweep), "--namespace", "my-org", "--dry-run", "--with-metric"]) == 0
    listing = capsys.readouterr().out
    for name in (f"{DEPTH_2}@main", f"{DEPTH_4}@seed-1", f"datasets/{RESULTS}@main", "spaces/my-org/neural_collapse@"):
        assert name in listing
    size = (finished_sweep / "depth-2/seed-0/model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in listing


def test_the_command_prints_one_line_for_a_mistake(tmp_path, capsys):
    assert cli.main(["publish", str(tmp_path), "--namespace", "my-org"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"hf-ncollapse: error: {tmp_path} is no sweep's folder: it has no sweep.json"
    ]
