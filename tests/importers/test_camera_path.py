"""Camera paths from JSON files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from idr.errors import InputError, MissingInputError
from idr.importers.camera_path import read_path

POSES = np.tile(np.eye(4), (3, 1, 1))
POSES[:, :3, :3] = Rotation.random(3, random_state=1).as_matrix()
POSES[:, :3, 3] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
OPENGL = (POSES @ np.diag([1.0, -1, -1, 1])).tolist()
LENS = {"fl_x": 50.0, "fl_y": 51.0, "cx": 20.5, "cy": 15.5, "w": 40, "h": 30}


def write(folder, content):
    path = folder / "path.json"
    path.write_text(json.dumps(content))
    return path


def test_frames_with_their_own_intrinsics(tmp_path):
    frames = [{"transform_matrix": m, "fl_x": 50.0 + k} for k, m in enumerate(OPENGL)]
    path = read_path(write(tmp_path, LENS | {"frames": frames}))
    np.testing.assert_allclose(path.poses, POSES, atol=1e-12)
    assert path.img_res == (30, 40)
    np.testing.assert_allclose(path.intrinsics[2], [[52, 0, 20], [0, 51, 15], [0, 0, 1]])


def test_frames_without_intrinsics(tmp_path):
    path = read_path(write(tmp_path, {"frames": [{"transform_matrix": m} for m in OPENGL]}))
    np.testing.assert_allclose(path.poses, POSES, atol=1e-12)
    assert path.intrinsics is None and path.img_res is None


def test_camera_path_of_the_nerfstudio_viewer(tmp_path):
    cameras = [{"camera_to_world": np.ravel(m).tolist(), "fov": 60} for m in OPENGL]
    path = read_path(write(tmp_path, {"camera_path": cameras, "render_height": 30, "render_width": 40}))
    np.testing.assert_allclose(path.poses, POSES, atol=1e-12)
    focal = 15 / np.tan(np.radians(30))  # half the height at half the vertical angle
    np.testing.assert_allclose(path.intrinsics[0], [[focal, 0, 19.5], [0, focal, 14.5], [0, 0, 1]])


SKEWED = np.eye(4)
SKEWED[0, 1] = 0.5


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "contains a list"),
        ({}, "neither a list `frames` nor `camera_path`"),
        ({"frames": [3]}, "frame 0 has type int; expected an object"),
        ({"frames": [{}]}, "frame 0 has no `transform_matrix`"),
        ({"frames": [{"transform_matrix": SKEWED.tolist()}]}, "not a rotation"),
        (
            {"frames": [{"transform_matrix": OPENGL[0], "w": 4, "h": 3}, {"transform_matrix": OPENGL[1]}]},
            "another image size",
        ),
        (
            {
                "w": 4,
                "h": 3,
                "frames": [{"transform_matrix": OPENGL[0], "fl_x": 3}, {"transform_matrix": OPENGL[1]}],
            },
            "1 of 2 frames have intrinsics",
        ),
        (
            {"camera_path": [{"camera_to_world": [1, 2]}]},
            "camera 0 has no `camera_to_world`; expected 16 numbers",
        ),
        (
            {
                "camera_path": [{"camera_to_world": np.ravel(OPENGL[0]).tolist(), "fov": 190}],
                "render_height": 3,
                "render_width": 4,
            },
            "fov is 190",
        ),
    ],
)
def test_invalid_paths_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_path(write(tmp_path, content))


def test_a_missing_file_lists_the_choices(tmp_path):
    with pytest.raises(MissingInputError, match="expected orbit, spiral, views or the name of a JSON file"):
        read_path(tmp_path / "orbits")
