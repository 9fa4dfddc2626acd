"""A Hub that is silent, drips, asks for long pauses or answers nonsense ends publishing in time, with a sentence."""

import json
import re
import time

import pytest
from hub_server import WRITER, HubServer
from huggingface_hub import HfApi, constants

from hf_ncollapse.hub import time_limit
from hf_ncollapse.hub.publish import PublicationError, publish_sweep

DEPTH_2, DEPTH_4, RESULTS = "my-org/digits-rn1-depth-2", "my-org/digits-rn1-depth-4", "my-org/digits-rn1-results"
DONE = f"Published: {DEPTH_2} (main, seed-0, seed-1). Not published: {DEPTH_4} (main, seed-0, seed-1), "


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time_limit, "STEP_SECONDS", 1.5)
    monkeypatch.setattr(time_limit, "SLOWEST_UPLOAD", 1e9)
    waiting = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: waiting(min(seconds, 0.05)))


def publish(hub: HubServer, folder) -> str:
    return publish_sweep(folder, "my-org", api=HfApi(endpoint=hub.endpoint, token=WRITER))


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("GET", "/api/whoami-v2", {"silent": True}),
        ("POST", f"{DEPTH_4}/commit/main", {"drip": 0.3}),
        *(
            pytest.param(method, path, fault, marks=pytest.mark.slow)
            for fault in ({"silent": True}, {"drip": 0.3})
            for method, path in (("PUT", "/large-files/"), ("GET", "/collections/"), ("POST", "/repos/create"))
        ),
    ],
)
def test_a_hub_that_does_not_get_on_is_given_up_and_the_next_start_completes(hub, finished_sweep, method, path, fault):
    hub.fail(method, path, times=1000, **fault)
    with pytest.raises(PublicationError, match=r"the Hub took longer than 2 s; the last request was") as stopped:
        publish(hub, finished_sweep)
    message = str(stopped.value)
    assert re.search(rf"the last request was {method} \S*{path}", message)
    if path.endswith("whoami-v2"):
        assert message.endswith("Nothing was published")
    elif "commit" in path:
        assert DONE in message
    hub.heal()
    publish(hub, finished_sweep)
    assert set(hub.repository(DEPTH_4).branches) == {"main", "seed-0", "seed-1"}


def test_a_silent_request_is_tried_again_before_the_step_is_over(hub, finished_sweep, monkeypatch):
    monkeypatch.setattr(time_limit, "STEP_SECONDS", 60.0)
    monkeypatch.setattr(time_limit, "SILENCE_SECONDS", dict.fromkeys(time_limit.SILENCE_SECONDS, 0.3))
    faults = [hub.fail("GET", "/whoami-v2", silent=True), hub.fail("POST", f"{DEPTH_4}/commit/main", silent=True)]
    publish(hub, finished_sweep)
    assert [fault.times for fault in faults] == [0, 0]


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "86400"}, {"RateLimit": '"api";r=0;t=86400'}], ids=["retry-after", "rate-limit"]
)
def test_a_pause_of_a_day_is_said_and_not_made(hub, finished_sweep, headers):
    hub.fail("POST", f"{DEPTH_4}/commit/main", status=429, headers=headers)
    with pytest.raises(PublicationError, match="the Hub answered 429 and asks for a pause of 86400 s") as stopped:
        publish(hub, finished_sweep)
    assert DONE in str(stopped.value)


def test_a_pause_that_the_hub_asks_for_is_not_part_of_the_time_it_has(hub, finished_sweep, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    clock, paused = time.monotonic, pauses  # the clock goes on while it sleeps
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: clock() + sum(paused))
    hub.fail("POST", f"{DEPTH_4}/commit/main", status=429, headers={"Retry-After": "200"}, times=2)
    publish(hub, finished_sweep)
    assert pauses == [200, 200]


PAGE = b"<!doctype html><title>Sign in to the network</title>"


ODD = [
    *(("GET", "/api/whoami-v2", {"content": content}) for content in (b"{}", b"[]", b"null", b"", PAGE)),
    ("GET", "/api/whoami-v2", {"content": b'{"name": 1, "orgs": 2}'}),
    *(("GET", "/api/collections$", {"content": content}) for content in (b"[1]", PAGE)),  # [] says that there are none
    ("GET", f"/api/models/{DEPTH_4}/", {"content": b'{"id": "my-org/digits-rn1-depth-4", "sha": "0"}'}),
    ("POST", "/api/repos/create", {"status": 409, "content": b"{}"}),
    ("GET", "/api/collections/my-org", {"content": b"{}"}),
    ("POST", "/items$", {"content": b"{}"}),
    *(
        (method, path, {"content": content})
        for method, path in (
            ("GET", f"/api/models/{DEPTH_4}/"), ("POST", "/api/repos/create"),
            ("POST", f"{DEPTH_4}/preupload/"), ("POST", f"{DEPTH_4}.git/info/lfs"), ("POST", f"{DEPTH_4}/commit/"),
            ("POST", "/api/collections$"),
        )
        for content in (b"{}", b"[]", PAGE)
    ),
]  # fmt: skip


def given_up(hub: HubServer, folder, method: str, path: str, answer: dict) -> str:
    hub.fail(method, path, times=1000, **answer)
    with pytest.raises(PublicationError) as stopped:
        publish(hub, folder)
    message = str(stopped.value)
    assert "\n" not in message
    assert re.search(rf"{method} \S*{path.rstrip('$')}|Malformed response|improperly formatted", message), message
    assert ("Nothing was published" in message) != ("Not published: " in message)
    return message


@pytest.mark.parametrize(("method", "path", "answer"), [*ODD[:7], ODD[9]])
def test_an_odd_answer_is_one_sentence(hub, finished_sweep, method, path, answer):
    given_up(hub, finished_sweep, method, path, answer)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "answer"), ODD)
def test_after_an_odd_answer_the_next_start_completes(hub, finished_sweep, method, path, answer):
    given_up(hub, finished_sweep, method, path, answer)
    hub.heal()
    publish(hub, finished_sweep)
    assert json.loads(hub.repository(DEPTH_4).files("seed-1")["metrics.json"])["seed"] == 1
