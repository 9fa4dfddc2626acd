"""Texts as in-memory tokens: a tokenizer trained on the training part, padding batch by batch, a cache by content."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .arguments import DataArguments
from .content_cache import cached

logger = logging.getLogger(__name__)

# Kind of a trained tokenizer -> its model and trainer.
TOKENIZER_KINDS = {
    "bpe": (models.BPE, trainers.BpeTrainer),
    "word": (models.WordLevel, trainers.WordLevelTrainer),
    "wordpiece": (models.WordPiece, trainers.WordPieceTrainer),
}
_PAD, _UNKNOWN, _CLASSIFY = _SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]")
_MODEL_INPUTS = ["input_ids", "attention_mask"]


class TokenDataset(Dataset[dict[str, torch.Tensor]]):
    """Token sequences of any length, held flat; a batch is padded to its own longest sequence.

    `dataset[i]` is one sample without padding. A DataLoader takes `batch` (torch calls `__getitems__`), whose dict its
    collator must pass through.

    Args:
        tokens: int32, all sequences one after the other.
        lengths: int64 (N,), the number of tokens of each sequence, at least 1.
        labels: int64 (N,).
        pad_token_id: what `input_ids` holds where `attention_mask` is 0.
    """

    def __init__(self, tokens: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, pad_token_id: int):
        self.tokens = tokens
        self.lengths = lengths
        self.labels = labels
        self.pad_token_id = pad_token_id
        self._starts = lengths.cumsum(0) - lengths

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: rows[0] for name, rows in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | torch.Tensor) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, int64 (n, T), padded on the right, and `labels`, int64 (n,)."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        lengths, starts = self.lengths[rows, None], self._starts[rows, None]
        columns = torch.arange(int(lengths.max()) if len(rows) else 1)
        is_token = columns < lengths
        tokens = self.tokens[torch.where(is_token, starts + columns, 0)].to(torch.int64)
        return {
            "input_ids": tokens.masked_fill_(~is_token, self.pad_token_id),
            "attention_mask": is_token.to(torch.int64),
            "labels": self.labels[rows],
        }

    __getitems__ = batch


def fit_tokenizer(texts: Sequence[str], arguments: DataArguments) -> PreTrainedTokenizerBase:
    """Return the tokenizer that `arguments` ask for: trained on these training texts, or a trained one by its id.

    A trained tokenizer puts [CLS] before every text, so an empty text is that token alone.

    Raises:
        ValueError: a vocabulary smaller than the texts' characters, or a Hub tokenizer without a fast implementation
            or without a word.
        OSError: a tokenizer that is no kind and is not found.
    """
    if arguments.tokenizer not in TOKENIZER_KINDS:
        return _load_tokenizer(arguments)
    settings = (arguments.tokenizer, str(arguments.vocabulary_size), str(arguments.lowercase))
    tokenizer = cached(
        ".tokenizer.json",
        (*settings, *texts),
        make=lambda: _train_tokenizer(texts, arguments),
        read=lambda path: Tokenizer.from_file(str(path)),
        write=lambda file, tokenizer: file.write(tokenizer.to_str().encode()),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        cls_token=_CLASSIFY,
        model_max_length=arguments.max_length,
        model_input_names=_MODEL_INPUTS,
    )


def _train_tokenizer(texts: Sequence[str], arguments: DataArguments) -> Tokenizer:
    """Learn a tokenizer, always the same one from the same texts."""
    if arguments.tokenizer == "wordpiece":
        # The trainer numbers the characters within words by chance, and of equally frequent merges takes the one of
        # the lowest numbers. So it learns them first, and then gets them in order, as it takes its special tokens.
        characters = _learn_tokenizer(texts, arguments, _SPECIAL_TOKENS, vocabulary_size=0).get_vocab()
        within_words = sorted(token for token in characters if token.startswith("##"))
        learned = _learn_tokenizer(texts, arguments, (*_SPECIAL_TOKENS, *within_words), arguments.vocabulary_size)
        tokenizer = _untrained_tokenizer(arguments)
        tokenizer.model = models.WordPiece(learned.get_vocab(), unk_token=_UNKNOWN)
        tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    else:
        tokenizer = _learn_tokenizer(texts, arguments, _SPECIAL_TOKENS, arguments.vocabulary_size)
    if tokenizer.get_vocab_size() > arguments.vocabulary_size:
        raise ValueError(
            f"vocabulary_size is {arguments.vocabulary_size}; the characters of the training texts alone need "
            f"{tokenizer.get_vocab_size()}"
        )
    classify = tokenizer.token_to_id(_CLASSIFY)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_CLASSIFY} $A", special_tokens=[(_CLASSIFY, classify)]
    )
    return tokenizer


def _untrained_tokenizer(arguments: DataArguments) -> Tokenizer:
    model, _ = TOKENIZER_KINDS[arguments.tokenizer]
    tokenizer = Tokenizer(model(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=arguments.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _learn_tokenizer(
    texts: Sequence[str], arguments: DataArguments, first_tokens: Sequence[str], vocabulary_size: int
) -> Tokenizer:
    _, trainer = TOKENIZER_KINDS[arguments.tokenizer]
    tokenizer = _untrained_tokenizer(arguments)
    options = trainer(vocab_size=vocabulary_size, special_tokens=list(first_tokens), show_progress=False)
    tokenizer.train_from_iterator(texts, options)
    return tokenizer


def _load_tokenizer(arguments: DataArguments) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            arguments.tokenizer, model_max_length=arguments.max_length, model_input_names=_MODEL_INPUTS
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"tokenizer is {arguments.tokenizer!r}; it takes {', '.join(sorted(TOKENIZER_KINDS))}, or the Hub id or "
            f"folder of a trained one, which could not be loaded: {error}"
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer {arguments.tokenizer!r} has no fast implementation, which training needs")
    if knows_no_word(tokenizer):
        raise ValueError(f"tokenizer {arguments.tokenizer!r} knows no word: its files are missing there")
    if tokenizer.pad_token is None:
        # Padding is masked in every sum, so which token fills it makes no difference.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def knows_no_word(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is what transformers makes of a config.json without a tokenizer's files."""
    return len(tokenizer) <= len(set(tokenizer.all_special_ids))


