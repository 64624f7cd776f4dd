"""Outlines in the images: of masks, of the visual hull, of a sphere.

B views, H rows, W columns, N points or pixels. World frame and unit.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import project_points
from idr.preprocess.scene_views import SceneViews
from idr.preprocess.visual_hull import SceneHull, nearest_pixels


def outline_radii(views: SceneViews, center: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns for each view the radius of the smallest ball around a center whose outline holds the mask.

    That is the largest distance of the center from the (half-)rays through the mask's pixels. Rays within
    a given distance fill a cone, convex in the image, so the corners of the mask's convex hull suffice.

    Args:
        views: The views.
        center: (3,) in the world.

    Returns:
        (B,) radii in world units.
    """
    radii = np.empty(len(views))
    for k, mask in enumerate(views.masks):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        corners = cv2.convexHull(np.concatenate(contours))[:, 0]  # (N, 2), (column, row)
        directions = ray_directions(views, k, corners)
        to_center = center - views.centers[k]
        depth = np.maximum(directions @ to_center, 0.0)
        radii[k] = np.linalg.norm(to_center - depth[:, None] * directions, axis=1).max()
    return radii


def hull_silhouette(views: SceneViews, k: int, hull: SceneHull) -> NDArray[np.bool_]:
    """Draws the outline of hull samples in a view, filled.

    Args:
        views: The views.
        k: Which one.
        hull: Its samples are drawn as discs of a cell's width.

    Returns:
        (H, W), True where the hull is seen.
    """
    mask = views.masks[k]
    column, row, sees = nearest_pixels(hull.points, views.projections[k], mask.shape)
    seen = np.zeros(mask.shape, np.uint8)
    seen[row[sees], column[sees]] = 1
    depths = (hull.points[sees] - views.centers[k]) @ views.poses[k, :3, 2]
    if len(depths) == 0:
        return seen.astype(bool)
    diameter = views.intrinsics[k, 1, 1] * hull.spacing / float(np.median(depths))  # pixels
    # Samples more than a pixel apart leave gaps: close them, then grow by the half sample that was cut off.
    gap = 2 * int(np.ceil(diameter / 2.0)) + 1
    closed = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap)))
    grow = 2 * round(diameter / 2.0 - 0.5) + 1 if diameter > 1.0 else 1
    return cv2.dilate(closed, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow))).astype(bool)


def hull_ious(views: SceneViews, hull: SceneHull) -> NDArray[np.float64]:
    """Returns the overlap (intersection over union) of the hull's outline and the mask in each view, (B,)."""
    ious = np.empty(len(views))
    for k, mask in enumerate(views.masks):
        outline = hull_silhouette(views, k, hull)
        ious[k] = (outline & mask).sum() / (outline | mask).sum()
    return ious


def sphere_outline(
    views: SceneViews, k: int, center: NDArray[np.floating], radius: float, num_points: int = 360
) -> NDArray[np.float64] | None:
    """Projects the outline of a sphere: the circle where the camera's rays touch it.

    Args:
        views: The views.
        k: Which one.
        center: (3,) in the world.
        radius: In world units.
        num_points: Points on the outline.

    Returns:
        (num_points, 2) pixels (column, row), a closed curve; None if the camera is within the sphere or a
        part of the circle is not in front of it.
    """
    to_camera = views.centers[k] - center
    distance = float(np.linalg.norm(to_camera))
    if distance <= radius:
        return None
    toward = to_camera / distance
    # The rows of the null space of `toward` span the circle's plane.
    first, second = np.linalg.svd(toward[None])[2][1:]
    angle = np.linspace(0.0, 2.0 * np.pi, num_points, endpoint=False)[:, None]
    circle = np.cos(angle) * first + np.sin(angle) * second
    along = radius / distance  # sine of the half angle under which the camera sees the sphere
    points = center + radius * (along * toward + np.sqrt(1.0 - along**2) * circle)
    uv, depth = project_points(points, views.projections[k])
    return uv if (depth > 0).all() else None


def ray_directions(views: SceneViews, k: int, pixels: NDArray[np.generic]) -> NDArray[np.float64]:
    """Returns the directions of a view's rays.

    Args:
        views: The views.
        k: Which one.
        pixels: (N, 2) as (column, row).

    Returns:
        (N, 3) unit vectors in the world, away from the camera.
    """
    homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
    directions = np.linalg.solve(views.intrinsics[k], homogeneous.T).T @ views.poses[k, :3, :3].T
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)
