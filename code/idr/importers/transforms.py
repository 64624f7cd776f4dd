"""`transforms.json`, as nerfstudio, instant-ngp and Blender's NeRF scripts write it.

Their cameras look along -z with y up (OpenGL), matrices go from camera to world, and the first pixel's center
is at (0.5, 0.5). Intrinsics stand at the top, in each frame, or both: a frame's own win.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idr.errors import InputError, MissingInputError
from idr.importers.photographs.lenses import FisheyeLens, OpenCVLens
from idr.importers.points import read_points
from idr.importers.source import (
    Array,
    Lens,
    Source,
    SourceView,
    check_intrinsics,
    check_rotation,
    find_image,
    is_number,
    shifted,
    view_key,
)

NAMES = ("transforms.json", "transforms_train.json")
PINHOLE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
POLYNOMIAL_MODELS = ("OPENCV", "SIMPLE_RADIAL", "RADIAL", *PINHOLE_MODELS)
FISHEYE_MODELS = ("OPENCV_FISHEYE",)
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])
PIXEL_CENTER = 0.5


def find_file(source: Path) -> Path | None:
    """Returns the JSON file of a folder (or the file itself), None if there is none."""
    if source.is_file():
        return source if source.suffix.lower() == ".json" else None
    return next((source / name for name in NAMES if (source / name).is_file()), None)


def read(source: Path, images: Path | None = None, pixel_center: float = PIXEL_CENTER) -> Source:
    """Reads a `transforms.json`.

    Args:
        source: The file, or the folder that holds `transforms.json` or `transforms_train.json`.
        images: Folder in which to look for the images' names; None for where the file says.
        pixel_center: Where the file puts the center of the first pixel.

    Returns:
        The scene.

    Raises:
        MissingInputError: No such file, or an image that is not there.
        InputError: Not the format, or cameras that are none.
    """
    path = find_file(source)
    if path is None:
        raise MissingInputError(f"no {' or '.join(NAMES)} in {source}")
    content = load(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} holds no list `frames`; expected one entry an image (nerfstudio, Blender)")
    views = [_view(path, content, frame, k, images, pixel_center) for k, frame in enumerate(frames)]
    views.sort(key=lambda view: view_key(view.name))
    points = None
    if isinstance(content.get("ply_file_path"), str):
        points = read_points(path.parent / content["ply_file_path"])
    return Source("transforms", tuple(views), points)


def load(path: Path) -> dict[str, Any]:
    """Reads a JSON file whose content is an object.

    Raises:
        InputError: It is not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); export it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; expected an object with `frames`")
    return content


def _view(
    path: Path, content: Mapping[str, Any], frame: Any, k: int, images: Path | None, pixel_center: float
) -> SourceView:
    whose = f"{path}: frame {k}"
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise InputError(f"{whose} has no `file_path`; expected the image's name")
    name = frame["file_path"]
    whose += f" ({name})"
    image = find_image((images / Path(name).name) if images else path.parent / name, whose)
    camera = {**content, **frame}
    size = size_of(camera, whose)
    intrinsics = shifted(intrinsics_of(camera, size or _image_size(image), whose), pixel_center)
    check_intrinsics(intrinsics, whose)
    mask = frame.get("mask_path")
    if mask is not None:
        mask = find_image(path.parent / str(mask), whose)
    return SourceView(
        name, image, intrinsics, world_to_camera(frame, whose), _lens(camera, whose), size, mask
    )


def size_of(camera: Mapping[str, Any], whose: str) -> tuple[int, int] | None:
    """Returns (H, W) as a frame or the file writes it; None where neither does.

    Args:
        camera: The file's entries, overlaid with the frame's.
        whose: The frame's name, for messages.

    Raises:
        InputError: Not whole pixels.
    """
    written: list[Any] = [camera.get("h"), camera.get("w")]
    if written == [None, None]:
        return None
    if not all(is_number(value) and value > 0 and value == int(value) for value in written):
        raise InputError(
            f"{whose}: w and h are {written[1]} and {written[0]}; expected whole pixels, both or none"
        )
    return int(written[0]), int(written[1])


