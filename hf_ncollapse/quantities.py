"""What quantities are called and how they are written and drawn, in tables, figures, the terminal and cards.

The one table of them: everything that names a column, a measure or its colour reads it here.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quantity:
    """One quantity of a results table, or one measure of collapse.

    Args:
        name: its column.
        title: what a sentence or the heading of a table calls it.
        short: heading in a terminal of 80 columns, which may have two lines.
        label: label in a figure, with matplotlib's mathematics.
        symbol: heading of a LaTeX table.
        better: the direction that is better, where there is one.
        colour: key of its colour in figure_style.PALETTE; one family of measures has one.
        marker: of matplotlib.
    """

    name: str
    title: str
    short: str = ""
    label: str = ""
    symbol: str = ""
    better: Literal["smaller", "larger"] | None = None
    colour: str = "blue"
    marker: str = "o"


# In the order in which a table shows them.
QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("depth", "residual blocks B", "B", "residual blocks $B$", "$B$"),
        Quantity("seed", "seed", "seed", symbol="seed"),
        Quantity("train_accuracy", "training accuracy", "train\nacc.", "training", "train acc.", "larger"),
        Quantity("test_accuracy", "held-out accuracy", "held-\nout", "held-out", "held-out acc.", "larger",
                 "vermillion", "s"),
        Quantity("objective", "objective J", "J", "objective $J$", "$J$", "smaller"),
        Quantity("gufm_optimum", "optimum J*", "J*", "optimum $J^{*}$", "$J^{*}$"),
        Quantity("gap", "gap J − J*", "gap", "gap $J - J^{*}$", "$J - J^{*}$", "smaller"),
        Quantity("gap_times_depth", "gap · B", label="gap $\\cdot\\ B$", symbol="$B (J - J^{*})$"),
        Quantity("nc1", "NC1", "NC1", "NC1", "NC1", "smaller"),
        Quantity("test_nc1", "held-out NC1", label="held-out NC1", symbol="held-out NC1", better="smaller"),
        Quantity("test_nc3", "held-out NC3", label="held-out NC3", symbol="held-out NC3", better="smaller",
                 colour="green", marker="^"),
        Quantity("nc1_pinv", "NC1, pseudo-inverse", better="smaller", colour="sky", marker="v"),
        Quantity("nc1_cdnv", "NC1, CDNV", better="smaller", colour="sky", marker="P"),
        Quantity("nc2", "NC2", "NC2", "NC2", "NC2", "smaller", "vermillion", "s"),
        Quantity("nc2_identity", "NC2, orthogonal frame", better="smaller", colour="vermillion", marker="v"),
        Quantity("nc2_etf", "NC2, fixed scale", better="smaller", colour="vermillion", marker="P"),
        Quantity("nc2_means", "NC2, class means", better="smaller", colour="orange", marker="D"),
        Quantity("nc2_orthogonal", "NC2, orthogonal means", better="smaller", colour="orange", marker="v"),
        Quantity("nc2_equinorm", "NC2, means' norms", better="smaller", colour="orange", marker="P"),
        Quantity("nc2_equinorm_classifier", "NC2, rows' norms", better="smaller", colour="vermillion", marker="X"),
        Quantity("nc2_equiangular", "NC2, means' angles", better="smaller", colour="orange", marker="X"),
        Quantity("nc2_equiangular_classifier", "NC2, rows' angles", better="smaller", colour="vermillion", marker="<"),
        Quantity("gnc2", "GNC2", better="smaller", colour="orange", marker="<"),
        Quantity("gnc2_excess", "GNC2, excess", better="smaller", colour="orange", marker=">"),
        Quantity("nc3", "NC3", "NC3", "NC3", "NC3", "smaller", "green", "^"),
        Quantity("nc3_self_duality", "NC3, self-duality", better="smaller", colour="green", marker="v"),
        Quantity("nc3_etf", "NC3, fixed scale", better="smaller", colour="green", marker="P"),
        Quantity("nc3_uniformity", "NC3, uniformity", better="smaller", colour="green", marker="X"),
        Quantity("nc4", "NC4", better="smaller", colour="purple", marker="v"),
        Quantity("nc0", "NC0", better="smaller", colour="purple", marker="X"),
        Quantity("nc0_relative", "NC0, relative", better="smaller", colour="purple", marker="<"),
        Quantity("nc1_worst", "NC1, worst class", better="smaller", colour="sky", marker="X"),
        Quantity("vci", "variability collapse index", better="smaller", colour="sky", marker="<"),
        Quantity("nc2_worst", "NC2, closest pair", better="smaller", colour="orange", marker="^"),
        Quantity("nc2_seli", "NC2, SELI", better="smaller", colour="vermillion", marker=">"),
        Quantity("nc2_means_seli", "NC2, SELI of the means", better="smaller", colour="orange", marker="h"),
        Quantity("minority_cosine", "cosine of the rarest means", better="smaller", colour="orange", marker="*"),
        Quantity("minority_cosine_classifier", "cosine of the rarest rows", better="smaller", colour="vermillion",
                 marker="*"),
        Quantity("softmax_code_margin", "softmax code's margin", better="larger", colour="vermillion", marker="h"),
        Quantity("stable_rank", "stable rank", colour="sky", marker=">"),
        Quantity("effective_rank", "effective rank", colour="sky", marker="h"),
        Quantity("stable_rank_classifier", "stable rank of W", colour="green", marker="<"),
        Quantity("effective_rank_classifier", "effective rank of W", colour="green", marker=">"),
        Quantity("nc3_worst", "NC3, worst class", better="smaller", colour="green", marker="h"),
        Quantity("nc5", "NC5", better="smaller", colour="purple", marker=">"),
        Quantity("bias_collapse", "bias collapse", better="smaller", colour="purple", marker="P"),
        Quantity("regularization_body", "penalty of the blocks", label="blocks", better="smaller", colour="vermillion",
                 marker="s"),
        Quantity("gap_fit", "misfit of the outputs", label="outputs", better="smaller", colour="sky", marker="D"),
        Quantity("gap_classifier", "misfit of the classifier", label="classifier", better="smaller", colour="green",
                 marker="^"),
        Quantity("gap_spread", "spread of the features", label="spread", better="smaller", colour="orange",
                 marker="P"),
        Quantity("nc1_bound", "certified bound of NC1", better="smaller"),
        Quantity("nc3_bound", "certified bound of NC3", better="smaller"),
        Quantity("start_gap", "gap before training", better="smaller"),
        Quantity("relative_gradient", "‖∇J‖/‖∇penalty‖", better="smaller"),
        Quantity("fit", "fit", label="fit", better="smaller", colour="sky", marker="D"),
        Quantity("regularization", "penalty", label="penalty", better="smaller", colour="purple", marker="v"),
        Quantity("regularization_classifier", "penalty of the classifier", label="classifier", colour="green",
                 marker="^"),
        Quantity("l2_coefficient", "λ"),
        Quantity("classifier_l2_coefficient", "λ_L"),
        Quantity("gufm_lower_bound", "certified lower bound of J*"),
        Quantity("gufm_nc2", "NC2 at the optimum"),
        Quantity("gufm_nc3", "NC3 at the optimum"),
        Quantity("steps", "steps"),
        Quantity("seconds", "seconds", "s", better="smaller"),
    )
}  # fmt: skip
# gap = the sum of these, exactly.
GAP_PARTS = ("regularization_body", "gap_fit", "gap_classifier", "gap_spread")
COLLAPSE = ("nc1", "nc2", "nc3")


def title(name: str) -> str:
    """The title of a column; its own name where the table has none."""
    return QUANTITIES[name].title if name in QUANTITIES else name.replace("_", " ")


def measures_in_words(loss: str, classifier_bias: bool) -> str:
    """What NC1, NC2 and NC3 are under this loss (arXiv:2505.15239, definition 3.4)."""
    frame = (
        "the orthogonal frame's E = I" if loss == "mse" and not classifier_bias else "the simplex ETF's E = I − 11ᵀ/K"
    )
    return (
        "NC1 is tr Σ_W / tr Σ_B of the features, NC2 the distance of the classifier from its frame, "
        f"min over c ≥ 0 of ‖W Wᵀ − c E‖/‖W Wᵀ‖ with {frame}, and NC3 one minus the mean cosine between a feature and "
        "its class's row of W, all on the training samples"
    )


def digits(value: object) -> str:
    """Four significant digits, whole numbers whole, nothing for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:#.4g}" if isinstance(value, float) else str(value)


def deviation_digits(deviation: float | None, mean: float | None) -> str:
    """Two significant digits; nothing for one seed or for numbers that differ by rounding alone."""
    if deviation is None or mean is None or deviation <= 1e-9 * abs(mean):
        return ""
    return f"{deviation:#.2g}"
