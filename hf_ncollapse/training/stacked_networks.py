"""Networks of one architecture with a leading axis: one forward and backward pass and one optimiser's step for all."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from ..models.regularized_objective import RegularizedObjectiveMixin

# A batch shape is traced when it has come so often: a trace takes about as long as so many steps of small networks.
_WORTH_TRACING = 100


class StackedNetworks:
    """The parameters of K networks, each with a leading axis, and the state of their optimisers likewise.

    The pass is `vmap` over the network's own forward, so that an architecture is written once. Batch shapes that come
    again are traced to the tensor operations that are left of it, which spares `vmap`'s share of every step.

    The networks and their optimisers are as they were until `hand_back`.

    Args:
        networks: K classifiers of one config; their parameters are copied.
        optimizers: of each, with the same options; element by element, as Adam, AdamW and SGD.
        shares_inputs: whether all networks see the same samples, which then have no leading axis.
    """

    def __init__(
        self,
        networks: Sequence[RegularizedObjectiveMixin],
        optimizers: Sequence[torch.optim.Optimizer],
        shares_inputs: bool,
    ):
        self.networks, self.optimizers = networks, optimizers
        self.parameters: dict[str, torch.Tensor] = {
            name: torch.stack([network.get_parameter(name).detach() for network in networks])
            for name, _ in networks[0].named_parameters()
        }
        self._network = copy.deepcopy(networks[0]).train()
        # The fused attention kernels have no rule for a leading axis, and are called network by network.
        self._network.set_attn_implementation("eager")
        self._input_axis = None if shares_inputs else 0
        self._times_seen: Counter[Any] = Counter()
        self._traced: dict[Any, Callable[..., Any]] = {}
        self.optimizer = self._stacked_optimizer()

    def backward(self, batches: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return (K,) the fits on the micro-batches of one step, and leave their gradients with the parameters.

        Args:
            batches: as the network takes them, with `labels` (K, n) or, of shared inputs, (n,); their sizes may
                differ.
        """
        num_samples = sum(batch["labels"].shape[-1] for batch in batches)
        self.optimizer.zero_grad()
        fits = []
        for batch in batches:
            gradients, fit = self._gradients_and_fit(batch, num_samples)
            for name, parameter in self.parameters.items():
                gradient = gradients[name].contiguous()  # as the fused optimisers take it
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            fits.append(fit)
        return torch.stack(fits).sum(0)

    @torch.no_grad()
    def hand_back(self) -> None:
        """Copy parameters and optimiser states to the networks and their own optimisers."""
        for index, (network, optimizer) in enumerate(zip(self.networks, self.optimizers, strict=True)):
            for name, parameter in network.named_parameters():
                parameter.copy_(self.parameters[name][index])
            for stacked, own in zip(_parameters(self.optimizer), _parameters(optimizer), strict=True):
                optimizer.state[own] = {
                    name: (value[index] if _is_of(value, stacked) else value).clone()
                    for name, value in self.optimizer.state[stacked].items()
                }

    @torch.no_grad()
    def _gradients_and_fit(self, batch: dict[str, torch.Tensor], num_samples: int) -> Any:
        def fit(parameters: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return functional_call(self._network, parameters, (), {**batch, "num_items_in_batch": num_samples}).loss

        compute = vmap(grad_and_value(fit), in_dims=(0, self._input_axis))
        shape = (num_samples, *(tensor.shape for tensor in batch.values()))
        self._times_seen[shape] += 1
        if self._times_seen[shape] == _WORTH_TRACING:
            self._traced[shape] = make_fx(compute)(self.parameters, batch)
        return self._traced.get(shape, compute)(self.parameters, batch)

    def _stacked_optimizer(self) -> torch.optim.Optimizer:
        first = self.optimizers[0]
        names = {id(parameter): name for name, parameter in self.networks[0].named_parameters()}
        stacked = cast(Any, type(first))(
            [
                {**group, "params": [self.parameters[names[id(parameter)]] for parameter in group["params"]]}
                for group in first.param_groups
            ]
        )
        for parameter, *alone in zip(_parameters(stacked), *map(_parameters, self.optimizers), strict=True):
            states = [optimizer.state[own] for optimizer, own in zip(self.optimizers, alone, strict=True)]
            stacked.state[parameter] = {
                name: torch.stack([state[name] for state in states]) if _is_of(value, alone[0]) else value.clone()
                for name, value in states[0].items()
            }
        return stacked


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_of(value: torch.Tensor, parameter: torch.Tensor) -> bool:
    """Whether a part of a state has an entry for each of a parameter, and is no count of steps."""
    return value.shape == parameter.shape
