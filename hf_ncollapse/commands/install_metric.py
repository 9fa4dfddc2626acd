"""Install the metric for `evaluate`."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "install-metric", help='make evaluate.load("neural_collapse") work from any folder, offline too'
    )
    command.add_argument("--uninstall", action="store_true", help="remove what was installed")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Install the metric, or remove it."""
    from hf_ncollapse.hub.metric import install_metric, uninstall_metric

    if not options.uninstall:
        print(f'evaluate.load("neural_collapse") now loads {install_metric()}')
        return 0
    removed = uninstall_metric()
    print("\n".join(f"removed {folder}" for folder in removed) or "nothing was installed")
    return 0
