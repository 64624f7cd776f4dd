"""Softplus in compiled loops, against torch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

pytest.importorskip("numba", reason="the extra idr-surface[fast] is not installed")

from idr.model.kernels import softplus_loops as loops

BETA = 100.0
VALUES = torch.cat((torch.linspace(-0.5, 0.5, 200_001), torch.tensor([-30.0, 0.0, 30.0]))).view(-1, 4)
TOLERANCE, SLOPE_TOLERANCE = 4e-8, 6e-7
"""float32's rounding at 0.5, and that of the slope at a value."""


def test_value_and_slope() -> None:
    z, bias = VALUES.double(), torch.tensor([0.0, 0.125, -0.25, 0.0])
    expected, slope = functional.softplus(z, beta=BETA), torch.sigmoid(BETA * z)

    in_place = loops.softplus_(VALUES.clone(), BETA)
    assert (in_place - expected).abs().max() < TOLERANCE
    out, kept = torch.empty_like(VALUES), VALUES.clone()
    loops.write_softplus(kept, BETA, out)
    assert torch.equal(out, in_place) and torch.equal(kept, VALUES)
    out.zero_()
    loops.write_softplus_keep_slope(kept, BETA, out)
    assert torch.equal(out, in_place)
    assert (kept - slope).abs().max() < SLOPE_TOLERANCE
    shifted = VALUES - bias  # exact: powers of two
    assert (loops.softplus_and_slope(shifted, bias, BETA) - slope).abs().max() < 2 * SLOPE_TOLERANCE
    assert (shifted - expected).abs().max() < 2 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_u_times_slope(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = 0.02 * torch.randn(3000, 32, generator=generator, dtype=dtype)
    u, by_v = (torch.randn(3000, 32, generator=generator, dtype=dtype) for _ in range(2))
    h, w = hidden.double().clone().requires_grad_(), u.double().clone().requires_grad_()
    (torch.sigmoid(BETA * h) * w * by_v).sum().backward()

    slope = loops.softplus_and_slope(hidden, torch.zeros(32, dtype=dtype), BETA)
    by_u = by_v.clone()
    by_hidden = loops.gradients_of_scaled(by_u, u * slope, slope, BETA)
    relative = 1e-6 if dtype == torch.float32 else 1e-14
    assert (by_hidden - h.grad).abs().max() < relative * h.grad.abs().max()
    assert (by_u - w.grad).abs().max() < relative * w.grad.abs().max()


def test_no_values() -> None:
    empty = torch.empty(0, 7)
    assert loops.softplus_(empty, BETA).shape == loops.softplus_and_slope(empty, torch.ones(7), BETA).shape
