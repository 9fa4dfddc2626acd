"""Cards say what the results table says, in metadata that the Hub takes."""

import re
import runpy
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from hub_store import card_errors, card_metadata
from huggingface_hub import ModelCard

from hf_ncollapse import cli
from hf_ncollapse.hub.card import collection_note, model_card, results_card
from hf_ncollapse.hub.sweep_folder import read_sweep_folder
from hf_ncollapse.sweeps import parse_recipe, read_results, run_sweep, summarize
from hf_ncollapse.sweeps.paper_figures import beside_the_paper, paper_panels
from hf_ncollapse.sweeps.report import finish_sweep
from hf_ncollapse.sweeps.results import SETTINGS, write_results

SAMPLES = ["--dataset", "digits", "--train_samples", "100", "--test_samples", "50", "--use_cpu", "--seeds", "0"]
TINY = ["--depths", "2", "--hidden_size", "16", "--max_steps", "2", "--per_device_train_batch_size", "100"]
COMMITTED = sorted(Path(__file__).parents[2].glob("model_cards/*/README.md"))


def tables(card: str) -> list[pd.DataFrame]:
    """Every Markdown table with a heading row."""
    found = re.findall(r"(?:^\|.*\|\n)+", card, flags=re.MULTILINE)
    frames = [pd.read_csv(StringIO(table), sep="|", skipinitialspace=True, skiprows=[1]) for table in found]
    return [frame.iloc[:, 1:-1].rename(columns=str.strip) for frame in frames]


def reported(card: str) -> dict[tuple[str, str], float]:
    """(split, name) → value, of the card's model-index."""
    return {
        (result.dataset_split, result.metric_name): result.metric_value for result in ModelCard(card).data.eval_results
    }


@pytest.fixture(scope="module")
def sweep(finished_sweep):
    return read_sweep_folder(finished_sweep)


def test_metadata_are_what_the_hub_takes(sweep):
    for card in [*(model_card(sweep, run, "my-org") for run in sweep.runs), results_card(sweep, "my-org")]:
        assert card_errors(str(card)) == []
    metadata = card_metadata(str(model_card(sweep, sweep.runs[0], "my-org")))
    assert metadata["pipeline_tag"] == "image-classification"
    assert metadata["license"] == "apache-2.0"
    assert {"hf-ncollapse", "neural-collapse", "L-RN1"} <= set(metadata["tags"])
    assert card_metadata(str(results_card(sweep, "my-org")))["configs"][0]["data_files"] == "results.csv"


def test_the_model_index_has_every_digit_of_the_results_table(sweep):
    for run, (_, row) in zip(sweep.runs, sweep.results.iterrows(), strict=True):
        assert reported(str(model_card(sweep, run, "my-org"))) == {
            ("train", "training accuracy"): row["train_accuracy"],
            ("train", "NC1"): row["nc1"],
            ("train", "NC2"): row["nc2"],
            ("train", "NC3"): row["nc3"],
            ("train", "objective J"): row["objective"],
            ("train", "gap J − J*"): row["gap"],
            ("held-out", "held-out accuracy"): row["test_accuracy"],
        }


def test_the_tables_are_the_results_table_to_four_digits(sweep):
    columns = {"objective J": "objective", "gap J − J*": "gap", "NC1": "nc1", "NC2": "nc2", "NC3": "nc3"}
    whole = tables(str(results_card(sweep, "my-org")))[-1]
    of_a_depth = tables(str(model_card(sweep, sweep.runs[-1], "my-org")))[-1]
    assert whole[["residual blocks B", "seed"]].values.tolist() == sweep.results[["depth", "seed"]].values.tolist()
    for shown, expected in ((whole, sweep.results), (of_a_depth, sweep.results[sweep.results["depth"] == 4])):
        for heading, column in columns.items():
            assert shown[heading].tolist() == pytest.approx(expected[column].tolist(), rel=5e-4)


