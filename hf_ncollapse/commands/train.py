"""Train a depth sweep under the regularised objective, and measure its collapse and its gap to the global optimum.

    hf-ncollapse train mnist5k/rn1_demo
    accelerate launch recipes/train.py --config recipes/mnist5k/rn1_demo.yaml

A recipe is a YAML file, or one of those that `hf-ncollapse recipes` lists; every key in it is also an option here,
which wins:

    hf-ncollapse train mnist5k/rn1_demo --depths 2 8 --seeds 0 1 --sweep mine

The sweep's folder, output_dir/sweep, holds results.csv and one Hugging Face checkpoint for each depth and seed. Start
the same command again to continue a sweep that was stopped. The training options below are those of transformers'
Trainer. Runs are trained one after another, or several at once with --workers or on a cluster with --engine:

    hf-ncollapse train mnist5k/rn1_demo --workers 2

Many seeds of small networks train fastest together:

    hf-ncollapse train mnist5k/rn1_demo --seeds 0 1 2 3 4 --ensemble
"""

import argparse
import signal
import sys

from .lasting_output import lasting_output
from .recipes import find_recipe


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """List the command; `main` reads its options."""
    commands.add_parser("train", help="train a depth sweep from a recipe; `hf-ncollapse train --help` has its options")


def main(arguments: list[str], prog: str = "hf-ncollapse train") -> int:
    """Run every sweep of the recipe and return the exit code.

    0 when all runs finished, 1 when some did not, 2 for a mistake, 130 after Ctrl-C, 143 after SIGTERM, 129 when the
    terminal is gone (SIGHUP).

    Args:
        arguments: of the command line: a recipe or `--config` and a recipe, and options.
        prog: what messages call the command.
    """
    with lasting_output():
        try:
            return _main(arguments, prog)
        except KeyboardInterrupt:  # before a run could take it, while libraries or data were loaded
            print(f"{prog}: stopped by SIGINT before a run began", file=sys.stderr)
            return 128 + signal.SIGINT


def _main(arguments: list[str], prog: str) -> int:
    from accelerate import PartialState
    from transformers.utils.logging import disable_progress_bar

    from hf_ncollapse.hub.publish import publish_sweep
    from hf_ncollapse.sweeps import make_engine, parse_engine, parse_recipe, run_sweep
    from hf_ncollapse.sweeps.estimate import print_plan
    from hf_ncollapse.sweeps.interruption import SweepInterrupted

    def say_once(message: str) -> None:
        """Print what every process knows, from one of them."""
        if PartialState().is_main_process:
            print(f"{prog}: {message}", file=sys.stderr)

    disable_progress_bar()  # of saving and loading weights; the sweep shows its own
    try:
        if arguments and not arguments[0].startswith("-"):
            arguments = ["--config", str(find_recipe(arguments[0])), *arguments[1:]]
        recipes, options = parse_recipe(arguments, prog=prog, description=__doc__, extend=add_options)
        if options.dry_run:
            for recipe in recipes:
                print_plan(recipe)
            return 0
        engine = make_engine(parse_engine(options))
        outcomes = [run_sweep(recipe, engine) for recipe in recipes]
        if options.publish_to and PartialState().is_main_process:
            for outcome in outcomes:
                # With runs that failed the sweep is not done; `hf-ncollapse publish --partial` is for that.
                if not outcome.failed:
                    publish_sweep(outcome.folder, options.publish_to)
        PartialState().destroy_process_group()  # after the last run: all of them share the processes
    except (ValueError, ImportError, OSError) as error:
        if "--traceback" in arguments:
            raise
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except SweepInterrupted as stop:
        say_once(str(stop))
        return 128 + stop.signal_number
    failed = {f"{outcome.folder}: {run}": why for outcome in outcomes for run, why in outcome.failed.items()}
    for run, why in failed.items():
        say_once(f"{run}: {why}")
    return 1 if failed else 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command that are not part of a recipe."""
    parser.add_argument(
        "--dry-run", action="store_true", help="print the runs, their time and size, and train nothing"
    )
    # In place of the Trainer's own option, which pushes one model and not a sweep.
    publishing = parser.add_argument_group("publishing", conflict_handler="resolve")
    publishing.add_argument(
        "--push-to-hub", "--push_to_hub", dest="publish_to", metavar="ORG", help="publish each sweep when it is done"
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
