"""The bounding sphere: oracles, invariances, invalid input, real scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from idr.errors import InputError
from idr.geometry.cameras import pixel_rays
from idr.geometry.spheres import ray_sphere_intersection
from idr.preprocess.bounding_sphere import OUTLINE_MARGIN, fit_sphere
from idr.preprocess.outlines import hull_silhouette, outline_radii, sphere_outline
from idr.preprocess.scene_views import load_views, make_views
from tests.preprocess.scenes import (
    INTRINSICS,
    ellipsoid_mask,
    ellipsoid_views,
    look_at,
    names_of,
    real_scene,
    ring_centers,
    sphere_centers,
    subset,
    world_mats,
)


def every_mask_inside(views, center, radius):
    """Whether the rays of all mask pixels hit the sphere, by the tracer's intersection test."""
    for k, mask in enumerate(views.masks):
        uv = torch.from_numpy(np.argwhere(mask)[:, ::-1].astype(np.float64))[None]
        intrinsics = torch.eye(4, dtype=torch.float64)[None].clone()
        intrinsics[0, :3, :3] = torch.from_numpy(views.intrinsics[k])
        pose = torch.from_numpy(views.poses[k : k + 1].copy())
        pose[0, :3, 3] = torch.from_numpy((views.centers[k] - center) / radius)
        directions, centers = pixel_rays(uv, pose, intrinsics)
        crossing = ray_sphere_intersection(centers, directions, 1.0)
        if not (crossing.crosses & (crossing.far > 0)).all():
            return False
    return True


def test_published_rule_for_a_ball():
    """A ball's mean distance from its center is 3/4 of its radius: the rule gives 2.25 times its radius."""
    fit = fit_sphere(ellipsoid_views(sphere_centers(40)))
    np.testing.assert_allclose(fit.center, 0.0, atol=0.02)  # a pixel is 0.035 wide at the center
    assert fit.radius == pytest.approx(2.25, rel=0.03)
    assert fit.radius == fit.rule_radius
    np.testing.assert_allclose(fit.outline_radius, 1.0, atol=0.03)
    assert not fit.warnings
    assert fit.hull_iou.min() > 0.95


@pytest.mark.parametrize("radii", [(1.0, 0.5, 0.7), (0.4, 0.4, 1.2)])
def test_ellipsoids(radii):
    """Compared with samples of the exact solid, which is convex and thus close to its hull."""
    fit = fit_sphere(ellipsoid_views(sphere_centers(60), radii))
    ball = np.random.default_rng(0).normal(size=(200_000, 3))
    ball *= (np.random.default_rng(1).random(200_000) ** (1 / 3) / np.linalg.norm(ball, axis=1))[:, None]
    exact = 3.0 * np.linalg.norm(ball * radii, axis=1).mean()
    np.testing.assert_allclose(fit.center, 0.0, atol=0.02)
    assert fit.rule_radius == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_equivariance_to_similarities_of_the_world(seed):
    rng = np.random.default_rng(seed)
    centers, radii = ring_centers(9, 200.0, 0.5), np.array([1.0, 0.6, 0.8])
    matrices = world_mats(centers)
    masks = tuple(ellipsoid_mask(matrix, radii) for matrix in matrices)
    plain = fit_sphere(make_views(names_of(9), masks, matrices))

    scale, rotation = 10.0 ** rng.uniform(-3, 3), Rotation.random(random_state=seed).as_matrix()
    offset = scale * rng.normal(size=3) * 10.0 ** rng.uniform(0, 3)
    new_to_old = np.eye(4)
    new_to_old[:3, :3], new_to_old[:3, 3] = rotation.T / scale, -rotation.T @ offset / scale
    signs = rng.choice([-1.0, 1.0], 9) * rng.uniform(0.01, 100, 9)  # projections are defined up to a factor
    moved = fit_sphere(make_views(names_of(9), masks, signs[:, None, None] * (matrices @ new_to_old)))

    # Rounding may move a few of 100,000 samples across a mask's edge.
    assert moved.radius == pytest.approx(scale * plain.radius, rel=1e-4)
    np.testing.assert_allclose(
        moved.center, scale * rotation @ plain.center + offset, atol=1e-4 * scale * plain.radius
    )
    np.testing.assert_allclose(moved.hull_iou, plain.hull_iou, atol=0.01)


