"""The processes of a launch: they train together or not at all, and one decides for all."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, get_int_from_env

T = TypeVar("T")

# Where torchrun, accelerate and the MPI launchers say how many processes they started.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_processes(state: PartialState) -> None:
    """Check that the processes that were launched train together.

    Args:
        state: what this process sees of the others.

    Raises:
        ValueError: the launcher was asked for another number of processes than there are here, or they would not
            exchange their gradients.
    """
    launched = get_int_from_env(_WORLD_SIZES, 1)
    if launched != state.num_processes:
        raise ValueError(
            f"{launched} processes were launched, but each of them sees {state.num_processes} and would train alone; "
            "without GPUs set use_cpu, and launch through recipes/accelerate_configs"
        )
    if state.num_processes > 1 and state.distributed_type == DistributedType.NO:
        raise ValueError(
            f"{state.num_processes} processes were launched, but their gradients would not be synchronised; without "
            "GPUs set use_cpu and leave ddp_backend alone"
        )
    # accelerate sets these two together only when it is asked for several processes and starts a single one.
    if launched == 1 and "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        raise ValueError(
            "accelerate was asked for several processes and started one, as it does with --cpu; launch with "
            "--config_file recipes/accelerate_configs/cpu_2_processes.yaml, or unset MASTER_ADDR to train in one"
        )


def decided_by_main(decide: Callable[[], T]) -> T:
    """Return what `decide` returned in process 0, in every process.

    Files may change between the looks of two processes, so that one has to decide for all.

    Args:
        decide: called in process 0 alone; what it returns can be pickled.
    """
    state = PartialState()
    decided: list[Any] = [decide() if state.is_main_process else None]  # filled in by the broadcast
    if state.num_processes > 1:
        broadcast_object_list(decided)
    return decided[0]
