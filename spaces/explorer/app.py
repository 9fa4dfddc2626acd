"""The sweep explorer: gap and collapse against depth, inside the networks, the classes' geometry, and J* of your own.

    python spaces/explorer/app.py

It starts with the sweeps in the folder `sweeps` beside it, without a network, and reads others from the Hub.
"""

import html
import io
import math
from pathlib import Path

import gradio as gr
import matplotlib
from classes_in_3d import CAPTION, classes_in_3d
from huggingface_hub import snapshot_download
from matplotlib.figure import Figure

from hf_ncollapse import gufm_optimum, load_sweep
from hf_ncollapse.figure_style import INK, styled
from hf_ncollapse.hub.fetch import PublishedSweep
from hf_ncollapse.hub.names import results_repo
from hf_ncollapse.quantities import QUANTITIES, digits
from hf_ncollapse.sweeps.figures import CAPTIONS, depth, networks
from hf_ncollapse.sweeps.network_measurements import GEOMETRY_COLUMNS
from hf_ncollapse.sweeps.summary import has_complete_optimum, l2_in_words
from hf_ncollapse.sweeps.sweep_record import SweepRecord, read_sweep

BUNDLED = Path(__file__).parent / "sweeps"
# What a sweep's data set holds that is shown here.
TABLES = ("results.csv", "layers.csv", "geometry.csv", "sweep.json")
SHOWN = ("depth", "seed", "train_accuracy", "test_accuracy", "objective", "gufm_optimum", "gap", "nc1", "nc2", "nc3")
MARKS = {"holds": "✓", "does not hold": "✗", "cannot tell": "?"}
GEOMETRY = (
    "Some training samples' features (dots), class means (circles) and classifier rows (crosses) of the first seed's "
    "network, about the global mean and scaled by the means' mean norm, on one scale for all depths. The plane is the "
    "one in which the simplex ETF nearest to the classifier is a regular polygon."
)

INTRODUCTION = """
# Neural collapse explorer

Trained long enough, a classifier tends to map all samples of a class to one point, and the points of the classes to
equal angles, as far apart as they can be: *neural collapse*. NC1, NC2 and NC3 measure how far from it a network is;
they are 0 when it is complete. The **gap** J − J\\* is how far its training objective J is above J\\*, below which no
network of its kind can go. For deep networks with LayerNorm and an L2 penalty, [theory](https://arxiv.org/abs/2505.15239)
says that both fall as networks get deeper. A *sweep* is one network trained at several depths.
"""
CSS = """
.sweep-figure { max-width: 36rem; margin: 0 auto; color: var(--body-text-color); }
.sweep-figure svg { width: 100%; height: auto; display: block; }
.sweep-figure figcaption { font-size: var(--text-sm); opacity: .8; }
.slider-container text { fill: var(--body-text-color) !important; }
.verdicts { padding-left: 0; list-style: none; }
.verdicts li { margin: 0 0 .6rem; padding-left: 1.6rem; text-indent: -1.6rem; }
.verdicts b { display: inline-block; width: 1.6rem; text-indent: 0; }
"""


def shown_depths(sweep: SweepRecord) -> list[int]:
    """Depths whose geometry was measured."""
    return sorted(int(value) for value in sweep.networks.geometry["depth"].unique())


def bundled_sweeps() -> list[tuple[str, str]]:
    """What the menu offers, and the folders."""
    choices = []
    for folder in sorted(path.parent for path in BUNDLED.glob("*/results.csv")):
        row = read_sweep(folder).finished.iloc[0]
        choices.append((f"{folder.name}: {row['norm_placement']}-LN {row['architecture']}", str(folder)))
    return choices


def folder_of(name: str) -> str:
    """Download the tables of a sweep on the Hub, and return the folder that they are in."""
    try:
        sweep = load_sweep(name.strip())
        if not isinstance(sweep, PublishedSweep):
            raise ValueError(f"{name} is no id of a sweep on the Hub, namespace/sweep")
        repo_id = results_repo(sweep.namespace, sweep.name)
        folder = snapshot_download(repo_id, repo_type="dataset", allow_patterns=list(TABLES))
        found = read_sweep(folder)
        _ = found.summary, found.networks, found.panel  # a damaged file is told here
    except (ValueError, OSError) as error:
        raise gr.Error(html.escape(str(error))) from error
    return folder


