"""The explicit derivatives of a softplus network, against autograd on plain torch in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.model.networks import fill_parameters
from torch import Tensor

from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig
from idr.model.kernels import fused_field

NUM_POINTS = 200


def network(
    backend: str, dims: Sequence[int] = (16, 12), weight_norm: bool = True, features: int = 2
) -> ImplicitNetwork:
    """A network with parameters of order one, the same for each backend."""
    block = {
        "type": "hashgrid", "levels": 4, "features": features, "log2_table": 8, "base_resolution": 3,
        "finest_resolution": 12, "backend": backend,
    }  # fmt: skip
    config = ImplicitNetworkConfig(3, 1, tuple(dims), bias=0.6, weight_norm=weight_norm, encoding=block)
    made = ImplicitNetwork(5, config)
    fill_parameters(made)
    return made


def published(dims: Sequence[int], skip_in: Sequence[int], multires: int) -> ImplicitNetwork:
    """A network of the published kind with parameters of order one."""
    config = ImplicitNetworkConfig(3, 1, tuple(dims), bias=0.6, skip_in=tuple(skip_in), multires=multires)
    made = ImplicitNetwork(5, config)
    fill_parameters(made)
    return made


def some_points() -> Tensor:
    """Points, some outside the cube of a grid, which gives them the features of its nearest point."""
    return 1.2 * (2 * torch.rand(NUM_POINTS, 3, generator=torch.Generator().manual_seed(1)) - 1)


def assert_equal_results(ours: ImplicitNetwork, oracle: ImplicitNetwork, x: Tensor) -> None:
    names = ["output", "gradient", "distance", "slope", "x", *(n for n, _ in ours.named_parameters())]
    for name, one, two in zip(names, all_results(ours, x), all_results(oracle, x), strict=True):
        # The second derivative of softplus, up to 100, multiplies float32's rounding of 6e-8.
        assert (one - two).abs().max() <= 1e-4 * two.abs().max(), name


def all_results(net: ImplicitNetwork, x: Tensor) -> list[Tensor]:
    """Values and gradients, and the derivatives of a loss of all of them by points and parameters."""
    x = x.to(net.layer(0).bias.dtype).requires_grad_(True)
    output, gradient = net.value_and_gradient(x)
    distance, slope = net.sdf_and_gradient(x.detach())
    weights = torch.arange(1, output.shape[1] + 1, dtype=x.dtype)
    loss = (weights * output).sin().sum() + (gradient @ torch.tensor([1, 2, 3], dtype=x.dtype)).cos().sum()
    loss = loss + (slope.norm(dim=1) - 1).square().sum() + distance.square().sum()
    named = [x, *net.parameters()]
    return [output, gradient, distance, slope, *torch.autograd.grad(loss, named)]


@pytest.mark.parametrize("dims", [(16,), (16, 12), (8, 12, 8)])
@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize(("open_levels", "features"), [(4.0, 2), (2.3, 2), (1.0, 1), (3.5, 3)])
def test_equals_plain_torch(
    dims: tuple[int, ...], weight_norm: bool, open_levels: float, features: int
) -> None:
    ours = network("numba", dims, weight_norm, features)
    oracle = network("torch", dims, weight_norm, features).double()
    oracle.load_state_dict(ours.state_dict())
    ours.encoding.open_levels = oracle.encoding.open_levels = open_levels
    assert_equal_results(ours, oracle, some_points())


PUBLISHED = [((12,), (), 0), ((30, 28), (2,), 2), ((24, 40, 24), (1, 2), 1), ((32,) * 5, (3, 5), 3)]


@pytest.mark.parametrize(("dims", "skip_in", "multires"), PUBLISHED)
def test_published_kinds_equal_plain_torch(
    dims: tuple[int, ...], skip_in: tuple[int, ...], multires: int
) -> None:
    oracle = published(dims, skip_in, multires).double()  # which has no twin
    assert_equal_results(published(dims, skip_in, multires), oracle, some_points())


@pytest.mark.parametrize(("dims", "skip_in", "multires"), PUBLISHED)
def test_explicit_derivatives_pass_gradcheck(
    dims: tuple[int, ...], skip_in: tuple[int, ...], multires: int
) -> None:
    net = published(dims, skip_in, multires).double()
    net.activation.beta = 3.0  # differences resolve its curvature
    x = some_points()[:4].double().requires_grad_(True)
    names = [name for name, _ in net.named_parameters()]

    def evaluate(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        for name, value in zip(names, values, strict=True):
            layer, _, leaf = name.partition(".")
            module = net.get_submodule(layer)
            if leaf in module._parameters:
                del module._parameters[leaf]
            setattr(module, leaf, value)
        return fused_field.output_and_gradient(net, x, 3)

    values = [value.detach().clone().requires_grad_(True) for value in net.parameters()]
    torch.autograd.gradcheck(evaluate, (x, *values))


def test_serves_the_analytic_gradient_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = fused_field.output_and_gradient
    monkeypatch.setattr(fused_field, "output_and_gradient", lambda *a: calls.append(a) or original(*a))
    x = torch.rand(7, 3)
    net = network("numba")
    net.value_and_gradient(x)
    assert len(calls) == 1
    network("torch").value_and_gradient(x)
    net.encoding.open_levels = 0.0
    net.value_and_gradient(x)
    net.by_differences, net.encoding.open_levels = True, 4.0
    net.value_and_gradient(x)
    network("auto").double().value_and_gradient(x.double())
    assert len(calls) == 1
    net = published((24, 24), (1,), 2)
    net.value_and_gradient(x)
    assert len(calls) == 2
    with torch.no_grad():
        net.eval().value_and_gradient(x)  # `FixedNetwork` serves it
        assert len(calls) == 2
        net.train().value_and_gradient(x)
    net.double().value_and_gradient(x.double())
    assert len(calls) == 3


def test_closed_levels_get_no_gradient() -> None:
    net = network("numba")
    net.encoding.open_levels = 2.0
    _, gradient = net.sdf_and_gradient(torch.rand(30, 3))
    gradient.square().sum().backward()
    table = net.encoding.get_parameter("table").grad
    first = net.get_parameter("lin0.weight_v").grad
    closed = net.encoding.grids[2].offset
    assert table is not None and first is not None
    assert table[:closed].any() and not table[closed:].any()


def test_records_no_graph_without_gradients() -> None:
    net, x = network("numba"), torch.rand(5, 3)
    with torch.no_grad():
        output, gradient = net.value_and_gradient(x)
    assert not output.requires_grad and not gradient.requires_grad
    assert torch.allclose(output, net(x), atol=1e-5)


def test_no_points_and_nan() -> None:
    net = network("numba")
    output, gradient = net.value_and_gradient(torch.zeros(0, 3))
    (output.sum() + gradient.sum()).backward()
    assert output.shape == (0, 6) and gradient.shape == (0, 3)
    assert net.value_and_gradient(torch.full((1, 3), torch.nan))[1].isnan().all()


def test_is_deterministic() -> None:
    net, x = network("numba"), torch.rand(3000, 3)
    for one, two in zip(all_results(net, x), all_results(net, x), strict=True):
        assert torch.equal(one, two)
