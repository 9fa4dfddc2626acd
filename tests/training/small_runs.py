"""Small networks and data sets, a trainer for them, and J and its descent written by hand."""

import torch

from hf_ncollapse import (
    CollapseResNetConfig,
    CollapseResNetForImageClassification,
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
    CollapseTransformerForSequenceClassification,
)
from hf_ncollapse.data import TensorDataset, TokenDataset
from hf_ncollapse.training.arguments import CollapseTrainingArguments
from hf_ncollapse.training.batches import ProcessBatchSampler
from hf_ncollapse.training.trainer import CollapseTrainer

CLASSES = 3
L2 = 0.05


def network(architecture="L-RN1", *, modality="image", **keywords):
    """A classifier for images of 4×4 pixels, or for texts of up to 5 of 7 words; always the same."""
    torch.manual_seed(0)
    keywords = {
        "hidden_size": 8, "num_hidden_layers": 2, "num_labels": CLASSES, "l2_coefficient": L2, **keywords
    }  # fmt: skip
    if architecture.startswith("L-RN"):
        layers = int(architecture[-1])
        config = CollapseResNetConfig(image_size=4, linear_layers_per_block=layers, **keywords)
        return CollapseResNetForImageClassification(config)
    keywords |= {"attention_linear_layers": int(architecture[-2]), "mlp_linear_layers": int(architecture[-1])}
    if modality == "image":
        config = CollapseTransformerConfig(image_size=4, patch_size=2, **keywords)
        return CollapseTransformerForImageClassification(config)
    config = CollapseTransformerConfig(vocab_size=7, max_position_embeddings=5, **keywords)
    return CollapseTransformerForSequenceClassification(config)


def images(count=14, seed=1):
    """Noise, brighter by label; the classes take turns."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randn(count, 1, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1)
    return TensorDataset(pixel_values=pixels, labels=labels)


def texts(count=14, seed=1):
    """Words drawn at random, texts of 1 to 5; the classes take turns."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (count,), generator=generator)
    words = torch.randint(1, 7, (int(lengths.sum()),), generator=generator, dtype=torch.int32)
    return TokenDataset(words, lengths, torch.arange(count) % CLASSES, pad_token_id=0)


def trainer_for(
    tmp_path,
    model,
    train_dataset=None,
    *,
    eval_dataset=None,
    callbacks=None,
    trainer=None,
    trainer_class=CollapseTrainer,
    **arguments,
):
    """A trainer for five steps at a constant learning rate; `trainer` holds further keywords of its own."""
    defaults = {
        "per_device_train_batch_size": 5, "max_steps": 5, "lr_scheduler_type": "constant", "warmup_steps": 0,
        "learning_rate": 0.02, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 3,
    }  # fmt: skip
    return trainer_class(
        model,
        CollapseTrainingArguments(output_dir=str(tmp_path), **{**defaults, **arguments}),
        train_dataset=images() if train_dataset is None else train_dataset,
        eval_dataset=eval_dataset,
        callbacks=callbacks,
        **(trainer or {}),
    )


def whole(data):
    """All samples as one batch."""
    return data.batch(torch.arange(len(data)))


def objective(model, batch, body=L2, classifier=L2):
    """J of a batch: the mean loss, λ/2 of the blocks' squared weights, and λ_L/2 of the classifier's."""
    logits, labels = (
        model(**{name: value for name, value in batch.items() if name != "labels"}).logits,
        batch["labels"],
    )
    if model.config.loss == "cross_entropy":
        fit = torch.nn.functional.cross_entropy(logits, labels)
    else:
        fit = (logits - torch.eye(CLASSES).to(logits)[labels]).square().sum(1).mean() / 2
    blocks = sum(p.square().sum() for name, p in model.network.layers.named_parameters() if name.endswith("weight"))
    return fit + body / 2 * blocks + classifier / 2 * model.classifier.weight.square().sum()


def minimise_by_hand(model, data, optimizer, steps, batch_size, *, schedule=lambda step: 1.0, seed=3, **coefficients):
    """A loop on J over the trainer's global batches, with the gradient of J alone."""
    rate = optimizer.param_groups[0]["lr"]
    sampler = ProcessBatchSampler(len(data), batch_size, seed=seed)
    step = 0
    while True:
        for indices in sampler:
            if step == steps:
                return
            optimizer.param_groups[0]["lr"] = rate * schedule(step)
            optimizer.zero_grad()
            objective(model, data.batch(indices), **coefficients).backward()
            optimizer.step()
            step += 1
        sampler.set_epoch(sampler.epoch + 1)


def largest_difference(model, other):
    """Of any two parameters of the same name."""
    return max((a - b).abs().max().item() for a, b in zip(model.parameters(), other.parameters(), strict=True))
