"""Camera paths in JSON: frames as in `transforms.json`, or the camera paths that nerfstudio's viewer saves.

F frames. Both look along -z with y up (OpenGL) and go from camera to world.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idr.errors import InputError, MissingInputError
from idr.importers import transforms
from idr.importers.source import Array, check_intrinsics, is_number, shifted


@dataclass(frozen=True)
class CameraPath:
    """A path in world coordinates.

    Attributes:
        poses: (F, 4, 4) camera-to-world, OpenCV axes.
        intrinsics: (F, 3, 3) K for images of `img_res`, the first pixel's center at 0; None where not given.
        img_res: Height and width; None where not given.
    """

    poses: Array
    intrinsics: Array | None
    img_res: tuple[int, int] | None


def read_path(path: Path) -> CameraPath:
    """Reads a camera path.

    Args:
        path: A JSON file with ``frames``, each with a ``transform_matrix`` (intrinsics as in a
            `transforms.json`, or none; no images are looked for), or with ``camera_path``, each with a
            ``camera_to_world`` of 16 numbers and perhaps ``fov``, the vertical angle in degrees.

    Returns:
        The path.

    Raises:
        MissingInputError: No such file.
        InputError: Neither format, or a camera that is none.
    """
    if not path.is_file():
        raise MissingInputError(
            f"no camera path {path}: expected orbit, spiral, views or the name of a JSON file"
        )
    content = transforms.load(path)
    if isinstance(content.get("camera_path"), list) and content["camera_path"]:
        return _nerfstudio(path, content)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} holds neither a list `frames` nor `camera_path`; expected one of them")
    size: tuple[int, int] | None = None
    poses, intrinsics = [], []
    for k, frame in enumerate(frames):
        whose = f"{path}: frame {k}"
        camera = {**content, **_an_object(frame, whose)}
        poses.append(_pose(frame, whose))
        own = transforms.size_of(camera, whose)
        size = _same_size(size, own, k, whose)
        if own is not None and any(
            key in camera for key in ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
        ):
            intrinsics.append(shifted(transforms.intrinsics_of(camera, own, whose), transforms.PIXEL_CENTER))
            check_intrinsics(intrinsics[-1], whose)
    return CameraPath(np.stack(poses), _all_or_none(intrinsics, len(poses), path), size)


def _nerfstudio(path: Path, content: Mapping[str, Any]) -> CameraPath:
    """The viewer's own format; its matrices are flat lists of rows."""
    written = {"h": content.get("render_height"), "w": content.get("render_width")}
    size = transforms.size_of(written, str(path))
    poses, intrinsics = [], []
    for k, entry in enumerate(content["camera_path"]):
        whose = f"{path}: camera {k}"
        numbers = _an_object(entry, whose).get("camera_to_world")
        if not isinstance(numbers, list) or len(numbers) != 16:
            raise InputError(f"{whose} has no `camera_to_world` of 16 numbers")
        rows = [numbers[row * 4 : row * 4 + 4] for row in range(4)]
        poses.append(_pose({"transform_matrix": rows}, whose))
        fov = entry.get("fov")
        if fov is None or size is None:
            continue
        if not is_number(fov) or not 0 < fov < 180:
            raise InputError(f"{whose}: fov is {fov!r}; expected degrees between 0 and 180")
        focal = size[0] / 2 / math.tan(math.radians(fov) / 2)
        k_matrix = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
        intrinsics.append(shifted(k_matrix, transforms.PIXEL_CENTER))
    return CameraPath(np.stack(poses), _all_or_none(intrinsics, len(poses), path), size)


def _an_object(entry: Any, whose: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{whose} is a {type(entry).__name__}; expected an object with a matrix")
    return entry


def _pose(frame: Mapping[str, Any], whose: str) -> Array:
    """(4, 4) camera-to-world with OpenCV's axes."""
    world_to_camera = np.eye(4)
    world_to_camera[:3] = transforms.world_to_camera(frame, whose)
    return np.linalg.inv(world_to_camera).astype(np.float64)


def _same_size(
    before: tuple[int, int] | None, own: tuple[int, int] | None, k: int, whose: str
) -> tuple[int, int] | None:
    if k and own != before:
        raise InputError(f"{whose} has another image size than the frames before; expected one for all")
    return own


def _all_or_none(intrinsics: list[Array], count: int, path: Path) -> Array | None:
    if intrinsics and len(intrinsics) != count:
        raise InputError(
            f"{path}: {len(intrinsics)} of {count} frames have intrinsics; expected all of them or none"
        )
    return np.stack(intrinsics) if intrinsics else None