def _image_size(image: Path) -> tuple[int, int]:
    """(H, W) from the file's head."""
    try:
        with Image.open(image) as opened:
            return opened.height, opened.width
    except Exception as error:  # decoders raise whatever they like for a broken file
        raise InputError(f"{image} cannot be read as an image ({error}); replace it") from error


def intrinsics_of(camera: Mapping[str, Any], size: tuple[int, int], whose: str) -> Array:
    """Returns (3, 3) K in the file's own pixels.

    Args:
        camera: The file's entries, overlaid with the frame's.
        size: (H, W) of the image.
        whose: The frame's name, for messages.

    Raises:
        InputError: No focal length, or something that is no number.
    """
    height, width = size
    for key in ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y"):
        if camera.get(key) is not None and not is_number(camera[key]):
            raise InputError(f"{whose}: {key} is {camera[key]!r}; expected a number")
    fx = _focal(camera, "fl_x", "camera_angle_x", width, whose)
    fy = _focal(camera, "fl_y", "camera_angle_y", height, whose)
    if fx is None and fy is None:
        raise InputError(f"{whose} has no focal length; expected fl_x (pixels) or camera_angle_x (radians)")
    fx, fy = (fx if fx is not None else fy), (fy if fy is not None else fx)
    assert fx is not None and fy is not None
    cx, cy = camera.get("cx"), camera.get("cy")
    k = np.eye(3)
    k[0, 0], k[1, 1] = fx, fy
    k[0, 2] = cx if cx is not None else width / 2
    k[1, 2] = cy if cy is not None else height / 2
    return k


def _focal(camera: Mapping[str, Any], focal: str, angle: str, side: int, whose: str) -> float | None:
    """Focal length in pixels: as written, else from the angle that the image's side spans."""
    if camera.get(focal) is not None:
        return float(camera[focal])
    if camera.get(angle) is None:
        return None
    if not 0 < camera[angle] < math.pi:
        raise InputError(f"{whose}: {angle} is {camera[angle]}; expected radians between 0 and pi")
    return side / 2 / math.tan(camera[angle] / 2)


def world_to_camera(frame: Mapping[str, Any], whose: str) -> Array:
    """Returns (3, 4) [R | t] with OpenCV's axes.

    Args:
        frame: Holds ``transform_matrix``, camera to world with OpenGL's axes.
        whose: The frame's name, for messages.

    Raises:
        InputError: No such matrix, or one that is no rotation and translation.
    """
    try:
        matrix = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{whose} has no `transform_matrix` of numbers; expected 4 x 4") from error
    if matrix.shape not in ((3, 4), (4, 4)):
        raise InputError(
            f"{whose}: transform_matrix has shape {matrix.shape}; expected 4 x 4, camera to world"
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{whose}: transform_matrix holds values that are not finite; remove this frame")
    check_rotation(matrix[:3, :3], f"{whose}: the rotation of transform_matrix")
    rotation = (matrix[:3, :3] @ OPENGL_TO_OPENCV).T
    return np.column_stack([rotation, -rotation @ matrix[:3, 3]])


def _lens(camera: Mapping[str, Any], whose: str) -> Lens | None:
    """Distortion by the model's name; instant-ngp says `is_fisheye` instead."""
    model = str(
        camera.get("camera_model", "OPENCV_FISHEYE" if camera.get("is_fisheye") else "OPENCV")
    ).upper()
    values = {key: camera.get(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2")}
    for key, value in values.items():
        if not is_number(value):
            raise InputError(f"{whose}: {key} is {value!r}; expected a number")
    k1, k2, k3, k4, p1, p2 = values.values()
    if model in FISHEYE_MODELS:
        if p1 or p2:
            raise InputError(f"{whose}: a fisheye lens with p1, p2; expected k1 to k4 alone")
        return FisheyeLens((k1, k2, k3, k4))
    if model not in POLYNOMIAL_MODELS:
        raise InputError(
            f"{whose}: camera_model {model}; expected one of "
            f"{', '.join(POLYNOMIAL_MODELS + FISHEYE_MODELS)}: "
            "undistort the images with the program that made them"
        )
    if k4:
        raise InputError(f"{whose}: k4 = {k4:g} of a lens that is no fisheye; expected k1, k2, k3, p1, p2")
    return OpenCVLens((k1, k2, p1, p2, k3)) if any((k1, k2, k3, p1, p2)) else None
