"""Cameras as files for other methods: `transforms.json`, COLMAP's text model, and this project's npz.

B cameras. The center of the first pixel is at (0.5, 0.5) in `transforms.json` and COLMAP, at (0, 0) in this
project and its npz. Cameras of `transforms.json` look along -z with y up (OpenGL), the others along z with y
down (OpenCV).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from idr.errors import InputError
from idr.files import write_atomic, write_text_atomic
from idr.geometry.camera_set import CameraSet
from idr.geometry.quaternions import rotation_to_quaternion

TRANSFORMS, NPZ, COLMAP = "transforms.json", "cameras.npz", "sparse/0"
COLMAP_FILES = ("cameras.txt", "images.txt", "points3D.txt")
OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
PIXEL_CENTER = 0.5

SAME_DIGITS = 10
"""Intrinsics equal in this many digits count as equal."""

NEGLIGIBLE_SKEW = 0.01
"""Largest shift of a point by omitting skew, pixels; calibrations reach a tenth of a pixel at best."""


def files_of(formats: list[str]) -> list[str]:
    """Returns the files, relative to the folder, that `write_cameras` writes."""
    names = {"transforms": [TRANSFORMS], "colmap": [f"{COLMAP}/{n}" for n in COLMAP_FILES], "npz": [NPZ]}
    return [name for kind in formats for name in names[kind]]


def write_cameras(
    cameras: CameraSet, folder: Path, formats: list[str], images: str, masks: list[str] | None = None
) -> None:
    """Writes cameras, each file atomically.

    Args:
        cameras: The cameras.
        folder: The folder; created if missing.
        formats: Any of ``transforms``, ``colmap`` and ``npz``.
        images: Image folder as written in `transforms.json`: relative to `folder`, or absolute.
        masks: (B) mask files, likewise; None omits them.

    Raises:
        InputError: A camera has skew, which only the npz can hold.
        OutputError: A file cannot be written.
    """
    if set(formats) - {"npz"}:
        check_skew(cameras)
    if "transforms" in formats:
        text = json.dumps(transforms(cameras, images, masks), indent=1) + "\n"
        write_text_atomic(folder / TRANSFORMS, text)
    if "colmap" in formats:
        for name, text in colmap_texts(cameras).items():
            write_text_atomic(folder / COLMAP / name, text)
    if "npz" in formats:
        arrays = matrices(cameras)
        write_atomic(folder / NPZ, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def check_skew(cameras: CameraSet) -> None:
    """Raises `InputError` if omitting a camera's skew would move an image point by more than 0.01 pixels."""
    for name, k in zip(cameras.names, cameras.intrinsics, strict=True):
        rows = np.array([0.0, cameras.img_res[0] - 1.0])
        moved = float(np.abs(k[0, 1] * (rows - k[1, 2]) / k[1, 1]).max())
        if moved > NEGLIGIBLE_SKEW:
            raise InputError(
                f"{name}: its camera has skew {k[0, 1]:.3g}, worth up to {moved:.2g} pixels; transforms.json "
                "and COLMAP's pinhole hold none: choose --formats npz"
            )


def transforms(cameras: CameraSet, images: str, masks: list[str] | None = None) -> dict[str, Any]:
    """Returns the content of a `transforms.json` as nerfstudio reads it; see `write_cameras`.

    Intrinsics are at the top if all cameras share them, else in each frame. ``train_filenames`` and
    ``test_filenames`` list the splits if views were held out. ``scale_mat`` is as in the npz.
    """
    height, width = cameras.img_res
    numbers, kinds = _distinct(cameras)
    shared = len(kinds) == 1
    content: dict[str, Any] = {"camera_model": "PINHOLE", "w": width, "h": height}
    content |= kinds[0] if shared else {}
    frames = []
    for i, (name, pose) in enumerate(zip(cameras.names, cameras.poses, strict=True)):
        frame: dict[str, Any] = {"file_path": f"{images}/{name}"}
        frame |= {} if masks is None else {"mask_path": masks[i]}
        frame |= {} if shared else kinds[numbers[i]]
        frames.append(frame | {"transform_matrix": (pose @ OPENCV_TO_OPENGL).tolist()})
    if any(cameras.held_out):
        splits = [(frame["file_path"], out) for frame, out in zip(frames, cameras.held_out, strict=True)]
        content["train_filenames"] = [name for name, out in splits if not out]
        content["test_filenames"] = [name for name, out in splits if out]
    return content | {"scale_mat": cameras.scale_mat.tolist(), "frames": frames}


def _distinct(cameras: CameraSet) -> tuple[list[int], list[dict[str, float]]]:
    """Returns for each of B cameras the index of its intrinsics, and the distinct intrinsics."""
    entries = [intrinsics_entry(k) for k in cameras.intrinsics]
    keys = [tuple(f"{value:.{SAME_DIGITS}g}" for value in entry.values()) for entry in entries]
    firsts = list(dict.fromkeys(map(keys.index, keys)))
    return [firsts.index(keys.index(key)) for key in keys], [entries[first] for first in firsts]


def intrinsics_entry(k: NDArray[np.float64]) -> dict[str, float]:
    """Returns the entries of K, (3, 3) or (4, 4), in `transforms.json`."""
    return {
        "fl_x": float(k[0, 0]),
        "fl_y": float(k[1, 1]),
        "cx": float(k[0, 2] + PIXEL_CENTER),
        "cy": float(k[1, 2] + PIXEL_CENTER),
    }


def colmap_texts(cameras: CameraSet) -> dict[str, str]:
    """Returns COLMAP's text model by file name, for cameras without skew; it has no points."""
    height, width = cameras.img_res
    numbers, kinds = _distinct(cameras)
    images_text = "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# POINTS2D[] (none)\n"
    world_to_camera = np.linalg.inv(cameras.poses)
    quaternions = rotation_to_quaternion(torch.from_numpy(world_to_camera[:, :3, :3])).numpy()
    for i, name in enumerate(cameras.names):
        pose = " ".join(map(repr, (*quaternions[i].tolist(), *world_to_camera[i, :3, 3].tolist())))
        images_text += f"{i + 1} {pose} {numbers[i] + 1} {name}\n\n"
    cameras_text = "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
    for number, kind in enumerate(kinds, start=1):
        cameras_text += f"{number} PINHOLE {width} {height} {' '.join(map(repr, kind.values()))}\n"
    points_text = "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] (none)\n"
    return {"cameras.txt": cameras_text, "images.txt": images_text, "points3D.txt": points_text}


def matrices(cameras: CameraSet) -> dict[str, NDArray[np.float64]]:
    """Returns the arrays of this project's npz: ``world_mat_i`` and ``scale_mat_i``, each (4, 4)."""
    arrays: dict[str, NDArray[np.float64]] = {}
    for i, projection in enumerate(cameras.projections):
        arrays[f"world_mat_{i}"] = np.vstack((projection, [0.0, 0.0, 0.0, 1.0]))
        arrays[f"scale_mat_{i}"] = cameras.scale_mat
    return arrays