def test_deterministic():
    views = ellipsoid_views(ring_centers(8), (1.0, 0.5, 0.8))
    first, second = fit_sphere(views), fit_sphere(views)
    np.testing.assert_array_equal(first.hull.points, second.hull.points)
    assert (first.radius, *first.center) == (second.radius, *second.center)


def test_nearly_invariant_to_the_order_of_views():
    """The grid has the first camera's axes, so only the sampling differs."""
    views = ellipsoid_views(sphere_centers(15), (1.0, 0.6, 0.8))
    first, second = fit_sphere(views), fit_sphere(subset(views, list(range(15))[::-1]))
    assert second.radius == pytest.approx(first.radius, rel=2e-3)
    np.testing.assert_allclose(second.center, first.center, atol=5e-3)


@pytest.mark.parametrize(
    "centers",
    [
        ring_centers(12),  # coplanar with the object
        ring_centers(5, 120.0, 0.3),
        ring_centers(2, 90.0),
        sphere_centers(24, distance=2.5),  # so close that every view is cut off
    ],
)
def test_every_mask_lies_inside(centers):
    views = ellipsoid_views(centers, (1.0, 0.7, 0.8))
    fit = fit_sphere(views)
    assert every_mask_inside(views, fit.center, fit.radius)
    assert fit.radius < 4.0
    assert np.linalg.norm(fit.center) < 0.35


def test_one_sided_narrow_capture_uses_outlines():
    """Eight views within 12 degrees: the hull is open in depth, but the sphere is centered on the object."""
    views = ellipsoid_views(ring_centers(8, 12.0, 0.2))
    fit = fit_sphere(views)
    assert fit.hull.is_open
    assert any("about one side" in warning for warning in fit.warnings)
    assert every_mask_inside(views, fit.center, fit.radius)
    np.testing.assert_allclose(fit.center, 0.0, atol=0.1)
    assert fit.radius == pytest.approx(2.25, rel=0.05)


def test_parallel_cameras_side_by_side():
    """Equal orientations are valid if positions differ."""
    centers = np.array([[x, -5.0, z] for x in (-1.0, 0.0, 1.0) for z in (-0.5, 0.5)])
    rotation = look_at(np.array([0.0, -5.0, 0.0]), np.zeros(3))[:, :3]
    matrices = np.stack([INTRINSICS @ np.column_stack([rotation, -rotation @ center]) for center in centers])
    masks = tuple(ellipsoid_mask(matrix, np.full(3, 0.5)) for matrix in matrices)
    views = make_views(names_of(6), masks, matrices)
    fit = fit_sphere(views)
    assert every_mask_inside(views, fit.center, fit.radius)
    assert np.linalg.norm(fit.center) < 0.3


def test_a_stray_pixel_enlarges_the_sphere():
    views = ellipsoid_views(ring_centers(30))
    views.masks[17][2, 3] = True
    fit = fit_sphere(views)
    assert every_mask_inside(views, fit.center, fit.radius)
    clean = fit_sphere(ellipsoid_views(ring_centers(30)))
    np.testing.assert_allclose(fit.center, clean.center, atol=0.01)
    assert fit.rule_radius == pytest.approx(clean.rule_radius, rel=0.01)
    views.masks[17][0, 0] = views.masks[17][-1, -1] = True
    assert fit_sphere(views).radius == pytest.approx(OUTLINE_MARGIN * fit_sphere(views).outline_radius[17])


