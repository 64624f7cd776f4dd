"""Camera alignment and errors: against scipy, on degenerate sets, at small angles, on real noisy cameras."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from idr.errors import InputError
from idr.evaluation.camera_error import CameraErrors, camera_errors, format_camera_errors
from idr.geometry.alignment import align_cameras
from idr.geometry.cameras import decompose_projection

SCAN65 = Path(__file__).resolve().parents[3] / "shared" / "scenes" / "DTU" / "scan65"


def poses_of(rotations, centers):
    poses = np.tile(np.eye(4), (len(centers), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations, centers
    return poses


def random_poses(rng, count):
    return poses_of(
        Rotation.random(count, random_state=rng.integers(1 << 31)).as_matrix(), rng.normal(size=(count, 3))
    )


def moved(poses, scale, rotation, translation):
    return poses_of(rotation @ poses[:, :3, :3], scale * poses[:, :3, 3] @ rotation.T + translation)


def disturbed(rng, poses, degrees, distance):
    turns = Rotation.from_rotvec(np.radians(degrees) * rng.normal(size=(len(poses), 3))).as_matrix()
    return poses_of(turns @ poses[:, :3, :3], poses[:, :3, 3] + distance * rng.normal(size=(len(poses), 3)))


def sum_of_distances(parameters, alignment, pred, truth):
    """The objective of the published evaluation, from c and t."""
    fitted = parameters[0] * pred[:, :3, 3] @ alignment.rotation.T + parameters[1:]
    return np.linalg.norm(truth[:, :3, 3] - fitted, axis=1).sum()


@pytest.mark.parametrize("scale", [240.0, -3.0, 1e-4])
@pytest.mark.parametrize("count", [2, 3, 20])
def test_exact_cameras_are_recovered(count, scale):
    """Zero residuals: the weights of the fit must stay finite."""
    rng = np.random.default_rng(count)
    pred = random_poses(rng, count)
    rotation, translation = Rotation.random(random_state=5).as_matrix(), np.array([-37.0, 82.0, 640.0])
    truth = moved(pred, scale, rotation, translation)
    alignment = align_cameras(pred, truth)
    assert alignment.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(alignment.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(alignment.translation, translation, rtol=1e-9)
    np.testing.assert_allclose(
        alignment.matrix @ np.append(pred[0, :3, 3], 1.0), np.append(truth[0, :3, 3], 1.0), rtol=1e-9
    )
    errors = camera_errors(pred, truth, alignment)
    assert errors.rotation_degrees.max() < 1e-10
    assert errors.translation.max() < 1e-9 * max(1.0, abs(scale))


@pytest.mark.parametrize("seed", range(12))
def test_fit_equals_scipy(seed):
    """Some with outliers, some without; 1e-6 of the centers' extent."""
    rng = np.random.default_rng(seed)
    pred = random_poses(rng, 4 + 3 * seed)
    truth = disturbed(
        rng, moved(pred, 2.0, Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3)), 2, 0.1
    )
    truth[: seed % 3, :3, 3] += 5.0
    alignment = align_cameras(pred, truth)
    ours = np.append(alignment.scale, alignment.translation)

    def objective(parameters):
        return sum_of_distances(parameters, alignment, pred, truth)

    options = {"xatol": 1e-12, "fatol": 1e-14, "maxiter": 40_000, "maxfev": 40_000}
    fits = [
        minimize(objective, start, method="Nelder-Mead", options=options)
        for start in (np.ones(4), ours + 1e-3)
    ]
    best = min(fits, key=lambda fit: fit.fun)
    assert objective(ours) <= best.fun * (1 + 1e-9)
    np.testing.assert_allclose(ours, best.x, atol=1e-6)


def test_rotation_is_the_procrustes_solution():
    """No small turn improves the sum of squared differences of rotations, and the determinant is +1."""
    rng = np.random.default_rng(3)
    pred = random_poses(rng, 12)
    truth = disturbed(rng, pred, 60, 0.1)
    rotation = align_cameras(pred, truth).rotation
    assert np.linalg.det(rotation) == pytest.approx(1.0)

    def misfit(candidate):
        return ((truth[:, :3, :3] - candidate @ pred[:, :3, :3]) ** 2).sum()

    for axis in np.vstack([np.eye(3), -np.eye(3)]):
        assert misfit(Rotation.from_rotvec(1e-3 * axis).as_matrix() @ rotation) > misfit(rotation)


