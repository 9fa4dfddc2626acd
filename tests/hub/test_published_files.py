"""Only what a sweep wrote is published: no file of anybody's else, no link, no secret."""

import json

import pytest
from hub_server import WRITER, HubServer
from huggingface_hub import HfApi, constants

from hf_ncollapse.hub.publish import publish_sweep


@pytest.fixture(autouse=True)
def by_lfs(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def publish(hub: HubServer, folder) -> str:
    return publish_sweep(folder, "my-org", api=HfApi(endpoint=hub.endpoint, token=WRITER))


def test_what_no_run_writes_is_named_once_and_left_out(hub, sweep_copy, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_text("hf_secret")
    run = sweep_copy / "depth-4/seed-1"
    (run / ".env.json").write_text("{}")
    (run / "my_api_key.txt").write_text("hf_secret")
    (run / "notes.py").write_text("SECRET = 1\n")
    (run / "other.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    (run / "linked[b].json").symlink_to(secret)
    (run / "data").mkdir()
    publish(hub, sweep_copy)
    repository = hub.repository("my-org/digits-rn1-depth-4")
    assert repository.files("seed-1").keys() == repository.files("seed-0").keys() >= {"model.safetensors"}
    names = (".env.json", "data", "linked[b].json", "my_api_key.txt", "notes.py", "other.safetensors")
    listed = ", ".join(f"depth-4/seed-1/{name}" for name in names)
    assert capsys.readouterr().out.splitlines()[0] == f"left out, because no run writes it: {listed}"


@pytest.mark.parametrize(
    "name",
    [
        "results.csv",
        "geometry.csv",
        "figures",
        "figures/collapse.png",
        "depth-2",
        "depth-4/seed-1",
        "depth-4/seed-1/model.safetensors",
        "depth-4/seed-1/tokenizer.json",
        "depth-4/seed-1/residual_layers.py",
    ],
)
def test_a_link_in_the_place_of_what_is_published_is_refused_before_any_request(hub, sweep_copy, tmp_path, name):
    path, target = sweep_copy / name, tmp_path / "elsewhere"
    if path.exists():
        path.rename(target)
    else:
        target.write_text("{}")
    path.symlink_to(target)
    with pytest.raises(ValueError, match=f"{name} is a symbolic link, and links are not published"):
        publish(hub, sweep_copy)
    assert hub.requests == []


def test_a_configuration_with_a_token_is_refused_without_showing_it(hub, sweep_copy):
    configuration = json.loads((sweep_copy / "sweep.json").read_text())
    configuration["training"] |= {"hub_token": "hf_secret"}
    (sweep_copy / "sweep.json").write_text(json.dumps(configuration))
    with pytest.raises(ValueError, match=r"sweep.json holds the secret hub_token") as refused:
        publish(hub, sweep_copy)
    assert "hf_secret" not in str(refused.value)
    assert hub.requests == []


def test_code_that_is_no_text_is_named_before_any_request(hub, sweep_copy):
    path = sweep_copy / "depth-4/seed-1/residual_layers.py"
    path.write_bytes(b"\xff" + path.read_bytes())
    with pytest.raises(ValueError, match=r"seed-1/residual_layers.py is damaged: 'utf-8' codec"):
        publish(hub, sweep_copy)
    assert not hub.requests
