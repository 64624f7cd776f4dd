"""The accelerated tracer on shapes with exact intersections: no more errors than the published one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from tests.model.exact_shapes import (
    DOUBLE,
    Ball,
    Box,
    Rod,
    Shell,
    Union,
    crossing_of,
    rays_at,
    rotation,
    tilted,
    trace_request,
)
from torch import Tensor

from idr.model.tracing import AcceleratedTracer, PublishedTracer, Rays, TracerConfig, TraceResult
from idr.model.tracing.accelerated import grid_tracking
from idr.model.tracing.accelerated import tracer as accelerated

NUM_RAYS = 300
DEPTH = 1e-3  # radii
ON_SURFACE = 1e-4  # |f|, radii: closer than this, no tracer separates surfaces


@dataclass(frozen=True)
class Scene:
    """A shape and rays towards it."""

    shape: Union
    rays: Rays
    radius: float = 1.0


def wrong(scene: Scene, result: TraceResult) -> Tensor:
    """Rays with a wrong flag, or a wrong depth unless everything between it and the exact one is surface."""
    depth, hit = scene.shape.first(scene.rays, crossing_of(scene.rays, scene.radius))
    both = hit & result.hit
    far_off = both & ((result.depth - depth).abs() > DEPTH * scene.radius)
    part = torch.linspace(0, 1, 33, dtype=DOUBLE)
    between = torch.where(both, depth, 0).unsqueeze(1) * (1 - part) + result.depth.unsqueeze(1) * part
    values = scene.shape.sdf(scene.rays.at(between).reshape(-1, 3)).reshape(between.shape)
    return (hit != result.hit) | (far_off & (values.abs().amax(dim=1) > ON_SURFACE * scene.radius))


def trace(tracer_class, scene: Scene, training: bool, times: int = 1) -> TraceResult:
    """Traces all rays, inside the mask, a number of times; returns the last result."""
    draws = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) if training else None
    tracer = tracer_class(TracerConfig(scene.radius, line_step_iters=3))
    mask = torch.ones(scene.rays.origin.shape[0], dtype=torch.bool)
    crossing = crossing_of(scene.rays, scene.radius)
    request = trace_request(scene.shape.sdf, scene.rays, crossing, mask, draws, "these weights")
    for _ in range(times):
        result = tracer.trace(request)
    return result


def sheets() -> dict[str, Scene]:
    scenes = {}
    for thickness in (0.3, 0.02, 0.01, 0.005, 0.002):
        for turn, offset in enumerate((0.0, 0.011, 0.0237, 0.05)):  # the first on a plane of nodes
            axes = rotation(turn) if turn else None
            shape = Union([Box((0.55, 0.55, thickness / 2), (0.0, 0.03, offset), axes)])
            scenes[f"sheet {thickness} at {offset}"] = Scene(shape, rays_at(NUM_RAYS, turn))
    return scenes


def small_parts() -> dict[str, Scene]:
    center = (0.61, -0.33, 0.42)
    return {
        f"far ball {radius}": Scene(
            Union([Ball((-0.2, 0.0, 0.0), 0.3), Ball(center, radius)]),
            rays_at(NUM_RAYS, 1, spread=1.5 * radius, target=center),
        )
        for radius in (0.1, 0.03, 0.01, 0.005)
    }


def several_surfaces() -> dict[str, Scene]:
    thin = [Box((0.4, 0.4, 0.003), (0.0, 0.0, z), rotation(6)) for z in (-0.2, -0.19, 0.0, 0.045, 0.3)]
    scenes = {
        "shells": Scene(Union([Shell(r, 0.01) for r in (0.2, 0.4, 0.6, 0.8)]), rays_at(NUM_RAYS, 2)),
        "thin shells": Scene(Union([Shell(r, 0.002) for r in (0.3, 0.33, 0.36, 0.8)]), rays_at(NUM_RAYS, 2)),
        "thin slabs": Scene(Union(thin), rays_at(NUM_RAYS, 3, spread=0.5)),
    }
    for gap in (0.01, 0.02, 0.05):
        x = 0.505 + gap
        beside = Union([Ball(), Rod((x, 0.0, -0.6), (x, 0.0, 0.6), 0.005)])
        scenes[f"rod {gap} beside"] = Scene(beside, rays_at(NUM_RAYS, 4, spread=0.03, target=(x, 0.0, 0.0)))
    for gap in (0.001, 0.01, 0.05):
        z = 0.505 + gap
        front = Union([Ball(), Rod((-0.5, 0.02, z), (0.5, 0.02, z), 0.005)])
        generator = torch.Generator().manual_seed(3)
        shift = 2 * torch.rand(NUM_RAYS, 3, generator=generator, dtype=DOUBLE) - 1
        aim = torch.tensor([0.0, 0.02, 0.505]) + torch.tensor([0.4, 0.02, 0.0]) * shift
        origin = torch.tensor([[0.0, 0.0, 2.2]], dtype=DOUBLE).expand(NUM_RAYS, 3)
        rays = Rays(origin, torch.nn.functional.normalize(aim - origin, dim=1))
        scenes[f"rod {gap} in front"] = Scene(front, rays)
    return scenes


def cameras() -> dict[str, Scene]:
    solids = [
        Ball(radius=0.3),
        Box((0.5, 0.02, 0.3), (0.0, 0.6, 0.0), tilted(20)),
        Ball((0.0, 0.1, -0.7), 0.05),
    ]
    scenes = {
        f"camera {distance} away": Scene(Union(solids), rays_at(NUM_RAYS, 5, distance))
        for distance in (1e-6, 0.1, 0.55, 0.9, 0.999, 1.0, 1.001, 1.05)  # in the ball, in the sphere, near it
    }
    for radius in (0.5, 3.0):
        scaled = [
            Ball(radius=0.3 * radius),
            Box((0.5 * radius, 0.005 * radius, 0.3 * radius), (0.0, 0.6 * radius, 0.0), tilted(20)),
        ]
        rays = rays_at(NUM_RAYS, 8, 2.2 * radius, 0.8 * radius)
        scenes[f"sphere of {radius}"] = Scene(Union(scaled), rays, radius)
    away = rays_at(NUM_RAYS, 9)
    scenes["sphere behind"] = Scene(Union([Ball()]), Rays(away.origin, -away.direction))
    return scenes


def grazing() -> dict[str, Scene]:
    scenes = {}
    for radius in (0.05, 0.1, 0.3, 0.5, 0.9):
        origin, generator = rays_at(NUM_RAYS, 6).origin, torch.Generator().manual_seed(7)
        inwards = -torch.nn.functional.normalize(origin, dim=1)
        side = torch.linalg.cross(inwards, torch.randn(NUM_RAYS, 3, generator=generator, dtype=DOUBLE))
        side = torch.nn.functional.normalize(side, dim=1)
        past = 1 + 0.02 * (torch.rand(NUM_RAYS, 1, generator=generator, dtype=DOUBLE) - 0.5)
        sine = radius * past / 2.2  # within a hundredth of the radius from tangent
        rays = Rays(origin, inwards * (1 - sine**2).sqrt() + side * sine)
        scenes[f"grazing {radius}"] = Scene(Union([Ball(radius=radius)]), rays)
    return scenes


SCENES = {**sheets(), **small_parts(), **several_surfaces(), **cameras(), **grazing()}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_never_more_errors_than_the_published_tracer(name: str, training: bool) -> None:
    scene = SCENES[name]
    ours = wrong(scene, trace(AcceleratedTracer, scene, training))
    published = wrong(scene, trace(PublishedTracer, scene, training))
    assert ours.sum() <= published.sum(), ours.nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("name", SCENES)
def test_no_more_errors_with_the_refined_grid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "REFINE_AFTER", 0)
    sides = []
    refine = accelerated.refine_sdf_grid

    def noted(*inputs):
        grid = refine(*inputs)
        sides.append(grid.values.shape[0])
        return grid

    monkeypatch.setattr(accelerated, "refine_sdf_grid", noted)
    scene = SCENES[name]
    ours = wrong(scene, trace(AcceleratedTracer, scene, training=False, times=2))
    published = wrong(scene, trace(PublishedTracer, scene, training=False))
    assert sides == [129]
    assert ours.sum() <= published.sum(), ours.nonzero().squeeze(1).tolist()


def test_scenes_are_hit_and_missed_and_planted_errors_are_found() -> None:
    for name, scene in SCENES.items():
        _, hit = scene.shape.first(scene.rays, crossing_of(scene.rays, scene.radius))
        assert hit.sum() > NUM_RAYS / 6 or name == "sphere behind", name
    scene = SCENES["sheet 0.005 at 0.011"]
    depth, hit = scene.shape.first(scene.rays, crossing_of(scene.rays, 1.0))
    depth = torch.where(hit, depth, 0)
    assert not wrong(scene, TraceResult(depth, hit)).any()
    assert torch.equal(wrong(scene, TraceResult(depth + 2e-3, hit)) | ~hit, torch.ones_like(hit))
    assert wrong(scene, TraceResult(depth, ~hit)).all()


def test_camera_inside_the_object_hits_at_depth_zero() -> None:
    scene = Scene(Union([Ball()]), rays_at(50, 0, distance=0.2))
    result = trace(AcceleratedTracer, scene, training=False)
    assert result.hit.all() and (result.depth == 0).all()


@pytest.mark.parametrize("training", [False, True])
def test_rays_that_miss_the_sphere(training: bool) -> None:
    origin = torch.tensor([[2.0, 0.0, -3.0]], dtype=DOUBLE)
    scene = Scene(Union([Ball()]), Rays(origin, torch.tensor([[0.0, 0.0, 1.0]], dtype=DOUBLE)))
    result = trace(AcceleratedTracer, scene, training)
    assert not result.hit and result.depth.item() == (3 if training else 0)


@pytest.mark.parametrize("training", [False, True])
def test_no_rays(training: bool) -> None:
    scene = Scene(Union([Ball()]), Rays(torch.zeros(0, 3).double(), torch.zeros(0, 3).double()))
    result = trace(AcceleratedTracer, scene, training)
    assert result.depth.shape == result.hit.shape == (0,) and result.hit.dtype == torch.bool


def test_misses_end_at_the_minimum_of_f() -> None:
    scene = Scene(Union([Ball()]), rays_at(NUM_RAYS, 6))
    result = trace(AcceleratedTracer, scene, training=True)
    closest = -(scene.rays.origin * scene.rays.direction).sum(dim=1)
    crosses = crossing_of(scene.rays, 1.0).crosses
    missed = ~result.hit & crosses
    assert missed.sum() > 50
    excess = scene.shape.sdf(scene.rays.at(result.depth)) - scene.shape.sdf(scene.rays.at(closest))
    # A grid sample is within 0.008 of the closest point, where the curvature of f is at most 1 / 0.5.
    assert excess[missed].max() < 5e-3 and excess[missed].min() > -1e-12


def test_misses_end_in_minima_that_the_grid_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ripples that appear after the grid was built, half as long as those that its corrections follow."""
    ball, phase = Ball(radius=0.3), torch.tensor([0.3, 1.7, 4.0], dtype=DOUBLE)

    def rippled(x: Tensor) -> Tensor:
        return ball.sdf(x) + 0.03 * torch.sin(24 * x + phase).mean(dim=1)

    rays = rays_at(NUM_RAYS, 6)
    crossing, mask = crossing_of(rays, 1.0), torch.ones(NUM_RAYS, dtype=torch.bool)
    draws, points = torch.rand(100, dtype=DOUBLE), torch.rand(2000, 3, dtype=DOUBLE) * 2 - 1
    depths = (
        crossing.near[:, None]
        + torch.linspace(0, 1, 2001, dtype=DOUBLE) * (crossing.far - crossing.near)[:, None]
    )
    exact = rippled(rays.at(depths).reshape(-1, 3)).reshape(depths.shape).amin(dim=1)
    excess = {}
    for settling_rays in (0, 1 << 30):
        constants = replace(grid_tracking.TRACKING, settling_rays=settling_rays)
        monkeypatch.setattr(grid_tracking, "TRACKING", constants)
        tracer = AcceleratedTracer(TracerConfig(1.0))
        tracer.trace(trace_request(ball.sdf, rays, crossing, mask, draws))
        for _ in range(3):
            result = tracer.trace(trace_request(rippled, rays, crossing, mask, draws))
            seen = torch.cat((points, rays.at(result.depth)))
            tracer.observe(seen, rippled(seen), result.hit)
        clear = ~result.hit & crossing.crosses & (exact > 0.05)
        assert clear.sum() > 100
        excess[settling_rays] = (rippled(rays.at(result.depth)) - exact)[clear]
        assert (excess[settling_rays] > -1e-4).all()
    with_search, without = (excess[settling].mean() for settling in excess)
    assert with_search < without / 2


