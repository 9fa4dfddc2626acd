"""Write the report of a sweep."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser("report", help="write a sweep's figures and one self-contained HTML report")
    command.add_argument("folder", type=Path, help="the sweep's folder, which holds results.csv")
    command.add_argument("--output", type=Path, metavar="FILE", help="the HTML file; FOLDER/report.html by default")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the report and print where."""
    from transformers.utils.logging import disable_progress_bar

    from hf_ncollapse.sweeps.report import write_report

    disable_progress_bar()  # of loading weights
    print(write_report(options.folder, options.output))
    return 0
