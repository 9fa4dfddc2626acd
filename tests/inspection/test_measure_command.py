"""`hf-ncollapse measure` and `theory`: checkpoints and data as users have them, and errors that say what to do."""

import csv
import json
import re

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from hf_ncollapse import CollapseImageProcessor, CollapseResNetConfig, CollapseResNetForImageClassification
from hf_ncollapse.cli import main
from hf_ncollapse.data import DataArguments, load_classification_data
from hf_ncollapse.inspection import measure_collapse
from hf_ncollapse.inspection.checkpoint import load_checkpoint
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.sweeps import run_sweep
from hf_ncollapse.sweeps.arguments import ModelArguments, Recipe, SweepArguments

WORDS = ["good", "bad", "film", "plot", "a", "the", "fine", "poor"]
WAVES = [torch.sin(torch.arange(300 + 20 * i) * (0.1 + 0.1 * (i % 3))).tolist() for i in range(12)]
TEXTS = [" ".join(WORDS[(i * j + i) % 8] for j in range(2 + i % 5)) for i in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of four kinds, and reviews as CSV and as a saved data set."""
    folder = tmp_path_factory.mktemp("measure")
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, **{"unk_token": "[UNK]"}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **{"pad_token": "[PAD]", "unk_token": "[UNK]"})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=10, **sizes, label2id={"neg": 0, "pos": 1}, id2label={0: "neg", 1: "pos"})
    language = GPT2Config(vocab_size=10, n_embd=16, n_layer=1, n_head=2, n_positions=16, pad_token_id=0)
    checkpoints = {
        "classifier": BertForSequenceClassification(config),
        "encoder": BertModel(config),
        "tagger": BertForTokenClassification(config),
        "language": GPT2LMHeadModel(language),
        "filler": BertForMaskedLM(config),
    }
    for name, model in checkpoints.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = Dataset.from_dict({"text": TEXTS, "label": [i % 2 for i in range(24)]})
    rows.to_csv(folder / "reviews.csv")
    Dataset.from_dict({"text": TEXTS, "label": ["pos" if i % 2 else "neg" for i in range(24)]}).to_json(
        folder / "named.jsonl"
    )
    rows.remove_columns("label").to_csv(folder / "unlabeled.csv")
    Dataset.from_dict({"text": TEXTS, "label": [i % 3 for i in range(24)]}).to_csv(folder / "three.csv")
    (folder / "empty.csv").write_text("text,label\n")
    (folder / "reviews.txt").write_text("good film\n")
    tags = [[len(word) % 2 for word in text.split()] for text in TEXTS]
    Dataset.from_dict({"tokens": [text.split() for text in TEXTS], "ner_tags": tags}).save_to_disk(folder / "tags")
    DatasetDict({"train": rows, "test": rows.select(range(10))}).save_to_disk(folder / "saved")
    Dataset.from_dict({"text": TEXTS[:3], "label": ["pos", "neg", "meh"]}).to_csv(folder / "unknown.csv")
    Dataset.from_dict({"text": TEXTS[:3], "label": ["pos", None, "neg"]}).to_json(folder / "missing_label.jsonl")
    BertForSequenceClassification(config).save_pretrained(folder / "bare")
    hearing = Wav2Vec2Config(
        **sizes, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=12, num_labels=3,
    )  # fmt: skip
    for name in ("listener", "bare_listener"):
        Wav2Vec2ForSequenceClassification(hearing).save_pretrained(folder / name)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "listener")
    for name, rate in (("sounds", 16000), ("slow_sounds", 8000)):
        sounds = [{"array": wave, "sampling_rate": rate} for wave in WAVES]
        Dataset.from_dict({"audio": sounds, "label": [i % 3 for i in range(12)]}).save_to_disk(folder / name)
    Dataset.from_dict({"audio": WAVES, "label": [i % 3 for i in range(12)]}).save_to_disk(folder / "waves")
    return folder


def measure(*arguments):
    return main(["measure", *map(str, arguments)])


def test_a_classifier_and_a_csv_file_give_a_table_a_file_and_a_figure(folder, tmp_path, capsys):
    outputs = [tmp_path / f"collapse.{ending}" for ending in ("csv", "json", "png")]
    code = measure(folder / "classifier", "--dataset", folder / "reviews.csv", "--layers", "all", "--output", *outputs)
    assert code == 0
    assert 'classifier "classifier" (16 → 2)' in capsys.readouterr().out
    rows = list(csv.DictReader(outputs[0].open()))
    assert [row["layer"] for row in rows] == ["bert.encoder.layer.0", "bert.encoder.layer.1", "features"]
    written = json.loads(outputs[1].read_text())["layers"][-1]
    assert written["nc1"] == pytest.approx(float(rows[-1]["nc1"]))
    assert written["num_samples"] == 24
    assert outputs[2].stat().st_size > 5000

    tokens = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    model = BertForSequenceClassification.from_pretrained(folder / "classifier")
    one_by_one = [
        {"input_ids": torch.tensor([[tokens[word] for word in text.split()]]), "labels": torch.tensor([i % 2])}
        for i, text in enumerate(TEXTS)
    ]
    assert measure_collapse(model, one_by_one)["nc1"] == pytest.approx(written["nc1"], rel=1e-4)
    assert measure(folder / "classifier", "--dataset", folder / "named.jsonl", "--output", outputs[1]) == 0
    assert json.loads(outputs[1].read_text())["layers"][-1]["nc1"] == pytest.approx(written["nc1"], rel=1e-6)


def test_a_second_split_is_measured_about_the_firsts_means(folder, tmp_path, capsys):
    output = tmp_path / "collapse.json"
    arguments = ["--dataset", folder / "saved", "--test-split", "test", "--output", output]
    assert measure(folder / "classifier", *arguments) == 0
    assert "about the training set's class means" in capsys.readouterr().out
    held_out = json.loads((tmp_path / "collapse-test.json").read_text())["layers"][-1]
    assert (held_out["class_means"], held_out["num_samples"]) == ("training", 10)


def test_a_checkpoint_without_a_classifier_is_measured_as_an_encoder(folder, capsys):
    assert measure(folder / "encoder", "--dataset", folder / "reviews.csv") == 0
    shown = capsys.readouterr().out
    assert "BertModel: no classifier" in shown
    assert "not measured: nc3 (the model has no classifier)" in shown


def test_a_tagger_is_measured_on_the_first_token_of_every_word(folder, tmp_path):
    output = tmp_path / "tags.json"
    assert measure(folder / "tagger", "--dataset", folder / "tags", "--output", output) == 0
    assert json.loads(output.read_text())["layers"][-1]["num_samples"] == sum(len(text.split()) for text in TEXTS)


@pytest.mark.parametrize("dataset", ["waves", "sounds"])
def test_a_checkpoint_that_hears_is_measured_on_waves_of_its_rate(folder, tmp_path, dataset):
    output = tmp_path / "collapse.json"
    assert measure(folder / "listener", "--dataset", folder / dataset, "--layers", "all", "--output", output) == 0
    measured = json.loads(output.read_text())["layers"]
    assert [layer["width"] for layer in measured] == [16, 16, 12]

    model = Wav2Vec2ForSequenceClassification.from_pretrained(folder / "listener").eval()
    processor = Wav2Vec2FeatureExtractor.from_pretrained(folder / "listener")
    inputs = processor(WAVES, sampling_rate=16000, padding=True, return_tensors="pt")
    features = []
    model.classifier.register_forward_pre_hook(lambda _, arguments: features.append(arguments[0]))
    with torch.no_grad():
        model(**inputs)
    statistics = ClassStatistics(3)
    statistics.update(features[0], torch.arange(12) % 3)
    assert measured[-1]["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)


class Decoder:
    """Reads its file when it is asked, as what `datasets.Audio` gives does."""

    def __getitem__(self, name):
        return {"array": torch.tensor(WAVES[0]).numpy(), "sampling_rate": 16000}[name]


def test_sounds_that_are_decoded_on_reading_are_read(folder):
    rows = [{"audio": Decoder(), "label": 0}]
    collate = load_checkpoint(str(folder / "listener")).collate(input_column=None, label_column=None, max_length=None)
    written_out = collate([{"audio": WAVES[0], "label": 0}])
    torch.testing.assert_close(collate(rows)["input_values"], written_out["input_values"])


def test_a_language_models_classes_are_tokens_and_the_data_sets_labels_are_not_used(folder, tmp_path):
    output = tmp_path / "tokens.json"
    arguments = ["--dataset", folder / "reviews.csv", "--min-class-count", 3, "--output", output]
    assert measure(folder / "language", *arguments) == 0
    assert json.loads(output.read_text())["layers"][-1]["num_samples"] == sum(len(text.split()) - 1 for text in TEXTS)


def test_a_checkpoint_of_the_package_is_measured_on_a_packaged_set(tmp_path):
    torch.manual_seed(0)
    data = load_classification_data("digits")
    config = CollapseResNetConfig(image_size=8, num_channels=1, hidden_size=16, num_hidden_layers=2, num_labels=10)
    model = CollapseResNetForImageClassification(config)
    model.save_pretrained(tmp_path / "model")
    assert isinstance(data.processor, CollapseImageProcessor)
    data.processor.save_pretrained(tmp_path / "model")
    output = tmp_path / "collapse.json"
    arguments = ["--dataset", "digits", "--limit", 500, "--output", output, "--measures", "paper"]
    assert measure(tmp_path / "model", *arguments) == 0
    assert json.loads(output.read_text())["layers"][-1]["num_samples"] == 500


def save_named(folder, names, labels):
    """Reviews whose labels have names."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_dict({"text": TEXTS, "label": labels}, features=features).save_to_disk(folder)
    return folder


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (["neg", "pos"], [0, 1], ""),
        (["pos", "neg"], [1, 0], "labels are the model's of the same names: pos 0 → 1, neg 1 → 0"),
        (["POS", "Neg"], [1, 0], "labels are the model's of the same names: POS 0 → 1, Neg 1 → 0"),
        (["bad", "good"], [0, 1], ""),
    ],
)
def test_labels_are_matched_by_name(folder, tmp_path, capsys, names, labels, said):
    output = tmp_path / "collapse.json"
    assert measure(folder / "classifier", "--dataset", folder / "reviews.csv", "--output", output) == 0
    expected = json.loads(output.read_text())["layers"][-1]
    capsys.readouterr()
    dataset = save_named(tmp_path / "named", names, [labels[i % 2] for i in range(24)])
    assert measure(folder / "classifier", "--dataset", dataset, "--output", output) == 0
    assert json.loads(output.read_text())["layers"][-1]["nc3"] == pytest.approx(expected["nc3"], rel=1e-6)
    shown = capsys.readouterr().out
    assert said in shown
    assert ("same names" in shown) == bool(said)


