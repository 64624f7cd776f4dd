"""Zero sets of analytic fields against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from idr.errors import InputError
from idr.meshing import (
    SampleGrid,
    aligned_grid,
    extract_mesh,
    sample_volume,
    uniform_grid,
)


def sphere(radius, center=(0.0, 0.0, 0.0)):
    return lambda x: (x - torch.tensor(center)).norm(dim=1) - radius


def torus(ring, tube):
    return lambda x: torch.hypot(torch.hypot(x[:, 0], x[:, 1]) - ring, x[:, 2]) - tube


def turn(seed):
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return axes * np.sign(np.linalg.det(axes))


def skew_grid(resolution=60, half=1.0):
    """A grid that is turned, off center and has three different sides."""
    sides = half * np.array([1.0, 1.1, 1.25])
    return aligned_grid(turn(3), np.array([0.05, -0.02, 0.03]), -sides, sides, resolution)


@pytest.mark.parametrize("grid", [uniform_grid(1.0, 64), skew_grid()], ids=["uniform", "turned"])
def test_sphere_is_closed_outward_and_in_place(grid):
    mesh = extract_mesh(sphere(0.7), grid, chunk_points=7919)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == 2
    # A chord of length h cuts h^2 / 8r below the sphere, h <= sqrt(3) spacings.
    sag = 3 * grid.spacing**2 / (8 * 0.7)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.7).max() < sag
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=5e-3)  # positive: faces look outwards
    assert mesh.area == pytest.approx(4 * math.pi * 0.7**2, rel=5e-3)
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (mesh.vertex_normals * outward).sum(axis=1).min() > 0.98


def test_torus_has_its_hole_volume_and_area():
    mesh = extract_mesh(torus(0.6, 0.2), skew_grid(80))
    assert mesh.is_watertight and mesh.euler_number == 0
    assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.6 * 0.2**2, rel=1e-2)
    assert mesh.area == pytest.approx(4 * math.pi**2 * 0.6 * 0.2, rel=1e-2)


def test_error_falls_with_the_square_of_the_spacing():
    def worst(resolution):
        mesh = extract_mesh(sphere(0.7), uniform_grid(1.0, resolution))
        return np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.7).max()

    assert worst(80) < worst(40) / 3


@pytest.mark.parametrize("radius", [0.5, 0.75])
def test_samples_that_are_exactly_zero_leave_no_holes(radius):
    # The octahedron |x| + |y| + |z| = r passes exactly through many samples of this grid.
    grid = uniform_grid(1.0, 17)
    field = lambda x: x.abs().sum(dim=1) - radius  # noqa: E731
    assert (sample_volume(field, grid) == 0).sum() > 10
    mesh = extract_mesh(field, grid)
    assert mesh.is_watertight
    merged = mesh.copy()
    merged.merge_vertices()
    assert merged.is_watertight, "vertices on one spot: a reader that merges them gets holes"


def test_half_space_that_leaves_the_grid_is_open():
    mesh = extract_mesh(lambda x: x[:, 2] - 0.1, uniform_grid(1.0, 20))
    assert not mesh.is_watertight
    np.testing.assert_allclose(mesh.vertices[:, 2], 0.1, atol=1e-6)
    assert (mesh.face_normals[:, 2] > 0.99).all()


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_no_surface_gives_none(value):
    assert extract_mesh(lambda x: torch.full((len(x),), value), uniform_grid(1.0, 8)) is None


def test_volume_is_independent_of_chunks_and_of_the_output_shape():
    grid = aligned_grid(turn(1), np.zeros(3), -np.array([1, 2, 3.0]), np.array([1, 2, 3.0]), 9)
    field = sphere(0.7, (0.1, 0.2, 0.3))
    whole = sample_volume(field, grid)
    pieces = sample_volume(lambda x: field(x)[:, None], grid, chunk_points=13)
    assert whole.shape == grid.shape == (9, 17, 25)
    np.testing.assert_allclose(whole, pieces, atol=1e-6)  # vectorised norms differ in the last bit


def test_points_follow_the_formula_of_the_grid():
    grid = SampleGrid(np.array([1.0, 2.0, 3.0]), turn(5), 0.25, (3, 4, 5))
    slow = [
        grid.origin + 0.25 * (i * grid.axes[:, 0] + j * grid.axes[:, 1] + k * grid.axes[:, 2])
        for i in range(3) for j in range(4) for k in range(5)
    ]  # fmt: skip
    chunks = torch.cat((grid.points_at(torch.arange(11)), grid.points_at(torch.arange(11, 60))))
    np.testing.assert_allclose(chunks, np.array(slow), atol=1e-6)


def test_chunks_are_at_most_chunk_points():
    sizes = []

    def field(x):
        sizes.append(len(x))
        return x.norm(dim=1) - 0.5

    extract_mesh(field, uniform_grid(1.0, 20), chunk_points=999)
    assert max(sizes) == 999 and sum(sizes) == 8000


def test_gradients_are_off_while_sampling():
    scale = torch.ones((), requires_grad=True)
    sample_volume(lambda x: x.norm(dim=1) * scale - 0.5, uniform_grid(1.0, 4))
    with pytest.raises(ValueError, match="chunk_points = 0"):
        sample_volume(sphere(0.5), uniform_grid(1.0, 4), chunk_points=0)


def test_field_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="not finite"):
        extract_mesh(lambda x: x[:, 0] / 0.0, uniform_grid(1.0, 5))


def test_invalid_boxes_are_refused():
    one = np.ones(3)
    with pytest.raises(ValueError, match="resolution 1"):
        uniform_grid(1.0, 1)
    with pytest.raises(ValueError, match="positive sides"):
        aligned_grid(np.eye(3), one, one, one, 10)
    with pytest.raises(ValueError, match="no rotation"):
        aligned_grid(-np.eye(3), one, -one, one, 10)
