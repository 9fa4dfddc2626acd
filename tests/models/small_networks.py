"""A small network of every architecture."""

import itertools

import torch

from hf_ncollapse import (
    CollapseResNetConfig,
    CollapseResNetForImageClassification,
    CollapseTransformerConfig,
    CollapseTransformerForImageClassification,
    CollapseTransformerForSequenceClassification,
)

TRANSFORMERS = list(itertools.product(("L-T11", "L-T12", "L-T21", "L-T22"), ("image", "text")))
ARCHITECTURES = [("L-RN1", "image"), ("L-RN2", "image"), *TRANSFORMERS]


def new_network(architecture, modality="image", **keywords):
    """A classifier for 3 classes as it starts; images are 2×2×6, texts have up to 5 of 7 words."""
    keywords = {"hidden_size": 6, "num_hidden_layers": 2, "num_labels": 3, **keywords}
    digits = [int(digit) for digit in architecture if digit.isdigit()]
    if modality == "image":
        keywords |= {"num_channels": 2, "image_size": [2, 6]}
    else:
        keywords = {"vocab_size": 7, "max_position_embeddings": 5, **keywords}
    if architecture.startswith("L-RN"):
        return CollapseResNetForImageClassification(
            CollapseResNetConfig(linear_layers_per_block=digits[0], **keywords)
        )
    config = CollapseTransformerConfig(
        attention_linear_layers=digits[0], mlp_linear_layers=digits[1], patch_size=2, **keywords
    )
    if modality == "image":
        return CollapseTransformerForImageClassification(config)
    return CollapseTransformerForSequenceClassification(config)


def small_network(architecture, modality="image", **keywords):
    """The same in double precision with every parameter drawn, biases too, so that no term is 0."""
    model = new_network(architecture, modality, **keywords).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model


def small_inputs(modality="image", count=3, dtype=torch.float64):
    """Random images, or texts of 4 words."""
    return torch.randn(count, 2, 2, 6, dtype=dtype) if modality == "image" else torch.randint(7, (count, 4))
