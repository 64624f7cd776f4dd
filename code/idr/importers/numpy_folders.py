"""Reads folders with `world_mat_i` and `scale_mat_i` in an npz: IDR's own layout, and NeuS's.

Both use OpenCV axes and put the first pixel's center at 0, so nothing is converted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from idr.datasets.camera_files import read_arrays, read_cameras
from idr.datasets.images import list_images
from idr.datasets.masks import pair_masks
from idr.errors import InputError
from idr.importers.source import Source, view_of_projection
from idr.preprocess.scene_views import read_world_mats

NEUS_FILE, IDR_FILE = "cameras_sphere.npz", "cameras.npz"
PIXEL_CENTER = 0.0


def read(kind: str, file: str, source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads `image/` (or `images/`), a file of cameras, and optionally `mask/`; see `source.Reader`."""
    named = next((name for name in ("image", "images") if (source / name).is_dir()), "image")
    photos = list_images(images or source / named)
    path = source / file
    has_scale = path.is_file() and any(key.startswith("scale_mat") for key in read_arrays(path))
    if has_scale:
        cameras = read_cameras(path, len(photos))
        world_mats, scale_mats = cameras.world_mats, cameras.scale_mats
        if not np.allclose(scale_mats, scale_mats[0], rtol=1e-6, atol=1e-6 * abs(scale_mats[0, 0, 0])):
            raise InputError(
                f"{path}: the scale_mats differ between views; expected one unit sphere for the whole scene: "
                "remove them and use --sphere hull"
            )
    else:
        world_mats = read_world_mats(path)
        if len(world_mats) != len(photos):
            raise InputError(
                f"{path}: {len(world_mats)} world_mat matrices for {len(photos)} images; expected one per "
                "image"
            )
    masks: list[Path | None] = [None] * len(photos)
    if (source / "mask").is_dir():
        found = list_images(source / "mask")
        if len(found) != len(photos):
            raise InputError(
                f"{source}: {len(photos)} images but {len(found)} masks; expected one mask per image, in the "
                "same natural name order (or remove mask/ and use --masks auto)"
            )
        masks = list(pair_masks(photos, found, source / "mask"))
    views = tuple(
        view_of_projection(photo.name, photo, matrix[:3], pixel_center, mask)
        for photo, matrix, mask in zip(photos, world_mats, masks, strict=True)
    )
    return Source(kind, views, scale_mat=scale_mats[0] if has_scale else None)
