"""Where the runs of a sweep are trained: in this process, alone or together, in several here, by Ray, or by SLURM."""

import functools
from collections.abc import Callable

from ..arguments import EngineArguments
from .engine import Engine, Sweep


def make_engine(arguments: EngineArguments) -> Callable[[Sweep], Engine]:
    """Return what [`run_sweep`] takes as its engine.

    Args:
        arguments: which one, with its resources.

    Raises:
        ImportError: the engine's own package is missing; the message says what to install.
    """
    if arguments.ensemble:
        from .ensembles import Ensembles

        return Ensembles
    if arguments.engine == "local":
        if arguments.workers in (None, 1):
            from .this_process import ThisProcess

            return ThisProcess
        from .workers import Workers

        return functools.partial(Workers, count=arguments.workers)
    cluster: Callable[[Sweep, EngineArguments], Engine]
    try:
        if arguments.engine == "ray":
            from .ray_tasks import RayTasks as cluster
        else:
            from .slurm_jobs import SlurmJobs as cluster
    except ImportError as error:
        raise ImportError(
            f"engine is {arguments.engine!r}, whose package is missing ({error}); "
            f"pip install 'hf_ncollapse[{arguments.engine}]'"
        ) from error
    return lambda sweep: cluster(sweep, arguments)
