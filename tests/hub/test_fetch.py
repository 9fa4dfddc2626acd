"""A published sweep is loaded in fresh processes: with the package, without it, and from the cache alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from transformers import AutoModelForImageClassification

from hf_ncollapse.sweeps import parse_recipe, read_results, run_sweep

_SMALL = [
    "--architecture", "L-RN1", "--norm_placement", "post", "--dataset", "digits", "--train_samples", "200",
    "--test_samples", "100", "--depths", "2", "4", "--seeds", "0", "3", "--max_steps", "10", "--eval_steps", "10",
    "--per_device_train_batch_size", "200", "--use_cpu", "--sweep", "digits-rn1",
]  # fmt: skip
PUBLISH = "import sys; from hf_ncollapse import cli; sys.exit(cli.main(sys.argv[1:]))"
WITHOUT_PACKAGE = """
import json, sys
sys.modules["hf_ncollapse"] = None  # any import of the package fails
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline
repo_id, image = "my-org/digits-rn1-depth-4", Image.new("L", (8, 8), 7)
pixels = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
logits = {}
for revision in ("main", "seed-3"):
    model = AutoModelForImageClassification.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
    logits[revision] = model(pixels).logits.tolist()
classify = pipeline("image-classification", repo_id, trust_remote_code=True)
print(json.dumps({"logits": logits, "labels": len(classify(image, top_k=10))}))
"""
WITH_PACKAGE = """
import builtins, json, os, sys
builtins.input = lambda *_: sys.exit("a question was asked")
import torch
import hf_ncollapse
sweep = hf_ncollapse.load_sweep(sys.argv[1])
runs = [(run.depth, run.seed) for run in sweep]
pixels = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
logits = {f"{depth}/{seed}": sweep.load(depth, seed)(pixels).logits.tolist() for depth, seed in runs}
copied = [name for name in sys.modules if name.startswith("transformers_modules.")]
print(json.dumps({
    "runs": runs, "depths": sweep.depths, "seeds": sweep.seeds, "logits": logits, "remote_code": copied,
    "gaps": sweep.results["gap"].tolist(), "processor": type(sweep.processor(2)).__module__,
}))
"""


def run(program: str, environment: dict[str, str], *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment,
        cwd=environment["HF_HOME"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def read_answer(output: str) -> dict:
    return json.loads(output.splitlines()[-1])


def logits_of(folder: Path) -> list:
    model = AutoModelForImageClassification.from_pretrained(folder)
    return model(torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)).logits.tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """L-RN1 on digits, depths 2 and 4, seeds 0 and 3."""
    (recipe,), _ = parse_recipe([*_SMALL, "--output_dir", str(tmp_path_factory.mktemp("runs"))])
    return run_sweep(recipe).folder


def publish(hub: HubServer, trained: Path, home: Path) -> None:
    home.mkdir()
    run(PUBLISH, hub.environment(home), "publish", str(trained), "--namespace", "my-org")


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """The Hub with the sweep, uploaded by LFS."""
    with HubServer() as hub:
        publish(hub, trained, tmp_path_factory.mktemp("publisher") / "home")
        yield hub


@pytest.fixture
def fresh(published, tmp_path) -> dict[str, str]:
    """Variables of a process that has an empty cache and no login."""
    return published.environment(tmp_path, token=None)


def test_without_the_package_auto_classes_and_pipeline_work_and_give_the_local_logits(fresh, trained):
    answer = read_answer(run(WITHOUT_PACKAGE, fresh))
    assert answer["logits"] == {
        "main": logits_of(trained / "depth-4" / "seed-0"),
        "seed-3": logits_of(trained / "depth-4" / "seed-3"),
    }
    assert answer["labels"] == 10
    # Everything is in the cache now.
    assert read_answer(run(WITHOUT_PACKAGE, fresh | {"HF_HUB_OFFLINE": "1"})) == answer


@pytest.mark.slow
def test_weights_that_went_by_xet_come_back_the_same(xet_hub, trained, tmp_path):
    publish(xet_hub, trained, tmp_path / "publisher")
    assert xet_hub.store.large_files == {}
    (tmp_path / "home").mkdir()
    answer = read_answer(run(WITHOUT_PACKAGE, xet_hub.environment(tmp_path / "home", token=None)))
    assert answer["logits"]["seed-3"] == logits_of(trained / "depth-4" / "seed-3")


def test_load_sweep_lists_and_loads_every_network_without_running_downloaded_code(published, fresh, trained):
    answer = read_answer(run(WITH_PACKAGE, fresh, "my-org/digits-rn1"))
    assert answer["runs"] == [[2, 0], [2, 3], [4, 0], [4, 3]]
    assert (answer["depths"], answer["seeds"]) == ([2, 4], [0, 3])
    assert answer["gaps"] == read_results(trained)["gap"].tolist()
    for name, logits in answer["logits"].items():
        depth, seed = name.split("/")
        assert logits == logits_of(trained / f"depth-{depth}" / f"seed-{seed}")
    assert answer["remote_code"] == []
    assert answer["processor"].startswith("hf_ncollapse.")
    # A Collection's address, here without the network, opens the same.
    (slug,) = published.store.collections
    assert read_answer(run(WITH_PACKAGE, fresh | {"HF_HUB_OFFLINE": "1"}, slug)) == answer


@pytest.mark.slow
def test_a_published_network_is_certified_from_the_hub_and_a_forged_card_is_not(published, fresh, tmp_path):
    arguments = ("certify", "my-org/digits-rn1-depth-4", "--revision", "seed-3", "--curvature-steps", "0")
    output = run(PUBLISH, fresh, *arguments)
    claims = re.search(r"(\d+) of (\d+) claims hold", output)
    assert claims[1] == claims[2]
    assert int(claims[1]) > 30
    (card,) = Path(fresh["HF_HOME"]).glob("hub/models--my-org--digits-rn1-depth-4/snapshots/*/README.md")
    text = card.read_text()
    (value,) = re.findall(r"type: nc1\n\s+value: (\S+)", text)
    card.unlink()  # a link into the cache
    card.write_text(text.replace(value, str(float(value) / 2)))
    forged = subprocess.run(
        [sys.executable, "-c", PUBLISH, *arguments], env=os.environ | fresh | {"HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert forged.returncode == 1
    assert "README.md says NC1 is" in forged.stdout


ERRORS = """
import sys
import hf_ncollapse
for name in ("no-slash", "my-org/absent", None):
    try:
        hf_ncollapse.load_sweep(name)
    except (ValueError, FileNotFoundError) as error:
        print(type(error).__name__, error)
