"""Twins of activations: their numbers against torch's, and a network whose activation has none."""

from __future__ import annotations

import math

import pytest
import torch
from tests.model.networks import central_differences, implicit_network, roughen
from torch import nn
from torch.nn import functional

from idr.model.kernels import activations
from idr.model.kernels.activations import SoftplusTwin, activation_twin
from idr.model.kernels.fields import field_for
from idr.model.kernels.numba_support import has_numba

BETA = 100.0


@pytest.mark.parametrize(
    ("way", "dtype"),
    [(way, dtype) for way in ("call", "AVX2", "AVX512") for dtype in (torch.float64, torch.float32)]
    + [("AVX2", torch.bfloat16), ("AVX512", torch.bfloat16)],
)
def test_softplus_equals_torch_up_to_rounding(
    way: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: way)
    monkeypatch.setattr(activations, "has_numba", lambda: False)
    ends = torch.tensor([0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.2, -0.2, 1.0, -1.0, 80.0, -80.0, 1e30, -1e30])
    x = torch.cat((ends, torch.linspace(-1.1, 1.1, 9001))).to(dtype)

    def twin(x: torch.Tensor) -> torch.Tensor:
        if way == "call":
            return SoftplusTwin(BETA)(x)
        out = torch.empty_like(x)
        SoftplusTwin(BETA).write(out, x)
        return out

    expected, found = functional.softplus(x, beta=BETA), twin(x.clone())
    # A rounding of one and one of its logarithm, over beta; one of the sum; torch omits exp beyond 20.
    eps, omitted = torch.finfo(dtype).eps, math.exp(-20) / BETA
    assert ((found - expected).abs() <= omitted + 1.5 * eps / BETA + eps * expected.abs()).all()
    assert found.dtype == dtype and torch.isfinite(found).all()
    assert twin(torch.tensor([torch.nan], dtype=dtype)).isnan().all()  # a broken network stays visible


@pytest.mark.skipif(not has_numba(), reason="the extra idr-surface[fast] is not installed")
def test_compiled_softplus_serves_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SoftplusTwin, "_by_parts", lambda *_: pytest.fail("not compiled"))
    x, twin = torch.linspace(-1.1, 1.1, 9002).view(-1, 2), SoftplusTwin(BETA)
    expected, slope = functional.softplus(x, beta=BETA), torch.sigmoid(BETA * x)
    out = torch.empty_like(x)
    twin.write(out, x.clone())
    assert torch.equal(twin(x.clone()), out)
    assert (out - expected).abs().max() < 1.3e-7  # float32's rounding at 1.1
    out.zero_()
    assert (twin.write_with_slope(out, x.clone()) - slope).abs().max() < 1e-6
    assert (out - expected).abs().max() < 1.3e-7
    ends = twin(torch.tensor([torch.nan, torch.inf, 1e30, -1e30, -torch.inf]))
    assert ends[0].isnan() and ends[1] == torch.inf and ends[2] == 1e30 and (ends[3:] < 1e-9).all()


def test_softplus_with_slope() -> None:
    x = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    value = torch.empty_like(x)
    slope = SoftplusTwin(BETA).write_with_slope(value, x.clone())
    assert torch.equal(value, functional.softplus(x, beta=BETA))
    expected = central_differences(lambda y: functional.softplus(y[:, 0], beta=BETA), x[:, None], 1e-6)
    # torch's softplus is linear beyond exp(-20): a jump of 2e-9 / beta there, over twice the step.
    assert (slope - expected[:, 0]).abs().max() < 2e-5


@pytest.mark.parametrize("training", [True, False])
def test_another_activation_touches_one_place(training: bool) -> None:
    """A network with an activation that has no twin uses plain torch everywhere, and its own gradient."""
    network = implicit_network(features=2, dims=(12, 12), skip_in=(1,)).train(training)
    roughen(network, 0.3, seed=1)
    network.activation = nn.SiLU()  # type: ignore[assignment]
    x = torch.rand(20, 3, dtype=torch.float64)
    with torch.no_grad():
        assert activation_twin(network.activation) is None and field_for(network, x) is None
        assert (network.sdf(x) - network(x)[:, 0]).abs().max() < 1e-14  # sums in another order
        gradient = network.gradient(x).squeeze(1)
    expected = central_differences(lambda y: network.sdf(y).detach(), x, step=1e-5)
    assert (gradient - expected).abs().max() < 1e-8  # third derivatives of order one, times 1e-10
