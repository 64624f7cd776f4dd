"""Points that several photographs show: pixels without lens distortion, and their triangulation.

N points, T views of a point. World frame and unit of the source; pixels are (column, row).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idr.datasets.image_files import TURNS, read_header, upright
from idr.datasets.images import load_rgb
from idr.importers.photographs.files import fitted_intrinsics, is_turned_upright
from idr.importers.source import Array, Lens, Source, SourceView
from idr.preprocess.triangulation import intersect

NEWTON_STEPS, LENS_STEP, LENS_TOLERANCE = 20, 1e-6, 1e-6
"""Steps that invert a lens, the step of its differences, and the largest error on the plane z = 1."""
REFINEMENTS = 5
"""Gauss-Newton steps after the direct linear transform, which is close."""


@dataclass(frozen=True)
class Shot:
    """A photograph at the orientation of its camera.

    Attributes:
        view: The source's view.
        turn: Clockwise rotation in degrees and mirror image that `idr.datasets.image_files.upright` applies.
        size: (H, W) after it.
    """

    view: SourceView
    turn: tuple[int, bool]
    size: tuple[int, int]

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) pixels, with the lens distortion."""
        return upright(load_rgb(self.view.image), *self.turn)  # type: ignore[return-value]

    @property
    def intrinsics(self) -> Array:
        """(3, 3) K of the photograph's size."""
        return fitted_intrinsics(self.view, self.size)[0]

    @property
    def projection(self) -> Array:
        """(3, 4) K [R | t], without the lens."""
        return self.intrinsics @ self.view.world_to_camera

    def pinhole_pixels(self, pixels: Array) -> Array:
        """Removes the lens distortion from (N, 2) pixels; NaN where the lens cannot be inverted."""
        if self.view.lens is None:
            return pixels
        k = self.intrinsics
        seen = np.linalg.solve(k, np.column_stack([pixels, np.ones(len(pixels))]).T).T[:, :2]
        return undistorted(self.view.lens, seen) @ k[:2, :2].T + k[:2, 2]


def shots_of(source: Source) -> list[Shot]:
    """Returns the photographs of a source in the order of its views, none of them read yet."""
    is_upright = is_turned_upright(source)
    shots = []
    for view in source.views:
        header = read_header(view.image)
        turn = TURNS[header.orientation if is_upright else 1]
        size = header.size[::-1] if turn[0] % 180 else header.size
        shots.append(Shot(view, turn, (size[0], size[1])))
    return shots


def undistorted(lens: Lens, distorted: Array) -> Array:
    """Inverts a lens at (N, 2) points of the plane z = 1 by Newton's method; NaN where it fails."""
    points = distorted.copy()
    with np.errstate(all="ignore"):
        for _ in range(NEWTON_STEPS):
            slopes = [(lens(points + h) - lens(points - h)) / (2 * LENS_STEP) for h in LENS_STEP * np.eye(2)]
            error = lens(points) - distorted
            points = points - (np.linalg.pinv(np.stack(slopes, axis=-1)) @ error[..., None])[..., 0]
        points[~(np.abs(lens(points) - distorted).max(axis=1) <= LENS_TOLERANCE)] = np.nan
    return points


@dataclass(frozen=True)
class Triangulated:
    """A point (3,), its covariance (3, 3) for pixels of unit variance, and its T x 2 residuals in pixels."""

    point: Array
    covariance: Array
    residuals: Array


def triangulate(pixels: Array, projections: Array) -> Triangulated | None:
    """Finds the point of least squared reprojection error.

    Args:
        pixels: (T, 2), T >= 2, without lens distortion.
        projections: (T, 3, 4) K [R | t].

    Returns:
        The point; None if the views do not determine one in front of their cameras.
    """
    point = intersect(pixels, projections)
    for _ in range(REFINEMENTS + 1):
        in_camera = projections[:, :, :3] @ point + projections[:, :, 3]  # (T, 3)
        depth = in_camera[:, 2:]
        if not (depth > 0).all():
            return None
        residuals = in_camera[:, :2] / depth - pixels  # (T, 2)
        slopes = projections[:, :2, :3] - (in_camera[:, :2] / depth)[..., None] * projections[:, 2:, :3]
        jacobian = (slopes / depth[..., None]).reshape(-1, 3)  # (2T, 3)
        step, _, rank, _ = np.linalg.lstsq(jacobian, residuals.ravel(), rcond=None)
        if rank < 3:
            return None
        last, point = point, point - step
    return Triangulated(last, np.linalg.inv(jacobian.T @ jacobian), residuals)
