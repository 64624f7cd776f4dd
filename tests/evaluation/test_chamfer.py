"""Distances to triangles and Chamfer against brute force and closed forms."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from idr.errors import InputError
from idr.evaluation.chamfer import chamfer, distance_to_zero_set, sample_surface
from idr.evaluation.point_to_mesh import closest_points, point_to_mesh_distance

ROUNDING = 1e-12  # float64 on numbers of about 1


def brute_force(points, triangles):
    """Every point against every triangle, by trimesh's (Ericson's) region test, which ours does not use."""
    pairs = np.repeat(points, len(triangles), axis=0)
    closest = trimesh.triangles.closest_point(np.tile(triangles, (len(points), 1, 1)), pairs)
    return np.linalg.norm(closest - pairs, axis=1).reshape(len(points), -1).min(axis=1)


def mesh(vertices, faces):
    return SimpleNamespace(vertices=np.asarray(vertices, dtype=float), faces=np.asarray(faces))


def plane(height=0.0, size=1.0):
    """A square made of two large triangles."""
    corners = [[0, 0, height], [size, 0, height], [size, size, height], [0, size, height]]
    return mesh(corners, [[0, 1, 2], [0, 2, 3]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.01, 0.3, 1.0]))
@settings(max_examples=40, deadline=None)
def test_distances_equal_brute_force_on_random_triangles(seed, num_triangles, spread):
    generator = np.random.default_rng(seed)
    centers = generator.uniform(-1, 1, (num_triangles, 1, 3))
    sizes = spread * 10 ** generator.uniform(-3, 0, (num_triangles, 1, 1))  # three decades of triangle sizes
    triangles = centers + sizes * generator.standard_normal((num_triangles, 3, 3))
    points = generator.uniform(-1.5, 1.5, (40, 3))
    ours = point_to_mesh_distance(
        points, triangles.reshape(-1, 3), np.arange(3 * num_triangles).reshape(-1, 3)
    )
    np.testing.assert_allclose(ours, brute_force(points, triangles), atol=ROUNDING * 100)


def test_many_small_triangles_and_one_huge_one():
    sphere = trimesh.creation.icosphere(3, radius=0.3)
    huge = np.array([[-9.0, -9, -0.5], [9, -9, -0.5], [0, 18, -0.5]])
    vertices = np.concatenate((sphere.vertices, huge))
    faces = np.concatenate((sphere.faces, [[len(vertices) - 3, len(vertices) - 2, len(vertices) - 1]]))
    points = np.random.default_rng(0).uniform(-1, 1, (100, 3))
    np.testing.assert_allclose(
        point_to_mesh_distance(points, vertices, faces), brute_force(points, vertices[faces]), atol=ROUNDING
    )


def test_degenerate_triangles_are_segments_and_points():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [5, 5, 5]])
    points = np.array([[0.5, 2.0, 0.0], [-3.0, 0.0, 4.0], [5.0, 5.0, 7.0], [1.7, 0.0, 0.0]])
    distances = point_to_mesh_distance(points, vertices, [[0, 1, 2], [3, 3, 3]])
    np.testing.assert_allclose(distances, [2.0, 5.0, 2.0, 0.0], atol=ROUNDING)


def test_points_equally_far_from_all_triangles_stay_within_memory():
    sphere = trimesh.creation.icosphere(3, radius=1.0)  # 1280 triangles, none of which can be ruled out early
    distances = point_to_mesh_distance(np.zeros((100, 3)), sphere.vertices, sphere.faces)
    nearest_plane = np.abs(np.einsum("td,td->t", sphere.face_normals, sphere.triangles[:, 0])).min()
    np.testing.assert_allclose(distances, nearest_plane, atol=ROUNDING)


def test_closest_points_lie_on_the_mesh_at_the_stated_distance():
    sphere = trimesh.creation.icosphere(3, radius=0.7)
    points = np.random.default_rng(1).uniform(-1, 1, (500, 3))
    found = closest_points(points, sphere.vertices, sphere.faces)
    np.testing.assert_allclose(np.linalg.norm(found.points - points, axis=1), found.distance, atol=ROUNDING)
    assert point_to_mesh_distance(found.points, sphere.vertices, sphere.faces).max() < ROUNDING


def test_distance_to_a_fine_sphere_is_the_analytic_one():
    sphere = trimesh.creation.icosphere(5, radius=0.6)
    points = np.random.default_rng(2).uniform(-1, 1, (2000, 3))
    exact = np.abs(np.linalg.norm(points, axis=1) - 0.6)
    # The flat triangles cut less than 2e-4 off the sphere: edge^2 / (8 r) with edges of about 0.025.
    np.testing.assert_allclose(
        point_to_mesh_distance(points, sphere.vertices, sphere.faces), exact, atol=2e-4
    )


def test_a_mesh_against_itself_scores_zero():
    knot = trimesh.creation.torus(0.5, 0.2, major_sections=40, minor_sections=20)
    assert chamfer(knot, knot, 20_000).chamfer < 1e-5


def test_another_triangulation_of_the_same_surface_scores_zero():
    coarse = trimesh.creation.box((1.0, 0.8, 0.6))
    fine = coarse.subdivide().subdivide()
    assert chamfer(coarse, fine, 20_000).chamfer < 1e-9  # points to points would give about 0.006


def test_parallel_planes_score_their_distance():
    result = chamfer(plane(0.0), plane(0.125), 1000)
    np.testing.assert_allclose([result.accuracy, result.completeness, result.chamfer], 0.125, atol=ROUNDING)


def test_accuracy_is_of_the_first_and_completeness_of_the_second():
    part, whole = plane(size=0.5), plane(size=1.0)
    result = chamfer(part, whole, 40_000)
    assert result.accuracy < 1e-9
    # Mean distance from the unit square to its quarter: two strips at mean 1/4, the corner at E|u| / 2.
    corner = (np.sqrt(2) + np.log(1 + np.sqrt(2))) / 3 * 0.5
    assert result.completeness == pytest.approx(2 * 0.25 * 0.25 + 0.25 * corner, rel=0.02)  # 40,000 samples
    assert result.chamfer == pytest.approx((result.accuracy + result.completeness) / 2)


def test_concentric_spheres_score_the_difference_of_radii_with_an_exact_distance():
    inner, outer = (trimesh.creation.icosphere(5, radius=radius) for radius in (0.5, 0.55))
    result = chamfer(inner, outer, 5000, exact_distance=lambda x: np.linalg.norm(x, axis=1) - 0.55)
    assert result.accuracy == pytest.approx(0.05, abs=2e-4)  # the triangles' sagitta
    assert result.completeness == pytest.approx(0.05, abs=2e-4)


def test_chamfer_repeats_with_the_seed():
    a, b = trimesh.creation.icosphere(2), trimesh.creation.box()
    assert chamfer(a, b, 500, seed=3) == chamfer(a, b, 500, seed=3) != chamfer(a, b, 500, seed=4)


def test_samples_spread_by_area_and_lie_on_the_surface():
    # A triangle of area 8 beside one of area 1/2.
    vertices = [[0, 0, 0], [4, 0, 0], [0, 4, 0], [10, 0, 0], [11, 0, 0], [10, 1, 0]]
    samples = sample_surface(mesh(vertices, [[0, 1, 2], [3, 4, 5]]), 100_000, np.random.default_rng(0))
    large = samples[:, 0] < 5
    assert large.mean() == pytest.approx(8 / 8.5, abs=0.005)
    np.testing.assert_allclose(samples[large].mean(axis=0), [4 / 3, 4 / 3, 0], atol=0.02)  # the centroid
    assert (samples[large][:, :2].sum(axis=1) <= 4 + ROUNDING).all()


def test_distance_to_a_zero_set_is_not_limited_by_the_mesh():
    """A torus, the zero set of a polynomial that is no distance, and a coarse mesh to start from."""

    def function(x):
        return (np.square(x).sum(axis=1) + 0.5**2 - 0.2**2) ** 2 - 4 * 0.5**2 * np.square(x[:, :2]).sum(
            axis=1
        )

    def slope(x):
        inner = 4 * (np.square(x).sum(axis=1) + 0.5**2 - 0.2**2)
        return inner[:, None] * x - 8 * 0.5**2 * x * (1.0, 1.0, 0.0)

    coarse = trimesh.creation.torus(0.5, 0.2, major_sections=48, minor_sections=24)
    generator = np.random.default_rng(5)
    points = np.asarray(coarse.sample(400, seed=5)) + generator.uniform(-0.05, 0.05, (400, 3))
    ring = np.hypot(points[:, 0], points[:, 1]) - 0.5
    exact = np.abs(np.hypot(ring, points[:, 2]) - 0.2)
    refined = distance_to_zero_set(points, function, slope, coarse)
    assert np.abs(refined - exact).max() < 1e-6
    flat = point_to_mesh_distance(points, coarse.vertices, coarse.faces)
    assert np.abs(flat - exact).max() > 1e-3  # what the refinement is for


@pytest.mark.parametrize(
    ("points", "vertices", "faces", "message"),
    [
        (np.zeros((1, 3)), np.zeros((3, 3)), np.zeros((0, 3), int), "at least one triangle"),
        (np.zeros((1, 3)), np.zeros((3, 3)), [[0, 1, 3]], "index its 3 vertices"),
        (np.zeros((1, 2)), np.zeros((3, 3)), [[0, 1, 2]], r"points of shape \(1, 2\)"),
        (np.full((1, 3), np.nan), np.zeros((3, 3)), [[0, 1, 2]], "expected finite"),
        (np.zeros((1, 3)), np.full((3, 3), np.inf), [[0, 1, 2]], "vertices"),
    ],
)
def test_unusable_input_is_refused(points, vertices, faces, message):
    with pytest.raises(InputError, match=message):
        point_to_mesh_distance(points, vertices, faces)


def test_a_mesh_without_area_cannot_be_compared():
    with pytest.raises(InputError, match="no surface to compare"):
        chamfer(mesh(np.zeros((3, 3)), [[0, 1, 2]]), plane(), 10)
    with pytest.raises(InputError, match="no surface to compare"):
        chamfer(mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), plane(), 10)


def test_an_empty_set_of_points_is_legal():
    assert point_to_mesh_distance(np.zeros((0, 3)), plane().vertices, plane().faces).shape == (0,)