def text_dataset(texts: Sequence[str], labels: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> TokenDataset:
    """Return the texts as tokens, at most `tokenizer.model_max_length` each; the work is done once for a content.

    Raises:
        ValueError: a text without a single token.
    """
    # A copy, because padding and truncation are a state of the tokenizer that would be saved with it.
    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.no_padding()
    encoder.enable_truncation(tokenizer.model_max_length)
    tokens, lengths = cached(
        ".npz",
        (encoder.to_str(), *texts),
        make=lambda: _encode(encoder, texts),
        read=_read_tokens,
        write=lambda file, made: np.savez(file, tokens=made[0], lengths=made[1]),
    )
    if not lengths.all():
        raise ValueError(f"text {int(lengths.argmin())} has no tokens: {texts[int(lengths.argmin())]!r}")
    if cut := int((lengths == tokenizer.model_max_length).sum()):
        logger.warning(
            "%d of %d texts fill max_length = %d tokens; what they have beyond is cut off",
            cut,
            len(texts),
            tokenizer.model_max_length,
        )
    return TokenDataset(
        torch.from_numpy(tokens), torch.from_numpy(lengths), torch.from_numpy(labels), tokenizer.pad_token_id
    )


def _encode(encoder: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All texts' tokens, one text after the other, and the number of each."""
    rows = [encoding.ids for encoding in encoder.encode_batch_fast(list(texts))]
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=lengths.sum()), lengths


def _read_tokens(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as arrays:
        return arrays["tokens"], arrays["lengths"]
