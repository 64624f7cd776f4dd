"""Reads `transforms.json` of nerfstudio, instant-ngp, Blender's NeRF scripts, and NeuS2.

Cameras look along -z with y up (OpenGL), matrices map camera to world, and the first pixel's center is at
(0.5, 0.5). Intrinsics are given for the whole file, per frame, or both; a frame's own take precedence.
NeuS2's `from_na` means OpenCV axes, its `intrinsic_matrix` a first pixel's center at 0, as in NeuS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from idr.datasets.image_files import read_header
from idr.errors import InputError, MissingInputError
from idr.files import is_number, read_json
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
    missing_images,
    other_endings,
    required_image,
    unscaled,
    view_key,
)

NAMES = ("transforms.json", "transforms_train.json", "transform.json")
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
    views: list[SourceView] = []
    missing: list[str] = []
    scaled = 0
    for label, frame, name in frames_of(path, content, "file_path", "nerfstudio, Blender"):
        label += f" ({name})"
        image = find_image(name, path.parent, images, label)
        if image is None:
            missing.append(name)
            continue
        camera = merged(content, frame)
        views.append(_view(path, camera, image, label, pixel_center))
        scaled += unscaled(np.array(camera["transform_matrix"])[:3, :3])[1]
    notes = [*missing_images(missing, len(content["frames"]), str(path)), *other_endings(views)]
    if scaled:
        notes.append(f"{scaled} of {len(views)} cameras are scaled (Blender's matrix_world): scale removed")
    views.sort(key=lambda view: view_key(view.name))
    points = _points(path, content, notes)
    return Source("transforms", tuple(views), points, notes=tuple(notes))


def merged(content: Mapping[str, Any], frame: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a file, replaced by those of a frame that are not null."""
    return {**content, **{key: value for key, value in frame.items() if value is not None}}


def frames_of(
    path: Path, content: Mapping[str, Any], key: str, programs: str
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields each of a file's `frames`: its label for messages, the frame, the image's name in `key`.

    Raises:
        InputError: There are none, or one has no name; `programs`, which write such files, are for messages.
    """
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} has no list `frames`; expected one entry per image ({programs})")
    for k, frame in enumerate(frames):
        label = f"{path}: frame {k}"
        if not isinstance(frame, dict) or not isinstance(frame.get(key), str):
            raise InputError(f"{label} has no `{key}`; expected the image's file name")
        yield label, frame, frame[key]


def load(path: Path) -> dict[str, Any]:
    """Reads a JSON file that contains an object; raises `InputError` for anything else."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); export it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} contains a {type(content).__name__}; expected an object with `frames`")
    return content


def _points(path: Path, content: Mapping[str, Any], notes: list[str]) -> Array | None:
    """The sparse points that the file names; a note instead if they cannot be read, as they are optional."""
    named = content.get("ply_file_path")
    if not isinstance(named, str):
        return None
    try:
        return read_points(required_image(named, path.parent, str(path)))
    except (InputError, MissingInputError) as error:
        notes.append(f"sparse points left out, which are optional: {error}")
        return None


def _view(path: Path, camera: Mapping[str, Any], image: Path, label: str, pixel_center: float) -> SourceView:
    size = size_of(camera, label)
    matrix = camera.get("intrinsic_matrix")
    if matrix is None:
        intrinsics = intrinsics_of(camera, size or read_header(image).size, label)
    else:
        intrinsics, pixel_center = matrix_of(matrix, ((3, 3), (4, 4)), f"{label}: intrinsic_matrix"), 0.0
    intrinsics = centered_intrinsics(intrinsics[:3, :3], pixel_center, label)
    mask = camera.get("mask_path")
    if mask is not None:
        mask = required_image(str(mask), path.parent, label)
    pose, lens = world_to_camera(camera, label), _lens(camera, label)
    return SourceView(camera["file_path"], image, intrinsics, pose, lens, size, mask)


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
    """Returns (3, 4) [R | t] with OpenCV axes from ``transform_matrix``, camera to world.

    Its axes are OpenGL's, or OpenCV's if ``from_na`` is true; a common length of the axes is ignored.

    Raises:
        InputError: No such matrix, or not a rotation and translation.
    """
    if frame.get("transform_matrix") is None:
        raise InputError(f"{label} has no `transform_matrix`; expected 4 x 4 numbers, camera to world")
    matrix = matrix_of(frame["transform_matrix"], ((4, 4), (3, 4)), f"{label}: transform_matrix")
    axes, _ = unscaled(matrix[:3, :3])
    check_rotation(axes, f"{label}: the rotation of transform_matrix")
    rotation = (axes if frame.get("from_na") else axes @ OPENGL_TO_OPENCV).T
    return np.column_stack([rotation, -rotation @ matrix[:3, 3]])


def matrix_of(value: Any, shapes: tuple[tuple[int, int], ...], label: str) -> Array:
    """Returns a matrix of a JSON file; raises `InputError` unless it is finite and has one of the shapes."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{label} is not a matrix of numbers ({error}); export this camera again") from error
    if matrix.shape not in shapes:
        expected = " or ".join(f"{rows} x {columns}" for rows, columns in shapes)
        raise InputError(f"{label} has shape {matrix.shape}; expected {expected} numbers")
    if not np.isfinite(matrix).all():
        raise InputError(f"{label} has non-finite values; remove this frame")
    return matrix


def _lens(camera: Mapping[str, Any], label: str) -> Lens | None:
    """Distortion of the named camera model; instant-ngp writes `is_fisheye` instead."""
    unnamed = "OPENCV_FISHEYE" if camera.get("is_fisheye") else "OPENCV"
    model = str(camera.get("camera_model") or unnamed).upper()
    keys = ("k1", "k2", "k3", "k4", "p1", "p2")
    values = {key: 0.0 if camera.get(key) is None else camera[key] for key in keys}
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
