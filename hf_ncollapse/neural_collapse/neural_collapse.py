"""Neural collapse as an `evaluate` metric: NC1 to NC4 of any classifier's features."""

import datasets
import evaluate
import torch

from .class_statistics import ClassStatistics
from .file_gather import file_gather
from .measures import compute, measure_names
from .sample_buffer import SampleBuffer

_DESCRIPTION = """\
Neural collapse: towards the end of training, a classifier's last-layer features collapse to their class means (NC1),
the means and the classifier's rows form a simplex equiangular tight frame (NC2), the two align (NC3), and the
classifier decides by the nearest class mean (NC4). Every measure is 0 at exact collapse.
"""

_CITATION = """\
@inproceedings{sukenik2025neural,
  title = {Neural Collapse is Globally Optimal in Deep Regularized ResNets and Transformers},
  author = {S\\'uken\\'ik, Peter and Lampert, Christoph H. and Mondelli, Marco},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  note = {arXiv:2505.15239}
}
@article{papyan2020prevalence,
  title = {Prevalence of neural collapse during the terminal phase of deep learning training},
  author = {Papyan, Vardan and Han, X. Y. and Donoho, David L.},
  journal = {Proceedings of the National Academy of Sciences},
  volume = {117},
  number = {40},
  year = {2020}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: features, N×d: the input of the last linear layer. A torch tensor, a numpy array or nested lists; any
        real dtype, in batches of any size.
    references: labels, N integers in 0 … K − 1.
    classifier: W, K×d, the last linear layer's weight (`model.classifier.weight`); the measures of W need it.
    bias: b, K values, the last linear layer's bias; `nc4` and `bias_collapse` use it.
    measures: "paper" (nc1, nc2, nc3; the default), "all", one name or a list of names.
    weighting: "class" (default: every class counts the same) or "sample" (every sample does).
    absent: what classes without samples get: "error" (default) or "exclude".
    ignore_index: skip samples with this label, often -100.
    num_classes: K, where no classifier says it; the largest label and one otherwise.
    training_statistics: of the training set, as `metric.statistics()` returns them after adding it: measures test
        samples about the training set's class means.
Returns:
    A dict with each measure under its name:
    nc1: tr Σ_W / tr Σ_B, within-class over between-class variability.
    nc1_pinv: tr(Σ_W Σ_B⁺)/K; `nc1_pinv_rank` is the rank it used.
    nc1_cdnv: class-distance normalised variance.
    nc2, nc2_means: distance of W Wᵀ, of the centred class means' Gram matrix, to the closest simplex ETF's (NC2A).
    nc2_identity: distance of W Wᵀ to the closest multiple of I, the optimum of squared error without a bias (NC2B).
    nc2_etf: distance of W Wᵀ to a simplex ETF's Gram matrix, both at unit norm.
    nc2_orthogonal: distance of the uncentred class means' Gram matrix to an orthogonal frame's.
    nc2_equinorm, nc2_equinorm_classifier: spread of the lengths of class means, of W's rows.
    nc2_equiangular, nc2_equiangular_classifier: mean distance of their cosines to −1/(K − 1).
    gnc2, gnc2_excess: hyperspherical uniformity of the class means, and above its value at the ETF.
    nc3: one minus the mean cosine of a feature and its class's row of W.
    nc3_self_duality, nc3_etf, nc3_uniformity: distance of W to the class means, of W Ṁᵀ to an ETF, spread of cosines.
    nc4: share of samples where argmax(W h + b) is not the nearest class mean.
    bias_collapse: ‖W μ_G + b‖.
    Besides: num_samples, num_classes, num_absent_classes, absent_classes, weighting, class_means, conventions (the
    formula of each measure), left_out (what "all" could not compute, and why).
Examples:
    >>> import evaluate, torch
    >>> metric = evaluate.load("neural_collapse")
    >>> features = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.2], [-1.0, -0.2]])
    >>> result = metric.compute(
    ...     predictions=features, references=[0, 0, 1, 1], classifier=torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    ... )
    >>> {name: round(result[name], 4) for name in ("nc1", "nc2", "nc3")}
    {'nc1': 0.025, 'nc2': 0.0, 'nc3': 0.0122}
"""


