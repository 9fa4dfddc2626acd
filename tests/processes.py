"""Run a function by several processes at once, one of which is the test's own."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def run_in_processes(function, num_processes: int, *arguments, timeout: float = 120) -> list:
    """What `function(rank, *arguments)` returns for every rank; rank 0 is this process, where coverage is seen.

    The others are started afresh: a fork of a process that has threads (torch, gloo, datasets) can hang for ever.
    """
    with ProcessPoolExecutor(num_processes - 1, mp_context=get_context("spawn")) as executor:
        others = [executor.submit(function, rank, *arguments) for rank in range(1, num_processes)]
        return [function(0, *arguments), *(other.result(timeout) for other in others)]
