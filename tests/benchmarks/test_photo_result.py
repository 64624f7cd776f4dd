"""`benchmarks/photo_result.py`: rotation of cameras, silhouettes, and invalid input."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from idr.evaluation.camera_error import camera_errors
from idr.geometry.alignment import align_cameras

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def photo_result(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import photo_result

    return photo_result


def test_rotated_photographs_do_not_affect_camera_errors(photo_result) -> None:
    generator = np.random.default_rng(0)
    truth = np.tile(np.eye(4), (9, 1, 1))
    truth[:, :3, :3] = Rotation.random(9, rng=generator).as_matrix()
    truth[:, :3, 3] = generator.standard_normal((9, 3))
    world, scale = Rotation.random(rng=generator).as_matrix(), 0.3
    estimate = truth.copy()
    for k, quarters in enumerate((0, 1, 2, 3, 0, 1, 0, 2, 0)):
        roll = Rotation.from_rotvec([0, 0, quarters * np.pi / 2]).as_matrix()
        estimate[k, :3, :3] = world @ truth[k, :3, :3] @ roll
        estimate[k, :3, 3] = scale * world @ truth[k, :3, 3] + [1.0, 2, 3]
    rotated = photo_result.rotated_like(estimate, truth)
    errors = camera_errors(estimate, rotated, align_cameras(estimate, rotated))
    assert errors.rotation_degrees.max() < 1e-6 and errors.translation.max() < 1e-9
    np.testing.assert_array_equal(rotated[:, :3, 2:], truth[:, :3, 2:])  # axes and centers are unchanged


def test_silhouette_of_a_ball(photo_result) -> None:
    pytest.importorskip("embreex", reason="rays are cast by embreex, which is not installed")
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    pose = np.eye(4)
    pose[2, 3] = -2.0
    drawn = photo_result.silhouette(ball, np.array([[100.0, 0, 40], [0, 100, 30], [0, 0, 1]]), pose, (60, 80))
    rows, columns = np.mgrid[:60, :80]
    radius = 100 * 0.5 / np.sqrt(2.0**2 - 0.5**2)  # of the cone tangent to the ball
    exact = np.hypot(columns - 40, rows - 30) < radius
    assert (drawn != exact).sum() <= 0.01 * exact.sum()  # the mesh lies within the ball


def test_a_folder_without_a_result_is_refused(tmp_path: Path, warm_python: Path) -> None:
    command = [str(warm_python), str(BENCHMARKS / "photo_result.py"), str(tmp_path), "--truth", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected the folders of photos.py and make_photo_scene.py" in done.stderr
