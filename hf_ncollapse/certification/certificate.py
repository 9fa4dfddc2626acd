"""Objective, optimum, gap, collapse, gradient and curvature of one network in float64, written straight from the
definitions: nothing here is shared with the code that trains and measures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.collapse_config import CollapseConfig
from ..models.regularized_objective import RegularizedObjectiveMixin
from ..models.residual_layers import feature_norm
from ..theory import gufm_optimum, split_gap
from .curvature import smallest_curvature

Batches = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Certificate:
    """What is true of a network on its training set.

    Args:
        measured: numbers by the names of `metrics.json`; J* and what needs it are absent where the theory has none.
        gradient_norm: ‖∇J‖ over all parameters.
        curvature: an upper bound of the smallest eigenvalue of J's Hessian, by Lanczos; below 0, the network is no
            local minimum. None where it was not asked for.
        curvature_residual: ‖Hv − curvature · v‖ for the unit vector v found: an eigenvalue lies this near.
    """

    measured: dict[str, float]
    gradient_norm: float
    curvature: float | None
    curvature_residual: float | None


def certify_network(
    model: RegularizedObjectiveMixin,
    batches: Batches,
    *,
    test_batches: Batches = (),
    conflicts: list[list[int]] | None = None,
    curvature_steps: int = 40,
) -> Certificate:
    """Measure a classifier of the package anew, in float64.

    Args:
        model: left as it was.
        batches: the whole training set, dictionaries of tensors with `labels`.
        test_batches: the held-out samples.
        conflicts: label counts of inputs that occur with several labels, which have one feature.
        curvature_steps: Lanczos steps, a Hessian-vector product each; 0 leaves the curvature out.
    """
    dtype, was_training = model.dtype, model.training
    model.double().eval()
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            return _certify(model, batches, test_batches, conflicts or None, curvature_steps)
    finally:
        model.to(dtype).train(was_training)


def _certify(
    model: RegularizedObjectiveMixin,
    batches: Batches,
    test_batches: Batches,
    conflicts: list[list[int]] | None,
    curvature_steps: int,
) -> Certificate:
    config = model.config
    features, labels = _features(model, batches)
    classifier, bias = model.classifier.weight.detach(), model.classifier.bias
    logits = features @ classifier.T + (0 if bias is None else bias.detach())
    penalised = _penalised(model)
    body, classifier_penalty = (
        sum((l2 / 2 * weight.detach().square().sum().item() for weight, l2 in part), 0.0) for part in penalised
    )
    fit = _losses(logits, labels, config.loss).mean().item()
    measured = {
        "fit": fit,
        "regularization_body": body,
        "regularization_classifier": classifier_penalty,
        "regularization": body + classifier_penalty,
        "objective": fit + body + classifier_penalty,
        "train_accuracy": (logits.argmax(1) == labels).double().mean().item(),
        **_collapse(features, labels, classifier, config),
    }
    if test_batches:
        test_features, test_labels = _features(model, test_batches)
        test_logits = test_features @ classifier.T + (0 if bias is None else bias.detach())
        measured["test_accuracy"] = (test_logits.argmax(1) == test_labels).double().mean().item()
    ((_, classifier_l2),) = penalised[1]
    measured |= _distance(measured, features, labels, logits, classifier, config, classifier_l2, conflicts)

    parameters = [p for p in model.parameters() if p.requires_grad]

    l2_of = {id(weight): l2 for part in penalised for weight, l2 in part}
    l2_coefficients = [l2_of.get(id(p), 0.0) for p in parameters]

    def fit_gradients(create_graph: bool = False) -> Iterator[tuple[Tensor, ...]]:
        """The batches' shares of the fit's gradient; they sum to it."""
        for batch in batches:
            share = _losses(model(**_inputs(batch)).logits, batch["labels"], config.loss).sum() / len(labels)
            yield torch.autograd.grad(share, parameters, create_graph=create_graph)

    def hessian_product(direction: list[Tensor]) -> list[Tensor]:
        product = [l2 * v for l2, v in zip(l2_coefficients, direction, strict=True)]
        for gradients in fit_gradients(create_graph=True):
            share = torch.autograd.grad(gradients, parameters, direction, materialize_grads=True)
            product = [a + b for a, b in zip(product, share, strict=True)]
        return product

    penalty_gradient = [l2 * p.detach() for l2, p in zip(l2_coefficients, parameters, strict=True)]
    gradient = penalty_gradient
    for gradients in fit_gradients():
        gradient = [a + b for a, b in zip(gradient, gradients, strict=True)]
    if _norm(penalty_gradient) > 0:
        measured["relative_gradient"] = _norm(gradient) / _norm(penalty_gradient)
    curvature, residual = None, None
    if curvature_steps:
        curvature, residual = smallest_curvature(hessian_product, parameters, curvature_steps)
    return Certificate(measured, _norm(gradient), curvature, residual)


def _inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


@torch.no_grad()
def _features(model: RegularizedObjectiveMixin, batches: Batches) -> tuple[Tensor, Tensor]:
    """All features (N, d) and labels (N,)."""
    features = torch.cat([model(**_inputs(batch)).features for batch in batches])
    return features, torch.cat([batch["labels"] for batch in batches])


def _penalised(model: RegularizedObjectiveMixin) -> tuple[list[tuple[Tensor, float]], list[tuple[Tensor, float]]]:
    """The blocks' weights and the classifier's, each with its λ at this depth."""
    config = model.config
    layers = model.base_model.layers
    l2 = config.l2_coefficient
    classifier_l2 = l2 if config.classifier_l2_coefficient is None else config.classifier_l2_coefficient
    if config.l2_depth_scaling != "constant":
        l2 /= len(layers)
    if config.l2_depth_scaling == "inverse_all":
        classifier_l2 /= len(layers)
    matrices = [parameter for parameter in layers.parameters() if parameter.ndim == 2]
    return [(matrix, l2) for matrix in matrices], [(model.classifier.weight, classifier_l2)]


def _losses(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """ℓ of every sample, (N,)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    if loss == "cross_entropy":
        return logits.logsumexp(1) - own
    return ((logits.square().sum(1) - own.square()) + (own - 1).square()) / 2


