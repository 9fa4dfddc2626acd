"""The normalisation and the choice of blocks to split."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_ncollapse.models.residual_layers import CenteredNorm, blocks_to_split, feature_norm


@given(st.integers(2, 80), st.sampled_from(["unit", "sqrt"]), st.floats(-8, 8), st.integers(0, 100))
def test_a_normalised_vector_has_mean_zero_and_norm_r_whatever_its_scale(size, scale, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, size, dtype=torch.float64, generator=generator) * 10**exponent
    y = CenteredNorm(size, scale)(x)
    radius = {"unit": 1.0, "sqrt": math.sqrt(size)}[scale]
    assert feature_norm(scale, size) == radius
    torch.testing.assert_close(y.sum(-1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.norm(dim=-1), torch.full((3,), radius, dtype=torch.float64), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(y, CenteredNorm(size, scale)(5 * x + 10**exponent), atol=1e-6, rtol=0)


def test_the_sqrt_scale_is_torchs_layer_norm_and_the_unit_scale_a_multiple_of_it():
    x = torch.randn(4, 16, dtype=torch.float64)
    expected = torch.nn.LayerNorm(16, elementwise_affine=False, eps=0).double()(x)
    torch.testing.assert_close(CenteredNorm(16, "sqrt")(x), expected)
    torch.testing.assert_close(CenteredNorm(16, "unit")(x), expected / 4)


def test_a_constant_vector_goes_to_zero_with_a_finite_gradient():
    x = torch.full((2, 8), 3.0, requires_grad=True)
    y = CenteredNorm(8, "unit")(x)
    y.sum().backward()
    assert y.abs().max() == 0
    assert x.grad.isfinite().all()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.data())
def test_the_blocks_that_split_are_the_largest_and_as_many_as_are_missing(penalties, data):
    depth = data.draw(st.integers(len(penalties), 2 * len(penalties)))
    splits = blocks_to_split(penalties, depth)
    assert len(splits) + sum(splits) == depth
    split = [p for p, s in zip(penalties, splits, strict=True) if s]
    kept = [p for p, s in zip(penalties, splits, strict=True) if not s]
    assert not split or not kept or min(split) >= max(kept)


def test_a_depth_out_of_reach_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"num_hidden_layers is 7; .* from 3 to 6: deepen it repeatedly"):
        blocks_to_split([1.0, 2.0, 3.0], 7)
