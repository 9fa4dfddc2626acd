"""A downloaded repository runs nothing, no pickle and no code, and what it says of its size is checked."""

import json
import os
import pickle
import re
import subprocess
import sys

from hub_server import WRITER
from huggingface_hub import HfApi, constants

from hf_ncollapse.hub.publish import publish_sweep

LOAD = """
import hf_ncollapse
sweep = hf_ncollapse.load_sweep("my-org/digits-rn1")
print(type(sweep.load(2, 0)).__module__, type(sweep.processor(2, 0)).__module__)
try:
    sweep.load(4, 0)
except OSError as error:
    print("refused" if "safetensors" in str(error) else error)
for depth, load in ((2, sweep.load), (2, sweep.processor), (4, sweep.load)):
    try:
        load(depth, 1)
    except ValueError as error:
        print(error)
"""


class Exploit:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_code_and_pickles_of_a_repository_stay_unused(hub, finished_sweep, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    publish_sweep(finished_sweep, "my-org", api=HfApi(endpoint=hub.endpoint, token=WRITER))
    mark = str(tmp_path / "mark")
    hostile = {"pytorch_model.bin": pickle.dumps(Exploit(mark))}
    hostile |= {
        name: f"import os\nos.mkdir({mark!r})\n".encode()
        for name in hub.repository("my-org/digits-rn1-depth-2").files("seed-0")
        if name.endswith(".py")
    }
    assert "modeling_collapse_resnet.py" in hostile
    for depth in (2, 4):
        hub.store.put("model", f"my-org/digits-rn1-depth-{depth}", hostile, branch="seed-0")
    for depth, hostile in ((2, {"num_hidden_layers": 10**6}), (4, {"num_labels": 10**9})):
        repo_id = f"my-org/digits-rn1-depth-{depth}"
        config = json.loads(hub.repository(repo_id).files("seed-1")["config.json"]) | hostile
        hub.store.put("model", repo_id, {"config.json": json.dumps(config).encode()}, branch="seed-1")
    # Depth 4 has its pickle alone.
    hub.repository("my-org/digits-rn1-depth-4").at("seed-0").files.pop("model.safetensors")

    finished = subprocess.run(
        [sys.executable, "-c", LOAD],
        env=os.environ | hub.environment(tmp_path / "home", token=None),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    *ours, layers, layers_again, labels = finished.stdout.splitlines()
    assert ours == [
        "hf_ncollapse.models.modeling_collapse_resnet hf_ncollapse.models.image_processing_collapse",
        "refused",
    ]
    assert "config.json says num_hidden_layers = 1000000, not 2; my-org/digits-rn1-depth-2@seed-1 holds no" in layers
    assert layers_again == layers
    assert re.search(r"depth-4@seed-1 has \d+ tensors of [\d,]+ weights, too few for .* \(num_labels\)", labels)
    assert not os.path.exists(mark)
