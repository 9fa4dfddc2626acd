"""Certify what a trained network claims."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "certify",
        help="recompute a trained network's claims in float64 from its weights and data alone",
        description=(
            "Recompute J, J*, the gap and its exact parts, collapse, gradient and curvature in float64, by code that "
            "trains nothing, and hold metrics.json, results.csv and the card against it. The exit code is 1 if a "
            "claim fails."
        ),
        epilog=(
            "examples:\n"
            "  hf-ncollapse certify runs/mnist5k-rn1-demo\n"
            "  hf-ncollapse certify runs/mnist5k-rn1-demo/depth-8/seed-0 --curvature-steps 100\n"
            "  hf-ncollapse certify my-org/mnist5k-rn1-demo-depth-8 --revision seed-0\n"
            "Numbers in units of J may differ by 1e-7 J, others by 1e-5 of themselves; weights by no bit.\n"
            "Python: hf_ncollapse.certification.certify"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", help="a run's folder, a sweep's folder for all its runs, or a Hub id")
    command.add_argument("--revision", help="of a Hub id: the branch of a seed, for example")
    command.add_argument(
        "--curvature-steps",
        type=int,
        default=40,
        metavar="N",
        help="Lanczos steps for the smallest curvature, 40 by default; 0 leaves it out",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Certify, print every claim; 1 where one fails."""
    from transformers.utils.logging import disable_progress_bar

    from hf_ncollapse.certification import certify

    if options.curvature_steps < 0:
        raise ValueError(f"--curvature-steps must be at least 0, got {options.curvature_steps}")
    disable_progress_bar()  # of loading weights
    all_hold = True
    for verification in certify(options.target, revision=options.revision, curvature_steps=options.curvature_steps):
        print(verification, flush=True)
        all_hold &= verification.holds
    return 0 if all_hold else 1
