"""Neural collapse as an `evaluate` metric: NC1 to NC4 of any classifier's features."""

from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import torch

# evaluate copies the files that this one imports by name, and not what those import: so every sibling stands here. It
# takes a comment behind such an import for an address.
from .batch_checks import as_batch
from .class_statistics import ClassStatistics
from .compute import compute
from .devices import exact_products
from .file_gather import file_gather
from .frames import distance_to_frame
from .held_out_statistics import HeldOutStatistics
from .imbalance import nc2_seli
from .jackknife import nc1_jackknife
from .kept_state import KeptState
from .linear_choice import LinearChoice
from .measured import MeasuredCollapse
from .measures import nc1
from .moments import class_means
from .pairs import mean_over_pairs
from .registry import may_look_again, measure_names, to_accumulate
from .sample_buffer import SampleBuffer
from .snapshot import Snapshot
from .softmax_code import softmax_code_margin
from .spectra import vci
from .uniformity import gnc2
from .worst_classes import nc1_worst

# What torch.as_tensor takes: a tensor, an array or nested lists; and None for none.
Values = Any

_DESCRIPTION = """\
Neural collapse: towards the end of training, a classifier's last-layer features collapse to their class means (NC1),
the means and the classifier's rows form a simplex equiangular tight frame (NC2), the two align (NC3), and the
classifier decides by the nearest class mean (NC4). A measure is 0 at exact collapse unless it says otherwise.
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
    measures: "paper" (nc1, nc2, nc3; the default, unless `evaluate.load` named others), "all", one name or several.
    weighting: "class" (default: every class counts the same), "sample" (every sample does) or "hybrid" (samples within
        classes, classes between them, as published code does).
    absent: what classes without samples get: "error" (default) or "exclude".
    ignore_index: skip samples with this label, often -100.
    num_classes: K, where no classifier says it; the largest label and one otherwise.
    training_statistics: of the training set, as `metric.statistics()` returns them after adding it: measures test
        samples about the training set's class means.
    out_of_distribution: features of inputs of no class, M×d; `nc5` needs them.
    per_class: add `per_class`, what each class contributes and which class is closest to it.
    standard_errors: add the standard errors of nc1 and nc3 and the bias of nc1, by the jackknife.
Returns:
    A dict with each measure under its name:
    nc0, nc0_relative: norm of the sum of W's rows, and in units of W's.
    nc1: tr Σ_W / tr Σ_B, within-class over between-class variability.
    nc1_pinv: tr(Σ_W Σ_B⁺)/K; `nc1_pinv_rank` is the rank it used.
    nc1_cdnv: class-distance normalised variance.
    nc1_worst: nc1 of the class that scatters most; `nc1_worst_class` is which.
    vci: variability collapse index, 1 − tr(Σ_T⁺ Σ_B)/rank Σ_B.
    nc2, nc2_means: distance of W Wᵀ, of the centred class means' Gram matrix, to the closest simplex ETF's (NC2A).
    nc2_identity: distance of W Wᵀ to the closest multiple of I, the optimum of squared error without a bias (NC2B).
    nc2_etf: distance of W Wᵀ to a simplex ETF's Gram matrix, both at unit norm.
    nc2_orthogonal: distance of the uncentred class means' Gram matrix to an orthogonal frame's.
    nc2_equinorm, nc2_equinorm_classifier: spread of the lengths of class means, of W's rows.
    nc2_equiangular, nc2_equiangular_classifier: mean distance of their cosines to −1/(K − 1).
    nc2_worst: the same for the two closest class means; `nc2_worst_pair` are which.
    nc2_seli, nc2_means_seli: distance of W Wᵀ, of the class means' Gram matrix, to what their class counts call for.
    minority_cosine, minority_cosine_classifier: mean cosine of the rarest classes' means, rows of W.
    stable_rank, effective_rank, stable_rank_classifier, effective_rank_classifier: of centred features, of W.
    softmax_code_margin: least distance of a unit row of W to the hull of the others: large at collapse, for K > d + 1.
    gnc2, gnc2_excess: hyperspherical uniformity of the class means, and above its value at the ETF.
    nc3: one minus the mean cosine of a feature and its class's row of W.
    nc3_self_duality, nc3_etf, nc3_uniformity: distance of W to the class means, of W Ṁᵀ to an ETF, spread of cosines.
    nc3_worst: one minus the cosine of W's row and the class mean, at the worst class; `nc3_worst_class` is which.
    nc4: share of samples where argmax(W h + b) is not the nearest class mean.
    nc5: mean absolute cosine of the class means and the mean of out-of-distribution features.
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

    Who says at once what is wanted, `evaluate.load("neural_collapse", measures="nc1", num_classes=50257)`, pays for
    nothing else: features are kept only if one of the measures may need a second look at them, the streamed statistics
    hold what the measures need, and their K classes from the start.

    One thread at a time, as for `ClassStatistics`.

    After an error in a `compute` that was given no samples itself, those added before are still there.

    Args:
        measures: what `compute` gives unless told otherwise, "paper" if not given; and all that it can give once the
            features were streamed.
        num_classes (`int`, *optional*): K; a label above is then refused when it is added.
        keep_features_mib (`float`, *optional*): MiB of features to keep; 128 if not given, and 0 if `measures` need
            no second look.
    """

    def __init__(
        self,
        *args: Any,
        measures: str | Iterable[str] | None = None,
        num_classes: int | None = None,
        keep_features_mib: float | None = None,
        **kwargs: Any,
    ):
        self._measures = "paper" if measures is None else measures
        self._num_classes = num_classes
        named = None if measures is None else measure_names(measures)
        if keep_features_mib is None:
            keep_features_mib = 128 if named is None or may_look_again(named) else 0
        self._max_bytes = int(keep_features_mib * 2**20)
        self._accumulated = {} if named is None else to_accumulate(named)
        self._buffer = self._empty_buffer()
        super().__init__(*args, **kwargs)

    def _empty_buffer(self) -> SampleBuffer:
        return SampleBuffer(self._max_bytes, num_classes=self._num_classes, **self._accumulated)

    def _info(self) -> evaluate.MetricInfo:
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

    def __len__(self) -> int:
        return len(self._buffer)

    def add_batch(self, *, predictions: Values = None, references: Values = None) -> None:
        """Add features (N×d) and labels (N)."""
        if predictions is None or references is None:
            raise ValueError("add_batch takes both predictions (features, N×d) and references (labels, N)")
        self._buffer.add(_as_tensor(predictions), _as_tensor(references))

    def add(self, *, prediction: Values = None, reference: Values = None) -> None:
        """Add one sample: its feature (d) and its label."""
        if prediction is None or reference is None:
            raise ValueError("add takes both prediction (a feature, d values) and reference (its label)")
        self.add_batch(predictions=_as_tensor(prediction).unsqueeze(0), references=[int(reference)])

    def compute(
        self, *, predictions: Values = None, references: Values = None, **kwargs: Any
    ) -> dict[str, Any] | None:
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
                self._buffer = self._empty_buffer()
        return result

    def statistics(self, *, num_classes: int | None = None, ignore_index: int | None = None) -> ClassStatistics:
        """Return statistics of the samples added so far, and forget the samples.

        Those of the training set are what `compute(training_statistics=…)` takes to measure a test set.
        """
        statistics, _ = self._buffer.summarize(
            num_classes or self._num_classes, second_moment=True, directions=True, ignore_index=ignore_index
        )
        self._buffer = self._empty_buffer()
        return statistics

    def _compute(
        self,
        buffer: SampleBuffer,
        *,
        classifier: Values = None,
        bias: Values = None,
        measures: str | Iterable[str] | None = None,
        weighting: str = "class",
        absent: str = "error",
        ignore_index: int | None = None,
        num_classes: int | None = None,
        training_statistics: ClassStatistics | None = None,
        out_of_distribution: Values = None,
        per_class: bool = False,
        standard_errors: bool = False,
    ) -> MeasuredCollapse:
        measures = self._measures if measures is None else measures
        names = measure_names(measures)
        num_classes = num_classes or self._num_classes
        if classifier is not None:
            classifier = _as_tensor(classifier)
            num_classes = num_classes or len(classifier)
        if training_statistics is not None:
            num_classes = num_classes or training_statistics.num_classes
        statistics, batches = buffer.summarize(
            num_classes,
            **to_accumulate(names),
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
            out_of_distribution=None if out_of_distribution is None else _as_tensor(out_of_distribution),
            per_class=per_class,
            standard_errors=standard_errors,
        )

    def _gathered(self) -> SampleBuffer | None:
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
        gathered = self._empty_buffer()
        for state in states:
            gathered.merge(SampleBuffer.from_state_dict(state))
        return gathered


def _as_tensor(values: Values) -> torch.Tensor:
    if isinstance(values, torch.nn.Module):
        raise ValueError(f"classifier must be a layer's weight (model.classifier.weight), got {type(values).__name__}")
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], torch.Tensor):
        return torch.stack(list(values))
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], str):
        raise ValueError(f"references must be whole numbers 0 … K − 1, got {values[0]!r}: number the names")
    return torch.as_tensor(values)
