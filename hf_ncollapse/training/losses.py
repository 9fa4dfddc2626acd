"""The losses of a training, looked at many at once, so that no step waits for the device to tell its own."""

import torch
from accelerate import Accelerator

# Steps at most for which a diverged training goes on where nothing is logged, measured or saved before.
_MOST_UNSEEN = 100


class NonFiniteLossError(FloatingPointError):
    """The training loss became NaN or infinite; `step` is the number of finished steps before it."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not finite at step {step + 1}")
        self.step = step


class UnseenLosses:
    """Losses that nobody has looked at yet, each a scalar tensor with the number of finished steps before it."""

    def __init__(self) -> None:
        self._losses: list[tuple[int, torch.Tensor]] = []

    @property
    def are_many(self) -> bool:
        """Whether it is time to look."""
        return len(self._losses) >= _MOST_UNSEEN

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Note the loss of the step after `step` finished ones."""
        self._losses.append((step, loss))

    def forget(self) -> None:
        """Look at none of them."""
        self._losses = []

    def look(self, accelerator: Accelerator) -> None:
        """Stop every process of an accelerator at the first loss that is not finite.

        Raises:
            NonFiniteLossError: in all processes, or some would wait for the others for ever.
        """
        if not self._losses:
            return
        steps, losses = zip(*self._losses, strict=True)
        self.forget()
        finite = torch.isfinite(torch.stack(losses))
        if accelerator.num_processes > 1:
            finite = accelerator.gather(finite[None]).all(0)
        if False in (are_finite := finite.tolist()):
            raise NonFiniteLossError(steps[are_finite.index(False)])
