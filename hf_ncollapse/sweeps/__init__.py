"""Depth sweeps: from a recipe to runs, results and figures."""

from .arguments import DataArguments, ModelArguments, Recipe, SweepArguments, parse_recipe
from .execute import SweepOutcome, run_sweep
from .report import write_report
from .results import COLUMNS, collect_results, read_results, results_table
from .summary import summarize

__all__ = [
    "COLUMNS",
    "DataArguments",
    "ModelArguments",
    "Recipe",
    "SweepArguments",
    "SweepOutcome",
    "collect_results",
    "parse_recipe",
    "read_results",
    "results_table",
    "run_sweep",
    "summarize",
    "write_report",
]
