"""`CollapseTrainer`: the Hugging Face Trainer on the exact objective, with its distance from the global optimum."""

import contextlib
import copy
import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from ..inspection.forward_pass import forward_passes
from ..models.regularized_objective import RegularizedObjectiveMixin
from ..theory import GUFMOptimum
from .arguments import COUPLED_OPTIMIZERS, DECOUPLED_OPTIMIZERS, CollapseTrainingArguments
from .batches import BatchLoader, ProcessBatchSampler
from .lbfgs import LBFGS
from .losses import NonFiniteLossError, UnseenLosses
from .measurement import NetworkSums, conflicting_label_counts, network_measures, network_optimum
from .polish import PolishedOptimizer
from .processes import check_processes
from .saving import explained_write_errors

logger = logging.get_logger(__name__)


class CollapseTrainer(Trainer):
    """Train J(θ) = (1/N) Σ ℓ(W_L x_i, y_i) + (λ_L/2) ‖W_L‖² + (λ/2) Σ_l ‖W_l‖² exactly, and log its distance from J*.

    What differs from [`~transformers.Trainer`]: the penalty is coupled, with the model's own λ for the blocks' weights
    and λ_L for the classifier's, and none on biases and the embedding; a step's samples do not depend on the number of
    processes; `evaluate` measures the objective and the collapse of the *training* set in one streaming pass, and the
    accuracy on `eval_dataset` when there is one.

    Every evaluation logs what [`network_measures`] returns, `train_accuracy` and `test_accuracy`, and returns them
    with the usual `eval_` prefix. J* is left out, with one warning, where the theory has none; where equal inputs have
    different labels it is that of networks, which give them one feature.

    Args:
        model: a classifier of the package, with its objective in its config.
        args: [`CollapseTrainingArguments`]; copied, so that they can be used again.
        train_dataset, eval_dataset: datasets whose batches are, or collate to, dictionaries of tensors with `labels`.
        **kwargs: as for the Trainer.

    Raises:
        ValueError: if the optimiser's penalty is not the objective's, or the processes that were launched would not
            train together.
        NonFiniteLossError: from `train` and `evaluate`, with the step of the first loss that is not finite; `train`
            notices before anything is logged, measured or saved after it, and 100 steps later at most.
    """

    args: CollapseTrainingArguments
    model: RegularizedObjectiveMixin
    train_dataset: Any  # of a length

    def __init__(
        self,
        model: RegularizedObjectiveMixin | None = None,
        args: CollapseTrainingArguments | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ):
        args = args if args is not None else CollapseTrainingArguments()
        if not isinstance(args, CollapseTrainingArguments):
            raise ValueError(f"args is a {type(args).__name__}; it takes CollapseTrainingArguments")
        check_processes(args.distributed_state)
        args = copy.copy(args)
        if args.full_batch and train_dataset is not None:
            args.gradient_accumulation_steps = args.micro_batches(len(train_dataset))
        super().__init__(model, args, train_dataset=train_dataset, **kwargs)
        self._lbfgs: LBFGS | None = None
        self._step_fit = -1, torch.zeros(())  # a step, and its fit until now
        self._is_alone = args.world_size == 1 and args.n_gpu <= 1
        self._unseen_losses = UnseenLosses()
        self._num_weights: int | None = None
        self._conflicts: list[list[int]] | None = None
        self._optimum: GUFMOptimum | None = None

    # The exact objective

    @staticmethod
    def get_optimizer_cls_and_kwargs(  # type: ignore[override]  # arguments of the package
        args: CollapseTrainingArguments, model: PreTrainedModel | None = None
    ) -> tuple[Any, Any]:
        """Adam or SGD with coupled L2; others, once allowed by name, are transformers' own."""
        optimizer = COUPLED_OPTIMIZERS.get(args.optim)
        if optimizer is None:
            return Trainer.get_optimizer_cls_and_kwargs(args, model)
        if args.optim == "lbfgs":
            return optimizer, args.optimizer_options()
        adam = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon} if args.optim == "adam" else {}
        return optimizer, {"lr": args.learning_rate, "fused": True, **adam, **args.optimizer_options()}

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        """Create the optimiser, with one parameter group a λ, and check that it minimises the objective."""
        parameters = {name: p for name, p in (model or self.model).named_parameters() if p.requires_grad}
        expected = {id(p): self.model.l2_coefficient_of(name) for name, p in parameters.items()}
        if self.optimizer is None:
            made_by, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = [
                {
                    "params": [p for p in parameters.values() if expected[id(p)] == coefficient],
                    "weight_decay": coefficient,
                }
                for coefficient in sorted(set(expected.values()), reverse=True)
            ]
            if made_by is LBFGS:
                options["fit"] = self._fit_of_step
            given = self.optimizer_cls_and_kwargs
            self.optimizer_cls_and_kwargs = made_by, {"params": groups, **options}
            made = super().create_optimizer(model)
            self.optimizer_cls_and_kwargs = given  # a search trains again, with another learning rate
            self._lbfgs = made if isinstance(made, LBFGS) else None
            if self.args.polish_steps:
                self._lbfgs = LBFGS([{**group} for group in groups], self._fit_of_step)
                steps = self.args.total_steps(len(self.train_dataset))
                self.optimizer = PolishedOptimizer(made, self._lbfgs, steps - self.args.polishing(steps))
        optimizer = super().create_optimizer(model)
        if isinstance(optimizer, DECOUPLED_OPTIMIZERS) or any(
            group.get("decoupled_weight_decay") for group in optimizer.param_groups
        ):
            self.args.require_permission("optim", type(optimizer).__name__, "an optimiser with coupled L2")
        decays = {id(p): group.get("weight_decay", 0.0) for group in optimizer.param_groups for p in group["params"]}
        wrong = [
            name
            for name, p in parameters.items()
            if id(p) not in decays or not math.isclose(decays[id(p)], expected[id(p)])
        ]
        if wrong:
            name = wrong[0]
            self.args.require_permission(
                "weight_decay",
                f"{decays.get(id(parameters[name]), 'missing')} on {name}",
                f"{expected[id(parameters[name])]} there, as the model's l2_coefficient_of says",
            )
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """As the Trainer's, over the steps before L-BFGS's, which have no learning rate."""
        return super().create_scheduler(num_training_steps - self.args.polishing(num_training_steps), optimizer)

    def _get_learning_rate(self) -> float:
        """What is logged; L-BFGS has none."""
        return 0.0 if self._searching else super()._get_learning_rate()

    @property
    def _searching(self) -> LBFGS | None:
        """L-BFGS once it has begun, so that between steps the parameters are a trial of its line search."""
        return self._lbfgs if self._lbfgs is not None and self._lbfgs.is_searching else None

    def _fit_of_step(self) -> float:
        """(1/N) Σ ℓ over this step's micro-batches of all processes."""
        self._unseen_losses.look(self.accelerator)
        # Each process's share comes multiplied by their number, for gradients that are averaged.
        return self.accelerator.reduce(self._step_fit[1], "mean").item()

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's; after L-BFGS the model is the best point that it saw."""
        self._unseen_losses.forget()  # of a training that was broken off
        averages = self.args.average_tokens_across_devices
        self.args.average_tokens_across_devices = averages and not self._is_alone  # one would multiply by 1
        try:
            with _looked_for_once("lomo_optim"):
                output = super().train(*args, **kwargs)
        except NonFiniteLossError as error:
            self.state.global_step = error.step  # the steps since are void
            raise
        finally:
            self.args.average_tokens_across_devices = averages
        if lbfgs := self._searching:
            lbfgs.eval()
        return output

    def _get_grad_norm(
        self, model: nn.Module, grad_norm: torch.Tensor | float | None = None
    ) -> torch.Tensor | float | None:
        """Without clipping nobody reads the norm, which the Trainer would compute at every step."""
        return grad_norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Six a weight and input value, as transformers estimates; the weights, which do not change, counted once."""
        if self._num_weights is None:
            self._num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        return 6 * inputs[self.model.main_input_name].numel() * self._num_weights

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """One forward and backward pass, which waits for no device: the loss is looked at later, with others."""
        if len(inputs["labels"]) == 0:
            # An empty share, which not every layer takes: a made-up sample divided by ∞ gives gradients of zero.
            inputs = {name: value.new_ones((1, *value.shape[1:])) for name, value in inputs.items()}
            num_items_in_batch = math.inf
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[arg-type]  # or ∞
        if not self._searching:  # a line search turns back
            self._unseen_losses.add(self.state.global_step, loss)
        if self._lbfgs is not None:
            step, fit = self.state.global_step, loss.double()
            if self._step_fit[0] == step:
                fit = self._step_fit[1] + fit
            self._step_fit = step, fit
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """As the Trainer's, without its tensor where one process knows the number."""
        if not self._is_alone:
            return super()._get_num_items_in_batch(batch_samples, device)
        return sum(len(batch["labels"]) for batch in batch_samples)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, of a training whose losses were finite until here."""
        asked, many = self.control, self._unseen_losses.are_many
        if many or asked.should_log or asked.should_evaluate or asked.should_save or asked.should_training_stop:
            self._unseen_losses.look(self.accelerator)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer's, of L-BFGS's best point, and with one kind of error for what cannot be written."""
        if lbfgs := self._searching:
            lbfgs.eval()
        with explained_write_errors(cast(str, self.args.output_dir)):  # has a name by now
            super()._save_checkpoint(model, trial)

    # Data

    def _loader(
        self,
        dataset: Any,  # of a length
        device_batch_size: int,
        seed: int | None = None,
        processes: tuple[int, int] | None = None,
    ) -> BatchLoader:
        """`processes` is this one's index and how many share the data set; those of this launch by default."""
        index, count = processes or (self.args.process_index, self.args.world_size)
        sampler = ProcessBatchSampler(len(dataset), device_batch_size * count, index, count, seed)
        return BatchLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=self._collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _collate(self, rows: Any) -> Mapping[str, torch.Tensor]:
        return rows if isinstance(rows, Mapping) else self.data_collator(rows)

    def get_train_dataloader(self) -> BatchLoader:
        """Batches of the training set, shuffled by the seed and the epoch; in its order for `full_batch`."""
        if self.train_dataset is None:
            raise ValueError("train_dataset is None; training takes a dataset")
        seed: int | None = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if self.args.full_batch:
            seed = None
        return self._loader(self.train_dataset, self.args.per_device_train_batch_size, seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> BatchLoader:
        """Batches of a dataset in its order, each sample once over all processes."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        return self._loader(dataset, self.args.per_device_eval_batch_size)

    # Measurement

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure objective, gap and collapse on the training set, and accuracy on `eval_dataset`; log and return.

        Returns:
            The numbers of the class's docstring, each named `{metric_key_prefix}_{name}`.
        """
        measured = self.measure(eval_dataset)
        if lbfgs := self._searching:
            measured |= lbfgs.progress
        self.log(dict(measured))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(
        self, eval_dataset: Any = None, *, gradient: bool = False, precisely: bool = False
    ) -> dict[str, float]:
        """Return what `evaluate` logs, by its plain names, without logging it.

        Args:
            eval_dataset: the trainer's by default.
            gradient: add `relative_gradient`, ‖∇J‖ over the norm of the penalty's own gradient. It is 0 at a
                stationary point, where the fit's gradient cancels the penalty's. One more backward pass over the
                training set; left out where parameters are sharded and where nothing is penalised.
            precisely: compute the network in float64, where the device has it and parameters are not sharded.

        Raises:
            NonFiniteLossError: if the objective is not finite.
        """
        eval_dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if lbfgs := self._searching:
            lbfgs.eval()
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        with contextlib.ExitStack() as held:
            if precisely and not is_sharded and self.args.device.type != "mps":
                held.enter_context(_in_float64(self.model))
            return self._measure(eval_dataset, gradient=gradient and not is_sharded)

    def _measure(self, eval_dataset: Any, *, gradient: bool) -> dict[str, float]:
        sums = self._pass_over(self.train_dataset)
        optimum = self._find_optimum(sums)
        measured = network_measures(self.model, sums, optimum, splits_gap=not self._conflicts)
        measured["train_accuracy"] = sums.accuracy
        if eval_dataset is not None:
            measured["test_accuracy"] = self._pass_over(eval_dataset).accuracy
        if gradient and measured["regularization"]:
            measured["relative_gradient"] = self._relative_gradient()
        return measured

    def _pass_over(self, dataset: Any) -> NetworkSums:
        """The sums of a data set over all processes."""
        sums = NetworkSums(self.model.config, self.args.device)
        for _, labels, output in forward_passes(self.model, self._labelled(dataset)):
            sums.update(output, labels)
        sums.reduce(self.accelerator)
        with torch.no_grad():
            objective = sums.fit + self.model.regularization().item()
        if not math.isfinite(objective):
            raise NonFiniteLossError(self.state.global_step)
        return sums

    def _labelled(self, dataset: Any) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """This process's batches of a data set that hold samples, as inputs and labels."""
        for batch in self.get_eval_dataloader(dataset):
            inputs = dict(batch)
            labels = inputs.pop("labels")
            if len(labels):
                yield inputs, labels

    def _find_optimum(self, sums: NetworkSums) -> GUFMOptimum | None:
        """J* of this model on the training set, which does not change; looked for once."""
        if self._conflicts is None:
            whole = self._loader(self.train_dataset, self.args.per_device_eval_batch_size, processes=(0, 1))
            self._conflicts = conflicting_label_counts(whole, self.model.config.num_labels)
            if self._conflicts:
                logger.warning(
                    "%d inputs of the training set occur with several labels, %d samples in all; J* gives each one "
                    "feature",
                    len(self._conflicts),
                    sum(map(sum, self._conflicts)),
                )
            self._optimum = network_optimum(self.model.config, sums.statistics.counts.tolist(), self._conflicts)
        return self._optimum

    def _relative_gradient(self) -> float:
        """‖∇J‖/‖∇ penalty‖ over all parameters, on the whole training set."""
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        gradients = [torch.zeros_like(p) for p in named.values()]
        for batch in self.get_eval_dataloader(self.train_dataset):
            batch = self._prepare_inputs(batch)
            if len(batch["labels"]):
                loss = self.model(**batch, num_items_in_batch=len(self.train_dataset)).loss
                for total, gradient in zip(gradients, torch.autograd.grad(loss, list(named.values())), strict=True):
                    total += gradient
        penalty = [self.model.l2_coefficient_of(name) * p.detach() for name, p in named.items()]
        whole = [self.accelerator.reduce(fit) + decay for fit, decay in zip(gradients, penalty, strict=True)]
        return (_norm(whole) / _norm(penalty)).item()


@contextlib.contextmanager
def _looked_for_once(package: str) -> Iterator[None]:
    """Spare every step accelerate's search of the disk for an optional package."""
    is_absent = importlib.util.find_spec(package) is None
    known: dict[str, Any] = sys.modules
    if is_absent:
        known[package] = None  # how Python notes that there is none
    try:
        yield
    finally:
        if is_absent:
            known.pop(package, None)


@contextlib.contextmanager
def _in_float64(model: RegularizedObjectiveMixin) -> Iterator[None]:
    dtype = model.dtype
    model.double()
    try:
        yield
    finally:
        model.to(dtype)


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm()
