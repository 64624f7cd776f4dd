"""Reads `transforms.json` of nerfstudio, instant-ngp and Blender's NeRF scripts.

Cameras look along -z with y up (OpenGL), matrices map camera to world, and the first pixel's center is at
(0.5, 0.5). Intrinsics are given for the whole file, per frame, or both; a frame's own take precedence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idr.errors import InputError, MissingInputError
from idr.importers.photographs.lenses import fisheye_distorted, opencv_distorted
from idr.importers.points import read_points
from idr.importers.source import (
    Array,
    Lens,
    Source,
    SourceView,
    centered_intrinsics,
    check_rotation,
    find_image,
    is_number,
    view_key,
)

NAMES = ("transforms.json", "transforms_train.json")
POLYNOMIAL_MODELS = ("OPENCV", "SIMPLE_RADIAL", "RADIAL", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
FISHEYE_MODELS = ("OPENCV_FISHEYE",)
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])
PIXEL_CENTER = 0.5


def find_file(source: Path) -> Path | None:
    """Returns the JSON file of a folder (or the file itself), or None."""
    if source.is_file():
        return source if source.suffix.lower() == ".json" else None
    return next((source / name for name in NAMES if (source / name).is_file()), None)


def read(source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads a `transforms.json`, or the one in a folder; see `source.Reader`."""
    path = find_file(source)
    if path is None:
        raise MissingInputError(f"no {' or '.join(NAMES)} in {source}")
    content = load(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} has no list `frames`; expected one entry per image (nerfstudio, Blender)")
    views = [_view(path, content, frame, k, images, pixel_center) for k, frame in enumerate(frames)]
    views.sort(key=lambda view: view_key(view.name))
    points = None
    if isinstance(content.get("ply_file_path"), str):
        points = read_points(path.parent / content["ply_file_path"])
    return Source("transforms", tuple(views), points)


def load(path: Path) -> dict[str, Any]:
    """Reads a JSON file that contains an object; raises `InputError` for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); export it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} contains a {type(content).__name__}; expected an object with `frames`")
    return content


def _view(
    path: Path, content: Mapping[str, Any], frame: Any, k: int, images: Path | None, pixel_center: float
) -> SourceView:
    label = f"{path}: frame {k}"
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise InputError(f"{label} has no `file_path`; expected the image's file name")
    name = frame["file_path"]
    label += f" ({name})"
    image = find_image((images / Path(name).name) if images else path.parent / name, label)
    camera = {**content, **frame}
    size = size_of(camera, label)
    intrinsics = intrinsics_of(camera, size or _image_size(image), label)
    intrinsics = centered_intrinsics(intrinsics, pixel_center, label)
    mask = frame.get("mask_path")
    if mask is not None:
        mask = find_image(path.parent / str(mask), label)
    pose, lens = world_to_camera(frame, label), _lens(camera, label)
    return SourceView(name, image, intrinsics, pose, lens, size, mask)


def size_of(camera: Mapping[str, Any], label: str) -> tuple[int, int] | None:
    """Returns the stated image size (H, W), or None; raises `InputError` unless it is whole pixels."""
    stated: list[Any] = [camera.get("h"), camera.get("w")]
    if stated == [None, None]:
        return None
    if not all(is_number(value) and value > 0 and value == int(value) for value in stated):
        raise InputError(
            f"{label}: w and h are {stated[1]} and {stated[0]}; expected whole pixels, both or neither"
        )
    return int(stated[0]), int(stated[1])


def _image_size(image: Path) -> tuple[int, int]:
    try:
        with Image.open(image) as opened:
            return opened.height, opened.width
    except Exception as error:  # decoders raise arbitrary exceptions on broken files
        raise InputError(f"{image} cannot be read as an image ({error}); replace it") from error


def intrinsics_of(camera: Mapping[str, Any], size: tuple[int, int], label: str) -> Array:
    """Returns (3, 3) K in the file's own pixel coordinates, for an image of size (H, W).

    Raises:
        InputError: No focal length, or a value that is not a number.
    """
    height, width = size
    for key in ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y"):
        if camera.get(key) is not None and not is_number(camera[key]):
            raise InputError(f"{label}: {key} is {camera[key]!r}; expected a number")
    fx = _focal(camera, "fl_x", "camera_angle_x", width, label)
    fy = _focal(camera, "fl_y", "camera_angle_y", height, label)
    if fx is None and fy is None:
        raise InputError(f"{label} has no focal length; expected fl_x (pixels) or camera_angle_x (radians)")
    cx, cy = camera.get("cx"), camera.get("cy")
    k = np.eye(3)
    k[0, 0], k[1, 1] = fy if fx is None else fx, fx if fy is None else fy
    k[:2, 2] = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    return k


def _focal(camera: Mapping[str, Any], focal: str, angle: str, side: int, label: str) -> float | None:
    """Focal length in pixels: as stated, else from the field of view along `side`."""
    if camera.get(focal) is not None:
        return float(camera[focal])
    if camera.get(angle) is None:
        return None
    if not 0 < camera[angle] < math.pi:
        raise InputError(f"{label}: {angle} is {camera[angle]}; expected radians in (0, pi)")
    return side / 2 / math.tan(camera[angle] / 2)


def world_to_camera(frame: Mapping[str, Any], label: str) -> Array:
    """Returns (3, 4) [R | t] with OpenCV axes from ``transform_matrix``, camera to world with OpenGL axes.

    Raises:
        InputError: No such matrix, or not a rotation and translation.
    """
    try:
        matrix = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{label} has no `transform_matrix` of numbers; expected 4 x 4") from error
    if matrix.shape not in ((3, 4), (4, 4)):
        raise InputError(
            f"{label}: transform_matrix has shape {matrix.shape}; expected 4 x 4, camera to world"
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{label}: transform_matrix has non-finite values; remove this frame")
    check_rotation(matrix[:3, :3], f"{label}: the rotation of transform_matrix")
    rotation = (matrix[:3, :3] @ OPENGL_TO_OPENCV).T
    return np.column_stack([rotation, -rotation @ matrix[:3, 3]])


def _lens(camera: Mapping[str, Any], label: str) -> Lens | None:
    """Distortion of the named camera model; instant-ngp writes `is_fisheye` instead."""
    unnamed = "OPENCV_FISHEYE" if camera.get("is_fisheye") else "OPENCV"
    model = str(camera.get("camera_model", unnamed)).upper()
    values = {key: camera.get(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2")}
    for key, value in values.items():
        if not is_number(value):
            raise InputError(f"{label}: {key} is {value!r}; expected a number")
    k1, k2, k3, k4, p1, p2 = values.values()
    if model in FISHEYE_MODELS:
        if p1 or p2:
            raise InputError(f"{label}: a fisheye lens with p1, p2; expected only k1 to k4")
        return partial(fisheye_distorted, (k1, k2, k3, k4))
    if model not in POLYNOMIAL_MODELS:
        raise InputError(
            f"{label}: camera_model {model}; expected {', '.join(POLYNOMIAL_MODELS + FISHEYE_MODELS)}: "
            "undistort the images with the program that calibrated them"
        )
    if k4:
        raise InputError(f"{label}: k4 = {k4:g} for a non-fisheye lens; expected k1, k2, k3, p1, p2")
    return partial(opencv_distorted, (k1, k2, p1, p2, k3)) if any((k1, k2, k3, p1, p2)) else None