def picture(figure: Figure, name: str, caption: str) -> str:
    """A figure as SVG whose ink has the page's colour, and its caption."""
    drawn = io.StringIO()
    with styled(), matplotlib.rc_context({"svg.hashsalt": name}):  # no id occurs twice in the page
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue().replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    title = html.escape(CAPTIONS[name].title)
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return f'<figure class="sweep-figure">{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'


def absent(what: str) -> str:
    return f'<p class="sweep-figure">This sweep was published without {what}.</p>'


def described(sweep: SweepRecord) -> str:
    """What the sweep is, what the theory says of it and whether that holds."""
    summary, row = sweep.summary, sweep.finished.iloc[0]
    seeds = len(summary["seeds"])
    sentences = [
        f"{row['norm_placement']}-LN {row['architecture']} on {row['dataset']}, {l2_in_words(row)}; "
        f"{len(summary['depths'])} depths, {seeds} seed{'s' if seeds > 1 else ''}.",
        f"The theory is about the training samples: {summary['held_out']}." if summary["held_out"] else "",
    ]
    verdicts = [
        f"<li><b title='{verdict['answer']}'>{MARKS[verdict['answer']]}</b><strong>{verdict['answer']}.</strong> "
        f"{html.escape(verdict['prediction'])} <em>{html.escape(verdict['evidence'])}.</em></li>"
        for verdict in summary["verdicts"]
    ]
    name = html.escape(str(row["sweep"]))
    said = html.escape(" ".join(filter(None, sentences)))
    return f"<h2>{name}</h2><p>{said}</p><ul class='verdicts'>{''.join(verdicts)}</ul>"


def against_depth(sweep: SweepRecord) -> tuple[str, str]:
    """The gap's figure and that of NC1, NC2 and NC3."""
    said = {"is_balanced": has_complete_optimum(sweep.finished), "has_panel": sweep.panel is not None}
    gap = absent("a J*")
    with styled():
        if sweep.finished["gap"].notna().any():
            gap = picture(depth.gap_figure(sweep.finished), "gap", CAPTIONS["gap"].words())
        collapse = depth.collapse_figure(sweep.finished, sweep.panel)
        return gap, picture(collapse, "collapse", CAPTIONS["collapse"].words(**said))


def layer_by_layer(sweep: SweepRecord) -> str:
    if not len(sweep.networks.layers):
        return absent("its layers' collapse")
    with styled():
        return picture(networks.layers_figure(sweep.networks.layers), "layers", CAPTIONS["layers"].words())


def geometry(folder: str, position: float) -> str:
    """The classes of the network at a position, from 1, the shallowest."""
    sweep = read_sweep(folder)
    if not shown_depths(sweep):
        return absent("its classes' geometry")
    points = sweep.networks.geometry
    shown = points[points["depth"] == shown_depths(sweep)[int(position) - 1]]
    reach = max(1.15, 1.03 * points[["x", "y"]].abs().max().max())
    with styled():
        figure = networks.geometry_figure(shown)
        figure.set_figheight(3.8)
        # The same scale for every depth, or the classes would not be seen to draw together.
        figure.axes[0].set(xlim=(-reach, reach), ylim=(-reach, reach))
        return picture(figure, "geometry", GEOMETRY)


def geometry_in_3d(sweep: SweepRecord) -> tuple[gr.Plot, str]:
    """The classes of all networks, and what is to be said of them."""
    # Tables of before it was measured have no z.
    points = sweep.networks.geometry.reindex(columns=[*GEOMETRY_COLUMNS, "z"]).dropna(subset="z")
    has_points = len(points) > 0
    figure = gr.Plot(classes_in_3d(points) if has_points else None, visible=has_points, container=False)
    words = f'<p class="sweep-figure">{CAPTION}</p>' if has_points else absent("a third coordinate of its classes")
    return figure, words


def table(sweep: SweepRecord) -> dict[str, list]:
    columns = [name for name in SHOWN if sweep.finished[name].notna().any()]
    rows = [[digits(row[name]) for name in columns] for _, row in sweep.finished.iterrows()]
    return {"headers": [QUANTITIES[name].title for name in columns], "data": rows}


def show(folder: str) -> list:
    """Everything about a sweep, in the order of the page."""
    sweep = read_sweep(folder)
    last = max(len(shown_depths(sweep)), 1)
    slider = gr.Slider(1, max(last, 2), value=1, step=1, interactive=last > 1)
    figures = (described(sweep), *against_depth(sweep), layer_by_layer(sweep), slider, geometry(folder, 1))
    return [*figures, *geometry_in_3d(sweep), table(sweep)]