def test_a_card_says_what_how_and_where(sweep):
    run = sweep.runs_of(4)[1]
    card = str(model_card(sweep, run, "my-org"))
    for said in (
        "A residual network of 4 residual blocks, width 16, post-LayerNorm, features of norm 4",
        "J(θ) = (1/N) Σ cross-entropy(W_L xᵢ, yᵢ) + (λ_L/2)‖W_L‖² + (λ/2) Σ‖W_l‖²",
        "**λ = 0.005** in the blocks and **λ_L = 0.005** in the classifier at this depth",
        "Biases and the embedding are not",
        "‖W Wᵀ − c E‖/‖W Wᵀ‖ with the simplex ETF's E = I − 11ᵀ/K",
        "Optimiser, batch size,\n  schedule, initialisation, patches and tokenizer are ours",
        "200 training and 100 held-out samples, 10 classes",
        "They are not the data set's test set",
        'pipeline("image-classification", "my-org/digits-rn1-depth-4", trust_remote_code=True)',
        'from_pretrained("my-org/digits-rn1-depth-4", revision="seed-1", trust_remote_code=True)',
        'load_sweep("my-org/digits-rn1")',
        "depths: [2, 4]",
        "arXiv:2505.15239",
    ):
        assert said in card
    assert "None" not in card
    assert "nan" not in card


def test_the_recipe_on_a_card_is_the_sweep_s(sweep, tmp_path):
    recipe = re.search(r"```yaml\n(.*?)```", str(model_card(sweep, sweep.runs[0], "my-org")), re.DOTALL)[1]
    (tmp_path / "recipe.yaml").write_text(recipe)
    (parsed,), _ = parse_recipe(["--config", str(tmp_path / "recipe.yaml")])
    assert parsed.to_dict()["sweep"] == sweep.configuration["sweep"]
    assert parsed.to_dict()["data"] == sweep.configuration["data"]
    assert parsed.to_dict()["model"] == sweep.configuration["model"]


def test_the_results_card_links_every_model_and_holds_the_verdicts(sweep):
    card = str(results_card(sweep, "my-org"))
    for depth in (2, 4):
        assert f"(https://huggingface.co/my-org/digits-rn1-depth-{depth}): B = {depth}, branches `seed-0`" in card
    summary = summarize(sweep.results)
    assert card.count("\n- **") == len(summary["verdicts"])
    for verdict in summary["verdicts"]:
        assert f"- **{verdict['answer'].capitalize()}.** {verdict['prediction']}" in card
        assert verdict["evidence"] in card
    assert f"The theory says nothing of other samples: {summary['held_out']}." in card
    assert "![Accuracy and NC1 of training and held-out samples, and the gap](generalization.png)" in card
    assert "![NC1, NC2 and NC3 against depth](collapse.png)" in card


def test_rendering_again_gives_the_same_bytes(sweep, finished_sweep):
    again = read_sweep_folder(finished_sweep)
    assert str(model_card(again, again.runs[0], "my-org")) == str(model_card(sweep, sweep.runs[0], "my-org"))
    assert str(results_card(again, "my-org")) == str(results_card(sweep, "my-org"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--loss", "mse"], ["½‖W_L xᵢ − e_yᵢ‖²", "the orthogonal frame's E = I"]),
        (["--loss", "mse", "--classifier_bias", "true"], ["The classifier has a bias.", "the simplex ETF's"]),
        (
            ["--l2_depth_scaling", "inverse", "--classifier_l2_coefficient", "0.01"],
            ["**λ = 0.0025**", "**λ_L = 0.01**"],
        ),
        (["--l2_depth_scaling", "inverse_all"], ["**λ = 0.0025**", "**λ_L = 0.0025**"]),
        (["--architecture", "L-T11", "--patch_size", "4"], ["A transformer of 2 residual blocks"]),
    ],
)
def test_other_losses_and_architectures_have_their_own_words(tmp_path, options, said):
    arguments = ["--sweep", "other", "--architecture", "L-RN1", *SAMPLES, *TINY, *options]
    (recipe,), _ = parse_recipe([*arguments, "--output_dir", str(tmp_path)])
    sweep = read_sweep_folder(run_sweep(recipe).folder)
    card = str(model_card(sweep, sweep.runs[0], "my-org"))
    assert card_errors(card) == []
    for text in said:
        assert text in card
    assert "None" not in card


def test_a_card_says_which_network_was_split(tmp_path):
    options = ["--depths", "2", "3", "--initialization", "continuation", "--output_dir", str(tmp_path)]
    (recipe,), _ = parse_recipe(["--sweep", "split", "--architecture", "L-RN1", *SAMPLES, *TINY, *options])
    sweep = read_sweep_folder(run_sweep(recipe).folder)
    first, second = (str(model_card(sweep, run, "my-org")) for run in sweep.runs)
    assert "the split of" not in first
    assert "the split of the trained network of depth 2 (depth continuation)" in second


