"""The metric's Space: features that collapse as a slider moves, and what every measure says about them."""

from pathlib import Path

import evaluate
import gradio as gr
import pandas as pd
import torch

FOLDER = Path(__file__).parent
METRIC = evaluate.load(str(FOLDER / "neural_collapse.py"))
WIDTH, SAMPLES_A_CLASS = 64, 100
SHOWN_SAMPLES = 400

INTRODUCTION = """
# Neural collapse

A classifier's last-layer features collapse as training goes on: each class to its mean (NC1), the means to a simplex
equiangular tight frame (NC2), the classifier's rows onto the means (NC3). **A measure is 0 at exact collapse**, but
for cosines, ranks and the margin (`nc2_identity` and `nc2_orthogonal` are 0 at that of squared error without a bias,
to an orthogonal frame).

Below, made-up features of width 64 move between two ends: at collapse 0, class means and classifier are random and
samples scatter around them with σ = 1 in every direction; at collapse 1, all is exactly collapsed. Move the sliders
and read which measure notices what. Then measure your own model:

```python
import evaluate
metric = evaluate.load("neural_collapse")
for batch in loader:  # features: the input of the last linear layer
    metric.add_batch(predictions=features(batch), references=batch["labels"])
metric.compute(classifier=model.classifier.weight)
```
"""


def simplex_frame(num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """K unit vectors in WIDTH dimensions whose pairwise cosines are all −1/(K − 1)."""
    basis, _ = torch.linalg.qr(torch.randn(WIDTH, num_classes, generator=generator))
    frame = (torch.eye(num_classes) - 1 / num_classes) @ basis.T
    return torch.nn.functional.normalize(frame)


def make_features(
    num_classes: int, within: float, geometry: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, labels and a classifier at given degrees (0 to 1) of within-class and geometric collapse."""
    generator = torch.Generator().manual_seed(seed)
    frame = WIDTH**0.5 * simplex_frame(num_classes, generator)
    random_means, random_classifier = torch.randn(2, num_classes, WIDTH, generator=generator)
    means = geometry * frame + (1 - geometry) * random_means
    classifier = geometry * frame + (1 - geometry) * random_classifier
    labels = torch.arange(num_classes).repeat_interleave(SAMPLES_A_CLASS)
    noise = torch.randn(len(labels), WIDTH, generator=generator)
    return means[labels] + (1 - within) * noise, labels, classifier


def measure(num_classes: float, within: float, geometry: float, seed: float) -> list[list[str]]:
    """The table of measures: name, value and formula."""
    features, labels, classifier = make_features(int(num_classes), within, geometry, int(seed))
    strangers = torch.randn(SAMPLES_A_CLASS, WIDTH, generator=torch.Generator().manual_seed(int(seed) + 1))
    result = METRIC.compute(
        predictions=features,
        references=labels,
        classifier=classifier,
        measures="all",
        out_of_distribution=strangers,
    )
    return [[name, f"{result[name]:.3g}", formula] for name, formula in result["conventions"].items()]


def picture(num_classes: float, within: float, geometry: float, seed: float) -> pd.DataFrame:
    """Some features in the plane in which the ETF is a regular polygon on the unit circle; two classes have a line."""
    num_classes = int(num_classes)
    features, labels, _ = make_features(num_classes, within, geometry, int(seed))
    shown = torch.arange(len(labels)) % SAMPLES_A_CLASS < max(4, SHOWN_SAMPLES // num_classes)
    features, labels = features[shown] - features.mean(0), labels[shown]
    angles = 2 * torch.pi * torch.arange(num_classes) / num_classes
    corners = torch.stack([angles.cos(), angles.sin()], dim=1)
    frame = WIDTH**0.5 * simplex_frame(num_classes, torch.Generator().manual_seed(int(seed)))
    x, y = (features @ torch.linalg.pinv(frame) @ corners).T.tolist()
    return pd.DataFrame({"x": x, "y": y, "class": [str(label) for label in labels.tolist()]})


def card() -> str:
    """The metric card without its YAML header."""
    return (FOLDER / "README.md").read_text(encoding="utf-8").split("---", 2)[2]


def build() -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="Neural collapse") as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1):
                num_classes = gr.Slider(2, 50, value=10, step=1, label="classes K")
                within = gr.Slider(0, 1, value=0.8, label="collapse of samples to their class mean (NC1)")
                geometry = gr.Slider(0, 1, value=0.5, label="collapse of means and classifier to one ETF (NC2, NC3)")
                seed = gr.Slider(0, 9, value=0, step=1, label="seed")
                inputs = [num_classes, within, geometry, seed]
                plot = gr.ScatterPlot(
                    picture(10, 0.8, 0.5, 0), x="x", y="y", color="class", x_lim=[-1.5, 1.5], y_lim=[-1.5, 1.5],
                    x_title=" ", y_title=" ", height=380, label="features, in the plane of the ETF",
                )  # fmt: skip
            with gr.Column(scale=2):
                table = gr.Dataframe(
                    value=measure(10, 0.8, 0.5, 0),
                    headers=["measure", "value", "formula"],
                    datatype="str",
                    interactive=False,
                    wrap=True,
                    max_height=900,
                    column_widths=["30%", "15%", "55%"],
                )
        moved = [slider.change for slider in inputs]
        gr.on(moved, measure, inputs, table, show_progress="hidden")
        gr.on(moved, picture, inputs, plot, show_progress="hidden")
        with gr.Accordion("The metric card", open=False):
            gr.Markdown(card(), latex_delimiters=[])
    return page


if __name__ == "__main__":
    build().launch()
