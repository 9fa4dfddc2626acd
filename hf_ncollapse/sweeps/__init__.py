"""Depth sweeps: from a recipe to runs, results and figures."""

from .arguments import (
    DataArguments,
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

__all__ = [
    "COLUMNS",
    "DataArguments",
    "EngineArguments",
    "ModelArguments",
    "Recipe",
    "SweepArguments",
    "SweepOutcome",
    "collect_results",
    "make_engine",
    "parse_engine",
    "parse_recipe",
    "read_results",
    "results_table",
    "run_sweep",
    "summarize",
    "write_report",
]
