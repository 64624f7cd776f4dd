"""Initial regions of the object in each view, before its outline is known.

B views, N points, H rows, W columns. World frame and unit; pixel (0, 0) is the first pixel's center.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from idr.errors import InputError
from idr.geometry.cameras import decompose_projection, project_points
from idr.importers.source import Array
from idr.preprocess.scene_views import Mask

MIN_AXIS_ANGLE = 1.0
"""Degrees between optical axes; below, they have no well-defined intersection."""
OUTLIER_DISTANCE = 3.0
"""Points farther from the median than this many median distances count as background."""
POINTS_MARGIN = 0.06
"""Dilation of the points' outline, over its larger side, since few points lie on the edge."""
REGION_MARGIN = 1.5
"""Radius of the ball to carve, over that of the points or of the ball that all cameras see."""


@dataclass(frozen=True)
class Seeds:
    """An initial estimate of the object.

    Attributes:
        center: (3,) in the world.
        radius: Radius of a ball around `center` that contains the object with a margin.
        regions: B arrays (H, W) of bool, True where the object probably is.
    """

    center: Array
    radius: float
    regions: tuple[Mask, ...]


def seeds_from_points(points: Array, projections: Array, sizes: list[tuple[int, int]]) -> Seeds:
    """Seeds from the convex outline of (N, 3) sparse points, most of them on the object, without outliers.

    The projections are (B, 3, 4), the sizes B times (H, W).

    Raises:
        InputError: A view sees fewer than three of the points.
    """
    center = np.median(points, axis=0)
    distance = np.linalg.norm(points - center, axis=1)
    kept = points[distance <= OUTLIER_DISTANCE * np.median(distance)]
    radius = REGION_MARGIN * float(np.linalg.norm(kept - center, axis=1).max())
    regions = []
    for k, (projection, size) in enumerate(zip(projections, sizes, strict=True)):
        uv, depth = project_points(kept, projection)
        within = (depth > 0) & (uv > -0.5).all(axis=1) & (uv < np.array(size[::-1]) - 0.5).all(axis=1)
        if within.sum() < 3:
            raise InputError(
                f"view {k} sees {int(within.sum())} of {len(kept)} sparse points; expected points on the "
                "object, in the cameras' world frame, and views that show the object"
            )
        outline = cv2.convexHull(np.clip(uv[depth > 0], -1e5, 1e5).astype(np.float32))
        region = np.zeros(size, np.uint8)
        cv2.fillConvexPoly(region, np.round(outline).astype(np.int32), 1)
        window = 2 * int(np.ceil(POINTS_MARGIN * float(np.ptp(uv[within], axis=0).max()))) + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (window, window))
        regions.append(cv2.dilate(region, kernel).astype(bool))
    return Seeds(center, radius, tuple(regions))


def seeds_from_cameras(projections: Array, sizes: list[tuple[int, int]]) -> Seeds:
    """Seeds from the largest ball, around the point the cameras look at, that they see completely.

    The projections are (B, 3, 4), two or more; the sizes B times (H, W).

    Raises:
        InputError: The optical axes do not meet in front of the cameras, within all images.
    """
    center = looking_point(projections)
    radii, spots = [], []
    for projection, (height, width) in zip(projections, sizes, strict=True):
        uv, depth = project_points(center[None], projection)
        focal = decompose_projection(projection)[0][1, 1]
        to_border = min(uv[0, 0], width - 1 - uv[0, 0], uv[0, 1], height - 1 - uv[0, 1])
        radii.append(to_border * depth[0] / focal)
        spots.append((uv[0], focal / depth[0]))
    if min(radii) <= 0:
        raise InputError(
            f"view {int(np.argmin(radii))} does not show the point that the optical axes meet in; expected "
            "all cameras to look at the object: pass sparse points (--points) or masks (--masks FOLDER)"
        )
    radius = float(np.median(radii))
    regions = []
    for (spot, scale), size in zip(spots, sizes, strict=True):
        disc = np.zeros(size, np.uint8)
        cv2.circle(disc, (round(spot[0]), round(spot[1])), round(radius * scale), 1, -1)
        regions.append(disc.astype(bool))
    return Seeds(center, REGION_MARGIN * radius, tuple(regions))


def looking_point(projections: Array) -> Array:
    """Returns the point (3,) nearest to all optical axes of (B, 3, 4) projections, by least squares.

    Raises:
        InputError: The axes are nearly parallel, or the point lies behind a camera.
    """
    poses = np.stack([decompose_projection(projection)[1] for projection in projections])
    centers, axes = poses[:, :3, 3], poses[:, :3, 2]
    widest = float(np.degrees(np.arccos(np.clip((axes @ axes.T).min(), -1.0, 1.0))))
    if widest < MIN_AXIS_ANGLE:
        raise InputError(
            f"all cameras look in the same direction (largest angle {widest:.2f} degrees), which does not "
            "locate the object: pass sparse points (--points) or masks (--masks FOLDER)"
        )
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    origin = centers.mean(axis=0)
    offsets = np.einsum("bij,bj->i", across, centers - origin)
    point = origin + np.linalg.solve(across.sum(axis=0), offsets)
    behind = np.flatnonzero(np.einsum("bi,bi->b", point - centers, axes) <= 0)
    if len(behind):
        raise InputError(
            f"the point that the optical axes meet in lies behind view {behind[0]}; expected cameras that "
            "look inward at an object: check --kind and the axis convention"
        )
    return point
