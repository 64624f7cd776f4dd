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
from idr.datasets.image_files import read_header
from idr.datasets.images import IMAGE_ENDINGS, list_images
from idr.datasets.masks import pair_some_masks
from idr.datasets.record import read_true_size
from idr.errors import InputError
from idr.geometry.cameras import decompose_projection
from idr.importers.source import (
    Array,
    Source,
    files_ending,
    missing_images,
    view_of_projection,
)
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
    """Reads images (see `find_images`), a file of cameras, and optionally `mask/`; see `source.Reader`.

    `scale_mat`s that cannot be used are left out with a note. If images were deleted, the numbers in the
    names of the others say which cameras they have.
    """
    photos = list_images(images) if images else find_images(source) or list_images(source / "image")
    masks: list[Path | None] = [None] * len(photos)
    if (source / "mask").is_dir():
        masks = list(list_images(source / "mask"))
    path = source / file
    world_mats, scale_mat, notes = _read_matrices(path, len(photos))
    if len(world_mats) > len(photos):
        world_mats, left_out = _with_images(world_mats, photos, path)
        if len(masks) == len(photos) + len(left_out):
            masks = [mask for k, mask in enumerate(masks) if k not in left_out]
        notes += missing_images([f"{k:03d}" for k in left_out], len(photos) + len(left_out), str(path))
    if len(masks) > len(photos):
        raise InputError(
            f"{source}: {len(photos)} images but {len(masks)} masks; expected one mask per image, in the "
            "same natural name order (or remove mask/ and use --masks auto)"
        )
    if given := [mask for mask in masks if mask is not None]:
        masks = pair_some_masks(photos, given, source / "mask")
    if _are_poses(world_mats):
        arrays = read_arrays(path)
        intrinsics = np.stack([_intrinsics(arrays, k, photo) for k, photo in enumerate(photos)])
        world_mats = intrinsics @ world_mats
        notes.append("world_mat_i is [R | t]; intrinsics read from camera_mat_i (DVR, UNISURF)")
    views = tuple(
        view_of_projection(photo.name, photo, matrix, pixel_center, mask)
        for photo, matrix, mask in zip(photos, world_mats, masks, strict=True)
    )
    size = read_true_size(source)  # of a scene that the importer wrote
    return Source(kind, views, scale_mat=scale_mat, notes=tuple(notes), true_size=size)


def _read_matrices(path: Path, num_images: int) -> tuple[Array, Array | None, list[str]]:
    """Returns the projections (B, 3, 4), the scale_mat (4, 4) if there is one for all views, and notes."""
    world_mats = read_world_mats(path)
    if len(world_mats) < num_images:
        raise InputError(
            f"{path} lacks world_mat_{len(world_mats)}: {len(world_mats)} world_mat matrices for "
            f"{num_images} images; remove the images without camera"
        )
    if not any(key.startswith("scale_mat") for key in read_arrays(path)):
        return world_mats, None, []
    try:
        scale_mats = read_cameras(path, len(world_mats)).scale_mats
    except InputError as error:
        if not _are_cameras(world_mats):
            raise
        return world_mats, None, [f"the scale_mats were left out: {error}"]
    if not np.allclose(scale_mats, scale_mats[0], rtol=1e-6, atol=1e-6 * abs(scale_mats[0, 0, 0])):
        return world_mats, None, ["the scale_mats were left out: they differ between views"]
    return world_mats, scale_mats[0], []


def _with_images(world_mats: Array, photos: list[Path], path: Path) -> tuple[Array, list[int]]:
    """The projections of the images, by the numbers in their names, and the numbers of the others."""
    numbers = [int(stem) if (stem := photo.stem.removesuffix("_rgb")).isdecimal() else -1 for photo in photos]
    if len(set(numbers)) < len(photos) or not 0 <= min(numbers) <= max(numbers) < len(world_mats):
        raise InputError(
            f"{path}: {len(world_mats)} world_mat matrices for {len(photos)} images; expected one per image, "
            "or images named by the number of their matrix (000.png has world_mat_0)"
        )
    return world_mats[numbers], sorted(set(range(len(world_mats))) - set(numbers))


def _are_cameras(world_mats: Array) -> bool:
    try:
        return bool([decompose_projection(matrix) for matrix in world_mats])
    except ValueError:
        return False


def _are_poses(world_mats: Array) -> bool:
    """Whether matrices (B, 3, 4) have no intrinsics; False if one of them is no camera's."""
    if not _are_cameras(world_mats):
        return False
    return lacks_intrinsics(np.stack([decompose_projection(matrix)[0] for matrix in world_mats]))


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
    height, width = read_header(photo).size
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([[x, 0, x], [0, y, y], [0, 0, 1]]) @ intrinsics