def test_without_an_optimum_a_card_has_no_gap(sweep):
    run = sweep.runs[0]
    row = {**run.row, "gap": None, "gufm_optimum": None}
    card = str(model_card(sweep, type(run)(run.depth, run.seed, run.folder, row, run.metrics, run.config), "my-org"))
    assert "No optimum J* is known" in card
    assert ("train", "gap J − J*") not in reported(card)
    assert card_errors(card) == []


def test_the_split_of_the_gap_sums_to_it_on_every_card(sweep):
    parts = ("penalty of the blocks", "misfit of the outputs", "misfit of the classifier", "spread of the features")
    for run in sweep.runs:
        facts = dict(re.findall(r"^\| ([^|]+) \| ([\d.e-]+) \|$", str(model_card(sweep, run, "my-org")), re.MULTILINE))
        assert sum(float(facts[part]) for part in parts) == pytest.approx(float(facts["gap J − J*"]), rel=2e-3)


def test_a_sweep_beside_the_paper_has_the_papers_numbers_on_its_card(sweep):
    assert "Beside the paper" not in str(results_card(sweep, "my-org"))
    panel = paper_panels()["figure-2-l-rn1-mnist"]
    settings = {**sweep.configuration, "sweep": {**sweep.configuration["sweep"], "paper_panel": panel.key}}
    card = str(results_card(replace(sweep, configuration=settings), "my-org"))
    assert "| quantity | the paper, L = 2 | the paper, L = 34 | ours, B = 2 | ours, B = 4 |" in card
    for row in beside_the_paper(panel, sweep.results):
        assert f"| {' | '.join(row)} |" in card


def test_a_diverged_run_is_said_on_the_results_card_and_has_no_network(sweep_copy):
    results = read_results(sweep_copy)
    last = results.index[-1]
    known = ["depth", "seed", "steps", "status", *SETTINGS]
    results.loc[last, [name for name in results if name not in known]] = None
    results.loc[last, "status"] = "diverged"
    write_results(sweep_copy, results)
    finish_sweep(sweep_copy)
    sweep = read_sweep_folder(sweep_copy)
    assert [(run.depth, run.seed) for run in sweep.runs] == [(2, 0), (2, 1), (4, 0)]
    card = str(results_card(sweep, "my-org"))
    assert "**1 run diverged** and left no network:\nB = 4, seed 1 (after 10 steps)." in card
    assert len(tables(card)[-1]) == 3
    assert card_errors(card) == []


def test_a_note_fits_the_collection(sweep):
    for depth in sweep.depths:
        assert len(collection_note(sweep, depth)) < 250


def test_a_dry_run_writes_the_cards_with_figures_and_table(finished_sweep, tmp_path):
    arguments = ["publish", str(finished_sweep), "--namespace", "my-org", "--dry-run", "--cards", str(tmp_path)]
    assert cli.main(arguments) == 0
    names = {path.name for path in tmp_path.iterdir()}
    figures = {"collapse.png", "gap.png", "gap_parts.png", "rates.png", "generalization.png"}
    assert names == {"README.md", "depth-2.md", "depth-4.md", *figures, "results.csv", "summary.json"}
    assert cli.main([name for name in arguments if name != "--dry-run"]) == 2


@pytest.mark.parametrize("card", COMMITTED, ids=lambda path: path.parent.name)
def test_the_committed_cards_agree_with_the_tables_beside_them(card):
    results = pd.read_csv(card.parent / "results.csv")
    assert card_errors(card.read_text(encoding="utf-8")) == []
    assert len(tables(card.read_text(encoding="utf-8"))[-1]) == len(results)
    for path in card.parent.glob("depth-*.md"):
        text = path.read_text(encoding="utf-8")
        row = results[results["depth"] == int(path.stem.split("-")[1])].iloc[0]
        values = reported(text)
        assert card_errors(text) == []
        for name, column in (("NC1", "nc1"), ("NC2", "nc2"), ("NC3", "nc3"), ("gap J − J*", "gap")):
            assert values["train", name] == row[column]


def test_the_list_of_committed_sweeps_is_the_one_that_their_results_give():
    folder = COMMITTED[0].parents[1]
    assert runpy.run_path(str(folder / "index.py"))["index"]() == (folder / "README.md").read_text(encoding="utf-8")
