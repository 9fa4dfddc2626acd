"""The `hf-ncollapse` command."""

import signal
import sys
from importlib.metadata import version

from .commands import certify, compare, install_metric, measure, publish, recipes, report, theory, train
from .commands.lasting_output import lasting_output
from .option_names import ForgivingNames

# In the order of `--help`. `train` reads its own line, whose options are those of a recipe and of the Trainer.
_COMMANDS = (train, recipes, measure, certify, theory, report, compare, publish, install_metric)


def build_parser() -> ForgivingNames:
    """Return the parser; a command registers `run`, a function of the parsed arguments that returns the exit code."""
    parser = ForgivingNames(prog="hf-ncollapse", description="Train, measure, certify and publish neural collapse.")
    parser.add_argument("--version", action="version", version=f"hf_ncollapse {version('hf_ncollapse')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake prints one line on stderr and returns 2, unless `--debug` asks for more."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:
        return train.main(arguments[1:])
    options = build_parser().parse_args(arguments)
    with lasting_output():
        try:
            return options.run(options)
        except (ValueError, OSError, ImportError) as error:
            if options.debug:
                raise
            print(f"hf-ncollapse: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("hf-ncollapse: stopped by SIGINT", file=sys.stderr)
            return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