def test_the_alignment_never_mirrors():
    """Rotations that a reflection would fit better still get a proper rotation."""
    pred = poses_of(np.tile(np.eye(3), (4, 1, 1)), np.arange(12.0).reshape(4, 3))
    truth = pred.copy()
    truth[:, :3, :3] = -np.eye(3)
    alignment = align_cameras(pred, truth)
    assert np.linalg.det(alignment.rotation) == pytest.approx(1.0)
    assert np.isfinite(alignment.matrix).all()


def test_outliers_do_not_move_the_other_cameras():
    """Where least squares is pulled away: 20 exact cameras, 4 far off."""
    rng = np.random.default_rng(1)
    pred = random_poses(rng, 24)
    truth = moved(pred, 2.0, np.eye(3), np.array([1.0, 2.0, 3.0]))
    truth[:4, :3, 3] += rng.normal(size=(4, 3)) * 20.0
    alignment = align_cameras(pred, truth)
    assert camera_errors(pred, truth, alignment).translation[4:].max() < 1e-6

    centered = pred[:, :3, 3] - pred[:, :3, 3].mean(axis=0)
    scale = (centered * truth[:, :3, 3]).sum() / (centered**2).sum()
    squares = dataclasses.replace(
        alignment, scale=scale, translation=truth[:, :3, 3].mean(axis=0) - scale * pred[:, :3, 3].mean(axis=0)
    )
    assert camera_errors(pred, truth, squares).translation[4:].max() > 0.5


class TestDegenerateSets:
    """Legal, finite, and with the documented answer."""

    def test_single_camera(self):
        rng = np.random.default_rng(0)
        pred, truth = random_poses(rng, 1), random_poses(rng, 1)
        alignment = align_cameras(pred, truth)
        errors = camera_errors(pred, truth, alignment)
        assert alignment.scale == 1.0
        assert errors.rotation_degrees[0] < 1e-10 and errors.translation[0] < 1e-12

    def test_two_cameras(self):
        """The connecting lines get the lengths' best ratio and a common middle."""
        pred = poses_of(np.tile(np.eye(3), (2, 1, 1)), np.array([[0.0, 0, 0], [1.0, 0, 0]]))
        truth = poses_of(np.tile(np.eye(3), (2, 1, 1)), np.array([[5.0, 1, 0], [8.0, 5, 0]]))
        alignment = align_cameras(pred, truth)
        assert alignment.scale == pytest.approx(3.0)
        np.testing.assert_allclose(alignment.translation, [5.0, 3.0, 0.0])
        np.testing.assert_allclose(camera_errors(pred, truth, alignment).translation, [2.0, 2.0])

    @pytest.mark.parametrize("offset", [0.0, 1e3])
    def test_predicted_centers_coincide(self, offset):
        rng = np.random.default_rng(0)
        pred, truth = random_poses(rng, 6), random_poses(rng, 6)
        pred[:, :3, 3] = offset
        alignment = align_cameras(pred, truth)
        assert alignment.scale == 1.0
        assert np.isfinite(alignment.matrix).all()
        assert camera_errors(pred, truth, alignment).translation.mean() < 3.0

    def test_true_centers_coincide(self):
        rng = np.random.default_rng(0)
        pred, truth = random_poses(rng, 6), random_poses(rng, 6)
        truth[:, :3, 3] = 7.0
        alignment = align_cameras(pred, truth)
        assert alignment.scale == 0.0
        assert camera_errors(pred, truth, alignment).translation.max() < 1e-12

    def test_all_centers_coincide(self):
        pred = poses_of(np.tile(np.eye(3), (3, 1, 1)), np.full((3, 3), 2.0))
        truth = poses_of(np.tile(np.eye(3), (3, 1, 1)), np.full((3, 3), 5.0))
        alignment = align_cameras(pred, truth)
        assert alignment.scale == 1.0
        np.testing.assert_allclose(alignment.translation, 3.0)

    def test_one_source_far_from_equal_others(self):
        """One camera decides the scale alone."""
        pred = poses_of(np.tile(np.eye(3), (5, 1, 1)), np.array([[0.0, 0, 0]] * 4 + [[1.0, 0, 0]]))
        truth = poses_of(np.tile(np.eye(3), (5, 1, 1)), np.array([[1.0, 1, 1]] * 4 + [[4.0, 1, 1]]))
        assert align_cameras(pred, truth).scale == pytest.approx(3.0)


@pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-6, 1e-3, 1.0, 90.0, 179.999, 180.0])
def test_angles_are_accurate_from_0_to_180_degrees(degrees):
    """arccos((trace - 1)/2) would return 0 or 1.2e-6 for the small ones."""
    axis = np.array([1.0, -2.0, 2.0]) / 3.0
    pred = poses_of(np.tile(np.eye(3), (2, 1, 1)), np.zeros((2, 3)))
    truth = poses_of(
        Rotation.from_rotvec(np.radians(degrees) * axis[None]).as_matrix().repeat(2, 0), np.zeros((2, 3))
    )
    identity = dataclasses.replace(align_cameras(pred, pred), rotation=np.eye(3))
    np.testing.assert_allclose(
        camera_errors(pred, truth, identity).rotation_degrees, degrees, rtol=1e-6, atol=1e-13
    )


def test_angle_equals_arccos_where_arccos_is_accurate():
    rng = np.random.default_rng(2)
    pred = random_poses(rng, 30)
    truth = disturbed(rng, pred, 30, 0.0)
    alignment = align_cameras(pred, truth)
    relative = truth[:, :3, :3] @ (alignment.rotation @ pred[:, :3, :3]).transpose(0, 2, 1)
    cosine = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    np.testing.assert_allclose(
        camera_errors(pred, truth, alignment).rotation_degrees, np.degrees(np.arccos(cosine)), rtol=1e-6
    )


def test_result_line_is_the_published_one():
    errors = CameraErrors(np.array([0.20, 0.27, 0.52]), np.array([2.0, 2.45, 5.12]))
    assert format_camera_errors(errors) == (
        "CAMERAS EVALUATION: R error mean = 0.33 ; t error mean = 3.19 ; "
        "R error median = 0.27 ; t error median = 2.45"
    )


@pytest.mark.parametrize(
    ("pred", "truth", "message"),
    [
        (np.zeros((3, 4, 4)), np.zeros((2, 4, 4)), "3 predicted but 2 true poses"),
        (np.zeros((3, 7)), np.zeros((3, 4, 4)), r"predicted poses have shape \(3, 7\); expected \(B, 4, 4\)"),
        (np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), "at least one camera"),
        (
            np.zeros((2, 4, 4)),
            np.full((2, 4, 4), np.nan),
            r"true poses \[0, 1\] hold values that are not finite",
        ),
    ],
)
def test_invalid_poses_are_refused(pred, truth, message):
    with pytest.raises(InputError, match=message):
        align_cameras(pred, truth)


def test_noisy_cameras_of_scan65():
    """The figures that the issue names for the start of training."""
    if not SCAN65.is_dir():
        pytest.skip("the real scene DTU/scan65 is not on this machine")
    with np.load(SCAN65 / "cameras.npz") as exact, np.load(SCAN65 / "cameras_linear_init.npz") as noisy:
        truth = np.stack([decompose_projection(exact[f"world_mat_{i}"][:3])[1] for i in range(49)])
        scaled = [noisy[f"world_mat_{i}"] @ noisy[f"scale_mat_{i}"] for i in range(49)]
    pred = np.stack([decompose_projection(matrix[:3])[1] for matrix in scaled])
    line = format_camera_errors(camera_errors(pred, truth, align_cameras(pred, truth)))
    assert line.startswith("CAMERAS EVALUATION: R error mean = 1.39 ; t error mean = 5.67 ; ")
