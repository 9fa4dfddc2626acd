"""Collapse in the log of any Hugging Face `Trainer`."""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .batches import LABEL_NAMES
from .collapse_report import FEATURES, CollapseReport
from .measurement import DEFAULT_MEASURES, measure_collapse


class NeuralCollapseCallback(TrainerCallback):
    """Measure the training set's collapse while a `Trainer` trains, and log it through the trainer.

    Each measurement is one forward pass over the sets, shared out among the processes. The log gets
    `train_collapse_<measure>`, and `test_collapse_<measure>` for the test set about the *training* means; a block's
    have its name after them, `train_collapse_nc1/<module>`. TensorBoard and the others show them like any other value.

    Args:
        trainer (`Trainer`): the trainer that the callback is added to; its collator and columns are used.
        train_dataset: what to measure; the trainer's training set by default. A balanced subset costs less.
        test_dataset (*optional*): a second set, measured about the training set's class means.
        every (`str` or `int`): "epoch", or a number of optimiser steps. The end of training is measured as well.
        layers, measures, min_class_count: as in [`measure_collapse`].

    Raises:
        ValueError: `every` is neither "epoch" nor a positive number, or there is no training set.

    Example:

        >>> trainer = Trainer(model=model, args=args, train_dataset=train, data_collator=collator)  # doctest: +SKIP
        >>> trainer.add_callback(NeuralCollapseCallback(trainer, test_dataset=test))  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        train_dataset: Any = None,
        *,
        test_dataset: Any = None,
        every: str | int = "epoch",
        layers: str | list[str] = "last",
        measures: str | Iterable[str] = DEFAULT_MEASURES,
        min_class_count: int | None = None,
    ):
        is_number = isinstance(every, int) and not isinstance(every, bool) and every >= 1
        if every != "epoch" and not is_number:
            raise ValueError(f'every must be "epoch" or a number of steps, at least 1; got {every!r}')
        if train_dataset is None:
            train_dataset = trainer.train_dataset
        if train_dataset is None:
            raise ValueError("train_dataset must be given: the trainer has no training set")
        self.trainer, self.every = trainer, every
        self.train_dataset, self.test_dataset = train_dataset, test_dataset
        self._measure_collapse = partial(
            measure_collapse, layers=layers, measures=measures, min_class_count=min_class_count
        )
        self.last_measured_step: int | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        if isinstance(self.every, int) and state.global_step % self.every == 0:
            self._measure_and_log(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        if self.every == "epoch":
            self._measure_and_log(control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        if self.last_measured_step != state.global_step:
            self._measure_and_log(control)

    def _measure_and_log(self, control: TrainerControl) -> None:
        self.last_measured_step = self.trainer.state.global_step
        train = self._measure(self.train_dataset)
        logs = _logged("train_collapse", train)
        if self.test_dataset is not None:
            logs |= _logged("test_collapse", self._measure(self.test_dataset, training=train))
        # `log` takes the trainer's own entry of this step for written, which it is not yet.
        should_log = control.should_log
        self.trainer.log(logs)
        control.should_log = should_log

    def _measure(self, dataset: Any, training: CollapseReport | None = None) -> CollapseReport:
        trainer = self.trainer
        columns = getattr(dataset, "column_names", None)
        if trainer.args.remove_unused_columns and columns and hasattr(dataset, "select_columns"):
            trainer._set_signature_columns_if_needed()
            taken = {*(trainer._signature_columns or ()), *LABEL_NAMES}
            dataset = dataset.select_columns([name for name in columns if name in taken])
        return self._measure_collapse(
            cast(nn.Module, trainer.model),  # a trainer that trains has one
            dataset,
            training=training,
            batch_size=trainer.args.eval_batch_size,
            collate=trainer.data_collator,
            progress=False,
        )


def _logged(prefix: str, report: CollapseReport) -> dict[str, float]:
    return {
        f"{prefix}_{measure}" + ("" if layer.layer == FEATURES else f"/{layer.layer}"): value
        for layer in report.layers
        for measure, value in layer.values.items()
    }
