"""The `hf-ncollapse` command."""

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a command registers `run`, a function of the parsed arguments that returns the exit code."""
    parser = argparse.ArgumentParser(prog="hf-ncollapse", description="Measure, certify and publish neural collapse.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_install_metric(commands)
    _add_report(commands)
    return parser


def _add_install_metric(commands) -> None:
    command = commands.add_parser(
        "install-metric", help='make evaluate.load("neural_collapse") work from any folder, offline too'
    )
    command.add_argument("--uninstall", action="store_true", help="remove what was installed")
    command.set_defaults(run=_run_install_metric)


def _run_install_metric(options: argparse.Namespace) -> int:
    from hf_ncollapse.hub.metric import install_metric, uninstall_metric

    if not options.uninstall:
        print(f'evaluate.load("neural_collapse") now loads {install_metric()}')
        return 0
    removed = uninstall_metric()
    print("\n".join(f"removed {folder}" for folder in removed) or "nothing was installed")
    return 0


def _add_report(commands) -> None:
    command = commands.add_parser("report", help="write a sweep's figures and one self-contained HTML report")
    command.add_argument("folder", type=Path, help="the sweep's folder, which holds results.csv")
    command.add_argument("--output", type=Path, metavar="FILE", help="the HTML file; FOLDER/report.html by default")
    command.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="FOLDER", help="other sweeps to show beside this one"
    )
    command.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from hf_ncollapse.sweeps.report import write_report

    disable_progress_bar()  # of loading weights
    print(write_report(options.folder, options.output, options.compare))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake prints one line on stderr and returns 2, unless `--debug` asks for more."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError) as error:
        if options.debug:
            raise
        print(f"hf-ncollapse: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
