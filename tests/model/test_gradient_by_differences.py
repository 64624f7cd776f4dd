"""``gradient = numerical``, against the analytic gradient and explicit central differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from idr.errors import InputError
from idr.model.implicit_differentiable_renderer import IDRNetwork, StepDraws
from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig
from tests.model.networks import (
    camera_input,
    central_differences,
    fill_parameters,
    idr_network,
    implicit_network,
    loss_of,
)

BLOCK = {
    "type": "hashgrid", "levels": 4, "features": 2, "log2_table": 8, "base_resolution": 3,
    "finest_resolution": 12,
}  # fmt: skip


def network(backend: str = "torch", features: int = 4, **keys: Any) -> ImplicitNetwork:
    """A network in float32 with parameters of order one, the same for each backend."""
    block = {**BLOCK, "backend": backend}
    made = ImplicitNetwork(features, ImplicitNetworkConfig(3, 1, (16, 12), encoding=block, **keys))
    fill_parameters(made)
    return made


def points(num: int = 60, reach: float = 1.2) -> Tensor:
    """Points in float32, some of them outside the grid's cube."""
    generator = torch.Generator().manual_seed(1)
    return reach * (2 * torch.rand(num, 3, generator=generator) - 1)


def by_hand(net: ImplicitNetwork, x: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Outputs and central differences, one axis at a time."""
    return net(x), central_differences(lambda y: net(y)[:, 0], x, step)


def all_results(net: ImplicitNetwork, x: Tensor, step: float | None = None) -> list[Tensor]:
    """Values, gradients, and derivatives of a loss by points and parameters; with a step, `by_hand`."""
    x = x.to(net.layer(0).bias.dtype).requires_grad_(True)
    if step is None:
        output, gradient = net.value_and_gradient(x)
        distance, slope = net.sdf_and_gradient(x.detach())
    else:
        output, gradient = by_hand(net, x, step)
        distance, slope = by_hand(net, x.detach(), step)
        distance = distance[:, :1]
    weights = torch.arange(1, output.shape[1] + 1, dtype=x.dtype)
    loss = (weights * output).sin().sum() + (gradient @ torch.tensor([1, 2, 3], dtype=x.dtype)).cos().sum()
    loss = loss + (slope.norm(dim=1) - 1).square().sum() + distance.square().sum()
    return [output, gradient, distance, slope, *torch.autograd.grad(loss, [x, *net.parameters()])]


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(("open_levels", "gradient_step"), [(4.0, 1.0), (2.5, 1.0), (0.5, 1.0), (3.0, 0.4)])
def test_equals_differences_by_hand(backend: str, open_levels: float, gradient_step: float) -> None:
    ours = network(backend, gradient="numerical", gradient_step=gradient_step)
    oracle = network("torch").double()
    ours.encoding.open_levels = oracle.encoding.open_levels = open_levels
    cells = {4.0: 12, 2.5: (4 * 7) ** 0.5, 0.5: 3, 3.0: 7}[open_levels]  # grids of 3, 4, 7, 12
    found = all_results(ours, points())
    expected = all_results(oracle, points(), gradient_step * 2 / cells)
    names = ["output", "gradient", "distance", "slope", "x", *(n for n, _ in ours.named_parameters())]
    for name, one, two in zip(names, found, expected, strict=True):
        # float32's rounding of 6e-8, divided by twice a step of at least 0.11, times the curvature of
        # softplus
        assert one.shape == two.shape and (one - two).abs().max() <= 1e-4 * two.abs().max(), name


def test_converges_to_the_analytic_gradient() -> None:
    """Inside a cell f is smooth: half the step gives a quarter of the error."""
    analytic = implicit_network(encoding=BLOCK)
    with torch.no_grad():
        table = analytic.encoding.get_parameter("table")
        table.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(3))
    cells = torch.tensor([3, 4, 7, 12]).view(-1, 1, 1)
    x = torch.rand(2000, 3, generator=torch.Generator().manual_seed(2)).double() * 1.8 - 0.9
    place = ((x + 1) / 2 * cells) % 1
    x = x[(0.1 < place).all(dim=2).all(dim=0) & (place < 0.9).all(dim=2).all(dim=0)]
    assert len(x) > 10
    exact, errors = analytic.gradient(x), []
    for gradient_step in (0.01, 0.005, 1e-5):
        network = implicit_network(encoding=BLOCK, gradient="numerical", gradient_step=gradient_step)
        network.load_state_dict(analytic.state_dict())
        errors.append(float((network.gradient(x) - exact).abs().max().detach()))
    assert 3.95 < errors[0] / errors[1] < 4.05
    assert errors[2] < 1e-8 < errors[1]


def model(gradient: str) -> IDRNetwork:
    """A whole model on the grid with a rough surface, so that gradients differ between cells."""
    changed = idr_network(
        implicit_network__skip_in=[], implicit_network__multires=0, implicit_network__encoding=BLOCK,
        implicit_network__gradient=gradient,
    )  # fmt: skip
    with torch.no_grad():
        table = changed.implicit_network.encoding.get_parameter("table")
        table.uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(3))
    return changed


def test_is_used_for_normals_the_eikonal_term_and_the_intersection(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = model("numerical"), camera_input()
    draws = StepDraws(torch.rand(40), 2 * torch.rand(20, 3) - 1)
    seen: dict[str, list[Tensor]] = {"normals": [], "slopes": []}
    colors = network.rendering_network.forward
    from idr.model import implicit_differentiable_renderer as module

    intersection = module.differentiable_intersection

    def watched_colors(points: Tensor, normals: Tensor, *rest: Tensor) -> Tensor:
        seen["normals"] += [points, normals]
        return colors(points, normals, *rest)

    def watched_intersection(center, direction, depth, sdf, normal, **rest):
        seen["slopes"] += [center + depth * direction, normal]
        return intersection(center, direction, depth, sdf, normal, **rest)

    monkeypatch.setattr(network.rendering_network, "forward", watched_colors)
    monkeypatch.setattr(module, "differentiable_intersection", watched_intersection)
    monkeypatch.setattr(torch.autograd, "grad", None)  # there is no second order
    outputs = network({**batch, "draws": draws})
    assert outputs["network_object_mask"].any()

    def differences(x: Tensor) -> Tensor:
        return central_differences(lambda y: network.implicit_network(y)[:, 0], x.detach(), 2 / 12)

    for place, found in (
        seen["normals"],
        seen["slopes"],
        (torch.cat((draws.eikonal_points, outputs["points"])), outputs["grad_theta"]),
    ):
        assert len(found) and torch.allclose(found, differences(place), atol=1e-5)
    loss_of(outputs)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.implicit_network.encoding.get_parameter("table").grad.abs().max() > 0

    # Colors depend on the same normals in evaluation as in training.
    with torch.no_grad():
        network.eval()(batch)
    place, found = seen["normals"][2:]
    assert torch.allclose(found, differences(place), atol=1e-5) and not found.requires_grad


def test_differs_from_the_analytic_gradient() -> None:
    x = points(20, 0.8)
    one, two = (model(kind).implicit_network.gradient(x) for kind in ("analytic", "numerical"))
    assert (one - two).abs().max() > 0.01


def test_needs_levels() -> None:
    with pytest.raises(InputError, match=r"gradient = numerical.*sinusoids has none.*hashgrid"):
        implicit_network(multires=2, gradient="numerical")


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_no_points_and_nan(backend: str) -> None:
    net = network(backend, gradient="numerical")
    output, gradient = net.value_and_gradient(torch.zeros(0, 3))
    (output.sum() + gradient.sum()).backward()
    assert output.shape == (0, 5) and gradient.shape == (0, 3)
    assert net.value_and_gradient(torch.full((1, 3), torch.nan))[1].isnan().all()
