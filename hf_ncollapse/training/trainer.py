"""`CollapseTrainer`: the Hugging Face Trainer on the exact objective, with its distance from the global optimum."""

import importlib.util
import math
import sys
import warnings
from collections.abc import Mapping

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from ..models.regularized_objective import fit
from ..models.residual_layers import feature_norm
from ..neural_collapse import measures
from ..neural_collapse.class_statistics import ClassStatistics
from ..theory import GUFMOptimum, gufm_optimum
from .arguments import COUPLED_OPTIMIZERS, CollapseTrainingArguments
from .batches import BatchLoader, ProcessBatchSampler
from .processes import check_processes
from .saving import explained_write_errors

# accelerate searches the disk for this optional package at every step; None is how Python notes that there is none.
if importlib.util.find_spec("lomo_optim") is None:
    sys.modules["lomo_optim"] = None


class NonFiniteLossError(FloatingPointError):
    """The training loss became NaN or infinite; `step` is the number of finished steps before it."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not finite at step {step + 1}")
        self.step = step


class CollapseTrainer(Trainer):
    """Train J(θ) = (1/N) Σ ℓ(W x_i, y_i) + (λ/2) ‖θ‖² exactly, and log how far it is from its global optimum.

    What differs from [`~transformers.Trainer`]: the penalty is coupled and on every parameter, with the λ of the
    model's config; a step's samples do not depend on the number of processes; `evaluate` measures the objective and
    the collapse of the *training* set in one streaming pass, and the accuracy on `eval_dataset` when there is one.

    Every evaluation logs `fit`, `regularization` and its parts `regularization_embedding`, `_body` and `_classifier`,
    `objective` (J), `gufm_optimum` (J*), `gap` (J − J* ≥ 0), `train_accuracy`, `test_accuracy`, `nc1`, `nc2`, `nc3`,
    and returns them with the usual `eval_` prefix. `nc2` is the distance from the frame of the loss's optimum: of W Wᵀ
    from the simplex ETF's for cross-entropy, of the class means from an orthogonal frame for MSE. J* is left out, with
    one warning, where the theory has none.

    Args:
        model: a classifier of the package, with its objective in its config.
        args: [`CollapseTrainingArguments`].
        train_dataset, eval_dataset: datasets whose batches are, or collate to, dictionaries of tensors with `labels`.
        **kwargs: as for the Trainer.

    Raises:
        ValueError: if `weight_decay` contradicts the config, the optimiser's penalty is not the objective's, or the
            processes that were launched would not train together.
        NonFiniteLossError: from `train`, at the first step whose loss is not finite.
    """

    args: CollapseTrainingArguments

    def __init__(self, model=None, args: CollapseTrainingArguments | None = None, **kwargs):
        args = args if args is not None else CollapseTrainingArguments()
        if not isinstance(args, CollapseTrainingArguments):
            raise ValueError(f"args is a {type(args).__name__}; it takes CollapseTrainingArguments")
        check_processes(args.distributed_state)
        super().__init__(model, args, **kwargs)
        l2_coefficient = self.model.config.resolved_l2_coefficient
        if args.weight_decay is None:
            args.weight_decay = l2_coefficient
        elif not math.isclose(args.weight_decay, l2_coefficient):
            args.require_permission("weight_decay", args.weight_decay, f"the model's λ, {l2_coefficient!r}")
        self._num_weights: int | None = None
        self._optima: dict[tuple[int, ...], GUFMOptimum | None] = {}

    # The exact objective

    def get_decay_parameter_names(self, model) -> list[str]:
        """Every parameter: ‖θ‖² leaves out neither biases nor norms nor one-dimensional weights."""
        return [name for name, _ in model.named_parameters()]

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        """Adam or SGD with coupled L2; others, once allowed by name, are transformers' own."""
        optimizer = COUPLED_OPTIMIZERS.get(args.optim)
        if optimizer is None:
            return Trainer.get_optimizer_cls_and_kwargs(args, model)
        adam = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon} if args.optim == "adam" else {}
        return optimizer, {"lr": args.learning_rate, "fused": True, **adam, **args.optimizer_options()}

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Create the optimiser and check that it minimises the objective."""
        optimizer = super().create_optimizer(model)
        if isinstance(optimizer, torch.optim.AdamW) or any(
            group.get("decoupled_weight_decay") for group in optimizer.param_groups
        ):
            self.args.require_permission("optim", type(optimizer).__name__, "an optimiser with coupled L2")
        penalised = sum(
            p.numel()
            for group in optimizer.param_groups
            if math.isclose(group.get("weight_decay", 0.0), self.args.weight_decay)
            for p in group["params"]
        )
        every = sum(p.numel() for p in (model or self.model).parameters() if p.requires_grad)
        if penalised != every:
            self.args.require_permission(
                "weight_decay",
                f"on {penalised} of {every} weights in this optimiser",
                f"λ = {self.args.weight_decay} on every weight",
            )
        return optimizer

    def _get_grad_norm(self, model, grad_norm=None):
        """Without clipping nobody reads the norm, which the Trainer would compute at every step."""
        return grad_norm

    def floating_point_ops(self, inputs) -> int:
        """Six a weight and input value, as transformers estimates; the weights, which do not change, counted once."""
        if self._num_weights is None:
            self._num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        return 6 * inputs[self.model.main_input_name].numel() * self._num_weights

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """One forward and backward pass; stops every process at the first loss that is not finite."""
        if len(inputs["labels"]) == 0:
            # An empty share, which not every layer takes: a made-up sample divided by ∞ gives gradients of zero.
            inputs = {name: value.new_ones((1, *value.shape[1:])) for name, value in inputs.items()}
            num_items_in_batch = math.inf
        loss = super().training_step(model, inputs, num_items_in_batch)
        finite = torch.isfinite(loss)
        if self.args.world_size > 1:
            # All processes must stop together, or the others would wait for this one for ever.
            finite = self.accelerator.gather(finite.reshape(1)).all()
        if not finite:
            raise NonFiniteLossError(self.state.global_step)
        return loss

    def _save_checkpoint(self, model, trial):
        """As the Trainer's, with one kind of error for every file that cannot be written."""
        with explained_write_errors(self.args.output_dir):
            super()._save_checkpoint(model, trial)

    # Data

    def _loader(self, dataset, device_batch_size: int, seed: int | None) -> DataLoader:
        sampler = ProcessBatchSampler(
            len(dataset),
            device_batch_size * self.args.world_size,
            self.args.process_index,
            self.args.world_size,
            seed,
        )
        return BatchLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=self._collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _collate(self, rows):
        return rows if isinstance(rows, Mapping) else self.data_collator(rows)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of the training set, shuffled by the seed and the epoch."""
        if self.train_dataset is None:
            raise ValueError("train_dataset is None; training takes a dataset")
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return self._loader(self.train_dataset, self.args.per_device_train_batch_size, seed)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Batches of a dataset in its order, each sample once over all processes."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        return self._loader(dataset, self.args.per_device_eval_batch_size, None)

    # Measurement

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Measure objective, gap and collapse on the training set, and accuracy on `eval_dataset`; log and return.

        Returns:
            The numbers of the class's docstring, each named `{metric_key_prefix}_{name}`.
        """
        measured = self.measure(eval_dataset)
        self.log(dict(measured))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(self, eval_dataset=None) -> dict[str, float]:
        """Return what `evaluate` logs, by its plain names, without logging it."""
        eval_dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        classifier = self.model.classifier.weight.detach()
        statistics = ClassStatistics(self.model.config.num_labels)
        training = self._pass_over(self.train_dataset, statistics)
        statistics.all_reduce()
        with torch.no_grad():
            parts = {name: part.item() for name, part in self.model.regularization_parts().items()}
        regularization = sum(parts.values())
        measured = {
            "fit": training["fit"],
            "regularization": regularization,
            **{f"regularization_{name}": value for name, value in parts.items()},
            "objective": training["fit"] + regularization,
        }
        optimum = self._optimum(tuple(statistics.counts.tolist()))
        if optimum is not None:
            measured["gufm_optimum"] = optimum.objective
            measured["gap"] = measured["objective"] - optimum.objective
        measured["train_accuracy"] = training["accuracy"]
        if eval_dataset is not None:
            measured["test_accuracy"] = self._pass_over(eval_dataset)["accuracy"]
        # The optimum of the squared loss is an orthogonal frame, not a simplex.
        is_squared = self.model.config.loss == "mse"
        nc2 = measures.nc2_orthogonal(statistics) if is_squared else measures.nc2(classifier)
        return {
            **measured,
            "nc1": measures.nc1(statistics),
            "nc2": nc2,
            "nc3": measures.nc3(statistics, classifier),
        }

    def _pass_over(self, dataset, statistics: ClassStatistics | None = None) -> dict[str, float]:
        """Mean loss and accuracy over the dataset and all processes; feeds this process's features to `statistics`."""
        was_training = self.model.training
        self.model.eval()
        totals = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for batch in self.get_eval_dataloader(dataset):
                batch = self._prepare_inputs(batch)
                labels = batch["labels"]
                if len(labels) == 0:
                    continue
                output = self.model(**batch)
                totals[0] += fit(output.logits.double(), labels, self.model.config.loss, num_items_in_batch=1)
                totals[1] += (output.logits.argmax(1) == labels).sum()
                totals[2] += len(labels)
                if statistics is not None:
                    statistics.update(output.features, labels)
        self.model.train(was_training)
        total_fit, correct, count = self.accelerator.reduce(totals).tolist()
        return {"fit": total_fit / count, "accuracy": correct / count}

    def _optimum(self, class_counts: tuple[int, ...]) -> GUFMOptimum | None:
        """J* of this model on these classes; None, with one warning, where the theory has none."""
        if class_counts not in self._optima:
            config = self.model.config
            try:
                self._optima[class_counts] = gufm_optimum(
                    class_counts,
                    config.resolved_l2_coefficient,
                    loss=config.loss,
                    radius=feature_norm(config.norm_scale, config.hidden_size),
                    hidden_size=config.hidden_size,
                )
            except ValueError as reason:
                warnings.warn(f"no gufm_optimum and no gap: {reason}", stacklevel=2)
                self._optima[class_counts] = None
        return self._optima[class_counts]