def test_hits_outside_the_mask_end_at_the_deepest_point() -> None:
    scene = Scene(Union([Ball()]), rays_at(NUM_RAYS, 6))
    crossing, draws = crossing_of(scene.rays, 1.0), torch.rand(100, dtype=DOUBLE)
    mask = torch.zeros(NUM_RAYS, dtype=torch.bool)
    config = TracerConfig(1.0)
    request = trace_request(scene.shape.sdf, scene.rays, crossing, mask, draws)
    result = AcceleratedTracer(config).trace(request)
    _, hit = scene.shape.first(scene.rays, crossing)
    closest = -(scene.rays.origin * scene.rays.direction).sum(dim=1)
    assert torch.equal(result.hit, hit)
    excess = scene.shape.sdf(scene.rays.at(result.depth)) - scene.shape.sdf(scene.rays.at(closest))
    # Deep inside, the grid is coarse: it rounds the kink at the center by half its spacing of 2 / 32.
    assert excess[hit].max() < 1 / 32


@pytest.mark.parametrize("training", [False, True])
def test_hits_lie_on_a_surface_that_bends_sharply(training: bool) -> None:
    """Ripples as sharp as a network's highest octave: slopes that happen to agree must not mislead."""

    def rippled(x: Tensor) -> Tensor:
        return x.norm(dim=1) - 0.5 + 0.02 * torch.sin(32 * x[:, 0]) * torch.cos(32 * x[:, 1] + 16 * x[:, 2])

    rays = rays_at(3000, 11)
    tracer = AcceleratedTracer(TracerConfig(1.0, line_step_iters=3))
    draws = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) if training else None
    mask = torch.ones(3000, dtype=torch.bool)
    result = tracer.trace(trace_request(rippled, rays, crossing_of(rays, 1.0), mask, draws))
    assert result.hit.sum() > 500
    depth = result.depth[result.hit].clone().requires_grad_(True)
    value = rippled(rays.subset(result.hit).at(depth))
    assert value.abs().max() <= ON_SURFACE
    (along,) = torch.autograd.grad(value.sum(), depth)
    assert (along < 0).float().mean() > 0.999  # into the object, except on tangents
