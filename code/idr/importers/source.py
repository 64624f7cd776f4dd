"""What an importer hands on: photographs, cameras and whatever else a source knows about its scene.

N points, H rows, W columns. Everything is in this project's conventions already: OpenCV axes (x right, y
down, z forward), pixel (0, 0) at the CENTER of the first pixel. World frame and unit are the source's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.datasets.images import IMAGE_ENDINGS, natural_key
from idr.errors import InputError, MissingInputError
from idr.geometry.cameras import decompose_projection

Array = NDArray[np.float64]
Lens = Callable[[Array], Array]
"""Maps (N, 2) points of the plane z = 1 in front of the camera to where the lens makes them appear there."""

NOT_A_ROTATION = 1e-3
"""Largest deviation of R^T R from the identity; files with six digits stay below 1e-5."""


@dataclass(frozen=True)
class SourceView:
    """One photograph and its camera.

    Attributes:
        name: What the source calls it; views are in natural order of their names.
        image: The photograph.
        intrinsics: (3, 3) K, for images of `calibrated_size`.
        world_to_camera: (3, 4) [R | t], world unit.
        lens: Distortion, None for a pinhole. pixel = K lens(x / z, y / z).
        calibrated_size: (H, W) that the intrinsics are for; None means the image's own.
        mask: The source's own mask file, None where it has none (an alpha channel is found later).
    """

    name: str
    image: Path
    intrinsics: Array
    world_to_camera: Array
    lens: Lens | None = None
    calibrated_size: tuple[int, int] | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Source:
    """A scene as another program left it.

    Attributes:
        kind: Which importer read it.
        views: The views, at least one.
        points: (N, 3) sparse points of the scene in the world, None where the source has none. They lie on
            what the object stands on as much as on itself, so made masks do not begin with them.
        scale_mat: (4, 4) unit sphere to world as the source has it, None where it has none.
        notes: What a user should know about how it was read, one sentence each.
    """

    kind: str
    views: tuple[SourceView, ...]
    points: Array | None = None
    scale_mat: Array | None = None
    notes: tuple[str, ...] = field(default=())


def check_rotation(rotation: Array, whose: str) -> None:
    """Refuses what is no rotation.

    Args:
        rotation: (3, 3).
        whose: The matrix's name, for the message.

    Raises:
        InputError: Not finite, not orthonormal to 0.001, or mirrored.
    """
    if not np.isfinite(rotation).all():
        raise InputError(f"{whose} holds values that are not finite; calibrate this view again, or remove it")
    off = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if off > NOT_A_ROTATION:
        raise InputError(
            f"{whose} is not a rotation (R^T R is off the identity by {off:.3g}); expected orthonormal axes: "
            "was the matrix scaled, or is it not camera to world?"
        )
    if np.linalg.det(rotation) < 0:
        raise InputError(
            f"{whose} is mirrored (determinant -1); expected a right-handed rotation: export the cameras "
            "again"
        )


def check_intrinsics(intrinsics: Array, whose: str) -> None:
    """Refuses intrinsics that no camera has.

    Args:
        intrinsics: (3, 3) K.
        whose: The camera's name, for the message.

    Raises:
        InputError: Not finite, a focal length that is not positive, or K not upper triangular with a last row
            (0, 0, 1).
    """
    if not np.isfinite(intrinsics).all():
        raise InputError(f"{whose}: intrinsics that are not finite; calibrate this camera again")
    if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
        raise InputError(
            f"{whose}: focal lengths {intrinsics[0, 0]:g} and {intrinsics[1, 1]:g}; expected positive pixels"
        )
    if np.abs(intrinsics[2] - [0, 0, 1]).max() > 1e-9 or intrinsics[1, 0] != 0:
        raise InputError(
            f"{whose}: K has no last row (0, 0, 1) or K[1, 0] is not 0; expected upper triangular"
        )


def view_of_projection(
    name: str, image: Path, projection: Array, shift: float, mask: Path | None = None
) -> SourceView:
    """Makes a view of a projection matrix.

    Args:
        name: What the source calls the view.
        image: The photograph.
        projection: (3, 4), world to pixels, of either sign and any scale.
        shift: Where the source puts the center of the first pixel: 0 or 0.5.
        mask: The source's mask.

    Returns:
        The view.

    Raises:
        InputError: The matrix is not finite or no camera's.
    """
    try:
        intrinsics, pose = decompose_projection(projection)
    except ValueError as error:
        raise InputError(f"camera of {name}: {error}; export this camera again") from error
    k = shifted(intrinsics[:3, :3], shift)
    return SourceView(name, image, k, np.linalg.inv(pose)[:3].astype(np.float64), mask=mask)


def shifted(intrinsics: Array, pixel_center: float) -> Array:
    """Returns K for pixels whose first one has its center at 0.

    Args:
        intrinsics: (3, 3) K.
        pixel_center: Where K puts the center of the first pixel: 0.5 for COLMAP and OpenGL, 0 for OpenCV.

    Returns:
        (3, 3) K with the principal point moved.
    """
    moved = intrinsics.copy()
    moved[:2, 2] -= pixel_center
    return moved


def resized(intrinsics: Array, scale_x: float, scale_y: float) -> Array:
    """Returns K after resizing the image; edges, not centers, of the outer pixels stay on the edges.

    Args:
        intrinsics: (3, 3) K before, first pixel's center at 0.
        scale_x: New width over old.
        scale_y: New height over old.

    Returns:
        (3, 3) K after: u' + 0.5 = scale (u + 0.5).
    """
    change = np.array(
        [[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]], dtype=np.float64
    )
    return change @ intrinsics


def find_image(path: Path, whose: str) -> Path:
    """Finds an image whose ending may be missing, as in Blender's files, or written in another case.

    Args:
        path: As the source names it.
        whose: Who names it, for the message.

    Returns:
        The file.

    Raises:
        MissingInputError: Nothing there.
        InputError: Several files of that name with different endings.
    """
    if path.is_file():
        return path
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    found = [p for p in beside if p.stem == path.name and p.suffix.lower() in IMAGE_ENDINGS]
    found = found or [p for p in beside if p.name.lower() == path.name.lower()]
    if len(found) > 1:
        raise InputError(
            f"{whose} names {path.name}, which may be {' or '.join(p.name for p in found)}; keep one"
        )
    if not found:
        raise MissingInputError(
            f"{whose} names the image {path}, which is not there; put it back, or name the folder with "
            "--images"
        )
    return found[0]


def is_number(value: object) -> bool:
    """Tells whether a value of a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def view_key(name: str) -> list[list[tuple[int, int, str]]]:
    """Returns the key by which views are ordered: natural name order, folder by folder."""
    return [natural_key(Path(part)) for part in Path(name).parts]
