"""Show sweeps, or measurements, side by side."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "compare",
        help="show sweeps side by side by depth, or measurements by layer, with differences",
        description="Compare two to six sweeps, or two to six measurements, with the first of them.",
        epilog=(
            "examples:\n"
            "  hf-ncollapse compare runs/scratch runs/continuation --output comparison.html\n"
            "  hf-ncollapse compare runs/mine my-org/theirs              # one of them on the Hub\n"
            "  hf-ncollapse compare collapse.json collapse-test.json     # training samples and others\n"
            "A difference between sweeps is taken seed by seed, with a 95% interval where both have two seeds or more."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "compared", nargs="+", metavar="A", help="sweeps' folders or Hub ids; or .json files that measure wrote"
    )
    command.add_argument(
        "--output", type=Path, nargs="+", default=[], metavar="FILE", help=".html, .tex, .csv; of sweeps .png, .svg"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table, write the files and say where."""
    from rich.console import Console

    from hf_ncollapse.hub.fetch import load_sweep
    from hf_ncollapse.sweeps.comparison import check_ending, compare_measurements, compare_sweeps

    for path in options.output:
        check_ending(path)
    are_measurements = [Path(name).suffix == ".json" for name in options.compared]
    if any(are_measurements) and not all(are_measurements):
        raise ValueError(f"sweeps are not compared with measurements: {', '.join(options.compared)}")
    if all(are_measurements):
        comparison = compare_measurements(options.compared)
    else:
        comparison = compare_sweeps([load_sweep(name) for name in options.compared])
    # Wider than any table, which takes what it needs: a number that is cut is a wrong one.
    console = Console(width=1000, soft_wrap=True, markup=False, emoji=False, highlight=False)
    for letter, name in zip(comparison.letters, comparison.names, strict=True):
        console.print(f"{letter}: {name}")
    console.print(comparison.to_table())
    for note in comparison.notes:
        console.print(note)
    for path in options.output:
        print(comparison.write(path))
    return 0
