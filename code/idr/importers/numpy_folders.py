"""Reads folders with `world_mat_i` and `scale_mat_i` in an npz: IDR's own layout, and NeuS's.

Both use OpenCV axes and put the first pixel's center at 0, so nothing is converted. In files of DVR and
UNISURF, `world_mat_i` may be [R | t], and `camera_mat_i` holds the intrinsics.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.datasets.camera_files import lacks_intrinsics, read_arrays, read_cameras
from idr.datasets.images import IMAGE_ENDINGS, list_images
from idr.errors import InputError
from idr.geometry.cameras import decompose_projection
from idr.importers.source import Array, Source, files_ending, image_size, view_of_projection
from idr.preprocess.scene_views import read_world_mats

NEUS_FILE, IDR_FILE = "cameras_sphere.npz", "cameras.npz"
PIXEL_CENTER = 0.0


def find_images(source: Path) -> list[Path]:
    """Returns the images in `image/` or `images/`, or MonoSDF's `*_rgb.png`; an empty list without any."""
    for name in ("image", "images"):
        if found := files_ending(source / name, IMAGE_ENDINGS):
            return found
    return [path for path in files_ending(source, IMAGE_ENDINGS) if path.stem.endswith("_rgb")]


def read(kind: str, file: str, source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads images (see `find_images`), a file of cameras, and optionally `mask/`; see `source.Reader`."""
    photos = list_images(images) if images else find_images(source) or list_images(source / "image")
    path, notes = source / file, []
    arrays = read_arrays(path) if path.is_file() else {}
    scale_mat = None
    if any(key.startswith("scale_mat") for key in arrays):
        cameras = read_cameras(path, len(photos))
        world_mats, scale_mats = cameras.world_mats[:, :3], cameras.scale_mats
        if np.allclose(scale_mats, scale_mats[0], rtol=1e-6, atol=1e-6 * abs(scale_mats[0, 0, 0])):
            scale_mat = scale_mats[0]
        else:
            notes.append("the scale_mats differ between views: left out, as if the file had none")
    else:
        world_mats = read_world_mats(path)
    if len(world_mats) != len(photos):
        raise InputError(
            f"{path}: {len(world_mats)} world_mat matrices for {len(photos)} images; expected one per image"
        )
    if _are_poses(world_mats):
        intrinsics = np.stack([_intrinsics(arrays, k, photo) for k, photo in enumerate(photos)])
        world_mats = intrinsics @ world_mats
        notes.append("world_mat_i is [R | t]; intrinsics read from camera_mat_i (DVR, UNISURF)")
    masks: list[Path | None] = [None] * len(photos)
    if (source / "mask").is_dir():
        masks = list(list_images(source / "mask"))
        if len(masks) != len(photos):
            raise InputError(
                f"{source}: {len(photos)} images but {len(masks)} masks; expected one mask per image, in the "
                "same natural name order (or remove mask/ and use --masks auto)"
            )
    views = tuple(
        view_of_projection(photo.name, photo, matrix[:3], pixel_center, mask)
        for photo, matrix, mask in zip(photos, world_mats, masks, strict=True)
    )
    return Source(kind, views, scale_mat=scale_mat, notes=tuple(notes))


def _are_poses(world_mats: Array) -> bool:
    """Whether matrices (B, 3, 4) have no intrinsics; False if one of them is no camera's."""
    try:
        return lacks_intrinsics(np.stack([decompose_projection(matrix)[0] for matrix in world_mats]))
    except ValueError:
        return False


def _intrinsics(arrays: Mapping[str, NDArray], k: int, photo: Path) -> Array:
    """(3, 3) K in pixels from `camera_mat_k`, which may map to [-1, 1] between the outer pixels' centers."""
    matrix = arrays.get(f"camera_mat_{k}")
    if matrix is None or matrix.shape not in ((3, 3), (3, 4), (4, 4)) or matrix.dtype.kind not in "fiu":
        raise InputError(
            f"world_mat_{k} is [R | t] without intrinsics (K is about the identity), and there is no 4 x 4 "
            f"camera_mat_{k}; expected world_mat_{k} = K [R | t] with K in pixels"
        )
    intrinsics = np.asarray(matrix[:3, :3], dtype=np.float64)
    if not lacks_intrinsics(intrinsics[None]):
        return intrinsics
    height, width = image_size(photo)
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([[x, 0, x], [0, y, y], [0, 0, 1]]) @ intrinsics