def test_labels_of_words_are_matched_by_name(folder, tmp_path):
    texts = [text.split() for text in TEXTS]
    named = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["pos", "neg"]))})
    tags = [[1 - len(word) % 2 for word in text] for text in texts]
    Dataset.from_dict({"tokens": texts, "ner_tags": tags}, features=named).save_to_disk(tmp_path / "tags")
    found = []
    for dataset in (folder / "tags", tmp_path / "tags"):
        output = tmp_path / "collapse.json"
        assert measure(folder / "tagger", "--dataset", dataset, "--output", output) == 0
        found.append(json.loads(output.read_text())["layers"][-1]["nc3"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_names_that_half_agree_are_refused(folder, tmp_path, capsys):
    dataset = save_named(tmp_path / "named", ["neg", "positive"], [i % 2 for i in range(24)])
    assert measure(folder / "classifier", "--dataset", dataset) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the data's classes are neg, positive, the model's neg, pos: only some agree, not positive" in error


def test_names_that_differ_in_their_case_alone_are_kept_apart(folder):
    model = load_checkpoint(str(folder / "classifier"))
    model.model.config.id2label = {0: "a", 1: "A"}
    assert model.collate(features={"label": ClassLabel(names=["A", "a"])}).model_labels == [1, 0]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two sweeps of two small networks each, by loss."""
    folder = tmp_path_factory.mktemp("sweeps")
    for loss in ("cross_entropy", "mse"):
        run_sweep(
            Recipe(
                SweepArguments(loss, "L-RN1", [1, 2]),
                ModelArguments(hidden_size=16, loss=loss, l2_coefficient=0.005),
                DataArguments("digits", train_samples=200, subset_seed=3),
                {"max_steps": 20, "full_batch": True, "output_dir": str(folder)},
            )
        )
    return folder


@pytest.mark.parametrize(("loss", "nc2"), [("cross_entropy", "nc2"), ("mse", "nc2_identity")])
def test_a_run_of_a_sweep_is_measured_on_its_own_data(sweep, tmp_path, loss, nc2):
    output, run = tmp_path / "collapse.json", sweep / loss / "depth-2" / "seed-0"
    assert measure(run, "--test-split", "test", "--output", output) == 0
    found = json.loads(output.read_text())["layers"][-1]
    metrics = json.loads((run / "metrics.json").read_text())
    assert found["num_samples"] == 200
    for measured, name in (("nc1", "nc1"), (nc2, "nc2"), ("nc3", "nc3")):
        assert found[measured] == pytest.approx(metrics[name], abs=1e-6)
    held_out = json.loads((tmp_path / "collapse-test.json").read_text())["layers"][-1]
    assert (held_out["class_means"], held_out["num_samples"]) == ("training", metrics["test_samples"])


def test_a_sweeps_folder_lists_its_runs(sweep, capsys):
    assert measure(sweep / "mse") == 0
    shown = capsys.readouterr().out
    for depth in (1, 2):
        run = sweep / "mse" / f"depth-{depth}" / "seed-0"
        assert f"{run} finished {json.loads((run / 'metrics.json').read_text())['nc1']:.4g}" in " ".join(shown.split())


def test_what_has_no_data_of_its_own_needs_a_data_set(folder, sweep, capsys):
    run = sweep / "mse" / "depth-1" / "seed-0"
    for arguments, message in (
        ([folder / "classifier"], "--dataset is needed"),
        ([run, "--label-column", "digit"], "--label-column goes with --dataset"),
        ([run, "--split", "validation"], "--split is 'validation', a sweep's run has train, test"),
    ):
        assert measure(*arguments) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("model", "dataset", "options", "message"),
    [
        ("classifier", "three.csv", [], "a label is 2, but the model has num_labels = 2 classes"),
        ("classifier", "unlabeled.csv", [], "label column is 'label or labels', the data have text: unlabeled"),
        ("classifier", "empty.csv", [], "empty"),
        ("classifier", "saved", ["--split", "dev"], "--split is 'dev'; "),
        ("classifier", "missing.csv", [], "a folder or file that is here, or a Hub data set's id"),
        ("classifier", "reviews.csv", ["--input-column", "review"], "input column is 'review', the data have text"),
        ("classifier", "reviews.csv", ["--layers", "head"], "got ['head']; a block of it is \"bert.encoder.layer.0\""),
        ("classifier", "reviews.csv", ["--output", "out.txt"], "--output must end in .csv"),
        ("classifier", "reviews.csv", ["--limit", "0"], "--limit must be at least 1"),
        ("classifier", "reviews.txt", [], "a file must end in .csv, .json"),
        ("classifier", "unknown.csv", [], "label 'meh' is not a class of the model, which has neg, pos"),
        ("classifier", "missing_label.jsonl", [], "a label is missing"),
        ("listener", "slow_sounds", [], "the model hears 16000 Hz, the data have 8000: resample with"),
        ("missing", "reviews.csv", [], "no folder here and no Hub id"),
        ("filler", "reviews.csv", [], "is a BertForMaskedLM; measured are image, text, audio and token classifiers"),
        ("bare", "reviews.csv", [], "no tokenizer beside it: save its tokenizer into the same folder"),
        ("bare_listener", "sounds", [], "no processor beside it (AutoFeatureExtractor)"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(folder, capsys, model, dataset, options, message):
    assert measure(folder / model, "--dataset", folder / dataset, *options) == 2
    *_, last_line = capsys.readouterr().err.splitlines()  # the lines before it are progress bars
    assert last_line.startswith("hf-ncollapse: error:")
    assert message in last_line


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("digits", ["--split", "validation"], "--split is 'validation'; the data set has train"),
        ("someone/some-reviews", [], "dataset 'someone/some-reviews' is neither in the cache nor reachable"),
    ],
)
def test_a_set_that_is_not_there_is_one_line_that_says_what_is(folder, capsys, monkeypatch, dataset, options, message):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert measure(folder / "classifier", "--dataset", dataset, *options) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_help_teaches_with_an_example(capsys):
    for command in ("measure", "theory"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert f"  hf-ncollapse {command} " in shown
        assert not re.search(r"seed-0 .*--dataset", shown)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--classes", "10"], ["0.0227593675", "0.8480073", "-0.1111111111", "8.0000000000", "closed form"]),
        (["--classes", "10", "--norm-scale", "unit"], ["0.4753171891", "3.4898554", "-0.1111111111", "1.0000000000"]),
        (["--classes", "10", "--loss", "mse"], ["0.0003903201", "an orthogonal frame"]),
        (["--classes", "10", "--loss", "mse", "--classifier-bias"], ["0.0003161839", "a simplex ETF"]),
        (["--class-counts", "8", "4", "2", "2", "--loss", "mse", "--norm-scale", "unit"], ["0.0097339202"]),
        (["--class-counts", "8", "4", "2", "2"], ["numerical", "lower bound"]),
    ],
)
def test_theory_prints_the_optimum_and_its_geometry(capsys, options, shown):
    assert main(["theory", "--l2", "0.005", *options]) == 0
    printed = capsys.readouterr().out
    for text in shown:
        assert text in printed


def test_the_device_is_chosen_and_one_that_torch_does_not_have_is_named(folder, capsys):
    command = ["measure", str(folder / "classifier"), "--dataset", str(folder / "reviews.csv"), "--device"]
    assert main([*command, "cpu"]) == 0
    capsys.readouterr()
    assert main([*command, "abacus"]) == 2
    assert "--device is 'abacus': Expected one of cpu" in capsys.readouterr().err
