"""Training arguments whose defaults minimise the objective of the theory and nothing else."""

import inspect
import math
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from .lbfgs import LBFGS

COUPLED_OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "lbfgs": LBFGS}
# Of torch's others, those that always shrink the weights beside the gradient; Muon is new in torch 2.9.
DECOUPLED_OPTIMIZERS = tuple(
    getattr(torch.optim, name) for name in ("AdamW", "Adafactor", "Muon") if hasattr(torch.optim, name)
)


@dataclass
class CollapseTrainingArguments(TrainingArguments):
    r"""
    transformers' `TrainingArguments` for the exact objective J(θ) = (1/N) Σ ℓ + (λ_L/2) ‖W_L‖² + (λ/2) Σ_l ‖W_l‖².

    > Defaults that differ from transformers'

    Args:
        optim (`str`, defaults to `"adam"`):
            `"adam"` or `"sgd"`, with the penalty's gradient λ W added to the fit's (*coupled* L2), or `"lbfgs"`, which
            needs `full_batch` and no learning rate. AdamW's decoupled decay minimises another objective.
        weight_decay (`float`, defaults to `None`):
            Left alone: λ and λ_L are `l2_coefficient` and `classifier_l2_coefficient` of the model's config.
        max_grad_norm (`float`, defaults to 0): no clipping.
        learning_rate (`float`, defaults to 0.005): the paper's for images.
        lr_scheduler_type (`str`, defaults to `"cosine"`) and warmup_steps (`float`, defaults to 0.1): as in the
            calibrated runs; below 1, `warmup_steps` is a share of all steps.
        per_device_train_batch_size (`int`, *optional*):
            128 by default, or 10,000 with `full_batch`, where it bounds the memory and changes nothing else.
        per_device_eval_batch_size (`int`, defaults to 1024).
        logging_steps, eval_steps (`float`, default to 0.1): a tenth of the run.
        logging_nan_inf_filter (`bool`, defaults to `False`): the trainer stops at a non-finite loss instead.
        dataloader_pin_memory, ddp_find_unused_parameters, remove_unused_columns (`bool`, default to `False`).
        use_cpu (`bool`, defaults to whether there is no accelerator): so that several processes find each other.

    > Parameters of this class

    Args:
        full_batch (`bool`, defaults to `False`):
            Every step is on all training samples, however many they are: the exact gradient of J, accumulated over
            micro-batches and processes.
        polish_steps (`float`, defaults to 0):
            The last so many of all steps, or below 1 a share of them, are L-BFGS's instead of `optim`'s, whose
            learning rate ends before them. An L-BFGS step is one evaluation of J and its gradient, as any other's.
            Needs `full_batch`.
        changed_objective (`list[str]`, *optional*):
            Names of arguments that may change the objective in this run, out of `optim`, `weight_decay`,
            `max_grad_norm`, `label_smoothing_factor`, `neftune_noise_alpha` and `average_tokens_across_devices`. The
            logged objective and gap remain those of the model's config.

    Raises:
        ValueError: if an argument would change the objective and `changed_objective` does not name it.
    """

    optim: str = field(default="adam", metadata={"help": "Optimiser with coupled L2: adam, sgd or lbfgs."})
    optim_args: str | None = field(
        default=None, metadata={"help": "Options of the optimiser as key=value,...; for example momentum=0.9 for sgd."}
    )
    weight_decay: float | None = field(  # type: ignore[assignment]  # None: not given
        default=None, metadata={"help": "Left alone: l2_coefficient and classifier_l2_coefficient say it."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clipping changes the objective: 0 turns it off."})
    learning_rate: float = field(default=0.005, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: SchedulerType | str = field(default="cosine", metadata={"help": "Schedule after warm-up."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Linear warm-up: steps, or a share of them if below 1."}
    )
    full_batch: bool = field(default=False, metadata={"help": "Every step is on all training samples."})
    polish_steps: float = field(
        default=0, metadata={"help": "The last steps, or share of them below 1, are by L-BFGS."}
    )
    per_device_train_batch_size: int = field(  # type: ignore[assignment]  # None until `__post_init__`
        default=None, metadata={"help": "Training samples a device and step: 128, or 10,000 with full_batch."}
    )
    per_device_eval_batch_size: int = field(default=1024, metadata={"help": "Samples a device and evaluation batch."})
    logging_steps: float = field(default=0.1, metadata={"help": "Log every so many steps, or share of them below 1."})
    eval_steps: float | None = field(default=0.1, metadata={"help": "Measure every so many steps, or share below 1."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "The trainer stops at a non-finite loss."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Pin batches for faster copies to a GPU."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches are already what the model takes."})
    changed_objective: list[str] | None = field(
        default=None, metadata={"help": "Arguments that may change the objective, by name, for example max_grad_norm."}
    )

    def __post_init__(self) -> None:
        coupled_optimizer = self.optim if self.optim in COUPLED_OPTIMIZERS else None
        if coupled_optimizer is None:
            self.require_permission(
                "optim",
                self.optim,
                f"one of {', '.join(COUPLED_OPTIMIZERS)}, whose L2 penalty is part of the objective",
            )
        if self.weight_decay:
            raise ValueError(
                f"weight_decay is {self.weight_decay!r}; the penalty is l2_coefficient and classifier_l2_coefficient "
                "of the model's config"
            )
        if self.full_batch and self.gradient_accumulation_steps != 1:
            raise ValueError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; with full_batch it follows from "
                "per_device_train_batch_size"
            )
        self.check_line_search()
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = 10_000 if self.full_batch else 128
        if self.max_grad_norm:
            self.require_permission("max_grad_norm", self.max_grad_norm, "0: clipping changes the objective")
        if self.label_smoothing_factor:
            self.require_permission(
                "label_smoothing_factor", self.label_smoothing_factor, "0: smoothed labels are another objective"
            )
        if self.neftune_noise_alpha:
            self.require_permission(
                "neftune_noise_alpha", self.neftune_noise_alpha, "None: noise changes the objective"
            )
        if not self.average_tokens_across_devices:
            self.require_permission(
                "average_tokens_across_devices",
                self.average_tokens_across_devices,
                "True: processes with shares of different sizes would weigh samples differently",
            )
        # Several processes without a GPU find each other only with this; otherwise each would train alone.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        # transformers knows no coupled Adam: its own validation sees a name that it knows.
        if coupled_optimizer is not None:
            self.optim = "sgd"
        super().__post_init__()
        if coupled_optimizer is not None:
            self.optim = coupled_optimizer
            self.optimizer_options()

    @property
    def uses_lbfgs(self) -> bool:
        """Whether some steps are L-BFGS's."""
        return self.optim == "lbfgs" or self.polish_steps > 0

    def check_line_search(self) -> None:
        """Raise where L-BFGS could not compare the objective at two points, or would have no steps."""
        if self.polish_steps < 0 or (self.polish_steps and self.optim == "lbfgs"):
            raise ValueError(
                f"polish_steps is {self.polish_steps} and optim {self.optim!r}; it takes a number or share of "
                "steps, at least 0, after adam or sgd"
            )
        if self.uses_lbfgs and not self.full_batch:
            raise ValueError("full_batch is False; L-BFGS compares the objective on the same samples: it takes True")
        if self.uses_lbfgs and (self.bf16 or self.fp16):
            raise ValueError("bf16 or fp16 is True; their rounding would mislead a line search: L-BFGS takes False")

    def polishing(self, steps: int) -> int:
        """Return how many of all steps are L-BFGS's after another optimiser's.

        Raises:
            ValueError: more than all.
        """
        polishing = math.ceil(self.polish_steps * steps) if self.polish_steps < 1 else int(self.polish_steps)
        if polishing > steps:
            raise ValueError(f"polish_steps is {self.polish_steps}, more than all {steps} steps of a run")
        return polishing

    def total_steps(self, num_samples: int) -> int:
        """Return how many optimiser steps a training on `num_samples` samples takes."""
        if self.max_steps > 0:
            return self.max_steps
        if self.full_batch:
            return math.ceil(self.num_train_epochs)
        samples_a_step = self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps
        return math.ceil(self.num_train_epochs * math.ceil(num_samples / samples_a_step))

    def micro_batches(self, num_samples: int) -> int:
        """Return how many micro-batches of a process make one optimiser step over `num_samples` training samples."""
        if not self.full_batch:
            return self.gradient_accumulation_steps
        return -(-num_samples // (self.per_device_train_batch_size * self.world_size))

    def require_permission(self, name: str, value: object, takes: str) -> None:
        """Raise unless the user named the argument in `changed_objective`."""
        if name not in (self.changed_objective or []):
            raise ValueError(
                f"{name} is {value!r}; for the exact objective it takes {takes}. To train another objective, name it: "
                f"changed_objective=[{name!r}]"
            )

    def optimizer_options(self) -> dict[str, float]:
        """Return `optim_args` as numbers by name; the penalty is not among them.

        Raises:
            ValueError: if it is not `name=number,...` with names that the coupled optimiser takes.
        """
        options = {}
        for pair in filter(None, (self.optim_args or "").replace(" ", "").split(",")):
            name, separator, value = pair.partition("=")
            if not separator:
                raise ValueError(f"optim_args is {self.optim_args!r}; it takes key=value pairs with commas between")
            if name == "weight_decay":
                raise ValueError("optim_args names weight_decay; λ is l2_coefficient of the model's config")
            try:
                options[name] = float(value)
            except ValueError:
                raise ValueError(f"optim_args is {self.optim_args!r}; it takes numbers, not {value!r}") from None
        taken = set(inspect.signature(COUPLED_OPTIMIZERS[self.optim]).parameters) - {"params", "fit", "weight_decay"}
        if unknown := sorted(set(options) - set(taken)):
            raise ValueError(f"optim_args names {', '.join(unknown)}; {self.optim} takes {', '.join(sorted(taken))}")
        return options
