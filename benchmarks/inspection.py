"""What measuring costs beside the forward passes it needs: time for a language model's and a callback's pass, memory.

    python benchmarks/inspection.py language-model     # K = 50,257 next-token classes, against bare forward passes
    python benchmarks/inspection.py evaluation-pass    # a ViT on Fashion-MNIST, against Trainer.evaluate
    python benchmarks/inspection.py memory --samples 25000 --tokens 64   # MiniLM's size, every layer

Times are CPU seconds, which other processes disturb least: medians of alternating runs on one thread. Memory is the
process's peak above what it held with the model loaded.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_ncollapse.inspection import NeuralCollapseCallback, measure_collapse
from hf_ncollapse.inspection.batches import LabelledBatches


def seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(names: tuple[str, str], first, second, repetitions: int) -> None:
    first(), second()
    times = [(seconds(first), seconds(second)) for _ in range(repetitions)]
    base, measured = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{names[0]} {base:.2f} s, {names[1]} {measured:.2f} s, ratio {measured / base:.3f}")


def language_model(repetitions: int) -> None:
    """A tiny GPT-2 with its full vocabulary on 8,192 random tokens, Zipf-distributed as words are."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=128, n_layer=2, n_head=2, n_positions=128)).eval()
    weights = 1 / torch.arange(1, 50258)
    tokens = torch.multinomial(weights, 8 * 8 * 128, replacement=True).view(8, 8, 128)
    batches = [{"input_ids": batch} for batch in tokens]

    def forward():
        with torch.no_grad():
            for batch in batches:
                model(**batch)

    print(f"{tokens.numel():,} tokens, {len(tokens.unique()):,} of 50,257 classes seen")
    for measures in (("nc1", "nc2", "nc2_means", "nc3"), ("nc1", "nc1_cdnv", "nc2", "gnc2", "nc3")):
        compare(
            ("bare forward passes", ", ".join(measures)),
            forward,
            lambda measures=measures: measure_collapse(model, batches, measures=measures, min_class_count=1),
            repetitions,
        )


def evaluation_pass(repetitions: int) -> None:
    """The callback against `Trainer.evaluate` on the same 1,000 images."""
    from hf_ncollapse.data import load_classification_data

    images = load_classification_data("fashion-mnist", train_samples=1000).train
    rows = [{"pixel_values": images.tensors["pixel_values"][i], "labels": int(images.labels[i])} for i in range(1000)]
    config = ViTConfig(
        image_size=28,
        patch_size=7,
        num_channels=1,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        num_labels=10,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_eval_batch_size=64, use_cpu=True, report_to="none", disable_tqdm=True
        )
        trainer = Trainer(ViTForImageClassification(config), arguments, train_dataset=rows, eval_dataset=rows)
        trainer.log = lambda logs, *_: None
        for layers in ("last", "all"):
            callback = NeuralCollapseCallback(trainer, layers=layers)
            measure = lambda callback=callback: callback.on_epoch_end(arguments, trainer.state, None)  # noqa: E731
            compare(("Trainer.evaluate", f"callback, layers={layers!r}"), trainer.evaluate, measure, repetitions)


def memory(samples: int, tokens: int) -> None:
    """`layers="all"` on a model of MiniLM's size; texts of random tokens, half of them shorter."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = BertForSequenceClassification(config).eval()
    data = _Texts(samples, tokens)
    batches = LabelledBatches(data, model, batch_size=32)
    inputs, _ = batches.first()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024  # held now, in KiB
    with torch.no_grad():
        model(**inputs)
    forward = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    elapsed = seconds(lambda: measure_collapse(model, data, layers="all", measures="all", batch_size=32))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{samples:,} texts of {tokens} tokens in {elapsed:.0f} s: peak {(peak - before) / 1024:.0f} MiB above the "
        f"model, of which {(forward - before) / 1024:.0f} MiB is one bare forward pass"
    )


class _Texts:
    def __init__(self, samples: int, tokens: int):
        self.samples, self.tokens = samples, tokens

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict:
        length = self.tokens if index % 2 else self.tokens // 2
        mask = (torch.arange(self.tokens) < length).long()
        tokens = (torch.arange(self.tokens) * 37 + index * 101) % 30000
        return {"input_ids": tokens * mask, "attention_mask": mask, "labels": index % 2}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("language-model", "evaluation-pass", "memory"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--samples", type=int, default=25000)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "language-model":
        language_model(options.repetitions)
    elif options.part == "evaluation-pass":
        evaluation_pass(options.repetitions)
    else:
        memory(options.samples, options.tokens)
