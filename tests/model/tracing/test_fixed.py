"""The tracer of fixed shapes on shapes with exact intersections, and the amount of its work."""

from __future__ import annotations

import pytest
import torch
from tests.model.exact_shapes import DOUBLE, Ball, Box, Rod, Shell, Union, crossing_of, rays_at, rotation
from torch import Tensor

from idr.model.tracing import FixedTracer, PublishedTracer, Rays, TracerConfig, TraceRequest, TraceResult

NUM_RAYS = 300
CONFIG = TracerConfig(1.0, line_step_iters=3)
DRAWS = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def trace(tracer, sdf, rays: Rays, inside: bool = True, radius: float = 1.0) -> TraceResult:
    """Traces rays of a training step, all inside the mask or all outside."""
    mask = torch.full((rays.origin.shape[0],), inside)
    return tracer.trace(TraceRequest.for_training(sdf, rays, crossing_of(rays, radius), mask, DRAWS))


def ray(origin, direction) -> Rays:
    direction = torch.tensor([direction], dtype=DOUBLE)
    return Rays(torch.tensor([origin], dtype=DOUBLE), direction / direction.norm())


def errors(shape: Union, rays: Rays, result: TraceResult) -> int:
    """Rays with a wrong flag, or that end elsewhere and more than 1e-4 off the surface."""
    depth, hit = shape.first(rays, crossing_of(rays, 1.0))
    off = ((result.depth - depth).abs() > 1e-3) & (shape.sdf(rays.at(result.depth)).abs() > 1e-4)
    return int(((hit != result.hit) | (hit & off)).sum())


FAR = (0.61, -0.33, 0.42)
SHAPES = {
    "ball": (Union([Ball()]), rays_at(NUM_RAYS, 0)),
    "sheet": (Union([Box((0.55, 0.55, 0.001), (0.0, 0.03, 0.011), rotation(1))]), rays_at(NUM_RAYS, 1)),
    "small ball": (
        Union([Ball((-0.2, 0.0, 0.0), 0.3), Ball(FAR, 0.01)]),
        rays_at(NUM_RAYS, 1, spread=0.015, target=FAR),
    ),
    "shells": (Union([Shell(r, 0.01) for r in (0.2, 0.4, 0.6, 0.8)]), rays_at(NUM_RAYS, 2)),
    "rod beside": (
        Union([Ball(), Rod((0.555, 0.0, -0.6), (0.555, 0.0, 0.6), 0.005)]),
        rays_at(NUM_RAYS, 4, spread=0.03, target=(0.555, 0.0, 0.0)),
    ),
    "camera inside the sphere": (Union([Ball()]), rays_at(NUM_RAYS, 3, distance=0.9)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_exact_intersections(name: str) -> None:
    shape, rays = SHAPES[name]
    found, published = (trace(kind(CONFIG), shape.sdf, rays) for kind in (FixedTracer, PublishedTracer))
    assert found.hit.sum() > 30
    # One ray in a hundred may graze: there, published tracing is as often wrong.
    assert errors(shape, rays, found) <= max(errors(shape, rays, published), NUM_RAYS // 100)


@pytest.mark.parametrize("inside", [True, False])
def test_misses_end_where_a_ray_is_closest(inside: bool) -> None:
    rays = rays_at(NUM_RAYS, 0, spread=1.0)
    shape = Union([Ball((0.1, -0.2, 0.0), 0.3)])
    result, crossing = trace(FixedTracer(CONFIG), shape.sdf, rays, inside), crossing_of(rays, 1.0)
    missed = crossing.crosses & ~result.hit
    to_center = ((torch.tensor([[0.1, -0.2, 0.0]], dtype=DOUBLE) - rays.origin) * rays.direction).sum(dim=1)
    closest = torch.minimum(torch.maximum(to_center, crossing.near), crossing.far)
    assert missed.sum() > 100
    # Eight golden sections leave 0.618^8 = 0.02 of two spacings, themselves at most a step of f.
    assert (result.depth - closest)[missed].abs().max() <= 0.02
    excess = shape.sdf(rays.at(result.depth)) - shape.sdf(rays.at(closest))
    assert excess[missed].max() <= 1e-3


def test_hits_outside_the_mask_end_at_the_deepest_point_behind() -> None:
    rays, shape = ray((0.0, 0.0, -3.0), (0.0, 0.1, 1.0)), Union([Ball()])
    result = trace(FixedTracer(CONFIG), shape.sdf, rays, inside=False)
    assert result.hit and result.depth.item() == pytest.approx(9**0.5 / 1.01**0.5, abs=2e-3)


def test_rays_without_a_chord() -> None:
    tracer, ball = FixedTracer(CONFIG), Union([Ball()]).sdf
    beside = trace(tracer, ball, ray((2.0, 0.0, -3.0), (0.0, 0.0, 1.0)))
    assert not beside.hit and beside.depth.item() == 3  # closest to the origin, as published
    behind = trace(tracer, ball, ray((0.0, 0.0, 3.0), (0.0, 0.0, 1.0)), inside=False)
    assert not behind.hit and behind.depth.item() == 0
    within = trace(tracer, ball, ray((0.0, 0.0, 0.1), (0.0, 0.0, 1.0)))
    assert within.hit and within.depth.item() == 0
    nothing = trace(tracer, ball, Rays(torch.zeros(0, 3, dtype=DOUBLE), torch.zeros(0, 3, dtype=DOUBLE)))
    assert nothing.depth.shape == nothing.hit.shape == (0,)


def test_a_step_that_lands_inside_is_refined() -> None:
    def steep(x: Tensor) -> Tensor:
        return 1.5 * (x.norm(dim=1) - 0.5)  # the first step, 0.75, lands 0.25 inside

    result = trace(FixedTracer(CONFIG), steep, ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0)))
    assert result.hit and abs(result.depth.item() - 2.5) <= 1e-4


def test_a_flat_f_is_sampled() -> None:
    def wall(x: Tensor) -> Tensor:
        return 1e-2 * torch.expm1(-(x[:, 2] - 0.1234))  # no step of f gets far

    rays = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    rays = Rays(*(x.expand(8, 3) for x in (rays.origin, rays.direction)))
    result = trace(FixedTracer(CONFIG), wall, rays)
    assert result.hit.all() and (result.depth - 3.1234).abs().max() <= 1e-6


@pytest.mark.parametrize("value", [-1.0, 0.25, 1e-3, 5.0])
def test_work_and_memory_do_not_depend_on_f(value: float) -> None:
    sizes: list[int] = []

    def constant(x: Tensor) -> Tensor:
        sizes.append(x.shape[0])
        return torch.full_like(x[:, 0], value)

    result = trace(FixedTracer(CONFIG), constant, rays_at(16, 0))
    assert sizes == [16] * 11 + [8] * 8 + [4] * 16 + [24 * 16] + [16] * 8
    assert result.depth.isfinite().all() and result.hit.any() == (value < 0)


def test_evaluation_is_the_accelerated_tracer() -> None:
    rays, shape = rays_at(NUM_RAYS, 0), Union([Ball()])
    request = TraceRequest.for_evaluation(shape.sdf, rays, crossing_of(rays, 1.0))
    result, (depth, hit) = FixedTracer(CONFIG).trace(request), shape.first(rays, crossing_of(rays, 1.0))
    assert torch.equal(result.hit, hit) and (result.depth - depth)[hit].abs().max() <= 2e-4
    assert result.value is not None