def optimum(num_classes: float, l2: float, loss: str, norm: str, width: float, bias: bool) -> str:
    """What `hf-ncollapse theory` says, as a table in Markdown."""
    try:
        radius = 1.0 if norm == "1" else math.sqrt(width)
        found = gufm_optimum(
            [1] * int(num_classes), l2, loss=loss, radius=radius, hidden_size=int(width), classifier_bias=bias
        )
    except (ValueError, TypeError) as error:
        raise gr.Error(html.escape(str(error))) from error
    is_simplex = found.problem.frame == "simplex"
    frame = "a simplex equiangular tight frame" if is_simplex else "an orthogonal frame"
    cosine = -1 / (int(num_classes) - 1) if is_simplex else 0.0
    rows = [
        ("**J\\***", found.objective, "no network of this width goes below"),
        ("its fit", found.fit, "(1/N) Σ ℓ"),
        ("its penalty", found.regularization, "(λ/2)‖W‖²"),
        ("classifier norm", found.classifier_norm, "of a class's row of W"),
        ("logit margin", found.logit_margin, "own class's logit minus the others' mean"),
        ("cosine", cosine, f"between two classes' means: {frame}"),
    ]
    lines = [f"| {name} | {value:.8f} | {meaning} |" for name, value, meaning in rows]
    return "\n".join(["| at the optimum | value | what it is |", "|---|---|---|", *lines])


def build() -> gr.Blocks:
    """Return the page."""
    choices = bundled_sweeps()
    first = choices[0][1]
    shown = show(first)
    with gr.Blocks(title="Neural collapse explorer") as page:
        gr.Markdown(INTRODUCTION)
        folder = gr.State(first)
        with gr.Row():
            menu = gr.Dropdown(choices, value=first, label="sweep", min_width=320)
            hub_id = gr.Textbox(
                label="or one on the Hub", placeholder="namespace/sweep", submit_btn="Open", min_width=320
            )
        with gr.Tab("Against depth"):
            with gr.Row():
                with gr.Column(min_width=320):
                    gap = gr.HTML(shown[1])
                with gr.Column(min_width=320):
                    collapse = gr.HTML(shown[2])
            words = gr.HTML(shown[0], padding=True)
        with gr.Tab("Inside the networks"):
            layers = gr.HTML(shown[3])
        with gr.Tab("The classes"):
            position = gr.Slider(
                1, shown[4].maximum, value=1, step=1, label="network, from the shallowest to the deepest"
            )
            classes = gr.HTML(shown[5])
        with gr.Tab("In 3-D"):
            solid = shown[6].render()
            solid_words = gr.HTML(shown[7])
        with gr.Tab("Numbers"):
            numbers = gr.Dataframe(shown[8], datatype="str", interactive=False)
        with gr.Tab("Your own J*"):
            gr.Markdown(
                "No data are needed: the number of classes, the classifier's penalty and the norm that LayerNorm "
                "gives to features decide it. A network of yours whose objective is J has a gap of J − J\\*."
            )
            with gr.Row():
                num_classes = gr.Slider(2, 100, value=10, step=1, label="classes K, balanced")
                l2 = gr.Number(0.005, label="λ of the classifier, in (λ/2)‖W‖²")
                width = gr.Slider(3, 1024, value=64, step=1, label="width d of the features")
            with gr.Row():
                loss = gr.Radio([("cross-entropy", "cross_entropy"), ("squared error", "mse")], value="cross_entropy",
                                label="loss")  # fmt: skip
                norm = gr.Radio(["√d", "1"], value="√d", label="norm of a feature")
                bias = gr.Checkbox(False, label="the classifier has a bias, not penalised")
            problem = [num_classes, l2, loss, norm, width, bias]
            answer = gr.Markdown(optimum(10, 0.005, "cross_entropy", "√d", 64, False), latex_delimiters=[])
        outputs = [words, gap, collapse, layers, position, classes, solid, solid_words, numbers]
        menu.change(lambda path: path, menu, folder).then(show, folder, outputs)
        hub_id.submit(folder_of, hub_id, folder).success(show, folder, outputs)
        position.input(geometry, [folder, position], classes, show_progress="hidden", trigger_mode="always_last")
        gr.on([part.change for part in problem], optimum, problem, answer, show_progress="hidden")
    return page


if __name__ == "__main__":
    build().launch(css=CSS)
