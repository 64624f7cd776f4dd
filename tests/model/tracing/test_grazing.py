"""Grazing rays must end with the slope of f at its zero: the differentiable intersection divides by it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from tests.model.exact_shapes import crossing_of, trace_request
from tests.model.tracing.test_compiled import bumpy_ball
from torch import Tensor
from torch.nn import functional

from idr.model.implicit_network import ImplicitNetwork
from idr.model.tracing import Rays, TracerConfig, make_tracer
from idr.model.tracing.accelerated.false_position import refine

NUM_RAYS, SAMPLES = 3000, 801
BEFORE, AROUND = 2.0, 0.04
"""Distance from a ray's start to its point of contact, and half the length on which f is sampled there."""


@cache
def smooth_ball() -> ImplicitNetwork:
    """A ball without hash-grid features, whose cells would be kinks."""
    network = bumpy_ball("torch")
    with torch.no_grad():
        network.encoding.get_parameter("table").zero_()
    return network


def bisect(
    holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, rounds: int
) -> tuple[Tensor, Tensor]:
    """Bisects intervals (R,) for the end of a condition that holds at their low ends."""
    for _ in range(rounds):
        middle = (low + high) / 2
        yes = holds(middle)
        low, high = torch.where(yes, middle, low), torch.where(yes, high, middle)
    return low, high


@cache
def grazing_rays() -> Rays:
    """Rays whose minimum of f is down to -3e-4, for most of them within the tracers' threshold of zero."""
    network = smooth_ball()
    generator = torch.Generator().manual_seed(1)
    towards = functional.normalize(torch.randn(NUM_RAYS, 3, generator=generator), dim=1)
    low, high = torch.full((NUM_RAYS,), 0.2), torch.full((NUM_RAYS,), 0.9)
    with torch.no_grad():  # along rays from the center
        low, _ = bisect(lambda middle: network.sdf(towards * middle[:, None]) < 0, low, high, rounds=30)
    points = towards * low[:, None]
    normal = functional.normalize(network.sdf_and_gradient(points)[1].detach(), dim=1)
    along = functional.normalize(torch.linalg.cross(normal, towards.roll(1, 0)), dim=1)
    depth = 10 ** (-6.5 + 3 * torch.rand(NUM_RAYS, 1, generator=generator))
    return Rays(points - depth * normal - BEFORE * along, along)


@cache
def slopes_at_zero() -> tuple[Tensor, Tensor]:
    """Samples f in float64 around the contact; returns its slope (R,) at the first zero, and whether it
    crosses zero exactly twice, deep enough for float32."""
    network, rays = smooth_ball(), grazing_rays()
    t = torch.linspace(BEFORE - AROUND, BEFORE + AROUND, SAMPLES, dtype=torch.float64)
    exact = copy.deepcopy(network).double()
    origin, direction = rays.origin.double(), rays.direction.double()
    with torch.no_grad():
        values = torch.stack([exact.sdf(origin + depth * direction) for depth in t], dim=1)  # (R, S)
    inside = values < 0
    first = inside.int().argmax(dim=1, keepdim=True).clamp_min(1)
    slope = (values.gather(1, first) - values.gather(1, first - 1)).squeeze(1) / (t[1] - t[0])
    once = (inside.int().diff(dim=1) != 0).sum(dim=1) == 2
    return slope.float(), once & (values[:, 0] > 0) & (values.amin(dim=1) < -2e-6)


@pytest.mark.parametrize("strategy", ["published", "accelerated"])
def test_grazing_rays_end_with_the_slope_of_the_zero(strategy: str) -> None:
    network, rays = smooth_ball(), grazing_rays()
    tracer = make_tracer(TracerConfig(1.0, strategy=strategy))
    draws = torch.rand(100, generator=torch.Generator().manual_seed(2))
    inside = torch.ones(NUM_RAYS, dtype=torch.bool)
    found = tracer.trace(trace_request(network.sdf, rays, crossing_of(rays, 1.0), inside, draws))
    expected, regular = slopes_at_zero()
    there = found.hit & regular & ((found.depth - BEFORE).abs() < AROUND)
    normal = network.sdf_and_gradient(rays.at(found.depth))[1].detach()
    share = ((normal * rays.direction).sum(dim=1) / expected).abs()[there]
    assert there.sum() > 0.9 * regular.sum() > 1000
    assert (there & (expected.abs() < 0.01)).sum() > 500  # a few in a million rays of a training
    assert (share < 0.5).float().mean() < 1e-3


def test_a_refinement_does_not_end_where_f_is_level() -> None:
    """f falls through zero, is almost level just below it, within the threshold, and falls further.

    The published tracer ends no ray on the level stretch; a test of |f| and one secant alone ends 1 % there.
    """
    count = 20_000
    x, y, z, w = torch.rand(4, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level, below = 0.002 + 0.01 * x, 2e-6 + 4.8e-5 * y  # slope and -f where f is most level

    def sdf(points: Tensor) -> Tensor:
        ray, t = points[:, 0].long(), points[:, 2]
        return -(level[ray] * t + 100 * t**3) - below[ray]

    number = torch.arange(count, dtype=torch.float64)
    origin = torch.stack((number, torch.zeros_like(number), torch.zeros_like(number)), dim=1)
    rays = Rays(origin, torch.eye(3, dtype=torch.float64)[[2] * count])
    low, high = torch.full_like(x, -0.1), torch.zeros_like(x)
    _, zero = bisect(lambda middle: sdf(rays.at(middle)) > 0, low, high, rounds=50)
    config = TracerConfig(1.0)
    before, after = zero - 0.001 - 0.05 * z, zero + 0.001 + 0.05 * w
    ends = (before, sdf(rays.at(before))), (after, sdf(rays.at(after)))
    found, refined = refine(sdf, config, rays, *ends, torch.ones(count, dtype=torch.bool))
    share = (level + 300 * found**2) / (level + 300 * zero**2)
    assert refined.all() and (sdf(rays.at(found)).abs() <= config.sdf_threshold).all()
    assert share.min() > 0.5 and (share < 0.75).double().mean() < 1e-3
