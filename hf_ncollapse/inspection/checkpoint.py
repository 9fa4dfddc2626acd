"""Load a checkpoint as what it was saved as, with the processor that feeds it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PreTrainedModel

from ..data.texts import knows_no_word
from .forward_pass import current_device
from .wrappers import predicts_next_token

# What the class that a checkpoint was saved from is called -> the Auto class that loads it. A checkpoint without a
# classifier must not be loaded with one: its weights would be random.
_AUTO_CLASSES = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}
_INPUT_COLUMNS = {"image": ("image", "img"), "text": ("text", "sentence", "content"), "audio": ("audio",)}


@dataclass(frozen=True)
class Checkpoint:
    """A model and what turns raw images, texts or sounds into its input.

    Args:
        model: on the accelerator if there is one.
        processor: its image processor, tokenizer or feature extractor.
        modality: "image", "text" or "audio".
    """

    model: PreTrainedModel
    processor: Any
    modality: str

    def collate(
        self,
        *,
        input_column: str | None = None,
        label_column: str | None = None,
        max_length: int | None = None,
        features: Mapping[str, Any] | None = None,
    ) -> "ProcessRows":
        """A collator that processes a list of raw rows into a batch.

        Where `features`, the columns' types, name the classes, labels are the model's of the same names; `relabelled`
        of the collator says so in a sentence when that changes their numbers.

        Raises:
            ValueError: some classes have the model's names and others have not.
        """
        return ProcessRows(self, input_column, label_column, max_length, features or {})


def load_checkpoint(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Checkpoint:
    """Load a Hub id or a folder.

    Raises:
        ValueError: it has no configuration that says what model it is, is none that can be measured, or has no
            tokenizer or processor beside it.
        OSError: it does not exist, or there is no network and it is not in the cache.
    """
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"model is {name!r}, which is no folder here and no Hub id, namespace/name")
    config = transformers.AutoConfig.from_pretrained(name, **options)
    architecture = (config.architectures or ["Model"])[0]
    auto_name = next((auto for ending, auto in _AUTO_CLASSES.items() if architecture.endswith(ending)), None)
    if auto_name == "AutoModelForSequenceClassification" and not _reads_text(config):
        auto_name = "AutoModelForAudioClassification"
    if auto_name is None and architecture.endswith("ForAudioClassification"):
        auto_name = "AutoModelForAudioClassification"
    if auto_name is None and "For" in architecture:
        raise ValueError(
            f"model {name!r} is a {architecture}; measured are image, text, audio and token classifiers, causal "
            "language models and encoders"
        )
    model = getattr(transformers, auto_name or "AutoModel").from_pretrained(name, **options)
    modality = {"pixel_values": "image", "input_ids": "text"}.get(model.main_input_name, "audio")
    loader = {"image": "AutoImageProcessor", "text": "AutoTokenizer", "audio": "AutoFeatureExtractor"}[modality]
    try:
        processor = getattr(transformers, loader).from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {name!r} has no processor beside it ({loader}): {error}") from error
    if modality == "text" and knows_no_word(processor):
        raise ValueError(f"model {name!r} has no tokenizer beside it: save its tokenizer into the same folder")
    if modality == "text" and processor.pad_token is None:
        processor.pad_token = processor.eos_token
    return Checkpoint(model.to(current_device()), processor, modality)


class ProcessRows:
    """A collator of raw rows; `relabelled` says in a sentence which labels it changes, if any."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        input_column: str | None,
        label_column: str | None,
        max_length: int | None,
        features: Mapping[str, Any],
    ):
        self.processor, self.modality = checkpoint.processor, checkpoint.modality
        self.config = checkpoint.model.config
        self.input_column, self.label_column = input_column, label_column
        self.labels_words = type(checkpoint.model).__name__.endswith("ForTokenClassification")
        self.predicts_tokens = predicts_next_token(checkpoint.model)
        self.input_names = ("tokens", "words") if self.labels_words else _INPUT_COLUMNS[self.modality]
        self.label_names = ("ner_tags", "tags", "labels") if self.labels_words else ("label", "labels")
        longest = getattr(self.config, "max_position_embeddings", None) or 512
        self.max_length = max_length or min(longest, 512)
        label_name = self._label_name(features)
        label = None if label_name is None else features.get(label_name)
        names = getattr(getattr(label, "feature", label), "names", None) or []  # of tokens, there is a list of labels
        self.model_labels = None if self.predicts_tokens else _labels_of_names(names, self.config)
        self.relabelled = ""
        if self.model_labels is not None:
            changed = [
                f"{names[label]} {label} → {new}" for label, new in enumerate(self.model_labels) if label != new
            ]
            self.relabelled = f"labels are the model's of the same names: {_shortened(changed)}" if changed else ""

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        columns = list(rows[0])
        name = self.input_column or next((name for name in self.input_names if name in columns), None)
        if name not in columns:
            raise ValueError(
                f"input column is {name or ' or '.join(self.input_names)!r}, the data have {', '.join(columns)}"
            )
        inputs = [row[name] for row in rows]
        if self.predicts_tokens:
            return dict(self._text(inputs))
        label = self._label_name(columns)
        if label not in columns:
            raise ValueError(
                f"label column is {label or ' or '.join(self.label_names)!r}, the data have {', '.join(columns)}: "
                "unlabeled data have no class means"
            )
        labels = [row[label] for row in rows]
        if self.labels_words:
            return self._words(inputs, labels)
        return {**getattr(self, f"_{self.modality}")(inputs), "labels": torch.tensor([*map(self._label, labels)])}

    def _label_name(self, columns: Iterable[str]) -> str | None:
        return self.label_column or next((name for name in self.label_names if name in columns), None)

    def _label(self, label: int | str | None) -> int:
        if label is None:
            raise ValueError("a label is missing: unlabeled data have no class means")
        if isinstance(label, str):
            known = getattr(self.config, "label2id", None) or {}
            if label not in known:
                raise ValueError(f"label {label!r} is not a class of the model, which has {', '.join(known)}")
            return int(known[label])
        # Negative labels are of samples to leave out.
        return label if self.model_labels is None or label < 0 else self.model_labels[label]

    def _words(self, texts: list[list[str]], labels: list[list[int]]) -> dict[str, Any]:
        """The label of a word is its first token's; the others and the padding have none."""
        batch = self._text(texts, is_split_into_words=True)
        aligned = torch.full(batch["input_ids"].shape, -100)
        for row, of_words in enumerate(labels):
            previous = None
            for position, word in enumerate(batch.word_ids(row)):
                if word is not None and word != previous:
                    aligned[row, position] = self._label(of_words[word])
                previous = word
        return {**batch, "labels": aligned}

    def _image(self, images: list[Any]) -> Mapping[str, Any]:
        mode = "L" if getattr(self.config, "num_channels", 3) == 1 else "RGB"
        images = [image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)) for image in images]
        return self.processor([image.convert(mode) for image in images], return_tensors="pt")

    def _text(self, texts: list[Any], **options: Any) -> transformers.BatchEncoding:
        return self.processor(
            texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt", **options
        )

    def _audio(self, sounds: list[Any]) -> Mapping[str, Any]:
        waves, rates, rate = sounds, set(), self.processor.sampling_rate
        if not isinstance(sounds[0], list | np.ndarray | torch.Tensor):
            # What datasets decodes, a dict or a decoder that reads the file now, gives both by name.
            waves, rates = [sound["array"] for sound in sounds], {sound["sampling_rate"] for sound in sounds}
        if rates - {rate}:
            found = ", ".join(map(str, sorted(rates)))
            raise ValueError(f"the model hears {rate} Hz, the data have {found}: resample with datasets.Audio({rate})")
        return self.processor(waves, sampling_rate=rate, padding=True, return_tensors="pt")


def _reads_text(config: Any) -> bool:
    return hasattr(config.get_text_config(), "vocab_size") and not hasattr(config, "conv_dim")


def _labels_of_names(names: list[str], config: Any) -> list[int] | None:
    """The model's label of each class of the data, by name; None where no class has a name of the model's."""
    model_names = {int(label): str(name) for label, name in (getattr(config, "id2label", None) or {}).items()}
    for fold in (str, str.casefold):
        known = {fold(name): label for label, name in model_names.items()}
        found = [known.get(fold(name)) for name in names]
        labels = [label for label in found if label is not None]
        if len(set(labels)) == len(found) > 0:
            return labels
    if set(found) <= {None}:
        return None
    other = [name for name, label in zip(names, found, strict=True) if label is None]
    raise ValueError(
        f"the data's classes are {_shortened(names)}, the model's {_shortened(model_names.values())}: only some "
        f"agree, not {_shortened(other or names)}; rename them, or cast the labels to int64 to take them as they are"
    )


def _shortened(texts: Iterable[str]) -> str:
    texts = [*map(str, texts)]
    return ", ".join(texts[:10]) + (f" and {len(texts) - 10} more" if len(texts) > 10 else "")
