"""The two frames of collapse."""

import numpy as np
import pytest

from hf_ncollapse.theory import orthogonal_frame, simplex_etf


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("extra", [0, 5])
def test_a_simplex_etf_has_unit_vectors_with_the_smallest_equal_cosine_and_mean_zero(num_classes, extra):
    frame = simplex_etf(num_classes, num_classes - 1 + extra)
    gram = frame @ frame.T
    assert frame.shape == (num_classes, num_classes - 1 + extra)
    np.testing.assert_allclose(np.diag(gram), 1, atol=1e-13)
    np.testing.assert_allclose(gram[~np.eye(num_classes, dtype=bool)], -1 / (num_classes - 1), atol=1e-13)
    np.testing.assert_allclose(frame.sum(axis=0), 0, atol=1e-13)
    assert simplex_etf(num_classes).shape == (num_classes, num_classes - 1)


@pytest.mark.parametrize("num_classes", [1, 2, 10, 100])
@pytest.mark.parametrize("extra", [0, 5])
def test_an_orthogonal_frame_is_orthonormal_and_lies_in_the_mean_zero_subspace(num_classes, extra):
    frame = orthogonal_frame(num_classes, num_classes + 1 + extra)
    assert frame.shape == (num_classes, num_classes + 1 + extra)
    np.testing.assert_allclose(frame @ frame.T, np.eye(num_classes), atol=1e-13)
    np.testing.assert_allclose(frame.sum(axis=1), 0, atol=1e-13)
    assert orthogonal_frame(num_classes).shape == (num_classes, num_classes + 1)


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (simplex_etf, (1,), "num_classes is 1; a simplex ETF needs at least 2"),
        (simplex_etf, (10, 8), "dimension is 8; a simplex ETF of 10 classes needs at least 9"),
        (orthogonal_frame, (0,), "num_classes is 0; an orthogonal frame needs at least 1"),
        (orthogonal_frame, (10, 10), "dimension is 10; 10 orthogonal mean-zero vectors need at least 11"),
    ],
)
def test_an_impossible_frame_is_an_error_that_says_what_it_needs(frame, arguments, message):
    with pytest.raises(ValueError, match=message):
        frame(*arguments)
