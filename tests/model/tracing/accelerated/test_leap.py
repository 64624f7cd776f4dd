"""Leaps to where a grid resolves the surface: few evaluations, never past a surface or to none."""

from __future__ import annotations

import pytest
import torch
from tests.model.exact_shapes import Ball, Union, crossing_of, rays_at
from tests.model.tracing.accelerated.test_tracer import SCENES, Scene, wrong
from torch import Tensor

from idr.fields.sdf_grid import Sdf, build_sdf_grid
from idr.model.tracing import Rays, TracerConfig, TraceResult
from idr.model.tracing.accelerated.leap import leap
from idr.model.tracing.accelerated.marching import march


def leapt(scene: Scene, sdf: Sdf | None = None) -> tuple[Rays, Tensor, Tensor, int]:
    """Rays along which the grid of a shape is negative; those that leapt, to which depth; evaluations."""
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x.shape[0])
        return (sdf or scene.shape.sdf)(x)

    config, rays = TracerConfig(scene.radius), scene.rays
    grid = build_sdf_grid(scene.shape.sdf, scene.radius, 3, 0.0, rays.origin)
    samples = march(grid, 0.0, rays, crossing_of(rays, scene.radius))
    some = ((samples.values < 0) & samples.possible).any(dim=1).nonzero().squeeze(1)
    rays = rays.subset(some)
    index, depth, others = leap(counted, config, grid, rays, samples.subset(some))
    assert torch.equal(torch.cat((index, others)).sort().values, torch.arange(len(some)))
    return rays, index, depth, sum(calls)


def ball() -> Scene:
    return Scene(Union([Ball()]), rays_at(2000, 0, spread=0.4))


def test_a_smooth_surface_takes_fewer_than_two_evaluations_a_ray() -> None:
    scene = ball()
    rays, index, depth, evaluations = leapt(scene)
    assert rays.origin.shape[0] > 1800 and index.numel() > 0.95 * rays.origin.shape[0]
    assert evaluations < 1.5 * rays.origin.shape[0]
    exact, hit = scene.shape.first(rays.subset(index), crossing_of(rays.subset(index), 1.0))
    assert hit.all() and (depth - exact).abs().max() < 1e-4


@pytest.mark.parametrize("name", SCENES)
def test_no_surface_is_passed(name: str) -> None:
    rays, index, depth, _ = leapt(SCENES[name])
    some = Scene(SCENES[name].shape, rays.subset(index), SCENES[name].radius)
    assert not wrong(some, TraceResult(depth, torch.ones_like(index, dtype=torch.bool))).any()


def test_adversarial_scenes_leap_at_all() -> None:
    assert sum(leapt(SCENES[name])[1].numel() > 0 for name in SCENES) > len(SCENES) / 2


@pytest.mark.parametrize("amplitude", [1e-4, 1e-3, 0.01])
def test_what_the_network_does_not_confirm_is_left(amplitude: float) -> None:
    scene = ball()

    def otherwise(x: Tensor) -> Tensor:
        return scene.shape.sdf(x) + amplitude * torch.sin(40 * x[:, 0]) * torch.sin(30 * x[:, 1])

    rays, index, depth, _ = leapt(scene, otherwise)
    assert otherwise(rays.subset(index).at(depth)).abs().max() < 1e-4
    assert (index.numel() > 1500) == (amplitude < 0.01)


def test_nothing_is_asked_where_the_grid_resolves_nothing() -> None:
    scene = Scene(Union([Ball(radius=0.01)]), rays_at(300, 1, spread=0.01, target=(0.0, 0.0, 0.0)))
    _, index, _, evaluations = leapt(scene)
    assert index.numel() == evaluations == 0
