"""Lens distortion models, and the pinhole camera that replaces a lens.

N points, H rows, W columns. Normalized points lie on the plane z = 1 in front of the camera.
"""

from __future__ import annotations

import cv2
import numpy as np

from idr.errors import InputError
from idr.importers.source import Array, Lens

WIDEST, NARROWEST = 0.25, 4.0
"""Range of the pinhole's focal length over that of the lens."""
ZOOM_STEP = 1.02
CHECKED = 24
"""Points along each side of the image where the distortion is checked."""


def opencv_distorted(coefficients: tuple[float, ...], points: Array) -> Array:
    """Distorts (N, 2) normalized points by OpenCV's polynomial lens.

    The coefficients are (k1, k2, p1, p2[, k3[, k4, k5, k6]]), OpenCV's order: radial k1 k2 k3 (with
    denominator k4 k5 k6), tangential p1 p2.
    """
    rays = np.column_stack([points, np.ones(len(points))])
    zero = np.zeros(3)
    pixels = cv2.projectPoints(rays, zero, zero, np.eye(3), np.array(coefficients))[0]
    return np.asarray(pixels, dtype=np.float64).reshape(-1, 2)


def fisheye_distorted(coefficients: tuple[float, float, float, float], points: Array) -> Array:
    """Distorts (N, 2) normalized points by OpenCV's fisheye lens with coefficients (k1, k2, k3, k4).

    The lens is theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8).
    """
    distorted = cv2.fisheye.distortPoints(points[None], np.eye(3), np.array(coefficients))
    return np.asarray(distorted, dtype=np.float64)[0]


def lens_pixels(intrinsics: Array, lens: Lens, new_intrinsics: Array, pixels: Array) -> Array:
    """Maps pixels of a pinhole camera to the pixels of the distorted image that see the same rays.

    Args:
        intrinsics: (3, 3) K of the camera with the lens.
        lens: Its distortion.
        new_intrinsics: (3, 3) K of the pinhole camera, at the same pose.
        pixels: (N, 2) of the pinhole camera, (column, row).

    Returns:
        (N, 2) pixels of the distorted image.
    """
    rays = np.linalg.solve(new_intrinsics, np.column_stack([pixels, np.ones(len(pixels))]).T).T
    distorted = lens(np.ascontiguousarray(rays[:, :2]))
    return distorted @ intrinsics[:2, :2].T + intrinsics[:2, 2]


def pinhole_for(intrinsics: Array, lens: Lens, size: tuple[int, int], label: str) -> Array:
    """Finds the widest pinhole camera, (3, 3) K, whose image lies entirely within the distorted image.

    It has the same principal point; both focal lengths are scaled by one factor. Both images have `size`
    (H, W).

    Raises:
        InputError: Even at the narrowest view, the distortion folds the image over or leaves it.
    """
    columns, rows = (np.linspace(-0.5, side - 0.5, CHECKED) for side in size[::-1])
    grid = np.stack(np.meshgrid(columns, rows), axis=-1)
    best = None
    zoom = NARROWEST
    while zoom >= WIDEST:
        candidate = np.diag([zoom, zoom, 1.0]) @ intrinsics
        candidate[:2, 2] = intrinsics[:2, 2]
        seen = lens_pixels(intrinsics, lens, candidate, grid.reshape(-1, 2)).reshape(grid.shape)
        if not _is_valid(seen, size):
            break
        best = candidate
        zoom /= ZOOM_STEP
    if best is None:
        raise InputError(
            f"{label}: the distortion folds the image over or leaves it, even at {NARROWEST:g} times the "
            "focal length; expected coefficients for normalized coordinates: check their order and the "
            "camera model"
        )
    return best


def undistortion_maps(
    intrinsics: Array, lens: Lens, new_intrinsics: Array, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Makes the maps for `cv2.remap` that remove the distortion, as `cv2.undistort` does internally.

    They are (H, W) float32 columns and rows of the distorted image; both images have `size` (H, W). The other
    arguments are those of `lens_pixels`.
    """
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float64)
    seen = lens_pixels(intrinsics, lens, new_intrinsics, pixels).astype(np.float32)
    return seen[:, 0].reshape(size), seen[:, 1].reshape(size)


def _is_valid(seen: Array, size: tuple[int, int]) -> bool:
    """Whether a grid of pixels maps into the distorted image without folding over."""
    if not np.isfinite(seen).all():
        return False
    within = (seen > -0.5 - 1e-6).all() and (seen < np.array([size[1], size[0]]) - 0.5 + 1e-6).all()
    right, down = seen[:-1, 1:] - seen[:-1, :-1], seen[1:, :-1] - seen[:-1, :-1]
    return bool(within and (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0] > 0).all())
