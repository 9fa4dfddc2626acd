"""Depth sweeps: from a recipe to runs, results and figures.

The names load on first use: who reads a sweep needs neither the Trainer nor matplotlib.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data import DataArguments
    from .arguments import (
        EngineArguments,
        ModelArguments,
        Recipe,
        SweepArguments,
        parse_engine,
        parse_recipe,
    )
    from .engines import make_engine
    from .report import write_report
    from .results import COLUMNS, collect_results, read_results, results_table
    from .schedule import SweepOutcome, run_sweep
    from .summary import summarize
    from .sweep_record import SweepRecord, read_sweep

# Name -> the module here that defines it; type checkers read the imports above.
_NAMES = {
    **dict.fromkeys(("DataArguments", "EngineArguments", "ModelArguments", "Recipe", "SweepArguments"), "arguments"),
    **dict.fromkeys(("parse_engine", "parse_recipe"), "arguments"),
    "make_engine": "engines",
    **dict.fromkeys(("SweepOutcome", "run_sweep"), "schedule"),
    "write_report": "report",
    **dict.fromkeys(("COLUMNS", "collect_results", "read_results", "results_table"), "results"),
    "summarize": "summary",
    **dict.fromkeys(("SweepRecord", "read_sweep"), "sweep_record"),
}

__all__ = [
    "COLUMNS",
    "DataArguments",
    "EngineArguments",
    "ModelArguments",
    "Recipe",
    "SweepArguments",
    "SweepOutcome",
    "SweepRecord",
    "collect_results",
    "make_engine",
    "parse_engine",
    "parse_recipe",
    "read_results",
    "read_sweep",
    "results_table",
    "run_sweep",
    "summarize",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_ncollapse.sweeps' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