sweep = hf_ncollapse.load_sweep("my-org/digits-rn1")
for arguments in ((3,), (2, 7)):
    try:
        sweep.load(*arguments)
    except ValueError as error:
        print(error)
print(hf_ncollapse.load_sweep(sys.argv[1]))
"""


SHOWN = "PublishedSweep(my-org/digits-rn1: 4 networks, depths 2, 4, seeds 0, 3)"


def test_what_is_not_there_is_named_and_a_collection_is_found(published, fresh):
    (slug,) = published.store.collections
    lines = run(ERRORS, fresh, slug).splitlines()
    assert lines[0].startswith(
        "ValueError name is 'no-slash'; it takes a sweep's folder, namespace/sweep, or a Collection's"
    )
    assert lines[1].startswith("FileNotFoundError no sweep my-org/absent")
    assert lines[2].startswith("ValueError name is None")
    assert lines[3:] == ["depth is 3; digits-rn1 has 2, 4", "seed is 7; depth 2 has 0, 3", SHOWN]


TABLES = """
import hf_ncollapse
for name in ("diverged", "short", "cut", "status", "infinite", "binary", "wide", "long"):
    try:
        sweep = hf_ncollapse.load_sweep(f"my-org/{name}")
        print([(run.depth, run.seed) for run in sweep])
        sweep.load(4, 0)
    except ValueError as error:
        print(error)
