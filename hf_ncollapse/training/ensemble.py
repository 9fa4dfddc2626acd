"""Several trainings that differ in their seeds, done at once: one pass and one optimiser step for all networks."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from accelerate import skip_first_batches

from ..models.collapse_config import CollapseConfig
from .arguments import CollapseTrainingArguments
from .batches import BatchLoader, JointBatchSampler
from .losses import NonFiniteLossError
from .polish import PolishedOptimizer
from .stacked_networks import StackedNetworks
from .trainer import CollapseTrainer

# What trainings of an ensemble may differ in.
_OWN = {"seed", "data_seed", "output_dir", "run_name", "logging_dir", "_name_or_path"}
# What a pass over all networks does is the same for each, and steps are all that it counts.
_TAKES: dict[str, tuple[object, ...]] = {
    "optim": ("adam", "sgd", "adamw_torch", "adamw_torch_fused"),
    "max_grad_norm": (0,),
    "label_smoothing_factor": (0,),
    "neftune_noise_alpha": (None,),
    "bf16": (False,),
    "fp16": (False,),
    "torch_compile": (False,),
    "activation_checkpointing": (False, None),
    "gradient_checkpointing": (False, None),
    "use_liger_kernel": (False,),
    "auto_find_batch_size": (False,),
    "world_size": (1,),
    "eval_on_start": (False,),
    "logging_strategy": ("steps", "no"),
    "eval_strategy": ("steps", "no"),
    "save_strategy": ("steps", "best", "no"),
    "include_num_input_tokens_seen": ("no",),
    "report_to": ([], ["tensorboard"]),
}
_LR_BY_METRIC = ("reduce_lr_on_plateau", "greedy")


def check_ensemble(args: CollapseTrainingArguments, config: CollapseConfig) -> None:
    """Check that networks can be trained in an ensemble.

    Args:
        args: of their trainings.
        config: of the networks.

    Raises:
        ValueError: they cannot; the message names the argument.
    """
    for name, takes in _TAKES.items():
        value = getattr(args, name, takes[0])  # transformers renames one for the other
        if value not in takes:
            raise ValueError(f"{name} is {value!r}; an ensemble takes {' or '.join(map(repr, takes))}")
    if args.lr_scheduler_type in _LR_BY_METRIC:
        raise ValueError(
            f"lr_scheduler_type is {str(args.lr_scheduler_type)!r}; the networks of an ensemble have one learning rate"
        )
    if getattr(config, "modality", "image") == "text" and not getattr(config, "is_causal", True):
        raise ValueError("is_causal is False; an ensemble of networks that read texts takes True")


class Ensemble:
    r"""Trains the networks of several [`CollapseTrainer`]s at once, each on the batches of its own seed.

    Every network takes the steps that its trainer would take alone, but for the rounding of sums in another order. Its
    trainer evaluates, logs and saves, by its own arguments, callbacks and checkpoints. So whatever training one begins
    the other can continue: an ensemble takes up any checkpoints, also of different steps, where the ones behind are
    trained first, and what it leaves is `trainer.train(resume_from_checkpoint=...)`'s to take up. L-BFGS's
    steps after another optimiser's are left to that; a checkpoint is saved where they begin, as at the last step.

    A network whose loss is not finite leaves, and the others go on. When one's callback stops the training, all stop,
    with a checkpoint.

    Args:
        trainers: which differ in their networks' weights, their seeds and their folders only.
        checkpoints: the folder that each goes on from, or None.

    Raises:
        ValueError: the trainers differ, or are of a kind that [`check_ensemble`] refuses.
    """

    def __init__(self, trainers: Sequence[CollapseTrainer], checkpoints: Sequence[str | None]):
        first = trainers[0]
        for trainer in trainers:
            check_ensemble(trainer.args, trainer.model.config)
            if differing := _differing(first, trainer):
                raise ValueError(f"trainers differ in {', '.join(differing)}; an ensemble takes one of these for all")
        self.members = [Member(trainer, checkpoint) for trainer, checkpoint in zip(trainers, checkpoints, strict=True)]

    def train(self) -> list[NonFiniteLossError | None]:
        """Train to the end, or to where L-BFGS's steps begin; return why each network left before, if it did."""
        stopped = False
        while not stopped and (waiting := [member for member in self.members if member.is_waiting]):
            step = min(member.step for member in waiting)
            together = [member for member in waiting if member.step == step]
            until = min(member.step if member.step > step else member.last_step for member in waiting)
            stopped = _train_together(together, until)
        for member in self.members:
            member.end()
        return [member.failure for member in self.members]


