"""Softplus in compiled loops, against torch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

pytest.importorskip("numba", reason="the extra idr-surface[fast] is not installed")

from idr.model.kernels.softplus_loops import gradients_of_scaled, softplus_in_place, value_and_slope

BETA = 100.0
VALUES = torch.cat((torch.linspace(-0.5, 0.5, 200_001), torch.tensor([-30.0, 0.0, 30.0])))


def test_value_and_slope() -> None:
    value, slope = value_and_slope(VALUES.view(-1, 4), BETA)
    z = VALUES.double().view(-1, 4)
    assert (value - functional.softplus(z, beta=BETA)).abs().max() < 4e-8  # float32's rounding at 0.5
    assert (slope - torch.sigmoid(BETA * z)).abs().max() < 6e-7
    in_place = VALUES.numpy().copy()
    softplus_in_place(in_place, VALUES.new_tensor(BETA).numpy()[()])
    assert torch.equal(torch.from_numpy(in_place), value.view(-1))


@pytest.mark.parametrize("rows", [1, 3000])
def test_gradients_of_u_times_slope(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = 0.02 * torch.randn(3000, 32, generator=generator)
    u, by_v = (torch.randn(n, 32, generator=generator) for n in (rows, 3000))
    _, slope = value_and_slope(hidden, BETA)
    by_hidden, by_u = gradients_of_scaled(by_v, u, slope, BETA)

    h, w = hidden.double().requires_grad_(), u.double().requires_grad_()
    (torch.sigmoid(BETA * h) * w * by_v).sum().backward()
    assert (by_hidden - h.grad).abs().max() < 1e-6 * h.grad.abs().max()
    if rows == 1:
        by_u = by_u.sum(dim=0, keepdim=True)
    assert (by_u - w.grad).abs().max() < 1e-6 * w.grad.abs().max()