"""


def test_a_diverged_run_is_no_network_and_a_damaged_table_is_named_without_advice_for_a_folder(hub, trained, tmp_path):
    whole = (trained / "results.csv").read_text()
    results = read_results(trained)
    diverged = (results["depth"] == 4) & (results["seed"] == 0)
    results.loc[diverged, "status"] = "diverged"
    results.loc[diverged, ["objective", "gap", "nc1", "nc2", "nc3"]] = None
    tables = {
        "diverged": results.to_csv(index=False),
        "short": "depth,seed\n2,0\n",
        "cut": whole[: len(whole) // 2],
        "status": whole.replace("finished", "done"),
        "infinite": re.sub(r",2,0,0.005,", ",inf,0,0.005,", whole),
        "binary": "\0\0",
        "wide": whole.replace("\n", f"{',' * 10**6}\n", 1),
        "long": whole + whole.splitlines()[1][-20:] * 10**6,
    }
    for name, table in tables.items():
        hub.store.put("dataset", f"my-org/{name}-results", {"results.csv": table.encode()})
    runs, refused, *damaged = run(TABLES, hub.environment(tmp_path, token=None)).splitlines()
    assert runs == "[(2, 0), (2, 3), (4, 3)]"
    assert refused == "seed is 0; depth 4 has 3"
    assert len(damaged) == 7
    for name, said in zip(list(tables)[1:], damaged, strict=True):
        assert f"my-org/{name}-results holds no table that a sweep wrote" in said
        assert "delete" not in said


HUGE = """
import hf_ncollapse
try:
    hf_ncollapse.load_sweep("my-org/huge")
except ValueError as error:
    print(error)
"""


def test_what_is_larger_than_a_sweeps_is_left_on_the_hub(hub, tmp_path):
    huge = b"depth,seed\n" + b" " * 2**25
    hub.store.put("dataset", "my-org/huge-results", {"results.csv": huge})
    said = run(HUGE, hub.environment(tmp_path, token=None))
    assert said.startswith(f"my-org/huge-results has a results.csv of {len(huge):,} bytes, a sweep's has at most")
    assert hub.requests
    assert {method for method, path, _ in hub.requests if "results.csv" in path} == {"HEAD"}


CERTIFY = """
import sys
from hf_ncollapse.certification import certify
try:
    list(certify(sys.argv[1]))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["metrics.json", "config.json", "README.md"])
def test_what_is_larger_than_a_networks_is_left_on_the_hub_when_it_is_certified(hub, trained, name, tmp_path):
    written = ("metrics.json", "config.json", "model.safetensors")
    files = {written_name: (trained / "depth-2/seed-0" / written_name).read_bytes() for written_name in written}
    files |= {name: b" " * (2**25 + 1), "pytorch_model.bin": b"a pickle"}
    hub.store.put("model", "my-org/huge", files)
    said = run(CERTIFY, hub.environment(tmp_path, token=None), "my-org/huge")
    assert said.startswith(f"my-org/huge has a {name} of {2**25 + 1:,} bytes, a sweep's has at most")
    downloaded = {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "resolve" in path}
    assert downloaded <= set(written) - {name}


def test_a_network_is_certified_only_when_its_configuration_asks_for_no_more_than_its_weights(hub, trained, tmp_path):
    run_folder = trained / "depth-2/seed-0"
    files = {name: (run_folder / name).read_bytes() for name in ("metrics.json", "config.json", "model.safetensors")}
    config = json.loads(files["config.json"]) | {"num_labels": 10**9}
    hub.store.put("model", "my-org/huge", files | {"config.json": json.dumps(config).encode()})
    said = run(CERTIFY, hub.environment(tmp_path, token=None), "my-org/huge")
    assert re.search(r"my-org/huge@\w+ has \d+ tensors of [\d,]+ weights, too few for .* \(num_labels\)", said)


def test_nothing_but_safetensors_holds_weights_on_the_hub(published):
    for depth in (2, 4):
        for revision in ("main", "seed-0", "seed-3"):
            names = published.repository(f"my-org/digits-rn1-depth-{depth}").files(revision)
            assert "model.safetensors" in names
            assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
