"""Write this folder's README.md: every sweep with what it is and what came out, from its recipe and its results.

python model_cards/index.py
"""

from pathlib import Path

import numpy as np
import yaml

from hf_ncollapse.commands.recipes import first_sentence, packaged_recipes
from hf_ncollapse.sweeps.results import read_results
from hf_ncollapse.sweeps.summary import summarize

FOLDER = Path(__file__).parent
HEAD = """# Cards of the sweeps that were run

What `hf-ncollapse publish` puts on the Hub for each sweep of `recipes/`: `README.md` is the card of the results data
set, `depth-<B>.md` that of a depth's `main` branch, with the figures and the table that they speak of. `my-org` stands
for the namespace. All of it is rendered from results, never edited, and so is this page:

```console
$ hf-ncollapse publish runs/SWEEP --namespace my-org --dry-run --cards model_cards/SWEEP
$ python model_cards/index.py
```

B is the number of residual blocks. The two predictions about depth are that the gap J − J\\* falls at every step and
that NC1, NC2 and NC3 do; of two linear layers a block without a λ that falls in the blocks alone, that NC1 *stays*. Gap
and held-out accuracy are those of the shallowest and the deepest networks, means over the seeds. The slope is the gap's
over the deepest two steps in depth, in log–log, and in brackets minus the blocks' share of the gap, which it is
where optima refine one path ([theory](../docs/theory.md#why-measured-slopes-are-flatter-than-1)).

| sweep | what it is | B | seeds | gap J − J\\* | slope | gap falls | NC1 to NC3 fall | NC1 stays | held-out |
|---|---|---|---|---|---|---|---|---|---|
"""
FOOT = """
*Cannot tell* is the answer where networks are not converged or do not fit their samples, or where a step in depth is
within the spread of the seeds or, with one seed, within 10%; each card says which. Where a cell is empty the theory
predicts nothing.

Six sweeps beside each other, of three training sizes and two λ (`recipes/fashion_mnist/rn1_generalization.yaml`), are in
[fashion-mnist-generalization](fashion-mnist-generalization/comparison.png), with their
[table](fashion-mnist-generalization/comparison.csv).
"""
PREDICTIONS = ("gap_falls", "collapse_improves", "collapse_stays")


def index() -> str:
    """The page."""
    recipes = {yaml.safe_load(path.read_text(encoding="utf-8"))["sweep"]: path for path in packaged_recipes().values()}
    rows = (_row(path.parent, recipes[path.parent.name]) for path in sorted(FOLDER.glob("*/results.csv")))
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in rows) + FOOT


def _row(folder: Path, recipe: Path) -> list[str]:
    summary = summarize(read_results(folder))
    answers = {verdict["name"]: verdict["answer"] for verdict in summary["verdicts"]}
    depths = summary["depths"]
    return [
        f"[{folder.name}]({folder.name})",
        first_sentence(recipe),
        f"{depths[0]} to {depths[-1]}" if len(depths) > 1 else str(depths[0]),
        str(len(summary["seeds"])),
        _ends(summary, "gap", 4),
        _slope(summary),
        *(answers.get(name, "") for name in PREDICTIONS),
        _ends(summary, "test_accuracy", 3),
    ]


def _slope(summary: dict) -> str:
    """The gap's slope over the deepest steps, and that which its parts allow."""
    if len(summary["depths"]) < 2:
        return ""
    measured, allowed = (summary["deepest_slopes"] or summary["slopes"])["gap"]["slope"], summary["refinement_slope"]
    shown = f"{measured:.2f}" + ("" if allowed is None else f" ({allowed:.2f})")
    return shown.replace("-0.", "−.").replace("-", "−")


def _ends(summary: dict, quantity: str, places: int) -> str:
    """A quantity at both ends of the depths, or at the only one, rounded as the cards do."""
    rows = summary["by_depth"]
    ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
    return ", ".join(f"{np.round(row[quantity], places):.{places}f}".lstrip("0") for row in ends)


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(index(), encoding="utf-8")