def test_one_bad_mask_among_many_is_outvoted():
    views = ellipsoid_views(ring_centers(30))
    views.masks[4][:, :60] = False
    fit = fit_sphere(views)
    assert fit.rule_radius == pytest.approx(
        fit_sphere(ellipsoid_views(ring_centers(30))).rule_radius, rel=0.02
    )
    assert any("4 (004.png)" in warning for warning in fit.warnings)


def test_outline_radii_equal_a_loop_over_all_pixels():
    views = ellipsoid_views(ring_centers(5, 100.0, 0.3), (1.0, 0.4, 0.7))
    center = np.array([0.3, -0.2, 0.1])
    for k, radius in enumerate(outline_radii(views, center)):
        largest = 0.0
        for row, column in np.argwhere(views.masks[k]):
            ray = views.poses[k, :3, :3] @ np.linalg.inv(views.intrinsics[k]) @ [column, row, 1.0]
            across = np.cross(center - views.centers[k], ray / np.linalg.norm(ray))
            largest = max(largest, float(np.linalg.norm(across)))
        assert radius == pytest.approx(largest, rel=1e-9)


def test_sphere_outline_is_tangent_to_the_sphere():
    """Rays through the outline pass the center at the radius."""
    views = ellipsoid_views(ring_centers(3, 100.0, 0.3))
    center, radius = np.array([0.2, 0.1, 0.0]), 0.9
    outline = sphere_outline(views, 1, center, radius)
    rays = np.column_stack([outline, np.ones(len(outline))]) @ np.linalg.inv(views.intrinsics[1]).T
    rays = rays @ views.poses[1, :3, :3].T
    across = np.cross(center - views.centers[1], rays / np.linalg.norm(rays, axis=1, keepdims=True))
    np.testing.assert_allclose(np.linalg.norm(across, axis=1), radius, rtol=1e-9)
    assert sphere_outline(views, 1, views.centers[1], 0.1) is None


def test_silhouette_of_the_hull_is_the_mask():
    views = ellipsoid_views(sphere_centers(40))
    fit = fit_sphere(views)
    silhouette = hull_silhouette(views, 3, fit.hull)
    assert (silhouette ^ views.masks[3]).sum() <= 0.05 * views.masks[3].sum()


class TestRefusals:
    """Invalid input; each message has a remedy."""

    def test_single_view(self):
        with pytest.raises(InputError, match="1 view.*two or more viewpoints"):
            fit_sphere(ellipsoid_views(ring_centers(1, 10.0)))

    @pytest.mark.parametrize("value", [True, False])
    def test_empty_and_full_masks(self, value):
        matrices = world_mats(ring_centers(4))
        masks = [ellipsoid_mask(matrix, np.ones(3)) for matrix in matrices]
        masks[2] = np.full_like(masks[2], value)
        with pytest.raises(InputError, match=r"mask 2 \(002.png\) marks (every|no) pixel.*replace this mask"):
            make_views(names_of(4), tuple(masks), matrices)

    def test_views_from_one_place(self):
        """A camera that only rotates."""
        center = np.array([0.0, -5.0, 0.0])
        matrices = np.stack([INTRINSICS @ look_at(center, np.array([x, 0.0, 0.0])) for x in (-0.5, 0.0, 0.5)])
        masks = tuple(ellipsoid_mask(matrix, np.full(3, 0.6)) for matrix in matrices)
        with pytest.raises(InputError, match="one place or one direction.*add views from other sides"):
            fit_sphere(make_views(names_of(3), masks, matrices))

    def test_opengl_axes(self):
        matrices = world_mats(ring_centers(6))
        masks = tuple(ellipsoid_mask(matrix, np.ones(3)) for matrix in matrices)
        flip = np.diag([1.0, -1.0, -1.0])
        wrong = np.stack([INTRINSICS @ flip @ np.linalg.inv(INTRINSICS) @ matrix for matrix in matrices])
        with pytest.raises(
            InputError, match="lies behind camera 0 .*OpenCV axes .x right, y down, z forward"
        ):
            fit_sphere(make_views(names_of(6), masks, wrong))

    def test_masks_of_other_cameras(self):
        matrices = world_mats(sphere_centers(10), np.array([1.3, 0.0, 0.0]))
        masks = [ellipsoid_mask(matrix, np.array([0.2, 0.2, 0.2])) for matrix in matrices]
        masks = masks[3:] + masks[:3]
        with pytest.raises(InputError, match="contradict each other.*belong together"):
            fit_sphere(make_views(names_of(10), tuple(masks), matrices))

    def test_camera_inside_the_object(self):
        centers = np.vstack([ring_centers(10), [[0.4, 0.0, 0.0]]])
        matrices = world_mats(centers)
        masks = [ellipsoid_mask(matrix, np.ones(3)) for matrix in matrices]
        masks[-1][:5] = False
        with pytest.raises(InputError, match=r"camera 10 \(010.png\) lies inside the object"):
            fit_sphere(make_views(names_of(11), tuple(masks), matrices))

    def test_matrices_without_a_camera(self):
        matrices = world_mats(ring_centers(3, 90.0))
        masks = tuple(ellipsoid_mask(matrix, np.ones(3)) for matrix in matrices)
        for spoil, message in ((np.nan, "non-finite"), (0.0, "singular")):
            wrong = matrices.copy()
            wrong[1, :, 0] = spoil
            with pytest.raises(InputError, match=f"world_mat_1 .*{message}"):
                fit_sphere(make_views(names_of(3), masks, wrong))


