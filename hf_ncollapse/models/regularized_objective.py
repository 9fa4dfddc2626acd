"""The objective of the theory, as every model of the package carries it:

    J(θ) = (1/N) Σ ℓ(W_L x_i, y_i) + (λ_L/2) ‖W_L‖² + (λ/2) Σ_l ‖W_l‖²,

with the sum over the blocks' weights. Biases and the embedding are not penalised. Source: arXiv:2505.15239, equations
7 and 11, and theorem 4.6 for the two λ.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model

    from .collapse_config import CollapseConfig
else:
    _Model = object  # mixed into a `PreTrainedModel`


@dataclass
class CollapseModelOutput(ModelOutput):
    """Output of the networks without a classifier.

    Args:
        features (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            What the classifier sees: mean 0 and norm r (√hidden_size or 1) per sample.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            The input of the first block, then the output of every block.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            Attention weights of every block, of shape `(batch_size, num_heads, length, length)`; transformers only.
    """

    features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class CollapseClassifierOutput(ModelOutput):
    """Output of the classifiers.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            The fit (1/N) Σ ℓ(z_i, y_i) alone, when labels are given. The penalty is `model.regularization()`.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            W_L x, and the classifier's bias where the config asks for one.
        features (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            The classifier's input x.
        hidden_states, attentions:
            As in [`CollapseModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def fit(
    logits: torch.Tensor,
    labels: torch.Tensor,
    loss: str,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Σ ℓ(z_i, y_i) / n with ℓ cross-entropy or ½‖z − e_y‖², summed over the classes.

    `torch.nn.MSELoss` averages over N·K, which is another objective; this does not.

    Args:
        logits: z, of shape (N, K).
        labels: integers in [0, K), of shape (N,).
        loss: "cross_entropy" or "mse".
        num_items_in_batch: n; the batch's own N by default. The Trainer gives the number of samples of the whole step,
            over accumulated micro-batches and processes, so that the step's gradient is the exact mean's.

    Returns:
        A scalar tensor.

    Source: arXiv:2505.15239, the objective of the deep problem; its MSE counterpart is Tirer & Bruna 2022.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if loss == "cross_entropy":
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
    else:
        # ‖z‖² − 2 z_y + 1 would need no one-hot matrix, but cancels near the optimum; the difference does not.
        targets = torch.zeros_like(logits).scatter(1, labels[:, None], 1.0)
        total = (logits - targets).square().sum() / 2
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


class RegularizedObjectiveMixin(_Model):
    """What a classifier of the package knows of its own penalty; expects `config`, `base_model` and `classifier`."""

    if TYPE_CHECKING:  # transformers would read an annotation of `config` as the class of every mixed one
        config: CollapseConfig
        classifier: nn.Linear

        @property
        def base_model(self) -> Any: ...

        # Of transformers' a type checker sees the wrapper, which takes no dtype first.
        def to(self, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[override]  # wider

    # The fit divides by the number of samples of the whole step that the Trainer passes, see `fit`.
    accepts_loss_kwargs = True

    def classify(
        self,
        outputs: CollapseModelOutput,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> CollapseClassifierOutput:
        """Turn the network's features into logits and, given labels, into the fit."""
        logits = self.classifier(outputs.features)
        return CollapseClassifierOutput(
            loss=None if labels is None else fit(logits, labels, self.config.loss, num_items_in_batch),
            logits=logits,
            features=outputs.features,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def train(self, mode: bool = True) -> Self:
        """As torch's, but free where nothing changes: the Trainer asks at every step."""
        return self if self.training == mode else super().train(mode)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, in less time, which the Trainer takes at every step."""
        if not set_to_none:
            return super().zero_grad(set_to_none)
        modules: list[nn.Module | None] = [self]
        for module in modules:
            if module is not None:
                modules += module._modules.values()
                for parameter in module._parameters.values():
                    if parameter is not None:
                        parameter.grad = None

    def l2_coefficient_of(self, name: str) -> float:
        """The λ of one parameter, by its name in `named_parameters()`, wrapped by torch.compile or DDP or not.

        The classifier's weight has λ_L and the blocks' weights λ, as resolved at this depth; biases and the embedding
        have 0.
        """
        if name.endswith("bias") or "embeddings." in name:
            return 0.0
        is_classifier = "classifier." in name
        config = self.config
        return config.resolved_classifier_l2_coefficient if is_classifier else config.resolved_l2_coefficient

    def regularization(self) -> torch.Tensor:
        """The penalty (λ_L/2)‖W_L‖² + (λ/2) Σ ‖W_l‖², a scalar tensor with gradient."""
        parts = self.regularization_parts()
        return parts["body"] + parts["classifier"]

    def regularization_parts(self) -> dict[str, torch.Tensor]:
        """The penalty in its two parts, scalar tensors: "body" (all blocks) and "classifier"."""
        parts: dict[str, torch.Tensor | float] = {"body": 0.0, "classifier": 0.0}
        for name, parameter in self.named_parameters():
            if coefficient := self.l2_coefficient_of(name):
                part = "classifier" if name.startswith("classifier.") else "body"
                parts[part] = parts[part] + coefficient / 2 * parameter.square().sum()
        return {name: torch.as_tensor(part, device=self.device) for name, part in parts.items()}

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, and let `AutoModel` load the network without the classifier by the same code."""
        if self._auto_class is not None:
            base = type(self.base_model)
            auto_map = getattr(self.config, "auto_map", None) or {}
            self.config.auto_map = {**auto_map, "AutoModel": f"{base.__module__.split('.')[-1]}.{base.__name__}"}
        super().save_pretrained(*args, **kwargs)
