"""A scene as read by an importer: photographs, cameras, and whatever else the source provides.

N points, H rows, W columns. Everything already follows this project's conventions: OpenCV axes (x right,
y down, z forward), pixel (0, 0) at the CENTER of the first pixel. World frame and unit are the source's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from idr.datasets.camera_files import lacks_intrinsics
from idr.datasets.images import IMAGE_ENDINGS, natural_key, natural_sorted
from idr.datasets.record import TrueSize
from idr.errors import InputError, MissingInputError
from idr.geometry.cameras import decompose_projection

Array = NDArray[np.float64]
Lens = Callable[[Array], Array]
"""Distorts (N, 2) points on the plane z = 1 in front of the camera."""

LISTED_ENDINGS = (*IMAGE_ENDINGS, ".dng", ".exr")
"""Endings of images that a source may name, while the files here have another one."""
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
        backdrop: Mask file of pixels that are certainly background, upright like the photograph; None if
            unknown.
    """

    name: str
    image: Path
    intrinsics: Array
    world_to_camera: Array
    lens: Lens | None = None
    calibrated_size: tuple[int, int] | None = None
    mask: Path | None = None
    mask_turn: int | None = None
    backdrop: Path | None = None


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
        true_size: Set if the world's unit is the meter: how that was found. None for an arbitrary unit.
    """

    kind: str
    views: tuple[SourceView, ...]
    points: Array | None = None
    scale_mat: Array | None = None
    notes: tuple[str, ...] = ()
    true_size: TrueSize | None = None


Progress = Callable[[str], None]
"""Receives progress messages."""
Reader = Callable[[Path, Path | None, float], Source]
"""Reads a scene of one format from (source, images, pixel_center).

source: File or folder. images: Folder of the images, None to search where the format keeps them.
pixel_center: Coordinate the source gives the center of the first pixel, 0 or 0.5.
Raises `MissingInputError` for missing files, `InputError` for anything that does not match the format.
"""


def unscaled(rotation: Array) -> tuple[Array, bool]:
    """Returns the axes (3, 3) of a camera in the world without their common length, and whether it was not 1.

    Blender's `matrix_world` of a scaled camera object has such axes; only their directions matter. Other
    matrices are returned unchanged, for `check_rotation` to judge.
    """
    gram = rotation.T @ rotation
    size = np.trace(gram) / 3
    if not np.isfinite(size) or size < 1e-12 or abs(size - 1) <= ROTATION_TOLERANCE:
        return rotation, False
    is_uniform = np.abs(gram / size - np.eye(3)).max() <= ROTATION_TOLERANCE
    return (rotation / np.sqrt(size), True) if is_uniform else (rotation, False)


def check_rotation(rotation: Array, label: str) -> None:
    """Raises `InputError` unless a (3, 3) matrix is a rotation, orthonormal within `ROTATION_TOLERANCE`."""
    if not np.isfinite(rotation).all():
        raise InputError(f"{label} has non-finite values; calibrate this view again, or remove it")
    deviation = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if deviation > ROTATION_TOLERANCE:
        raise InputError(
            f"{label} is not a rotation (R^T R differs from the identity by {deviation:.3g}); expected "
            "orthonormal axes of one length: export the cameras again, without scale or shear"
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
    if lacks_intrinsics(intrinsics[None]):
        raise InputError(
            f"camera of {name}: the matrix is [R | t] without intrinsics (K is about the identity); expected "
            "K [R | t] with K in pixels: multiply it by K"
        )
    k = centered_intrinsics(intrinsics[:3, :3], pixel_center, f"camera of {name}")
    return SourceView(name, image, k, np.linalg.inv(pose)[:3].astype(np.float64), mask=mask)


def size_within(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Returns width and height of an image (H, W, ...) reduced to a longest side of at most `side` pixels."""
    height, width = shape[:2]
    factor = min(1.0, side / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def resized(intrinsics: Array, scale_x: float, scale_y: float) -> Array:
    """Adapts K, (3, 3), to a resized image: u' + 0.5 = scale (u + 0.5), so the outer edges stay edges.

    The scales are the new width and height over the old ones; the first pixel's center is at 0. A (3, 4)
    projection is adapted likewise.
    """
    change = np.diag([scale_x, scale_y, 1.0])
    change[:2, 2] = (scale_x - 1) / 2, (scale_y - 1) / 2
    return change @ intrinsics


def find_image(name: str, folder: Path, images: Path | None, label: str) -> Path | None:
    r"""Finds the image that a source names, or returns None if there is none.

    Names may be written on Windows (`images\a.png`) or as absolute paths of another machine, of which the
    longest end that exists here counts. The ending may be missing (Blender), differ in case, or be another
    one (`a.jpg` is found as the cutout `a.png`).

    Args:
        name: The source's name for the image.
        folder: Folder to which the source's relative names refer.
        images: Folder of the images; replaces `folder` and what the name says of folders. None without one.
        label: The referring file or frame, for messages.

    Raises:
        InputError: Several files match.
    """
    if images is None and os.path.isfile(folder / name):
        return folder / name
    parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".")]
    is_absolute = name.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:[\\/]", name))
    if images is None and not is_absolute:
        return _matching(folder.joinpath(*parts), label)
    for start, part in enumerate(parts):
        inner = parts[start:]
        if ".." in inner or part[-1] == ":":
            continue
        found = _matching((images or folder).joinpath(*inner), label)
        if found is not None:
            return found
    return None


