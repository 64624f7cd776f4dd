"""Camera paths against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from idr.errors import InputError
from idr.evaluation.disentanglement import PUBLISHED_DISTANCES, PUBLISHED_TIMES
from idr.geometry.paths import between_poses, camera_path, look_at_origin, spiral, surroundings

UP = np.array([0.1, -0.9, 0.3]) / np.linalg.norm([0.1, -0.9, 0.3])


def keys_around(angles, axis=(0.2, 1.0, -0.3)):
    unit = np.array(axis) / np.linalg.norm(axis)
    return Rotation.from_rotvec(np.outer(np.radians(angles), unit)).as_matrix()


def random_keys(seed, count=4):
    rotations = Rotation.random(count, random_state=seed).as_matrix()
    return np.concatenate((rotations, rotations[:1]))


def angle_between(first, second):
    return np.degrees(Rotation.from_matrix(first.T @ second).magnitude())


@pytest.mark.parametrize("seed", range(5))
def test_path_passes_its_keys_and_looks_at_the_origin(seed):
    rotations = random_keys(seed)
    poses = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, np.array(PUBLISHED_TIMES))
    np.testing.assert_allclose(poses[:, :3, :3], rotations, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), PUBLISHED_DISTANCES)
    between = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, np.linspace(0, 6, 37))
    products = between[:, :3, :3] @ between[:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (37, 3, 3)), atol=1e-9)
    towards_origin = -between[:, :3, 3] / np.linalg.norm(between[:, :3, 3], axis=1, keepdims=True)
    np.testing.assert_allclose(towards_origin, between[:, :3, 2], atol=1e-9)


def test_small_turns_are_the_plain_periodic_spline():
    rotations = keys_around([0, 20, 35, 10, 0])
    times = np.linspace(0, 6, 30)
    poses = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, times)
    quaternions = Rotation.from_matrix(rotations).as_quat()  # all with w > 0: no sign to match
    quaternions[-1] = quaternions[0]
    expected = Rotation.from_quat(CubicSpline(PUBLISHED_TIMES, quaternions, bc_type="periodic")(times))
    np.testing.assert_allclose(poses[:, :3, :3], expected.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_closed_path_is_smooth_and_never_jumps(seed):
    """Also where the quaternion comes back negated: it is one rotation and must not swing through others."""
    step = 1e-3
    times = np.concatenate((np.arange(0, 6, step), [6.0]))
    rotations = random_keys(seed)
    poses = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, times)
    np.testing.assert_allclose(poses[0], poses[-1], atol=1e-9)
    start, end = (angle_between(poses[i][:3, :3], poses[i + 1][:3, :3]) for i in (0, -2))
    assert start == pytest.approx(end, rel=0.05, abs=1e-3), "the speed where the path closes"


def test_full_turn_keeps_turning_one_way():
    # A whole turn in quarters: the quaternion comes back as its negative.
    rotations = keys_around([0, 90, 180, 270, 360])
    poses = camera_path(rotations, [0, 1, 2, 3, 4], [4.0] * 5, np.linspace(0, 4, 41))
    steps = [angle_between(a[:3, :3], b[:3, :3]) for a, b in zip(poses, poses[1:], strict=False)]
    np.testing.assert_allclose(steps, 9.0, rtol=0.05)


def test_stored_sign_of_a_key_changes_nothing():
    """Rotations beyond a half turn have w < 0 before their sign is chosen; the path must not notice."""
    near_half_turn = keys_around([170, 178, 186, 175, 170])
    poses = camera_path(near_half_turn, PUBLISHED_TIMES, PUBLISHED_DISTANCES, np.linspace(0, 6, 61))
    steps = [angle_between(a[:3, :3], b[:3, :3]) for a, b in zip(poses, poses[1:], strict=False)]
    assert max(steps) < 4


def test_an_open_path_ends_at_its_last_key():
    rotations = keys_around([0, 40, 90])
    poses = camera_path(rotations, [0, 1, 3], [3.0, 4.0, 5.0], np.array([0.0, 3.0]))
    np.testing.assert_allclose(poses[:, :3, :3], rotations[[0, 2]], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), [3, 5])


def keys(seed, count=4):
    """Cameras at 2 to 4 that look near the origin, with any roll."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    seen_at = np.column_stack((rng.uniform(-0.2, 0.2, (count, 2)), rng.uniform(2, 4, count)))
    poses[:, :3, 3] = -np.einsum("bij,bj->bi", poses[:, :3, :3], seen_at)
    return poses


