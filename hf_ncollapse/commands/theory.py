"""Print the optimum, its geometry and the rates in depth."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "theory",
        help="print the optimum J* that no network can go below, the geometry it has, and the rates in depth",
        description="The global optimum of the unconstrained features model: no network's objective is below J*.",
        epilog=(
            "examples:\n"
            "  hf-ncollapse theory --classes 10 --l2 0.005\n"
            "  hf-ncollapse theory --classes 10 --l2 0.005 --loss mse --classifier-bias --norm-scale unit\n"
            "  hf-ncollapse theory --class-counts 8 4 2 2 --l2 0.005 --hidden-size 16\n"
            "Python: hf_ncollapse.theory.gufm_optimum, which takes equal inputs with different labels as well"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    classes = command.add_mutually_exclusive_group(required=True)
    classes.add_argument("--classes", type=int, metavar="K", help="number of classes, of equal size")
    classes.add_argument("--class-counts", type=int, nargs="+", metavar="N", help="samples of each class, if unequal")
    command.add_argument(
        "--l2", type=float, required=True, metavar="λ", help="the classifier's, in (λ/2)‖W‖², at this depth"
    )
    command.add_argument("--loss", choices=("cross_entropy", "mse"), default="cross_entropy")
    command.add_argument(
        "--norm-scale", choices=("sqrt", "unit"), default="sqrt", help="norm of a feature: √d (default) or 1"
    )
    command.add_argument(
        "--hidden-size", type=int, default=64, metavar="d", help="width of the features; 64 by default"
    )
    command.add_argument("--classifier-bias", action="store_true", help="give the classifier a bias, not penalised")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the optimum."""
    import math

    from hf_ncollapse.theory import expected_slopes, gufm_optimum

    counts = options.class_counts or [1] * options.classes
    if options.hidden_size < 1:
        raise ValueError(f"--hidden-size must be at least 1, got {options.hidden_size}")
    radius = 1.0 if options.norm_scale == "unit" else math.sqrt(options.hidden_size)
    optimum = gufm_optimum(
        counts,
        options.l2,
        loss=options.loss,
        radius=radius,
        hidden_size=options.hidden_size,
        classifier_bias=options.classifier_bias,
    )
    num_classes, is_simplex = len(counts), optimum.problem.frame == "simplex"
    over_classes = "" if optimum.problem.is_balanced else ", mean over the classes"
    found = "numerical, certified from below by its dual" if optimum.is_numerical else "closed form"
    lines = [("J*", optimum.objective, found)]
    if optimum.is_numerical:
        lines.append(("lower bound", optimum.lower_bound, "certified: no network is below"))
    lines += [
        ("fit", optimum.fit, "(1/N) Σ ℓ"),
        ("penalty", optimum.regularization, "(λ/2)‖W‖²"),
        ("classifier norm", optimum.classifier_norm, f"‖w_k‖{over_classes}"),
        ("logit margin", optimum.logit_margin, f"own class's logit minus the others' mean{over_classes}"),
        ("feature norm", radius, f"norm_scale {options.norm_scale}"),
    ]
    if not is_simplex:
        lines.append(("cosine", 0.0, "between class means and between rows of W: an orthogonal frame"))
    elif not optimum.is_numerical:
        lines.append(("cosine", -1 / (num_classes - 1), "between class means and between rows of W: a simplex ETF"))
    if not optimum.problem.is_balanced:
        lines.append(
            ("NC2", optimum.nc2, f"of this W: the optimum is no {'simplex ETF' if is_simplex else 'scaled I'}")
        )
        lines.append(("NC3", optimum.nc3, "of these features and W"))
    bias = ", classifier bias" if options.classifier_bias else ""
    classes = f"{num_classes} classes" + (f" of {', '.join(map(str, counts))}" if over_classes else "")
    print(f"{options.loss}, {classes}, λ = {options.l2:g}{bias}")
    print("\n".join(f"{name:<16}{value:>14.10f}  {meaning}" for name, value, meaning in lines))
    slopes = ", ".join(f"{name} {slope:g}" for name, slope in expected_slopes().items())
    print(f"at the optimum, slopes of the logarithms in that of the number of blocks: {slopes}")
    return 0
