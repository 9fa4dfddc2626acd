"""Tokens per second of an L-T22 in the CollapseTrainer, against torch's own transformer layers in a bare loop.

    python benchmarks/transformer_throughput.py

Width 64, 4 blocks, batches of 32 texts of 256 tokens, causal, Adam with the penalty on the blocks and the classifier,
in three loops: CollapseTrainer; a bare loop on the same model; and a bare loop on `torch.nn.TransformerEncoderLayer`
with the same sizes (one head, pre-LN, 64 wide in the middle). That layer has the same six matrices, no biases in its
MLP, and torch's `MultiheadAttention`.

The loops take turns; the best of the rounds counts, since other work on the machine can only slow them down.
"""

import argparse
import tempfile
import time

import torch
from torch import nn
from transformers import TrainerCallback

from hf_ncollapse import CollapseTransformerConfig, CollapseTransformerForSequenceClassification
from hf_ncollapse.data import TokenDataset
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.trainer import CollapseTrainer

VOCABULARY, WIDTH, DEPTH, LENGTH, BATCH = 8000, 64, 4, 256, 32
L2_COEFFICIENT, LEARNING_RATE = 1e-4, 1e-3


class TorchTransformer(nn.Module):
    """The same sizes from torch's pieces."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=1, dim_feedforward=WIDTH, dropout=0.0, batch_first=True, norm_first=True, bias=False
        )
        self.encoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.classifier = nn.Linear(WIDTH, 2, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        embedded = self.norm(self.tokens(input_ids) + self.positions.weight)
        return self.classifier(self.norm(self.encoder(embedded, mask=self.mask, is_causal=True)[:, -1]))


class StepClock(TrainerCallback):
    """Seconds from the end of the first step, which warms up, to the end of the last."""

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.started = now if state.global_step == 1 else self.started
        self.seconds_per_step = (now - self.started) / max(state.global_step - 1, 1)


def random_texts(num_samples: int) -> TokenDataset:
    """Texts of random tokens, all of the full length."""
    return TokenDataset(
        torch.randint(VOCABULARY, (num_samples * LENGTH,), dtype=torch.int32),
        torch.full((num_samples,), LENGTH),
        torch.arange(num_samples) % 2,
        pad_token_id=0,
    )


def our_model() -> CollapseTransformerForSequenceClassification:
    """A fresh L-T22."""
    return CollapseTransformerForSequenceClassification(
        CollapseTransformerConfig(
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            norm_placement="pre",
            attention_linear_layers=2,
            mlp_linear_layers=2,
            vocab_size=VOCABULARY,
            max_position_embeddings=LENGTH,
            l2_coefficient=L2_COEFFICIENT,
        )
    )


def time_trainer(texts: TokenDataset, steps: int) -> float:
    """Seconds a step of CollapseTrainer."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = CollapseTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            use_cpu=True,
        )
        CollapseTrainer(our_model(), arguments, train_dataset=texts, callbacks=[clock]).train()
    return clock.seconds_per_step


def is_penalised(name: str) -> bool:
    """Whether a parameter of either model is a weight of a block or of the classifier."""
    return not name.endswith("bias") and not {"tokens", "positions"} & set(name.split("."))


def time_bare_loop(model: nn.Module, loss, texts: TokenDataset, steps: int) -> float:
    """Seconds a step of a bare loop."""
    groups = [
        {"params": [p for name, p in model.named_parameters() if is_penalised(name)], "weight_decay": L2_COEFFICIENT},
        {"params": [p for name, p in model.named_parameters() if not is_penalised(name)]},
    ]
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE, fused=True)
    started = time.perf_counter()
    for step in range(steps):
        batch = texts.batch(torch.randint(len(texts), (BATCH,)))
        loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            started = time.perf_counter()
    return (time.perf_counter() - started) / (steps - 1)


def torch_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of the network from torch's pieces."""
    return nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=21, help="steps of a loop in a round, the first not timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    texts = random_texts(32 * BATCH)
    loops = {
        "CollapseTrainer": lambda: time_trainer(texts, options.steps),
        "the same model, bare loop": lambda: time_bare_loop(
            our_model(), lambda model, batch: model(**batch).loss, texts, options.steps
        ),
        "torch's layers, bare loop": lambda: time_bare_loop(TorchTransformer(), torch_loss, texts, options.steps),
    }
    best = dict.fromkeys(loops, float("inf"))
    for _ in range(options.rounds):
        for name, loop in loops.items():
            best[name] = min(best[name], loop())
    reference = best["torch's layers, bare loop"]
    print(f"L-T22, width {WIDTH}, {DEPTH} blocks, {BATCH} × {LENGTH} tokens a step, {options.threads} thread(s)")
    for name, seconds in best.items():
        tokens = BATCH * LENGTH / seconds
        print(f"{name:28} {tokens:9.0f} tokens/s   {reference / seconds:5.2f} × torch's layers")


if __name__ == "__main__":
    main()