def in_camera(poses):
    """(F, 3) the origin in the cameras' axes."""
    return np.einsum("bji,bj->bi", poses[:, :3, :3], -poses[:, :3, 3])


def are_rotations(poses):
    rotations = poses[:, :3, :3]
    eye = np.broadcast_to(np.eye(3), rotations.shape)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), eye, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)


def test_upright_cameras_look_at_the_origin():
    centers = np.random.default_rng(0).normal(size=(20, 3)) * 3
    poses = look_at_origin(centers, UP)
    are_rotations(poses)
    origin = in_camera(poses)
    np.testing.assert_allclose(origin[:, :2], 0, atol=1e-12)
    np.testing.assert_allclose(origin[:, 2], np.linalg.norm(centers, axis=1))
    np.testing.assert_allclose(poses[:, :3, 0] @ UP, 0, atol=1e-12)  # the horizon is level
    assert (poses[:, :3, 1] @ UP < 0).all()  # and down is down


def test_orbit_is_a_circle_that_does_not_repeat_its_first_frame():
    start = np.array([2.0, 1.0, -0.5])
    poses = spiral(UP, start, 3.0, (0.4, 0.4), 1.0, 8)
    are_rotations(poses)
    centers = poses[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 3)
    np.testing.assert_allclose(centers @ UP, 3 * np.sin(0.4))
    flat = centers - np.outer(centers @ UP, UP)
    np.testing.assert_allclose(np.cross(flat[0], start - UP * (start @ UP)), 0, atol=1e-12)
    following = np.roll(flat, -1, axis=0)
    cosines = (flat * following).sum(axis=1) / (3 * np.cos(0.4)) ** 2
    np.testing.assert_allclose(cosines, np.cos(np.pi / 4))  # the last is as far from the first as all others
    assert (np.cross(flat, following) @ UP > 0).all()  # counter-clockwise seen from above


def test_spiral_rises_evenly_and_shuns_the_pole():
    poses = spiral(UP, UP, 2.0, (-0.5, np.pi / 2), -2.0, 101)
    are_rotations(poses)
    elevation = np.arcsin(poses[:, :3, 3] @ UP / 2)
    assert elevation[0] == pytest.approx(-0.5) and elevation[-1] == pytest.approx(np.radians(85))
    np.testing.assert_allclose(np.diff(elevation)[:80], (np.pi / 2 + 0.5) / 100)


def test_the_upright_of_a_scene():
    directions = np.random.default_rng(3).normal(size=(12, 3))
    directions -= np.outer(directions @ UP, UP)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    centers = 3 * (np.cos(0.3) * directions + np.sin(0.3) * UP)
    poses = look_at_origin(np.concatenate((centers, -centers + 6 * np.sin(0.3) * UP)), UP)
    around = surroundings(poses)
    np.testing.assert_allclose(around.up, UP, atol=1e-9)
    assert around.distance == pytest.approx(3)
    np.testing.assert_allclose(around.elevations, 0.3)


