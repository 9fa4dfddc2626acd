r"""Pre-LN ResNets of finite depth whose blocks pay next to nothing: why no bound on the body can grow with the data.

In a pre-LN network the blocks read LN(X_l) and write into the stream X_l itself, so scaling the whole stream by s > 0
leaves every feature as it is, and an L-RN1 pays s² for its blocks: (W_l, b_l) → (s W_l, s b_l). Only X_1 = LN(W_0 x +
b_0), of norm r, fixes the scale. But biases and the embedding are free. Take b_0 = r a + s b, W_0 = s W with a unit
vector a of mean 0 that W and b leave out; then

    X_1 = r a + s (W x + b) + O(s²),

and a first block with W_1 = 0 and σ(b_1) = −r a + c 1 (c makes it ≥ 0, and LN does not see it) leaves s (W x + b): an
affine embedding without LN, as small as one likes. Hence, as s → 0, the infimum of J over networks of B blocks is at
most that of GUFM(W_L, X) over B − 1 blocks *without penalty* after an affine embedding. Where those can collapse the
training set it is J* itself: the infimum at this finite depth *is* the GUFM's, it is not attained, and any lower bound
on the blocks' penalty is 0. The paper's rate O(1/L) is an upper bound, which pre-LN networks are free to beat; what a
depth sweep shows is how training approaches it.

For two linear layers the branch's output scales by s with √s on each factor, and the body by s.

In a post-LN network every block renormalises the stream, so this scaling is not there. Its free blocks, W_l = 0, are
x → LN(x + v) with any v: two samples x, x' of a class meet exactly for v = x − 2x', as x + v = 2 (x − x') and
x' + v = x − x'. So N − K blocks without any penalty collapse N samples onto K points, and a bound on the body from the
distance that samples have to travel fails there too, from that depth on.

Source: derived here; the definitions are those of arXiv:2505.15239.
"""

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from .configuration_collapse_resnet import CollapseResNetConfig
from .modeling_collapse_resnet import CollapseResNetBlock, CollapseResNetForImageClassification
from .residual_layers import CentredNorm


class _AffineEmbedding(nn.Module):
    """In place of the embedding's LN: leaves out the mean and the direction a, which the first block needs."""

    projection: Tensor

    def __init__(self, hidden_size: int):
        super().__init__()
        ones = torch.full((hidden_size,), 1 / math.sqrt(hidden_size), dtype=torch.float64)
        projection = torch.eye(hidden_size, dtype=torch.float64)
        for vector in (ones, free_direction(hidden_size)):
            projection -= torch.outer(vector, vector)
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states @ self.projection.to(hidden_states.dtype)


def free_direction(hidden_size: int) -> Tensor:
    """Return a, a unit vector of mean 0, in float64."""
    direction = torch.zeros(hidden_size, dtype=torch.float64)
    direction[0], direction[1] = math.sqrt(0.5), -math.sqrt(0.5)
    return direction


def relaxed_network(config: CollapseResNetConfig) -> CollapseResNetForImageClassification:
    """Return the network on the right-hand side: one block less, no LN after the embedding, no penalty on blocks.

    It has the classifier's λ_L of `config`, so that its objective is near that of [`tightened_network`]; train it as
    any other, best by L-BFGS.

    Args:
        config: of the network that is sought: pre-LN, at least 2 blocks.

    Raises:
        ValueError: post-LN, or too few blocks.
    """
    if config.norm_placement != "pre":
        raise ValueError(f"norm_placement is {config.norm_placement!r}; only the stream of 'pre' can be scaled")
    if config.num_hidden_layers < 2:
        raise ValueError(f"num_hidden_layers is {config.num_hidden_layers}; it takes at least 2: one sets the scale")
    relaxed = copy.deepcopy(config)
    relaxed.num_hidden_layers -= 1
    relaxed.classifier_l2_coefficient = config.resolved_classifier_l2_coefficient
    relaxed.l2_coefficient, relaxed.l2_depth_scaling = 0.0, "constant"
    model = CollapseResNetForImageClassification(relaxed)
    model.network.embeddings.norm = _AffineEmbedding(config.hidden_size)
    return model


@torch.no_grad()
def tightened_network(
    relaxed: CollapseResNetForImageClassification, config: CollapseResNetConfig, scale: float
) -> CollapseResNetForImageClassification:
    """Return the network of the family that does what a relaxed one does, with a stream of about `scale`.

    Its features differ by O(scale), and by rounding of about 1e-7/scale in float32; its body is scale² of the relaxed
    blocks' (λ/2) Σ‖W_l‖², or scale with two linear layers a branch.

    Args:
        relaxed: from [`relaxed_network`], trained.
        config: that it was made from.
        scale: s > 0, in units of the relaxed embedding's; 1e-3 suits embeddings of norm about 1 to 10.
    """
    model: CollapseResNetForImageClassification = CollapseResNetForImageClassification(config).to(relaxed.dtype)
    embeddings, source = model.network.embeddings, relaxed.network.embeddings
    projection = cast(_AffineEmbedding, source.norm).projection
    offset = (
        cast(CentredNorm, embeddings.norm).factor * math.sqrt(config.hidden_size) * free_direction(config.hidden_size)
    )
    embeddings.projection.weight.copy_(scale * projection @ source.projection.weight.double())
    embeddings.projection.bias.copy_(offset + scale * projection @ source.projection.bias.double())
    first, *others = cast(list[CollapseResNetBlock], list(model.network.layers))
    for parameter in first.parameters():
        parameter.zero_()
    branch = first.feed_forward
    (branch.linear_1 if branch.linear_2 is None else branch.linear_2).bias.copy_(offset.max() - offset)
    for block, trained in zip(others, relaxed.network.layers, strict=True):
        block.load_state_dict(trained.state_dict())
        branch = block.feed_forward
        if branch.linear_2 is None:
            factors = {branch.linear_1.weight: scale, branch.linear_1.bias: scale}
        else:
            root = math.sqrt(scale)
            factors = {branch.linear_1.weight: root, branch.linear_1.bias: root}
            factors |= {branch.linear_2.weight: root, branch.linear_2.bias: scale}
        for weight_or_bias, factor in factors.items():
            weight_or_bias.mul_(factor)
    model.classifier.load_state_dict(relaxed.classifier.state_dict())
    return model
