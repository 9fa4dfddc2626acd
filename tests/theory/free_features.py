"""A minimisation over free features that shares no code with the package."""

import torch


def free_objective(features, classifier, labels, l2_coefficient, loss, bias=0.0):
    """The GUFM's objective at given features and classifier."""
    logits = features @ classifier.T + bias
    if loss == "cross_entropy":
        fit = torch.nn.functional.cross_entropy(logits, labels)
    else:
        fit = (logits - torch.eye(logits.shape[1], dtype=logits.dtype)[labels]).square().sum(1).mean() / 2
    return fit + l2_coefficient / 2 * classifier.square().sum()


def minimum_over_free_features(
    counts, l2_coefficient, radius, loss, width, *, classifier_bias=False, inputs=None, starts=2
):
    """min over W, b and a feature of mean 0 and norm r a sample, which samples of equal `inputs` share, by L-BFGS."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    inputs = torch.arange(len(labels)) if inputs is None else torch.as_tensor(inputs)
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(starts):
        shapes = [(int(inputs.max()) + 1, width), (len(counts), width), (len(counts),)]
        x, w, b = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
        variables = [x.requires_grad_()]
        if loss == "cross_entropy":
            variables += [w.requires_grad_()] + [b.requires_grad_()] * classifier_bias

        def objective(x=x, w=w, b=b):
            centred = x - x.mean(1, keepdim=True)
            features = (radius * centred / centred.norm(dim=1, keepdim=True))[inputs]
            if loss == "mse":  # L-BFGS would crawl: given the features, W and b are a ridge regression's
                classifier, bias = ridge_regression(features, labels, l2_coefficient, classifier_bias)
            else:  # the unit of W makes the logits of order 1, whatever r
                classifier, bias = w / radius, b if classifier_bias else 0.0
            return free_objective(features, classifier, labels, l2_coefficient, loss, bias)

        for _ in range(3):  # a fresh history each time
            optimizer = torch.optim.LBFGS(
                variables, max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-15, line_search_fn="strong_wolfe"
            )

            def closure(optimizer=optimizer, objective=objective):
                optimizer.zero_grad()
                value = objective()
                value.backward()
                return value

            optimizer.step(closure)
        values.append(objective().item())
    return min(values)


def ridge_regression(features, labels, l2_coefficient, classifier_bias):
    """W and b of the least mean of ½‖z − e_y‖² plus (λ/2)‖W‖², by the normal equations with a constant feature."""
    inputs = torch.cat([features, torch.full((len(features), 1), float(classifier_bias), dtype=features.dtype)], dim=1)
    penalties = torch.full((inputs.shape[1],), len(labels) * l2_coefficient, dtype=features.dtype)
    penalties[-1] = 0.0 if classifier_bias else 1.0
    solution = torch.linalg.solve(
        inputs.T @ inputs + torch.diag(penalties),
        inputs.T @ torch.eye(int(labels.max()) + 1, dtype=features.dtype)[labels],
    )
    return solution[:-1].T, solution[-1]