def test_the_upright_does_not_lean_towards_the_side_with_more_cameras():
    rng = np.random.default_rng(5)
    around = rng.uniform(0, 2 * np.pi, 30)
    around[:24] = 0.3 * around[:24]  # 24 of 30 from one side
    elevations = rng.uniform(0.2, 1.2, 30)
    centers = 3 * np.column_stack(
        (np.cos(around) * np.cos(elevations), np.sin(around) * np.cos(elevations), np.sin(elevations))
    )
    poses = look_at_origin(centers, np.array([0, 0, 1.0]))
    mean = -poses[:, :3, 1].mean(axis=0)
    assert mean[2] / np.linalg.norm(mean) < np.cos(np.radians(20))
    np.testing.assert_allclose(surroundings(poses).up, [0, 0, 1], atol=1e-9)
    rolled = poses.copy()
    rolls = Rotation.from_rotvec(rng.normal(0, 0.05, (30, 1)) * [0, 0, 1])
    rolled[:, :3, :3] = poses[:, :3, :3] @ rolls.as_matrix()
    assert surroundings(rolled).up[2] > np.cos(np.radians(4))


def test_the_upright_of_cameras_in_one_direction_is_the_mean_of_their_up_axes():
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.random.default_rng(2).normal(0, 0.05, (5, 3))).as_matrix()
    poses[:, 2, 3] = -3
    mean = -poses[:, :3, 1].mean(axis=0)
    np.testing.assert_allclose(surroundings(poses).up, mean / np.linalg.norm(mean))


def test_cameras_without_a_common_up_have_no_upright():
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(
        np.radians([[0, 0, 0], [0, 0, 90], [0, 0, 180], [0, 0, 270]])
    ).as_matrix()
    poses[:, 2, 3] = -3
    with pytest.raises(InputError, match="no upright: choose --path views"):
        surroundings(poses)


@pytest.mark.parametrize("seed", range(4))
def test_a_path_through_views_passes_them_and_keeps_the_object_in_the_image(seed):
    views = keys(seed)
    poses = between_poses(views, 4001, closed=False)
    are_rotations(poses)
    for view in views:
        assert np.abs(poses - view).max(axis=(1, 2)).min() < 0.02  # some frame is within a step of it
    np.testing.assert_allclose(poses[[0, -1]], views[[0, -1]], atol=1e-9)
    path_points, view_points = in_camera(poses), in_camera(views)
    assert (path_points >= view_points.min(axis=0) - 1e-9).all() and (
        path_points <= view_points.max(axis=0) + 1e-9
    ).all()


def test_way_between_two_views_is_a_geodesic_at_even_speed():
    views = keys(9, count=2)
    poses = between_poses(views, 11, closed=False)
    turn = Rotation.from_matrix(views[0, :3, :3].T @ views[1, :3, :3]).as_rotvec()
    for share, pose in zip(np.linspace(0, 1, 11), poses, strict=True):
        expected = views[0, :3, :3] @ Rotation.from_rotvec(share * turn).as_matrix()
        np.testing.assert_allclose(pose[:3, :3], expected, atol=1e-9)


def test_the_speed_between_keys_is_even():
    turns = Rotation.from_rotvec(np.outer(np.radians([0, 10, 90]), [0, 0.6, 0.8])).as_matrix()
    views = np.tile(np.eye(4), (3, 1, 1))
    views[:, :3, :3], views[:, :3, 3] = turns, -3 * turns[:, :, 2]
    poses = between_poses(views, 91, closed=False)
    steps = [angle_between(a[:3, :3], b[:3, :3]) for a, b in zip(poses, poses[1:], strict=False)]
    np.testing.assert_allclose(steps, 1.0, atol=1e-3)


def test_closed_way_returns_without_repeating():
    views = keys(2, count=3)
    poses = between_poses(views, 300, closed=True)
    np.testing.assert_allclose(poses[0], views[0], atol=1e-9)
    gap = angle_between(poses[-1, :3, :3], poses[0, :3, :3])
    assert 0.1 < gap < 5
    twice = between_poses(views[[0, 0, 1]], 7, closed=False)
    assert np.isfinite(twice).all()
    with pytest.raises(InputError, match="through 1 view: expected at least 2"):
        between_poses(views[:1], 5, closed=True)
