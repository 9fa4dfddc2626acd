"""Depth continuation: a deeper network that starts where a trained shallower one stands."""

import copy
import warnings
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from .regularized_objective import RegularizedObjectiveMixin as _Classifier
else:
    _Classifier = object  # mixed into a classifier

RULES = ("split", "insert")


def is_homogeneous(activation: nn.Module) -> bool:
    """Whether σ(t x) = t σ(x) for t > 0, as for ReLU, leaky ReLU and the identity; tried on a grid."""
    x = torch.linspace(-4, 4, 65, dtype=torch.float64)
    with torch.no_grad():
        return all(torch.allclose(activation(t * x), t * activation(x), rtol=1e-9, atol=1e-12) for t in (0.5, 3.0))


def blocks_to_split(penalties: list[float], num_hidden_layers: int) -> list[bool]:
    """Say which of the blocks split into two so that there are `num_hidden_layers` of them: those of largest norm.

    Args:
        penalties: ‖W_l‖² of each of the B blocks.
        num_hidden_layers: the new depth, in [B, 2B].

    Raises:
        ValueError: if the new depth is outside that range.
    """
    depth = len(penalties)
    if not depth <= num_hidden_layers <= 2 * depth:
        raise ValueError(
            f"num_hidden_layers is {num_hidden_layers}; splitting the blocks of a network of depth {depth} gives from "
            f"{depth} to {2 * depth}: deepen it repeatedly"
        )
    largest = sorted(range(depth), key=lambda block: -penalties[block])[: num_hidden_layers - depth]
    return [block in largest for block in range(depth)]


class DepthContinuationMixin(_Classifier):
    """`deepen`, for classifiers of the package: their `base_model.layers` are blocks that can `halve` themselves."""

    def deepen(self, num_hidden_layers: int, rule: str = "split") -> Self:
        """Return a network with more blocks and the same or nearly the same function.

        "split" makes two half blocks of a block (the ones of largest norm first). Two half steps of the stream are
        one step up to second order in it. With one linear layer a branch, 2 ‖W/2‖² = ‖W‖²/2 halves the block's
        penalty; with two, the weights shrink by √2 only and it stays, which is why the theory needs λ to fall with
        depth there (theorem 4.6). The matrices inside attention's softmax go to both halves as they are.

        "insert" puts blocks of zeros behind the others. They are the identity and cost nothing, which proves that the
        optimum never rises with depth; pre-LN logits keep their last bit, post-LN ones change by the rounding of one
        more LN. In L-RN1 such blocks stay at 0 under training, as ReLU has no gradient there; b_2 and W_VO have one.

        Args:
            num_hidden_layers: the new number of blocks: from B to 2B for "split", at least B for "insert".
            rule: "split" or "insert".

        Raises:
            ValueError: if the rule or the new depth is out of its range, or "insert" meets an activation that is not 0
                at 0, with which a block of zeros is no identity.

        Source: the zero block is arXiv:2505.15239's (theorem 4.3); splitting is this package's.
        """
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; it takes one of {', '.join(RULES)}")
        layers = self.base_model.layers
        depth = len(layers)
        if rule == "split":
            copies = [1 + split for split in blocks_to_split(self._block_norms(), num_hidden_layers)]
            self._warn_of_an_inexact_split()
        else:
            copies = [1] * depth
            self._check_insertion(num_hidden_layers)
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = num_hidden_layers
        deeper = type(self)(config).to(device=self.device, dtype=self.dtype)
        # Everything but the blocks has the same name and shape at any depth.
        blocks = f"{self.base_model_prefix}.layers."
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(blocks)}
        deeper.load_state_dict(state, strict=False)
        new_layers = iter(deeper.base_model.layers)
        with torch.no_grad():
            for layer, count in zip(layers, copies, strict=True):
                for _ in range(count):
                    new_layer = next(new_layers)
                    new_layer.load_state_dict(layer.state_dict())
                    if count == 2:
                        new_layer.halve()
            for identity in new_layers:
                for parameter in identity.parameters():
                    parameter.zero_()
        return deeper.train(self.training)

    def _block_norms(self) -> list[float]:
        """‖W_l‖² of every block, its biases left out."""
        return [
            sum(p.square().sum().item() for name, p in layer.named_parameters() if not name.endswith("bias"))
            for layer in self.base_model.layers
        ]

    def _warn_of_an_inexact_split(self) -> None:
        if not is_homogeneous(self.base_model.layers[0].feed_forward.activation):
            warnings.warn(
                f"hidden_act {self.config.hidden_act!r} is not homogeneous, so a split block is a half block only "
                "approximately; rule='insert' is exact",
                stacklevel=3,
            )

    def _check_insertion(self, num_hidden_layers: int) -> None:
        depth, branch = len(self.base_model.layers), self.base_model.layers[0].feed_forward
        if num_hidden_layers < depth:
            raise ValueError(f"num_hidden_layers is {num_hidden_layers}; it must be at least {depth}, the depth now")
        at_zero = branch.activation(torch.zeros(1)).item()
        if branch.linear_2 is None and at_zero != 0:
            raise ValueError(
                f"hidden_act is {self.config.hidden_act!r}, which is {at_zero:.3g} at 0: a block of zeros is no "
                "identity, so rule 'insert' takes another activation"
            )