def _collapse(features: Tensor, labels: Tensor, classifier: Tensor, config: CollapseConfig) -> dict[str, float]:
    """NC1, NC2 and NC3 of definition 3.4, from deviations and not from sums of squares."""
    num_classes = config.num_labels
    means = torch.stack([features[labels == k].mean(0) for k in range(num_classes)])
    within = (features - means[labels]).square().sum(1).mean()
    between = (means - means.mean(0)).square().sum(1).mean()
    gram = classifier @ classifier.T
    frame = torch.eye(num_classes, dtype=gram.dtype)
    if config.loss == "cross_entropy" or config.classifier_bias:
        frame = frame - 1 / num_classes
    scale = ((gram * frame).sum() / frame.square().sum()).clamp(min=0)
    cosines = nn.functional.cosine_similarity(features, classifier[labels])
    return {
        "nc1": (within / between).item(),
        "nc2": ((gram - scale * frame).norm() / gram.norm()).item(),
        "nc3": 1 - cosines.mean().item(),
    }


def _distance(
    measured: Mapping[str, float],
    features: Tensor,
    labels: Tensor,
    logits: Tensor,
    classifier: Tensor,
    config: CollapseConfig,
    classifier_l2: float,
    conflicts: list[list[int]] | None,
) -> dict[str, float]:
    """J*, the gap, its exact split and what that proves; nothing where the theory has no J*."""
    counts = torch.bincount(labels, minlength=config.num_labels)
    try:
        optimum = gufm_optimum(
            counts.tolist(),
            classifier_l2,
            loss=config.loss,
            radius=feature_norm(config.norm_scale, config.hidden_size),
            hidden_size=config.hidden_size,
            classifier_bias=config.classifier_bias,
            conflicts=conflicts,
        )
    except ValueError:  # no penalty on W, or no room for the frame
        return {}
    distance = {"gufm_optimum": optimum.objective, "gap": measured["objective"] - optimum.objective}
    if optimum.is_numerical:
        distance["gufm_lower_bound"] = optimum.lower_bound
        distance |= {"gufm_nc2": optimum.nc2, "gufm_nc3": optimum.nc3}
    if conflicts:
        return distance
    scores = logits.log_softmax(1) if config.loss == "cross_entropy" else logits
    classes = range(config.num_labels)
    means = torch.stack([features[labels == k].mean(0) for k in classes])
    split = split_gap(
        optimum,
        classifier=classifier,
        class_means=means,
        within_class_variances=torch.stack(
            [(features[labels == k] - means[k]).square().sum(1).mean() for k in classes]
        ),
        mean_scores=torch.stack([scores[labels == k].mean(0) for k in classes]),
        mean_squared_logits=logits.square().sum(1).mean(),
        body=measured["regularization_body"],
    )
    distance |= {"gap_fit": split.fit, "gap_classifier": split.classifier, "gap_spread": split.spread}
    bounds = {"nc1_bound": split.nc1_bound, "nc3_bound": split.nc3_bound}
    return distance | {name: value for name, value in bounds.items() if value is not None}


def _norm(tensors: list[Tensor]) -> float:
    return torch.stack([tensor.norm() for tensor in tensors]).norm().item()
