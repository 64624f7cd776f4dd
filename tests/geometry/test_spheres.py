"""Ray and sphere against the quadratic formula, one ray at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idr.geometry.spheres import SphereCrossing, ray_sphere_intersection

DOUBLE = torch.float64


def quadratic(center, direction, radius: float) -> tuple[float, float, bool]:
    """Solves |c + t v|^2 = r^2 in plain Python; depths clamp to 0, and are 0 where there is no crossing."""
    a = sum(v * v for v in direction)
    b = 2 * sum(c * v for c, v in zip(center, direction, strict=True))
    k = sum(c * c for c in center) - radius * radius
    discriminant = b * b - 4 * a * k
    if not discriminant > 0:
        return 0.0, 0.0, False
    root = math.sqrt(discriminant)
    return max((-b - root) / (2 * a), 0.0), max((-b + root) / (2 * a), 0.0), True


def random_rays(num_images: int, num_pixels: int, distance: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.nn.functional.normalize(
        torch.randn(num_images, 3, generator=generator, dtype=DOUBLE), dim=1
    )
    centers = centers * distance
    aim = 1.2 * (2 * torch.rand(num_images, num_pixels, 3, generator=generator, dtype=DOUBLE) - 1)
    directions = torch.nn.functional.normalize(aim - centers.unsqueeze(1), dim=2)
    directions[:, ::5] *= -1  # every fifth looks away
    return centers, directions


@pytest.mark.parametrize("radius", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("distance", [0.0, 0.3, 0.999, 2.5])
def test_quadratic_formula_per_ray(distance: float, radius: float) -> None:
    centers, directions = random_rays(3, 80, distance, seed=0)
    crossing = ray_sphere_intersection(centers, directions, radius)
    for image in range(3):
        for pixel in range(80):
            near, far, crosses = quadratic(centers[image].tolist(), directions[image, pixel].tolist(), radius)
            assert crossing.crosses[image, pixel].item() == crosses
            # The square root turns 1e-15 of rounding in a discriminant near 0 into 3e-8 at the worst.
            assert crossing.near[image, pixel].item() == pytest.approx(near, abs=1e-7)
            assert crossing.far[image, pixel].item() == pytest.approx(far, abs=1e-7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0, 4), st.floats(0.1, 3))
def test_crossing_points_lie_on_the_sphere(seed: int, distance: float, radius: float) -> None:
    centers, directions = random_rays(2, 12, distance, seed)
    crossing = ray_sphere_intersection(centers, directions, radius)
    assert (crossing.near <= crossing.far).all() and (crossing.near >= 0).all()
    for depth in (crossing.near, crossing.far):
        points = centers.unsqueeze(1) + depth.unsqueeze(2) * directions
        on_sphere = (points.norm(dim=2) - radius).abs()[crossing.crosses & (depth > 0)]
        assert (on_sphere < 1e-9).all()  # |point| changes by less than the depth does
    assert (crossing.near[~crossing.crosses] == 0).all() and (crossing.far[~crossing.crosses] == 0).all()


def one_ray(center, direction, radius: float = 1.0) -> SphereCrossing:
    return ray_sphere_intersection(
        torch.tensor([center], dtype=DOUBLE), torch.tensor([[direction]], dtype=DOUBLE), radius
    )


def test_through_the_middle() -> None:
    crossing = one_ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    assert (crossing.near.item(), crossing.far.item(), crossing.crosses.item()) == (2.0, 4.0, True)


def test_tangent_is_a_miss() -> None:
    crossing = one_ray((3.0, 0.0, -4.0), (0.0, 0.0, 1.0), radius=3.0)  # discriminant 16 - (25 - 9), exactly 0
    assert (crossing.near.item(), crossing.far.item(), crossing.crosses.item()) == (0.0, 0.0, False)


def test_camera_inside_starts_at_itself() -> None:
    crossing = one_ray((0.0, 0.0, 0.5), (0.0, 0.0, 1.0))
    assert (crossing.near.item(), crossing.far.item(), crossing.crosses.item()) == (0.0, 0.5, True)


def test_sphere_behind_counts_as_crossing_without_a_chord() -> None:
    crossing = one_ray((0.0, 0.0, 3.0), (0.0, 0.0, 1.0))
    assert (crossing.near.item(), crossing.far.item(), crossing.crosses.item()) == (0.0, 0.0, True)


def test_radius_may_differ_and_no_pixel_is_legal() -> None:
    crossing = one_ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0), radius=1.2)
    assert crossing.near.item() == pytest.approx(1.8) and crossing.far.item() == pytest.approx(4.2)
    empty = ray_sphere_intersection(torch.zeros(2, 3), torch.zeros(2, 0, 3), 1.0)
    assert empty.near.shape == empty.far.shape == empty.crosses.shape == (2, 0)
    assert empty.crosses.dtype == torch.bool and empty.near.dtype == torch.float32
