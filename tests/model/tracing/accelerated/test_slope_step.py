"""The step to the grid's own zero: few evaluations, no surface missed, none invented."""

from __future__ import annotations

import pytest
import torch
from tests.model.exact_shapes import Ball, Union, crossing_of, rays_at
from tests.model.tracing.accelerated.test_tracer import SCENES, Scene, wrong
from torch import Tensor

from idr.fields.sdf_grid import Sdf, build_sdf_grid
from idr.model.tracing import Rays, TracerConfig, TraceResult
from idr.model.tracing.accelerated.marching import sample_grid
from idr.model.tracing.accelerated.slope_step import step_to_zero

UNRESOLVED = {
    "shells", "thin shells", "thin slabs", "rod 0.05 in front", "sphere behind",
    "camera 1e-06 away", "camera 0.1 away", *(f"grazing {radius}" for radius in (0.05, 0.1, 0.3, 0.5, 0.9)),
}  # fmt: skip
"""Scenes without steps: thin parts, cameras inside the object, tangents, and rays that hit nothing."""


def stepped(scene: Scene, sdf: Sdf | None = None) -> tuple[Rays, Tensor, Tensor, int]:
    """Returns rays along which a shape's grid is negative, those that stepped to its zero, the depths, and
    the number of evaluations."""
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x.shape[0])
        return (sdf or scene.shape.sdf)(x)

    config, rays = TracerConfig(scene.radius), scene.rays
    grid = build_sdf_grid(scene.shape.sdf, scene.radius, 3, 0.0, rays.origin)
    samples = sample_grid(grid, 0.0, rays, crossing_of(rays, scene.radius))
    some = ((samples.values < 0) & samples.possible).any(dim=1).nonzero().squeeze(1)
    rays = rays.subset(some)
    index, depth, others = step_to_zero(counted, config, grid, rays, samples.subset(some))
    assert torch.equal(torch.cat((index, others)).sort().values, torch.arange(len(some)))
    return rays, index, depth, sum(calls)


def ball() -> Scene:
    return Scene(Union([Ball()]), rays_at(2000, 0, spread=0.4))


def test_a_smooth_surface_takes_fewer_than_two_evaluations_a_ray() -> None:
    scene = ball()
    rays, index, depth, evaluations = stepped(scene)
    assert rays.origin.shape[0] > 1800 and index.numel() > 0.95 * rays.origin.shape[0]
    assert evaluations < 1.5 * rays.origin.shape[0]
    exact, hit = scene.shape.first(rays.subset(index), crossing_of(rays.subset(index), 1.0))
    assert hit.all() and (depth - exact).abs().max() < 1e-4


def is_resolved(name: str) -> bool:
    """Whether some rays of a scene step to the zero."""
    thin_sheet = name.startswith("sheet 0.0") and not name.endswith("at 0.0")  # nodes lie on the plane z = 0
    return not thin_sheet and name not in UNRESOLVED


def test_more_than_half_of_the_scenes_are_resolved() -> None:
    assert sum(map(is_resolved, SCENES)) > len(SCENES) / 2


@pytest.mark.parametrize("name", SCENES)
def test_no_surface_is_missed_and_resolved_scenes_allow_steps(name: str) -> None:
    rays, index, depth, _ = stepped(SCENES[name])
    some = Scene(SCENES[name].shape, rays.subset(index), SCENES[name].radius)
    assert not wrong(some, TraceResult(depth, torch.ones_like(index, dtype=torch.bool))).any()
    assert index.numel() > 0 or not is_resolved(name)


@pytest.mark.parametrize("amplitude", [1e-4, 1e-3, 0.01])
def test_zeros_that_the_network_does_not_confirm_are_left(amplitude: float) -> None:
    scene = ball()

    def perturbed(x: Tensor) -> Tensor:
        return scene.shape.sdf(x) + amplitude * torch.sin(40 * x[:, 0]) * torch.sin(30 * x[:, 1])

    rays, index, depth, _ = stepped(scene, perturbed)
    assert perturbed(rays.subset(index).at(depth)).abs().max() < 1e-4
    assert (index.numel() > 1500) == (amplitude < 0.01)


def test_nothing_is_evaluated_where_the_grid_resolves_nothing() -> None:
    scene = Scene(Union([Ball(radius=0.01)]), rays_at(300, 1, spread=0.01, target=(0.0, 0.0, 0.0)))
    _, index, _, evaluations = stepped(scene)
    assert index.numel() == evaluations == 0
