"""Exported cameras, read back by the importers: a point of the world stays on its pixel."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from idr.errors import InputError
from idr.export.cameras import files_of, transforms, write_cameras
from idr.geometry.camera_set import CameraSet
from idr.geometry.cameras import project_points
from idr.importers.recognize import read_source

HEIGHT, WIDTH = 24, 32
NAMES = ("001.png", "2.png", "010.png")
ALL = ["transforms", "colmap", "npz"]

# Float64 text and matrices: what is left is rounding, of coordinates of some hundreds by focal lengths of 40.
PIXELS = 1e-6


def camera_set(skew: float = 0.0, one_lens: bool = False) -> CameraSet:
    """Three cameras at some 400 from an object at (30, -50, 600), each with a lens of its own."""
    rng = np.random.default_rng(4)
    scale_mat = np.eye(4)
    scale_mat[:3, :3] = 120.0 * Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix()
    scale_mat[:3, 3] = 30, -50, 600
    intrinsics, poses = [], []
    for i in range(3):
        lens = 0 if one_lens else i
        intrinsics.append([[40.0 + lens, skew, 15.2], [0, 42.0 - lens, 11.7 + lens], [0, 0, 1]])
        away = rng.normal(size=3)
        away /= np.linalg.norm(away)
        right = np.cross(-away, rng.normal(size=3))
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.column_stack((right, np.cross(-away, right), -away))
        pose[:3, 3] = scale_mat[:3, 3] + 400 * away
        poses.append(pose)
    return CameraSet(
        NAMES, np.array(intrinsics), np.array(poses), (HEIGHT, WIDTH), scale_mat, (False, True, False)
    )


def pixels(cameras: CameraSet, points: np.ndarray) -> np.ndarray:
    """(B, N, 2) by the definition: into the camera's axes, divided by depth, through K."""
    found = []
    for k, pose in zip(cameras.intrinsics, cameras.poses, strict=True):
        x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        assert (z > 0).all()
        found.append(
            np.column_stack((k[0, 0] * x / z + k[0, 1] * y / z + k[0, 2], k[1, 1] * y / z + k[1, 2]))
        )
    return np.array(found)


@pytest.fixture
def folder(tmp_path):
    """A folder with the images that importers look for."""
    for name in NAMES:
        (tmp_path / "image").mkdir(exist_ok=True)
        iio.imwrite(tmp_path / "image" / name, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


def points_of(cameras: CameraSet) -> np.ndarray:
    unit = np.random.default_rng(1).uniform(-0.6, 0.6, (20, 3))
    return unit @ cameras.scale_mat[:3, :3].T + cameras.scale_mat[:3, 3]


@pytest.mark.parametrize("one_lens", [False, True])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("kind", ["transforms", "colmap", "idr"])
def test_importers_put_points_on_the_same_pixels(folder, kind, unit, one_lens):
    if kind == "colmap":
        pytest.importorskip("pycolmap", reason="extra idr-surface[colmap] is not installed")
    world = camera_set(one_lens=one_lens)
    cameras = world.in_unit_sphere() if unit else world
    write_cameras(cameras, folder, ["npz" if kind == "idr" else kind], "image")
    source = read_source(folder, kind, None, None)
    assert [view.image.name for view in source.views] == list(NAMES)
    points = points_of(cameras)
    expected_pixels = pixels(cameras, points)
    for view, expected in zip(source.views, expected_pixels, strict=True):
        assert view.lens is None
        got, depth = project_points(points, view.intrinsics @ view.world_to_camera)
        assert (depth > 0).all()
        np.testing.assert_allclose(got, expected, atol=PIXELS)
    assert np.ptp(expected_pixels) > 5, "pixels that differ, or the test would show nothing"
    if kind == "idr":
        assert source.scale_mat is not None
        np.testing.assert_allclose(source.scale_mat, cameras.scale_mat, atol=1e-9)


def test_unit_sphere_coordinates_keep_the_projection():
    cameras = camera_set()
    unit = cameras.in_unit_sphere()
    inverse = np.linalg.inv(cameras.scale_mat)
    points = points_of(cameras)
    np.testing.assert_allclose(
        pixels(unit, points @ inverse[:3, :3].T + inverse[:3, 3]), pixels(cameras, points), atol=PIXELS
    )
    rotations = unit.poses[:, :3, :3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)), atol=1e-12
    )


def test_skew_stays_in_the_npz_and_is_refused_elsewhere(folder):
    cameras = camera_set(skew=0.5)
    for kind in ("transforms", "colmap"):
        with pytest.raises(
            InputError, match=r"001.png: .* skew 0.5, worth up to 0\.\d+ pixels; .*--formats npz"
        ):
            write_cameras(cameras, folder, [kind], "image")
    assert not any((folder / name).exists() for name in files_of(ALL))
    write_cameras(cameras, folder, ["npz"], "image")
    view = read_source(folder, "idr", None, None).views[1]
    assert view.intrinsics[0, 1] == pytest.approx(0.5, abs=1e-9)
    write_cameras(camera_set(skew=1e-4), folder, ALL, "image")  # a ten-thousandth of a pixel is rounding


def test_transforms_list_intrinsics_splits_and_masks():
    content = transforms(camera_set(), "image", ["mask/a.png", "mask/b.png", "mask/c.png"])
    assert "fl_x" not in content and [f["fl_x"] for f in content["frames"]] == [40.0, 41.0, 42.0]
    assert content["train_filenames"] == ["image/001.png", "image/010.png"]
    assert content["test_filenames"] == ["image/2.png"]
    assert content["frames"][1]["mask_path"] == "mask/b.png"
    shared = transforms(camera_set(one_lens=True), "image")
    assert (shared["fl_x"], shared["cx"], shared["w"], shared["h"]) == (40.0, 15.7, WIDTH, HEIGHT)
    assert "fl_x" not in shared["frames"][0] and "mask_path" not in shared["frames"][0]
    json.dumps(content)


def test_opengl_cameras_look_along_minus_z():
    cameras = camera_set()
    for frame, pose in zip(transforms(cameras, "image")["frames"], cameras.poses, strict=True):
        matrix = np.array(frame["transform_matrix"])
        towards = cameras.scale_mat[:3, 3] - pose[:3, 3]
        np.testing.assert_allclose(-matrix[:3, 2], towards / np.linalg.norm(towards), atol=1e-9)
        np.testing.assert_allclose(matrix[:3, 1], -pose[:3, 1])
