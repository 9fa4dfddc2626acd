"""The metric's folder is a Space as it stands: copied alone, its page starts and computes what a visitor asks for."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served_page import served

from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.registry import MEASURES

PAGE = """
import runpy, sys
sys.modules["hf_ncollapse"] = None  # a Space does not have the package
runpy.run_path("app.py", run_name="__main__")
"""
VISITOR = """
import json, sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
shown = [client.predict(10, within, geometry, 3, api_name="/measure")
         for within, geometry in ((0, 0), (0.8, 0.5), (1, 1))]
points = client.predict(10, 1, 1, 3, api_name="/picture")["data"]
print("POINTS" + json.dumps(points))
print("RESULT" + json.dumps([{name: float(value) for name, value, _ in table["data"]} for table in shown]))
"""


@pytest.mark.slow
def test_the_page_starts_from_a_copy_of_the_folder_and_shows_collapse_in_every_measure(tmp_path):
    shutil.copytree(Path(measures.__file__).parent, tmp_path / "space")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    with served(tmp_path / "space", environment, "-c", PAGE) as address:
        visitor = subprocess.run(
            [sys.executable, "-c", VISITOR, address], env=environment, capture_output=True, text=True, check=False
        )
    assert visitor.returncode == 0, visitor.stderr
    points = json.loads(re.search("^POINTS(.*)$", visitor.stdout, flags=re.MULTILINE)[1])
    assert {(round(x, 4), round(y, 4)) for x, y, _ in points} == {
        (round(math.cos(k * math.pi / 5), 4) + 0.0, round(math.sin(k * math.pi / 5), 4) + 0.0) for k in range(10)
    }
    random, half, collapsed = json.loads(visitor.stdout.rpartition("RESULT")[2])
    assert set(collapsed) == {*MEASURES}
    for name in ("nc1", "nc2", "nc2_means", "nc3"):
        assert random[name] > half[name] > collapsed[name] == pytest.approx(0, abs=1e-6), name
