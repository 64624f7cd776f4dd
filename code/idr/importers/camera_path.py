"""Reads camera paths in JSON: frames as in `transforms.json`, or paths saved by nerfstudio's viewer.

F frames. Both formats have camera-to-world matrices with OpenGL axes (looking along -z, y up).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idr.errors import InputError, MissingInputError
from idr.files import is_number
from idr.importers import transforms
from idr.importers.source import Array, centered_intrinsics


@dataclass(frozen=True)
class CameraPath:
    """A path in world coordinates.

    Attributes:
        poses: (F, 4, 4) camera-to-world, OpenCV axes.
        intrinsics: (F, 3, 3) K for images of `img_res`, first pixel's center at 0; None if not stated.
        img_res: Height and width; None if not stated.
    """

    poses: Array
    intrinsics: Array | None
    img_res: tuple[int, int] | None


def read_path(path: Path) -> CameraPath:
    """Reads a camera path.

    The JSON file has ``frames``, each with a ``transform_matrix`` and optional intrinsics as in
    `transforms.json` (images are not needed); or ``camera_path``, each entry with a ``camera_to_world`` of
    16 numbers and optionally ``fov``, the vertical angle in degrees.

    Raises:
        MissingInputError: No such file.
        InputError: Neither format, or an invalid camera.
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
        raise InputError(f"{path} has neither a list `frames` nor `camera_path`; expected one of them")
    sizes: list[tuple[int, int] | None] = []
    poses, intrinsics = [], []
    for k, frame in enumerate(frames):
        label = f"{path}: frame {k}"
        camera = transforms.merged(content, _an_object(frame, label))
        poses.append(_pose(camera, label))
        own = transforms.size_of(camera, label)
        sizes.append(own)
        if own != sizes[0]:
            raise InputError(f"{label} has another image size than earlier frames; expected one for all")
        if own is not None and camera.keys() & {"fl_x", "fl_y", "camera_angle_x", "camera_angle_y"}:
            k_matrix = transforms.intrinsics_of(camera, own, label)
            intrinsics.append(centered_intrinsics(k_matrix, transforms.PIXEL_CENTER, label))
    return CameraPath(np.stack(poses), _all_or_none(intrinsics, len(poses), path), sizes[0])


def _nerfstudio(path: Path, content: Mapping[str, Any]) -> CameraPath:
    """The matrices are flat, row by row."""
    stated = {"h": content.get("render_height"), "w": content.get("render_width")}
    size = transforms.size_of(stated, str(path))
    poses, intrinsics = [], []
    for k, entry in enumerate(content["camera_path"]):
        label = f"{path}: camera {k}"
        numbers = _an_object(entry, label).get("camera_to_world")
        if not isinstance(numbers, list) or len(numbers) != 16:
            raise InputError(f"{label} has no `camera_to_world`; expected 16 numbers")
        rows = [numbers[start : start + 4] for start in (0, 4, 8, 12)]
        poses.append(_pose({"transform_matrix": rows}, label))
        fov = entry.get("fov")
        if fov is None or size is None:
            continue
        if not is_number(fov) or not 0 < fov < 180:
            raise InputError(f"{label}: fov is {fov!r}; expected degrees between 0 and 180")
        k_matrix = transforms.intrinsics_of({"camera_angle_y": math.radians(fov)}, size, label)
        intrinsics.append(centered_intrinsics(k_matrix, transforms.PIXEL_CENTER, label))
    return CameraPath(np.stack(poses), _all_or_none(intrinsics, len(poses), path), size)


def _an_object(entry: Any, label: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{label} has type {type(entry).__name__}; expected an object with a matrix")
    return entry


def _pose(frame: Mapping[str, Any], label: str) -> Array:
    """(4, 4) camera-to-world with OpenCV axes."""
    return np.linalg.inv(np.vstack([transforms.world_to_camera(frame, label), [0.0, 0.0, 0.0, 1.0]]))


def _all_or_none(intrinsics: list[Array], count: int, path: Path) -> Array | None:
    if intrinsics and len(intrinsics) != count:
        raise InputError(f"{path}: {len(intrinsics)} of {count} frames have intrinsics; expected all or none")
    return np.stack(intrinsics) if intrinsics else None