class Member:
    """One training of an ensemble: what its trainer does around the steps.

    `optimizer` is its own, which has to be kept up to date.

    Args:
        trainer: ready to train.
        checkpoint: the folder that it goes on from, or None.
    """

    def __init__(self, trainer: CollapseTrainer, checkpoint: str | None):
        self.trainer = trainer
        self.failure: NonFiniteLossError | None = None
        # As the Trainer begins.
        if checkpoint is not None:
            trainer._load_from_checkpoint(checkpoint)
        loader = trainer.get_train_dataloader()
        epochs, steps_an_epoch, *_, self.max_steps = trainer.set_initial_training_values(trainer.args, loader)
        trainer._init_training_state(self.max_steps, steps_an_epoch, epochs, checkpoint, None)
        made = trainer.create_optimizer()
        self._polished = made if isinstance(made, PolishedOptimizer) else None
        self.optimizer = made.first if isinstance(made, PolishedOptimizer) else made
        self._scheduler = trainer.create_scheduler(self.max_steps)
        trainer._load_optimizer_and_scheduler(checkpoint)
        trainer._tr_loss = torch.tensor(0.0, device=trainer.args.device)
        trainer._total_loss_scalar = 0.0
        trainer._globalstep_last_logged = trainer.state.global_step
        self._started = time.time()
        trainer.control = trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
        # The scheduler looks whether its optimiser steps; that of the ensemble does in its place.
        cast(Any, made)._opt_called = True

    @property
    def step(self) -> int:
        """Finished steps."""
        return self.trainer.state.global_step

    @property
    def last_step(self) -> int:
        """How many steps it takes in an ensemble."""
        return self.max_steps if self._polished is None else self._polished.first_steps

    @property
    def is_waiting(self) -> bool:
        """Whether it has steps to take."""
        return self.failure is None and self.step < self.last_step

    def note_start(self, fit: torch.Tensor) -> None:
        """Note the fit at the first step, which L-BFGS compares with its own start."""
        if self._polished is not None:
            self.trainer._step_fit = self.step, fit.double()
            self._polished.note_start()

    def advance(self, epoch: float, operations: float) -> None:
        """Count a step: `epoch` is how many have passed, `operations` its floating-point operations."""
        trainer = self.trainer
        trainer.control = trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)
        self._scheduler.step()
        cast(Any, trainer).current_flos += operations
        trainer.state.global_step += 1
        trainer.state.epoch = epoch
        if self._polished is not None:
            self._polished.taken = trainer.state.global_step
        trainer.control = trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)

    @property
    def has_news(self) -> bool:
        """Whether it is to log, evaluate or save after this step."""
        control = self.trainer.control
        return control.should_log or control.should_evaluate or control.should_save

    def tell_news(self, learning_rate: float) -> None:
        """Log, evaluate and save, as asked; its network is that of this step."""
        trainer = self.trainer
        try:
            trainer._maybe_log_save_evaluate(
                trainer._tr_loss, None, trainer.model, None, trainer.state.epoch, None, self._started, learning_rate
            )
        except NonFiniteLossError as error:
            self.failure = error

    def end(self) -> None:
        """As the Trainer ends."""
        trainer = self.trainer
        trainer.control = trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


def _train_together(members: Sequence[Member], until: int) -> bool:
    """Train networks of one step until another step, or until one of them leaves; return whether one asked to stop."""
    trainers = [member.trainer for member in members]
    args = trainers[0].args
    networks = StackedNetworks(
        [trainer.model for trainer in trainers], [member.optimizer for member in members], args.full_batch
    )
    losses = torch.stack([trainer._tr_loss for trainer in trainers])
    for trainer, loss in zip(trainers, losses, strict=True):
        trainer._tr_loss = loss  # a view, which the trainer sets to 0 when it logs
    for epoch, batches in _batches(trainers, members[0].step):
        fits = networks.backward(batches)
        for member, is_finite in zip(members, torch.isfinite(fits).tolist(), strict=True):
            if not is_finite:
                member.failure = NonFiniteLossError(member.step)
        if any(member.failure for member in members):
            break  # this step is taken by the others alone
        if members[0].step == 0:
            for member, fit in zip(members, fits, strict=True):
                member.note_start(fit)
        losses += fits
        learning_rate = trainers[0]._get_learning_rate()
        for group, alone in zip(networks.optimizer.param_groups, members[0].optimizer.param_groups, strict=True):
            group["lr"] = alone["lr"]
        networks.optimizer.step()
        operations = sum(float(trainers[0].floating_point_ops(batch)) for batch in batches)
        for member in members:
            member.advance(epoch, operations if args.full_batch else operations / len(members))
        is_last = members[0].step == members[0].last_step
        stops = any(trainer.control.should_training_stop for trainer in trainers)
        if is_last or stops:
            for trainer in trainers:
                trainer.control.should_save = True
        if any(member.has_news for member in members):
            networks.hand_back()
            for member in members:
                member.tell_news(learning_rate)
        if stops or members[0].step == until or any(member.failure for member in members):
            networks.hand_back()
            return stops
    networks.hand_back()
    return False


def _batches(trainers: Sequence[CollapseTrainer], step: int) -> Iterator[tuple[float, list[dict[str, torch.Tensor]]]]:
    """The micro-batches of every step from a step on, for all networks, and how many epochs have passed after it."""
    first, args = trainers[0], trainers[0].args
    samplers = [trainer.get_train_dataloader().batch_sampler for trainer in trainers]
    loader = BatchLoader(
        first.train_dataset,
        # All samples, in one order.
        batch_sampler=samplers[0] if args.full_batch else JointBatchSampler(samplers),
        collate_fn=first._collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
    )
    count = args.gradient_accumulation_steps
    epoch, done = divmod(step, math.ceil(len(loader) / count))
    done *= count
    while True:
        loader.set_epoch(epoch)
        batches = iter(skip_first_batches(loader, done) if done else loader)
        while micro_batches := [first._prepare_inputs(batch) for batch in itertools.islice(batches, count)]:
            done += len(micro_batches)
            if not args.full_batch:
                micro_batches = [_unflatten(batch, len(trainers)) for batch in micro_batches]
            yield epoch + done / len(loader), cast(list[dict[str, torch.Tensor]], micro_batches)
        epoch, done = epoch + 1, 0


def _unflatten(batch: dict[str, Any], count: int) -> dict[str, torch.Tensor]:
    """From (K·n, …) to (K, n, …)."""
    return {name: tensor.unflatten(0, (count, -1)) for name, tensor in batch.items()}


def _differing(one: CollapseTrainer, other: CollapseTrainer) -> list[str]:
    """What two trainers differ in that an ensemble has in common."""
    left, right = ({**trainer.args.to_dict(), **trainer.model.config.to_dict()} for trainer in (one, other))
    names = [name for name in left if name not in _OWN and left[name] != right[name]]
    return names if one.train_dataset is other.train_dataset else ["train_dataset", *names]
