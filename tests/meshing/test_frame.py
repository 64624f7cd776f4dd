"""The default frame against shapes with exact axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from idr.meshing import extract_mesh, surface_frame, transform_mesh, uniform_grid

SEMI_AXES = np.array([0.2, 0.4, 0.7])
CENTER = np.array([0.1, -0.05, 0.08])


def turn(seed):
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return axes * np.sign(np.linalg.det(axes))


def center_of(grid):
    return grid.to_frame((np.array(grid.shape)[None] - 1) / 2)[0]


def ellipsoid(axes, scale=1.0):
    """Negative inside, gradient about 1 at the surface (the usual first-order distance)."""
    turned, semi = torch.tensor(axes).float(), torch.tensor(SEMI_AXES * scale).float()

    def field(x):
        local = (x - torch.tensor(CENTER, dtype=torch.float32)) @ turned
        k0, k1 = (local / semi).norm(dim=1), (local / semi**2).norm(dim=1)
        return k0 * (k0 - 1) / k1.clamp_min(1e-6)

    return field


@pytest.mark.parametrize("seed", [0, 1])
def test_grid_is_aligned_with_a_rotated_ellipsoid(seed):
    axes = turn(seed)
    grid = surface_frame(ellipsoid(axes), 1.0, resolution=50)
    assert np.linalg.det(grid.axes) == pytest.approx(1.0)
    # Shortest axis first; axes agree up to sign (10,000 samples: about a degree).
    np.testing.assert_allclose(np.abs((grid.axes * axes).sum(axis=0)), 1.0, atol=2e-3)
    np.testing.assert_allclose(center_of(grid), CENTER, atol=0.02)
    sides = (np.array(grid.shape) - 1) * grid.spacing
    np.testing.assert_allclose(sides, 2 * SEMI_AXES + 0.4, atol=0.04)
    assert grid.shape[0] == min(grid.shape) == 50
    assert grid.spacing == pytest.approx((2 * 0.2 + 0.4) / 49, rel=0.03)
    mesh = extract_mesh(ellipsoid(axes), grid)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * SEMI_AXES.prod(), rel=0.02)


def test_same_field_gives_the_same_grid():
    first, second = (surface_frame(ellipsoid(turn(2)), 1.0, 40) for _ in range(2))
    np.testing.assert_array_equal(first.axes, second.axes)
    np.testing.assert_array_equal(first.origin, second.origin)


def test_frame_ignores_smaller_components():
    main = ellipsoid(turn(0), scale=0.7)

    def with_crumb(x):
        crumb = (x - torch.tensor([-0.85, 0.85, -0.85])).norm(dim=1) - 0.08
        return torch.minimum(main(x), crumb)

    np.testing.assert_allclose(
        surface_frame(with_crumb, 1.0, 30).origin, surface_frame(main, 1.0, 30).origin, atol=1e-6
    )


def test_bound_scales_the_coarse_cube():
    # The grid reaches past its upper end by up to a spacing (0.04 here).
    far_out = lambda x: (x - torch.tensor([1.2, 0.0, 0.0])).norm(dim=1) - 0.15  # noqa: E731
    assert surface_frame(far_out, 1.0, 20) is None
    np.testing.assert_allclose(center_of(surface_frame(far_out, 1.5, 20)), [1.2, 0, 0], atol=0.04)


def test_no_surface_gives_none():
    assert surface_frame(lambda x: x.norm(dim=1) + 1.0, 1.0, 20) is None


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_similarity_keeps_faces_outward(mirror):
    mesh = extract_mesh(lambda x: x.norm(dim=1) - 0.5, uniform_grid(1.0, 30))
    matrix = np.eye(4)
    matrix[:3, :3] = mirror * 120.0 * turn(4)
    matrix[:3, 3] = [30.0, -5.0, 600.0]
    moved = transform_mesh(mesh, matrix)
    assert moved.volume == pytest.approx(mesh.volume * 120.0**3)
    np.testing.assert_allclose(moved.center_mass, [30.0, -5.0, 600.0], atol=0.1)
