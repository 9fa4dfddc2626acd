"""Stop a sweep when it is asked to, at a step from which it can go on."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_ECHO_SECONDS = 2.0
# Ctrl-C, a scheduler's or a person's wish, and a terminal that is gone; Windows has no such.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class SweepInterrupted(KeyboardInterrupt):
    """A sweep was asked to stop and did; `signal_number` is the signal that asked."""

    def __init__(self, signal_number: int, where: str):
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} {where}; what was trained is saved: start the same "
            "command again to continue"
        )
        self.signal_number = signal_number
        self.where = where


class StopRequest(TrainerCallback):
    """Notes Ctrl-C (SIGINT), SIGTERM and SIGHUP, and ends the training after the step under way, with a checkpoint.

    A further signal does what it does without this class, but for one that comes at once: a launcher of several
    processes passes on a Ctrl-C that they have already got from the terminal.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._asked_at: float | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals in this block, but what is ignored, as by `nohup`; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

        def note(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if self._asked_at is None:
                self.ask(number)
            elif now - self._asked_at > _ECHO_SECONDS:
                signal.signal(number, before[number])
                signal.raise_signal(number)

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask(self, number: int) -> None:
        """Take a signal that came some other way."""
        self.signal_number, self._asked_at = number, time.monotonic()

    def raise_if_asked(self, where: str) -> None:
        """Raise `SweepInterrupted` in every process when a signal has reached one; `where` says how far they are."""
        if self.is_asked():
            raise SweepInterrupted(self.signal_number, where)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.is_asked():
            control.should_save = control.should_training_stop = True

    def is_asked(self) -> bool:
        """Whether a signal has reached any process: it may be one only, or two at different steps."""
        state = PartialState()
        if state.num_processes > 1:
            self.signal_number = int(gather(torch.tensor([self.signal_number], device=state.device)).max())
        return bool(self.signal_number)
