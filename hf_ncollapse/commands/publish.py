"""Publish a sweep."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "publish",
        help="publish a sweep on the Hub: a model repository a depth, the results, one Collection",
        description="Publish a sweep with the token of `hf auth login`. The same command continues what was stopped.",
    )
    command.add_argument("folder", type=Path, help="the sweep's folder, which holds sweep.json and results.csv")
    command.add_argument("--namespace", required=True, metavar="ORG", help="user or organisation to publish under")
    command.add_argument("--private", action="store_true", help="make new repositories private")
    command.add_argument("--partial", action="store_true", help="publish a sweep without its unfinished runs")
    command.add_argument("--with-metric", action="store_true", help="publish the metric's Space as well")
    command.add_argument("--with-explorer", action="store_true", help="publish a Space to look through the sweep in")
    command.add_argument(
        "--replace",
        action="store_true",
        help="overwrite what was published with another configuration, or was changed on the Hub since",
    )
    command.add_argument("--dry-run", action="store_true", help="list every repository, file and size, offline")
    command.add_argument("--cards", type=Path, metavar="FOLDER", help="with --dry-run: write the rendered cards there")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Publish, or list what would be."""
    from hf_ncollapse.hub.card import write_cards
    from hf_ncollapse.hub.publication import plan_publication
    from hf_ncollapse.hub.publish import publish_sweep
    from hf_ncollapse.hub.sweep_folder import read_sweep_folder

    if options.cards and not options.dry_run:
        raise ValueError("--cards goes with --dry-run")
    if not options.dry_run:
        publish_sweep(
            options.folder,
            options.namespace,
            private=options.private,
            partial=options.partial,
            with_metric=options.with_metric,
            with_explorer=options.with_explorer,
            replace=options.replace,
        )
        return 0
    sweep = read_sweep_folder(options.folder, partial=options.partial)
    spaces = {"with_metric": options.with_metric, "with_explorer": options.with_explorer}
    states = plan_publication(sweep, options.namespace, **spaces).states
    for state in states:
        print(f"{state.name}")
        print("\n".join(f"  {state.size(path):>12,}  {path}" for path in sorted(state.files)))
    total = sum(state.size(path) for state in states for path in state.files)
    print(f"{len(states)} states, {total:,} bytes, and one Collection")
    if options.cards:
        print(
            "\n".join(map(str, write_cards(options.folder, options.cards, options.namespace, partial=options.partial)))
        )
    return 0
