"""Several processes share the samples out, and all of them have one process's numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Started under torch.distributed by the test, and alone by itself. The set has 43 samples in batches of 8: two
# processes get 3 batches each, the last of them short; a set of one batch leaves the second process without any.
SCRIPT = """
import json, sys
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, BertModel
from hf_ncollapse.inspection import measure_collapse

torch.set_num_threads(1)
state = PartialState(cpu=True)
torch.manual_seed(0)
config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                    num_labels=4)
model, encoder = BertForSequenceClassification(config), BertModel(config)

def dataset(size):
    generator = torch.Generator().manual_seed(size)
    tokens = torch.randint(5, 50, (size, 9), generator=generator)
    labels = [i % 4 for i in range(size)]
    return Dataset.from_dict({"input_ids": tokens.tolist(), "label": labels, "text": ["x"] * size})

inputs = dataset(43).select_columns(["input_ids", "label"]).with_format("torch")
options = dict(batch_size=8, layers="all", measures="all", progress=False)
reports = {
    "uneven": measure_collapse(model, dataset(43), **options),
    "less than a batch": measure_collapse(model, dataset(7), **options),
    "encoder": measure_collapse(encoder, dataset(43), **options),
    "loader": measure_collapse(model, DataLoader(inputs, batch_size=8), **options),
    "second look": measure_collapse(model, dataset(43), measures=["nc1", "nc4"], batch_size=8, progress=False),
}
message = None
if state.num_processes > 1:
    try:
        measure_collapse(model, DataLoader(dataset(43).with_format("torch"), batch_size=8, shuffle=True))
    except ValueError as error:
        message = str(error)
result = {"world_size": state.num_processes, "message": message,
          "reports": {name: report.as_dict()["layers"] for name, report in reports.items()}}
with open(f"{sys.argv[1]}/{state.num_processes}-{state.process_index}.json", "w") as file:
    json.dump(result, file)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    several = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    for command in ([sys.executable], several):
        arguments = [*command, str(script), str(folder)]
        subprocess.run(arguments, env=environment, check=True, timeout=240, capture_output=True)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_two_processes_really_run(results):
    assert sorted(results) == ["1-0", "2-0", "2-1"]
    assert results["2-0"]["world_size"] == results["2-1"]["world_size"] == 2


@pytest.mark.parametrize("name", ["uneven", "less than a batch", "encoder", "loader", "second look"])
def test_two_processes_have_one_processs_numbers(results, name):
    one = results["1-0"]["reports"][name]
    for process in ("2-0", "2-1"):
        several = results[process]["reports"][name]
        assert [row["layer"] for row in several] == [row["layer"] for row in one]
        for row, expected in zip(several, one, strict=True):
            assert row.keys() == expected.keys()
            for key, value in expected.items():
                assert row[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key


def test_a_shuffled_loader_in_several_processes_is_an_error(results):
    assert "neither shuffled nor shared out already, got RandomSampler" in results["2-1"]["message"]
