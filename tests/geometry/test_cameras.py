"""Cameras against slow constructions: K and R pixel by pixel, matrices composed and taken apart.

float64 throughout, so that what is left is rounding: 1e-9 relative allows for the conditioning of a K with
focal lengths in the thousands (1e3 times 1e-15, and a margin).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from idr.geometry.cameras import (
    camera_depth,
    decompose_projection,
    pixel_rays,
    pose_matrix,
    project_points,
    resized_intrinsics,
)
from idr.geometry.quaternions import rotation_to_quaternion

ROUNDING = 1e-9
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 100_000)


def random_intrinsics(rng: np.random.Generator) -> np.ndarray:
    """K with skew, non-square pixels and a principal point that may lie outside the image."""
    fx, fy = rng.uniform(50, 3000, size=2)
    return np.array(
        [[fx, rng.uniform(-40, 40), rng.uniform(-800, 1600)], [0, fy, rng.uniform(-600, 1200)], [0, 0, 1]]
    )


def random_pose(rng: np.random.Generator, reach: float = 3.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    pose[:3, 3] = rng.uniform(-reach, reach, size=3)
    return pose


def projection_matrix(intrinsics: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """K [R | t] of a camera-to-world pose."""
    rotation = pose[:3, :3].T
    return intrinsics @ np.column_stack((rotation, -rotation @ pose[:3, 3]))


def square(intrinsics: np.ndarray) -> np.ndarray:
    padded = np.eye(4)
    padded[:3, :3] = intrinsics
    return padded


def pose_vector(pose: np.ndarray, norm: float = 1.0) -> np.ndarray:
    quaternion = rotation_to_quaternion(torch.from_numpy(pose[:3, :3].copy())).numpy()
    return np.concatenate((norm * quaternion, pose[:3, 3]))


# --- decompose_projection --------------------------------------------------------------------------


@EXAMPLES
@given(seeds, st.floats(-6, 6), st.sampled_from([-1.0, 1.0]))
def test_decomposition_recovers_k_and_pose_at_any_scale_and_sign(
    seed: int, exponent: float, sign: float
) -> None:
    rng = np.random.default_rng(seed)
    intrinsics, pose = random_intrinsics(rng), random_pose(rng, reach=1000.0)
    ours_k, ours_pose = decompose_projection(sign * 10.0**exponent * projection_matrix(intrinsics, pose))
    assert ours_k.shape == ours_pose.shape == (4, 4) and ours_k.dtype == ours_pose.dtype == np.float64
    assert ours_k[2, 2] == 1 and (ours_k[3] == [0, 0, 0, 1]).all() and (ours_pose[3] == [0, 0, 0, 1]).all()
    np.testing.assert_allclose(ours_k[:3, :3], intrinsics, atol=ROUNDING * np.abs(intrinsics).max())
    # The rotation takes over the conditioning of K (up to 60) times rounding, the center also its own size.
    np.testing.assert_allclose(ours_pose[:3, :3], pose[:3, :3], atol=ROUNDING)
    np.testing.assert_allclose(ours_pose[:3, 3], pose[:3, 3], atol=ROUNDING * 1000)


@EXAMPLES
@given(seeds)
def test_decomposition_is_proper_and_composes_back(seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(3, 4))
    intrinsics, pose = decompose_projection(matrix)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1, abs=ROUNDING)
    assert (np.diag(intrinsics) > 0).all() and (np.tril(intrinsics, -1) == 0).all()
    again = projection_matrix(intrinsics[:3, :3], pose)
    cosine = (again * matrix).sum() / np.linalg.norm(again) / np.linalg.norm(matrix)
    assert abs(cosine) == pytest.approx(1, abs=ROUNDING)
    assert np.sign(cosine) == np.sign(np.linalg.det(matrix[:, :3]))


def test_float32_input_is_computed_in_float64() -> None:
    rng = np.random.default_rng(1)
    intrinsics, pose = random_intrinsics(rng), random_pose(rng)
    ours_k, ours_pose = decompose_projection(projection_matrix(intrinsics, pose).astype(np.float32))
    assert ours_k.dtype == np.float64
    np.testing.assert_allclose(ours_k[:3, :3], intrinsics, rtol=1e-4, atol=0.1)  # 6e-8, conditioned
    np.testing.assert_allclose(ours_pose, pose, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(value: float) -> None:
    matrix = np.eye(3, 4)
    matrix[1, 3] = value
    with pytest.raises(ValueError, match=r"expected a finite \(3, 4\) matrix"):
        decompose_projection(matrix)


@pytest.mark.parametrize("shape", [(4, 4), (3, 3), (12,), (2, 3, 4)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a finite \(3, 4\) matrix"):
        decompose_projection(np.ones(shape))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("left", [np.zeros((3, 3)), np.ones((3, 3)), np.diag([1.0, 1.0, 0.0])])
def test_singular_is_refused_at_any_scale(left: np.ndarray, scale: float) -> None:
    with pytest.raises(ValueError, match="singular"):
        decompose_projection(scale * np.column_stack((left, np.ones(3))))


# --- pose_matrix -----------------------------------------------------------------------------------


def test_pose_matrix_of_vectors_of_any_norm() -> None:
    rng = np.random.default_rng(2)
    poses = [random_pose(rng) for _ in range(6)]
    vectors = torch.tensor(
        np.stack([pose_vector(p, norm) for p, norm in zip(poses, (0.2, 0.5, 1, 2, 7, -1), strict=True)])
    )
    assert (pose_matrix(vectors) - torch.tensor(np.stack(poses))).abs().max() < ROUNDING


def test_pose_matrix_leaves_matrices_alone() -> None:
    matrices = torch.randn(4, 4, 4)
    assert pose_matrix(matrices) is matrices


# --- pixel_rays ------------------------------------------------------------------------------------


def slow_ray(u: float, v: float, intrinsics: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """R K^-1 (u, v, 1), normalized."""
    direction = pose[:3, :3] @ np.linalg.inv(intrinsics) @ np.array([u, v, 1.0])
    return direction / np.linalg.norm(direction)


def random_views(num_images: int, num_pixels: int, seed: int):
    rng = np.random.default_rng(seed)
    intrinsics = np.stack([random_intrinsics(rng) for _ in range(num_images)])
    poses = np.stack([random_pose(rng) for _ in range(num_images)])
    uv = rng.uniform(-100, 2000, size=(num_images, num_pixels, 2))
    return uv, poses, intrinsics


@pytest.mark.parametrize("as_vectors", [False, True])
def test_rays_equal_the_slow_ones(as_vectors: bool) -> None:
    uv, poses, intrinsics = random_views(4, 25, seed=3)
    given_poses = np.stack([pose_vector(p, norm=1.7) for p in poses]) if as_vectors else poses
    directions, centers = pixel_rays(
        torch.tensor(uv), torch.tensor(given_poses), torch.tensor(np.stack([square(k) for k in intrinsics]))
    )
    assert directions.shape == (4, 25, 3) and centers.shape == (4, 3)
    for image in range(4):
        np.testing.assert_allclose(centers[image], poses[image, :3, 3], atol=ROUNDING)
        for pixel in range(25):
            expected = slow_ray(*uv[image, pixel], intrinsics[image], poses[image])
            np.testing.assert_allclose(directions[image, pixel], expected, atol=ROUNDING)


def test_integer_pixels_have_no_half_pixel_shift() -> None:
    intrinsics = torch.eye(4)[None].clone()
    intrinsics[0, 0, 0] = intrinsics[0, 1, 1] = 10.0
    intrinsics[0, 0, 2], intrinsics[0, 1, 2] = 3.0, 2.0
    directions, _ = pixel_rays(
        torch.tensor([[[3.0, 2.0], [13.0, 2.0], [3.0, 12.0]]]), torch.eye(4)[None], intrinsics
    )
    half = 0.5**0.5
    expected = torch.tensor([[0.0, 0.0, 1.0], [half, 0.0, half], [0.0, half, half]])  # forward, right, down
    assert (directions[0] - expected).abs().max() < 1e-6  # float32


def test_rays_gradcheck_through_pose_vectors() -> None:
    uv, poses, intrinsics = random_views(2, 3, seed=4)
    k = torch.tensor(np.stack([square(k) for k in intrinsics]))
    vectors = torch.tensor(np.stack([pose_vector(p, norm=1.3) for p in poses])).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda pose: pixel_rays(torch.tensor(uv), pose, k), (vectors,))


def test_rays_gradcheck_through_matrices_and_intrinsics() -> None:
    uv, poses, intrinsics = random_views(2, 3, seed=5)
    matrices = torch.tensor(poses).requires_grad_(True)
    # Rays far off the axis change by 1 / f a pixel: in units of 1000 pixels the differences are well scaled.
    k = torch.tensor(np.stack([square(k) for k in intrinsics])) / 1000
    k[:, 2, 2] = 1
    assert torch.autograd.gradcheck(
        lambda pose, k: pixel_rays(torch.tensor(uv) / 1000, pose, k), (matrices, k.requires_grad_(True))
    )


# --- project_points, camera_depth ------------------------------------------------------------------


@EXAMPLES
@given(seeds, st.floats(0.1, 50), st.sampled_from([-3.0, -1.0, 1.0, 0.01]))
def test_projection_is_the_inverse_of_rays(seed: int, depth: float, factor: float) -> None:
    uv, poses, intrinsics = random_views(1, 10, seed)
    directions, centers = pixel_rays(
        torch.tensor(uv), torch.tensor(poses), torch.tensor(square(intrinsics[0]))[None]
    )
    points = (centers[:, None] + depth * directions)[0].numpy()
    matrix = factor * projection_matrix(intrinsics[0], poses[0])
    back, along_axis = project_points(points, matrix)
    # In pixels: 2000 pixels times rounding, amplified far off the axis.
    np.testing.assert_allclose(back, uv[0], atol=1e-6)
    axis = poses[0, :3, 2]
    np.testing.assert_allclose(along_axis, (points - poses[0, :3, 3]) @ axis, atol=ROUNDING * max(1, depth))
    assert (along_axis > 0).all()


def test_p_and_minus_p_are_one_camera_in_front_and_behind() -> None:
    rng = np.random.default_rng(6)
    intrinsics, pose = random_intrinsics(rng), random_pose(rng)
    matrix = projection_matrix(intrinsics, pose)
    points = rng.uniform(-4, 4, size=(50, 3))
    uv, depth = project_points(points, matrix)
    uv_minus, depth_minus = project_points(points, -2 * matrix)
    np.testing.assert_allclose(uv_minus, uv, rtol=ROUNDING)
    np.testing.assert_allclose(depth_minus, depth, atol=ROUNDING)
    assert (depth < 0).any() and (depth > 0).any()
    for point, pixel, z in zip(points, uv, depth, strict=True):  # the slow way
        in_camera = pose[:3, :3].T @ (point - pose[:3, 3])
        assert z == pytest.approx(in_camera[2], abs=ROUNDING)
        np.testing.assert_allclose(pixel, (intrinsics @ in_camera)[:2] / in_camera[2], rtol=1e-7, atol=1e-6)


def test_points_in_the_focal_plane_have_no_pixel() -> None:
    uv, depth = project_points(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), np.eye(3, 4))
    assert np.isnan(uv[:2]).all() and (depth[:2] == 0).all()
    assert (uv[2] == 0).all() and depth[2] == 2
    assert project_points(np.zeros((0, 3)), np.eye(3, 4))[0].shape == (0, 2)


@pytest.mark.parametrize("as_vectors", [False, True])
def test_camera_depth_equals_projection(as_vectors: bool) -> None:
    rng = np.random.default_rng(7)
    poses = np.stack([random_pose(rng) for _ in range(3)])
    points = rng.uniform(-4, 4, size=(3, 20, 3))
    given_poses = np.stack([pose_vector(p, norm=0.4) for p in poses]) if as_vectors else poses
    depth = camera_depth(torch.tensor(points), torch.tensor(given_poses))
    assert depth.shape == (3, 20)
    for image in range(3):
        _, expected = project_points(points[image], projection_matrix(random_intrinsics(rng), poses[image]))
        np.testing.assert_allclose(depth[image], expected, atol=ROUNDING)


def test_camera_depth_gradcheck() -> None:
    torch.manual_seed(8)
    points = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(camera_depth, (points, vectors))


def test_resized_view_keeps_its_field_of_view():
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor([[40.0, 0.5, 15.2], [0, 42.0, 11.7], [0, 0, 1]])
    small = resized_intrinsics(intrinsics, (24, 32), (12, 8))
    # The image's corners are half a pixel outside the outermost pixels' centers, in either size.
    for old, new in (((-0.5, -0.5), (-0.5, -0.5)), ((31.5, 23.5), (7.5, 11.5))):
        rays = [
            pixel_rays(torch.tensor([[uv]]), torch.eye(4)[None], k[None])[0]
            for uv, k in ((old, intrinsics), (new, small))
        ]
        torch.testing.assert_close(*rays)
