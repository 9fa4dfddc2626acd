"""The `hf-ncollapse` command."""

import argparse
import sys


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a command registers `run`, a function of the parsed arguments that returns the exit code."""
    parser = argparse.ArgumentParser(prog="hf-ncollapse", description="Measure, certify and publish neural collapse.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    return parser


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