class NeuralCollapse(evaluate.Metric):
    """The `evaluate` metric: `add_batch` or `add` features and labels, then `compute` with the classifier.

    Samples never pass through Arrow. Up to `keep_features_mib` of features are kept (the default, 128 MiB, is 65,536
    samples of 512 float32), and then `nc4` and everything else can be computed; more are streamed into statistics of
    constant size, and what needs a second look at the features is left out or, if named, an error.

    After an error in a `compute` that was given no samples itself, those added before are still there.
    """

    def __init__(self, *args, keep_features_mib: float = 128, **kwargs):
        self._max_bytes = int(keep_features_mib * 2**20)
        self._buffer = SampleBuffer(self._max_bytes)
        super().__init__(*args, **kwargs)

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
            homepage="https://arxiv.org/abs/2505.15239",
            reference_urls=[
                "https://arxiv.org/abs/2505.15239",
                "https://arxiv.org/abs/2008.08186",
                "https://arxiv.org/abs/2105.02375",
            ],
        )

    def __len__(self):
        return len(self._buffer)

    def add_batch(self, *, predictions=None, references=None):
        """Add features (N×d) and labels (N)."""
        if predictions is None or references is None:
            raise ValueError("add_batch takes both predictions (features, N×d) and references (labels, N)")
        self._buffer.add(_as_tensor(predictions), _as_tensor(references))

    def add(self, *, prediction=None, reference=None):
        """Add one sample: its feature (d) and its label."""
        if prediction is None or reference is None:
            raise ValueError("add takes both prediction (a feature, d values) and reference (its label)")
        self.add_batch(predictions=_as_tensor(prediction).unsqueeze(0), references=[int(reference)])

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Compute the measures of the samples added so far and of those given here, and forget the samples.

        With `num_process` above 1, process 0 gets the result over the samples of all and the others get `None`.
        """
        given = predictions is not None or references is not None
        if given:
            self.add_batch(predictions=predictions, references=references)
        failed = True
        try:
            buffer = self._gathered()
            result = None if buffer is None else self._compute(buffer, **kwargs)
            failed = False
        finally:
            if given or not failed:
                self._buffer = SampleBuffer(self._max_bytes)
        return result

    def statistics(self, *, num_classes=None, ignore_index=None) -> ClassStatistics:
        """Return statistics of the samples added so far, and forget the samples.

        Those of the training set are what `compute(training_statistics=…)` takes to measure a test set.
        """
        statistics, _ = self._buffer.summarize(
            num_classes, second_moment=True, directions=True, ignore_index=ignore_index
        )
        self._buffer = SampleBuffer(self._max_bytes)
        return statistics

    def _compute(
        self,
        buffer,
        *,
        classifier=None,
        bias=None,
        measures="paper",
        weighting="class",
        absent="error",
        ignore_index=None,
        num_classes=None,
        training_statistics=None,
    ):
        names = measure_names(measures)
        if classifier is not None:
            classifier = _as_tensor(classifier)
            num_classes = num_classes or len(classifier)
        if training_statistics is not None:
            num_classes = num_classes or training_statistics.num_classes
        statistics, batches = buffer.summarize(
            num_classes,
            second_moment="nc1_pinv" in names,
            directions="nc3" in names,
            ignore_index=ignore_index,
        )
        return compute(
            statistics,
            classifier=classifier,
            bias=None if bias is None else _as_tensor(bias),
            measures=measures,
            weighting=weighting,
            absent=absent,
            training_statistics=training_statistics,
            batches=batches,
            ignore_index=ignore_index,
        )

    def _gathered(self):
        """In process 0 the buffer of all processes; `None` in the others."""
        if self.num_process == 1:
            return self._buffer
        states = file_gather(
            self._buffer.state_dict(),
            self.data_dir,
            self.experiment_id,
            self.process_id,
            self.num_process,
            self.timeout,
        )
        if states is None:
            return None
        gathered = SampleBuffer(self._max_bytes)
        for state in states:
            gathered.merge(SampleBuffer.from_state_dict(state))
        return gathered


def _as_tensor(values) -> torch.Tensor:
    if isinstance(values, torch.nn.Module):
        raise ValueError(f"classifier must be a layer's weight (model.classifier.weight), got {type(values).__name__}")
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], torch.Tensor):
        return torch.stack(list(values))
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], str):
        raise ValueError(f"references must be whole numbers 0 … K − 1, got {values[0]!r}: number the names")
    return torch.as_tensor(values)