def _matching(path: Path, label: str) -> Path | None:
    """The file of this name, or the only one of this stem."""
    if os.path.isfile(path):  # unlike Path.is_file, False for names that are too long
        return path
    if not os.path.isdir(path.parent):
        return None
    lower, stem = path.name.lower(), path.stem if path.suffix.lower() in LISTED_ENDINGS else path.name
    siblings = [name for name in os.listdir(path.parent) if name.lower().startswith(stem.lower())]
    siblings = [name for name in siblings if os.path.isfile(path.parent / name)]
    found = [name for name in siblings if name.lower() == lower]
    found = found or [n for n in siblings if Path(n).stem == stem and Path(n).suffix.lower() in IMAGE_ENDINGS]
    if len(found) > 1:
        raise InputError(f"{label} names {path.name}, which matches {' and '.join(sorted(found))}; keep one")
    return path.parent / found[0] if found else None


def required_image(name: str, folder: Path, label: str) -> Path:
    """Finds a file like `find_image`, or raises `MissingInputError`."""
    found = find_image(name, folder, None, label)
    if found is None:
        raise MissingInputError(f"{label} names {folder / name}, which does not exist; restore it")
    return found


def missing_images(missing: Sequence[str], total: int, label: str) -> tuple[str, ...]:
    """Returns a note on the views that are left out because their image does not exist, if any.

    Raises:
        MissingInputError: More than half of the `total` views are among them.
    """
    if not missing:
        return ()
    listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    if 2 * len(missing) > total:
        raise MissingInputError(
            f"{label}: {len(missing)} of {total} images do not exist ({listed}); restore them, or pass their "
            "folder with --images"
        )
    return (f"{len(missing)} of {total} views left out, since their images do not exist: {listed}",)


def other_endings(views: Sequence[SourceView]) -> tuple[str, ...]:
    """Returns a note on images that were found under another ending than the source's, if any."""
    pairs = [(PureWindowsPath(view.name), view.image) for view in views]
    changed = [
        (name.name, found.name)
        for name, found in pairs
        if name.suffix.lower() in LISTED_ENDINGS and name.suffix.lower() != found.suffix.lower()
    ]
    if not changed:
        return ()
    return (f"{len(changed)} images have another ending than listed ({changed[0][1]} for {changed[0][0]})",)


def files_ending(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files of a folder, if there is one, in natural name order, without hidden ones."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith("."))
    return natural_sorted(p for p in found if p.is_file())


def view_key(name: str) -> list[list[tuple[int, int, str]]]:
    """Sort key of views: natural name order, folder by folder."""
    return [natural_key(Path(part)) for part in Path(name).parts]
