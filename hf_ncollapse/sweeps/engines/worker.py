"""A worker's side of the local engine: `python -m hf_ncollapse.sweeps.engines.worker DESCRIPTOR`."""

import contextlib
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

from transformers.utils.logging import disable_progress_bar

from ...data import load_classification_data
from ..interruption import StopRequest
from ..plan import Run
from .engine import attempt

_LOOK_SECONDS = 0.5  # how often an idle worker looks whether it was asked to stop


def main(descriptor: int) -> None:
    """Train the runs that come through a connection until it is closed or a signal comes.

    Messages to a worker: first the recipe; then runs, and at most one number, of the signal that the sweep got. From
    it: an end for each run.
    """
    disable_progress_bar()  # of saving and loading weights
    connection = Connection(descriptor)
    recipe = connection.recv()
    runs: queue.Queue[Run] = queue.Queue()
    stop = StopRequest()
    with stop.listening():
        threading.Thread(target=_listen, args=(connection, runs, stop), daemon=True).start()
        data = load_classification_data(recipe.data)
        while not stop.signal_number:
            try:
                run = runs.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            end = attempt(run, recipe, lambda: data, stop)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more, and its folder says it too
                connection.send(end)


def _listen(connection: Connection, runs: queue.Queue[Run], stop: StopRequest) -> None:
    """Pass on runs as they come; without the one that sends them, the worker saves and ends too."""
    try:
        while True:
            message = connection.recv()
            if isinstance(message, Run):
                runs.put(message)
            else:
                stop.ask(message)
    except (EOFError, OSError):
        stop.ask(signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]))
