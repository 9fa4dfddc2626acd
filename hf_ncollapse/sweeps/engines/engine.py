"""What every engine does: it decides where and when a run is trained, and nothing else."""

import abc
import gc
import platform
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ...data import ClassificationData
from ..arguments import Recipe
from ..files import read_json, sole_use, write_json
from ..interruption import StopRequest, SweepInterrupted
from ..plan import PATIENCE, Run
from ..progress import SweepProgress
from ..run import RunEnd, train_one

# In the folder of a sweep that is trained on several machines.
_MARK = ".shared.json"


@dataclass(frozen=True)
class Sweep:
    """What an engine needs to know of the sweep that it serves."""

    recipe: Recipe
    data: ClassificationData
    stop: StopRequest
    progress: SweepProgress


class Engine(abc.ABC):
    """Trains runs by [`train_one`], somewhere; a context in which its processes live.

    The schedule starts a run when its parent is finished, and asks for those that ended. It does not need to know what
    an engine lost or never began: the runs' folders say that.

    Args:
        sweep: that it serves.
    """

    # Whether `start` takes runs whose parents it is training, and lets them wait.
    orders_parents = False

    def __init__(self, sweep: Sweep):
        self.sweep = sweep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        gc.unfreeze()  # what `free_run` froze

    @property
    @abc.abstractmethod
    def room(self) -> int:
        """How many more runs it takes now."""

    @abc.abstractmethod
    def start(self, runs: Sequence[Run]) -> None:
        """Begin with some runs, at most `room`."""

    @abc.abstractmethod
    def ended(self, patience: float) -> list[RunEnd]:
        """Return the ends of runs that were started, and wait at most `patience` seconds for the first."""

    def stop(self) -> list[RunEnd]:
        """Let all that train save a checkpoint and end, wait for them, and return their ends."""
        return []


def free_run() -> None:
    """Free the networks and trainers of a run, which point to each other, before the next one takes memory.

    What has survived the first run, libraries above all, is not looked through again: that would take as long as a
    short run.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


def attempt(run: Run, recipe: Recipe, load: Callable[[], ClassificationData], stop: StopRequest) -> RunEnd:
    """[`train_one`] for another process that waits for it: whatever happens comes back as a value that is pickled.

    Args:
        run, recipe, stop: as for [`train_one`].
        load: returns the data.
    """
    said: list[str] = []
    try:
        end = train_one(run, recipe, load(), stop, say=said.append)
        return replace(end, line="\n".join(filter(None, [*said, end.line])))
    except SweepInterrupted as stopped:
        return RunEnd(run, "stopped", reason=stopped.where)
    except Exception as error:
        return RunEnd(run, "refused", error=_portable(error))
    finally:
        free_run()


def _portable(error: Exception) -> Exception:
    """An error of the same kind that pickle brings back whole."""
    for kind in (ValueError, ImportError, OSError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError("".join(traceback.format_exception(error)))


def folder_mark(folder: Path) -> str:
    """Return what is written in a sweep's folder for other machines to know it by."""
    path = folder / _MARK
    with sole_use(folder, PATIENCE):
        if not path.is_file():
            write_json(path, {"folder": uuid.uuid4().hex})
        return read_json(path)["folder"]


def check_shared(folder: Path, mark: str) -> None:
    """Check that this machine sees the folder of the one that schedules.

    Args:
        folder: the sweep's.
        mark: from [`folder_mark`] there.

    Raises:
        OSError: it does not; the message names both.
    """
    path = folder / _MARK
    if not path.is_file() or read_json(path).get("folder") != mark:
        raise OSError(
            f"{folder} on {platform.node()} is not the folder of the machine that started the sweep; give an "
            "--output_dir that every node sees"
        )
