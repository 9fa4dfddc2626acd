"""Balanced, seeded subsets and held-out parts."""

import numpy as np

# Share of a set without a test part that is held out when no size is given.
HELD_OUT_SHARE = 0.2


def draw_subsets(
    train_labels: np.ndarray,
    test_labels: np.ndarray | None,
    num_classes: int,
    train_samples: int | None,
    test_samples: int | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training subset and of the test subset, each in random order.

    A subset of a given size has the same number of every class. Without a test part of its own (`test_labels` is None)
    the set is divided: both index the training part then, and are disjoint.

    Raises:
        ValueError: an empty part, a single class, a size that is no multiple of K, or more samples than there are.
    """
    _check_classes(train_labels, num_classes)
    generator = np.random.default_rng(seed)
    per_class = [generator.permutation(np.flatnonzero(train_labels == label)) for label in range(num_classes)]
    train_count = _count_per_class("train_samples", train_samples, num_classes)
    test_count = _count_per_class("test_samples", test_samples, num_classes)

    if test_labels is None:
        # The held-out part is taken from the other end, so it does not move with the size of the training subset.
        if test_count is not None:
            held_out = [test_count] * num_classes
            _check_enough("test_samples", test_count, per_class, num_classes)
        elif train_count is not None:
            held_out = [max(len(members) - train_count, 0) for members in per_class]
        else:
            held_out = [int(len(members) * HELD_OUT_SHARE) for members in per_class]
        test = [members[len(members) - count :] for members, count in zip(per_class, held_out, strict=True)]
        per_class = [members[: len(members) - count] for members, count in zip(per_class, held_out, strict=True)]
        if sum(map(len, test)) == 0:
            raise ValueError(f"train_samples is {train_samples}; that leaves nothing to test on, take fewer")
    else:
        test = [generator.permutation(np.flatnonzero(test_labels == label)) for label in range(num_classes)]
        if test_count is not None:
            _check_enough("test_samples", test_count, test, num_classes)
            test = [members[:test_count] for members in test]
    if train_count is not None:
        _check_enough("train_samples", train_count, per_class, num_classes)
        per_class = [members[:train_count] for members in per_class]
    return generator.permutation(np.concatenate(per_class)), generator.permutation(np.concatenate(test))


def permuted_labels(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return labels, (N,), in an order that says nothing of their samples; the draws of `draw_subsets` are others."""
    return np.random.default_rng([seed, 1]).permutation(labels)


def _check_classes(labels: np.ndarray, num_classes: int) -> None:
    if len(labels) == 0:
        raise ValueError("the training part is empty")
    present = np.unique(labels)
    if len(present) == 1:
        raise ValueError(f"the training part has one class only, label {present[0]}; collapse needs at least two")
    if present[0] < 0 or present[-1] >= num_classes:
        outside = present[(present < 0) | (present >= num_classes)]
        raise ValueError(f"the training part has labels outside 0 ... {num_classes - 1}: {outside.tolist()}")


def _count_per_class(argument: str, samples: int | None, num_classes: int) -> int | None:
    if samples is None:
        return None
    if samples % num_classes:
        raise ValueError(
            f"{argument} is {samples}; a balanced subset of {num_classes} classes needs a multiple of {num_classes}, "
            f"such as {max(round(samples / num_classes), 1) * num_classes}"
        )
    return samples // num_classes


def _check_enough(argument: str, count: int, per_class: list[np.ndarray], num_classes: int) -> None:
    smallest = min(range(num_classes), key=lambda label: len(per_class[label]))
    available = len(per_class[smallest])
    if count > available:
        raise ValueError(
            f"{argument} is {count * num_classes}, {count} of each class; label {smallest} has only {available} left, "
            f"so at most {available * num_classes}"
        )
