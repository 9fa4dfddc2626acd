"""LN of the paper: mean 0, norm r, no affine part."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_ncollapse.models.residual_layers import CentredNorm, feature_norm


@given(st.integers(2, 80), st.sampled_from(["unit", "sqrt"]), st.floats(-8, 8), st.integers(0, 100))
def test_a_normalised_vector_has_mean_zero_and_norm_r_whatever_its_scale(size, scale, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, size, dtype=torch.float64, generator=generator) * 10**exponent
    # Two entries that nearly agree have a variance that the 1e-24, which keeps 0/0 away, can be seen beside.
    y, other = (
        CentredNorm(size, scale)(z) * (1 + 1e-24 / z.var(-1, correction=0, keepdim=True)).sqrt()
        for z in (x, 5 * x + 10**exponent)
    )
    radius = {"unit": 1.0, "sqrt": math.sqrt(size)}[scale]
    assert feature_norm(scale, size) == radius
    torch.testing.assert_close(y.sum(-1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.norm(dim=-1), torch.full((3,), radius, dtype=torch.float64), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(y, other, atol=1e-9, rtol=0)


def test_the_sqrt_scale_is_torchs_layer_norm_and_the_unit_scale_a_multiple_of_it():
    x = torch.randn(4, 16, dtype=torch.float64)
    expected = torch.nn.LayerNorm(16, elementwise_affine=False, eps=0).double()(x)
    torch.testing.assert_close(CentredNorm(16, "sqrt")(x), expected)
    torch.testing.assert_close(CentredNorm(16, "unit")(x), expected / 4)


def test_a_constant_vector_goes_to_zero_with_a_finite_gradient():
    x = torch.full((2, 8), 3.0, requires_grad=True)
    y = CentredNorm(8, "unit")(x)
    y.sum().backward()
    assert y.abs().max() == 0
    assert x.grad.isfinite().all()