@pytest.mark.usefixtures("full_hulls")
class TestRealScenes:
    """Compared with published spheres."""

    def test_scan65(self):
        views = load_views(real_scene("DTU/scan65"))
        fit = fit_sphere(views)
        assert fit.radius == pytest.approx(246.405, rel=0.05)
        assert np.linalg.norm(fit.center - [-37.542, -42.644, 653.209]) < 5.0
        assert every_mask_inside(views, fit.center, fit.radius)
        assert fit.hull_iou.min() > 0.85 and not fit.warnings

    def test_scan65_noisy_cameras(self):
        """Compared with the published scale_mat of that file."""
        views = load_views(real_scene("DTU/scan65"), "cameras_linear_init.npz")
        fit = fit_sphere(views)
        assert fit.radius == pytest.approx(240.866, rel=0.05)
        assert np.linalg.norm(fit.center - [-57.697, -46.612, 664.313]) < 5.0
        assert every_mask_inside(views, fit.center, fit.radius)

    def test_temple(self):
        """Compared with the published bounding box: center and half diagonal."""
        views = load_views(real_scene("temple/scan1"))
        fit = fit_sphere(views)
        assert np.linalg.norm(fit.center - [-0.0244, 0.0966, 0.0259]) < 0.15 * 0.1063
        assert 0.1063 < fit.radius < 2.25 * 0.1063
        assert every_mask_inside(views, fit.center, fit.radius)

    @pytest.mark.parametrize(
        ("scene", "indices", "published_center", "published_radius"),
        [
            ("DTU/scan65", list(range(5)), (-37.54, -42.64, 653.21), 246.4),
            ("DTU/scan65", list(range(20, 30)), (-37.54, -42.64, 653.21), 246.4),
            ("DTU/scan65", [0, 1], (-37.54, -42.64, 653.21), 246.4),
            ("temple/scan1", list(range(5)), (-0.0286, 0.0831, 0.0250), 0.1766),
            ("temple/scan1", [0, 1, 2], (-0.0286, 0.0831, 0.0250), 0.1766),
        ],
    )
    def test_few_neighboring_views(self, scene, indices, published_center, published_radius):
        """The center is within a fifth of the full scene's radius, the radius within 40 %."""
        views = subset(load_views(real_scene(scene)), indices)
        fit = fit_sphere(views)
        assert np.linalg.norm(fit.center - published_center) < 0.2 * published_radius
        assert 0.8 < fit.radius / published_radius < 1.4
        assert every_mask_inside(views, fit.center, fit.radius)
