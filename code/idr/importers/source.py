"""A scene as read by an importer: photographs, cameras, and whatever else the source provides.

N points, H rows, W columns. Everything already follows this project's conventions: OpenCV axes (x right,
y down, z forward), pixel (0, 0) at the CENTER of the first pixel. World frame and unit are the source's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.datasets.images import IMAGE_ENDINGS, natural_key, natural_sorted
from idr.errors import InputError, MissingInputError
from idr.geometry.cameras import decompose_projection

Array = NDArray[np.float64]
Lens = Callable[[Array], Array]
"""Distorts (N, 2) points on the plane z = 1 in front of the camera."""

ROTATION_TOLERANCE = 1e-3
"""Largest accepted deviation of R^T R from the identity; files with six digits stay below 1e-5."""


@dataclass(frozen=True)
class SourceView:
    """One photograph and its camera.

    Attributes:
        name: The source's name for it; views are in natural order of their names.
        image: The photograph.
        intrinsics: (3, 3) K, for images of `calibrated_size`.
        world_to_camera: (3, 4) [R | t], world unit.
        lens: Distortion, None for a pinhole. pixel = K lens(x / z, y / z).
        calibrated_size: (H, W) the intrinsics refer to; None for the image's own size.
        mask: The source's mask file, None without one (alpha channels are looked up later).
        mask_turn: EXIF's orientation of a mask whose sides are swapped, None for the image's own.
    """

    name: str
    image: Path
    intrinsics: Array
    world_to_camera: Array
    lens: Lens | None = None
    calibrated_size: tuple[int, int] | None = None
    mask: Path | None = None
    mask_turn: int | None = None


@dataclass(frozen=True)
class Source:
    """A scene written by another program.

    Attributes:
        kind: The importer that read it.
        views: The views, at least one.
        points: (N, 3) sparse points in the world, None without any. They also cover the ground below the
            object, so automatic masks are not seeded with them.
        scale_mat: (4, 4) the source's transform from unit sphere to world, None without one.
        notes: Remarks for the user on how the scene was read, one sentence each.
    """

    kind: str
    views: tuple[SourceView, ...]
    points: Array | None = None
    scale_mat: Array | None = None
    notes: tuple[str, ...] = ()


Progress = Callable[[str], None]
"""Receives progress messages."""
Reader = Callable[[Path, Path | None, float], Source]
"""Reads a scene of one format from (source, images, pixel_center).

source: File or folder. images: Folder of the images, None to search where the format keeps them.
pixel_center: Coordinate the source gives the center of the first pixel, 0 or 0.5.
Raises `MissingInputError` for missing files, `InputError` for anything that does not match the format.
"""


def check_rotation(rotation: Array, label: str) -> None:
    """Raises `InputError` unless a (3, 3) matrix is a rotation, orthonormal within `ROTATION_TOLERANCE`."""
    if not np.isfinite(rotation).all():
        raise InputError(f"{label} has non-finite values; calibrate this view again, or remove it")
    deviation = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if deviation > ROTATION_TOLERANCE:
        raise InputError(
            f"{label} is not a rotation (R^T R differs from the identity by {deviation:.3g}); expected "
            "orthonormal axes: remove any scale, and check that the matrix maps camera to world"
        )
    if np.linalg.det(rotation) < 0:
        raise InputError(
            f"{label} is mirrored (determinant -1); expected a right-handed rotation: export the cameras "
            "again"
        )


def centered_intrinsics(intrinsics: Array, pixel_center: float, label: str) -> Array:
    """Returns a pinhole camera's (3, 3) K with the first pixel's center at 0, not at `pixel_center`.

    The latter is 0 in OpenCV, 0.5 in COLMAP and OpenGL.

    Raises:
        InputError: Not finite, a focal length that is not positive, or K not upper triangular with last row
            (0, 0, 1).
    """
    if not np.isfinite(intrinsics).all():
        raise InputError(f"{label}: intrinsics have non-finite values; calibrate this camera again")
    if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
        raise InputError(
            f"{label}: focal lengths {intrinsics[0, 0]:g} and {intrinsics[1, 1]:g}; expected positive values "
            "in pixels"
        )
    if np.abs(intrinsics[2] - [0, 0, 1]).max() > 1e-9 or intrinsics[1, 0] != 0:
        raise InputError(f"{label}: K is not upper triangular with last row (0, 0, 1); check the order of K")
    moved = intrinsics.copy()
    moved[:2, 2] -= pixel_center
    return moved


def view_of_projection(
    name: str, image: Path, projection: Array, pixel_center: float, mask: Path | None = None
) -> SourceView:
    """Makes a view from a projection matrix.

    Args:
        name: The source's name for the view.
        image: The photograph.
        projection: (3, 4) world to pixels, of either sign and any scale.
        pixel_center: Coordinate of the first pixel's center in the source, 0 or 0.5.
        mask: The source's mask.

    Raises:
        InputError: The matrix is not finite or not a camera's.
    """
    try:
        intrinsics, pose = decompose_projection(projection)
    except ValueError as error:
        raise InputError(f"camera of {name}: {error}; export this camera again") from error
    k = centered_intrinsics(intrinsics[:3, :3], pixel_center, f"camera of {name}")
    return SourceView(name, image, k, np.linalg.inv(pose)[:3].astype(np.float64), mask=mask)


def resized(intrinsics: Array, scale_x: float, scale_y: float) -> Array:
    """Adapts K, (3, 3), to a resized image: u' + 0.5 = scale (u + 0.5), so the outer edges stay edges.

    The scales are the new width and height over the old ones; the first pixel's center is at 0. A (3, 4)
    projection is adapted likewise.
    """
    change = np.diag([scale_x, scale_y, 1.0])
    change[:2, 2] = (scale_x - 1) / 2, (scale_y - 1) / 2
    return change @ intrinsics


def find_image(path: Path, label: str) -> Path:
    """Finds an image whose extension may be missing (Blender) or another one (cut-outs), or differ in case.

    The path is the source's; `label` is the referring file or frame, for messages.

    Raises:
        MissingInputError: No such file.
        InputError: Several files match.
    """
    if path.is_file():
        return path
    siblings = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    found = [p for p in siblings if p.stem == path.name and p.suffix.lower() in IMAGE_ENDINGS]
    found = found or [p for p in siblings if p.name.lower() == path.name.lower()]
    found = found or [p for p in files_ending(path.parent, IMAGE_ENDINGS) if p.stem == path.stem]
    if len(found) > 1:
        raise InputError(
            f"{label} names {path.name}, which matches {' and '.join(p.name for p in found)}; keep one of "
            "them"
        )
    if not found:
        raise MissingInputError(
            f"{label} names the image {path}, which does not exist; restore it, or pass its folder with "
            "--images"
        )
    return found[0]


def files_ending(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files of a folder, if there is one, in natural name order, without hidden ones."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith("."))
    return natural_sorted(p for p in found if p.is_file())


def is_number(value: object) -> bool:
    """Whether a value from a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def view_key(name: str) -> list[list[tuple[int, int, str]]]:
    """Sort key of views: natural name order, folder by folder."""
    return [natural_key(Path(part)) for part in Path(name).parts]
