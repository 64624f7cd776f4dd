"""Sampling a grid along rays with compiled loops gives the results of the tensor code."""

from __future__ import annotations

import platform
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("numba", reason="the extra idr-surface[fast] is not installed")

from idr.fields.sdf_grid import SdfGrid, build_sdf_grid
from idr.geometry.spheres import SphereCrossing, ray_sphere_intersection
from idr.model.tracing.accelerated import marching
from idr.model.tracing.common import Rays

RADIUS = 1.5
SAME_BITS = platform.machine() in ("x86_64", "AMD64")  # elsewhere torch's build may fuse products and sums


def bumpy_and_sheet(x: Tensor) -> Tensor:
    """A bumpy ball in front of a sheet thinner than any cell."""
    ball = x.norm(dim=1) - 0.6 + 0.02 * torch.sin(9 * x).sum(dim=1)
    return torch.minimum(ball, (x[:, 2] - 0.9).abs() - 0.002)


def grid(levels: int = 2) -> SdfGrid:
    return build_sdf_grid(bumpy_and_sheet, RADIUS, levels, 0.0, torch.zeros(1))


def rays(num: int, camera: tuple[float, float, float] = (0.3, -0.2, -3.0)) -> tuple[Rays, SphereCrossing]:
    """Rays of a camera towards the sphere; some miss it."""
    generator = torch.Generator().manual_seed(num)
    center = torch.tensor([camera])
    targets = 2 * torch.rand(1, num, 3, generator=generator) * RADIUS - RADIUS
    directions = functional.normalize(targets - center, dim=2)
    crossing = ray_sphere_intersection(center, directions, RADIUS)
    flat = SphereCrossing(*(getattr(crossing, field.name).reshape(-1) for field in fields(crossing)))
    return Rays(center.expand(num, 3), directions[0]), flat


def by_both(monkeypatch: pytest.MonkeyPatch, sample: Any) -> tuple[Any, Any]:
    """Results of the loops and of the tensor code."""
    calls: list[str] = []
    loops = marching.find_kernel("marching_loops")
    monkeypatch.setattr(marching, "find_kernel", lambda name: calls.append(name) or loops)
    found = sample()
    assert loops is not None and calls
    monkeypatch.setattr(marching, "find_kernel", lambda name: None)
    return found, sample()


def assert_alike(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    if SAME_BITS:
        assert torch.equal(ours, theirs)
    elif ours.dtype == torch.bool:
        assert (ours == theirs).float().mean() > 0.999
    else:
        assert (ours - theirs).abs().median() < 1e-6


@pytest.mark.parametrize("num_samples", [33, 129])
@pytest.mark.parametrize("drift_bound", [0.0, 0.03])
@pytest.mark.parametrize("camera", [(0.3, -0.2, -3.0), (0.9, 0.2, 0.5)], ids=["outside", "inside"])
@pytest.mark.parametrize("levels", [1, 3])
def test_sample_grid(
    levels: int, camera: Any, drift_bound: float, num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdf_grid, (some, crossing) = grid(levels), rays(1500, camera)
    ours, theirs = by_both(
        monkeypatch, lambda: marching.sample_grid(sdf_grid, drift_bound, some, crossing, num_samples)
    )
    for field in fields(ours):
        assert_alike(getattr(ours, field.name), getattr(theirs, field.name))
    assert 0.001 < ours.possible.float().mean() < 0.9
    assert not ours.possible[crossing.far <= crossing.near].any()


@pytest.mark.parametrize("camera", [(0.3, -0.2, -3.0), (0.9, 0.2, 0.5)], ids=["outside", "inside"])
def test_coarse_pass(camera: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sdf_grid, (some, crossing) = grid(), rays(3000, camera)
    ours, theirs = by_both(monkeypatch, lambda: marching.coarse_pass(sdf_grid, some, crossing))
    crosses = crossing.far > crossing.near
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert_alike(mine[crosses], other[crosses])
    for field in fields(SphereCrossing):
        assert_alike(getattr(ours[2], field.name), getattr(theirs[2], field.name))
    assert 0.1 < ours[2].crosses.float().mean() < 0.95


def test_no_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    sdf_grid, (some, crossing) = grid(1), rays(0)
    ours, theirs = by_both(monkeypatch, lambda: marching.coarse_pass(sdf_grid, some, crossing))
    assert ours[0].shape == theirs[0].shape == (0,)
    assert marching.sample_grid(sdf_grid, 0.0, some, crossing).values.shape == (0, 129)


def test_nan_is_looked_up_as_in_the_tensor_code(monkeypatch: pytest.MonkeyPatch) -> None:
    sdf_grid, (some, crossing) = grid(1), rays(4)
    some.direction[1] = torch.nan
    ours, theirs = by_both(monkeypatch, lambda: marching.sample_grid(sdf_grid, 0.0, some, crossing))
    assert torch.equal(ours.values.isfinite(), theirs.values.isfinite())


def test_any_number_of_threads_gives_the_same_bits() -> None:
    sdf_grid, (some, crossing) = grid(), rays(3000)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(marching.sample_grid(sdf_grid, 0.0, some, crossing))
    finally:
        torch.set_num_threads(before)
    for field in fields(found[0]):
        assert torch.equal(*(getattr(each, field.name) for each in found))


def test_rays_of_trained_cameras_keep_their_graph() -> None:
    sdf_grid, (some, crossing) = grid(1), rays(10)
    moving = Rays(some.origin.clone().requires_grad_(), some.direction)
    with torch.no_grad():
        assert not marching.sample_grid(sdf_grid, 0.0, moving, crossing).values.requires_grad
    assert moving.origin.requires_grad


def test_float64_uses_the_tensor_code() -> None:
    sdf_grid = build_sdf_grid(bumpy_and_sheet, RADIUS, 1, 0.0, torch.zeros(1, dtype=torch.float64))
    some, crossing = rays(50)
    double = Rays(some.origin.double(), some.direction.double())
    chords = SphereCrossing(crossing.near.double(), crossing.far.double(), crossing.crosses)
    assert marching.sample_grid(sdf_grid, 0.0, double, chords).values.dtype == torch.float64
