"""Outlines of masks, visual hull and spheres in the images.

B views, H rows, W columns, N points or pixels. World frame and unit.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import project_points
from idr.preprocess.scene_views import Array, Mask, SceneViews
from idr.preprocess.visual_hull import SceneHull, nearest_pixels


def outline_radii(views: SceneViews, center: NDArray[np.floating]) -> Array:
    """(B,) radius of the smallest ball around a center (3,) whose outline contains the mask, in each view.

    That is the largest distance of the center from the (half-)rays through the mask's pixels. Rays within a
    fixed distance form a cone, convex in the image, so the corners of the mask's convex hull suffice.
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


def hull_silhouette(views: SceneViews, k: int, hull: SceneHull) -> Mask:
    """(H, W) silhouette of the hull in view k; its samples are drawn as discs with a cell's width."""
    mask = views.masks[k]
    column, row, sees = nearest_pixels(hull.points, views.projections[k], mask.shape)
    seen = np.zeros(mask.shape, np.uint8)
    seen[row[sees], column[sees]] = 1
    depths = (hull.points[sees] - views.centers[k]) @ views.poses[k, :3, 2]
    if len(depths) == 0:
        return seen.astype(bool)
    diameter = views.intrinsics[k, 1, 1] * hull.spacing / float(np.median(depths))  # pixels
    # Samples more than a pixel apart leave gaps: close them, then dilate by half a sample for the border.
    gap = 2 * int(np.ceil(diameter / 2.0)) + 1
    closed = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap)))
    grow = 2 * round(diameter / 2.0 - 0.5) + 1 if diameter > 1.0 else 1
    return cv2.dilate(closed, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow))).astype(bool)


def hull_ious(views: SceneViews, hull: SceneHull) -> Array:
    """(B,) intersection over union of the hull's silhouette and the mask in each view.

    Pixels of the mask that show only cells that few views see do not count: the other images end there.
    """
    ious = np.empty(len(views))
    for k, mask in enumerate(views.masks):
        outline = hull_silhouette(views, k, hull)
        unknown = ~outline & mask & hull_silhouette(views, k, replace(hull, points=hull.rarely_seen))
        ious[k] = (outline & mask).sum() / max(1, ((outline | mask) & ~unknown).sum())
    return ious


def sphere_outline(views: SceneViews, k: int, center: NDArray[np.floating], radius: float) -> Array | None:
    """Projects the outline of a sphere in view k, a closed curve of (360, 2) pixels (column, row).

    It is the circle where the camera's rays are tangent to the sphere; None if the camera is inside the
    sphere or part of the circle lies behind it.
    """
    to_camera = views.centers[k] - center
    distance = float(np.linalg.norm(to_camera))
    if distance <= radius:
        return None
    toward = to_camera / distance
    # The null space of `toward` spans the circle's plane.
    first, second = np.linalg.svd(toward[None])[2][1:]
    angle = np.linspace(0.0, 2.0 * np.pi, 360, endpoint=False)[:, None]
    circle = np.cos(angle) * first + np.sin(angle) * second
    along = radius / distance  # sine of half the angle the sphere subtends
    points = center + radius * (along * toward + np.sqrt(1.0 - along**2) * circle)
    uv, depth = project_points(points, views.projections[k])
    return uv if (depth > 0).all() else None


def ray_directions(views: SceneViews, k: int, pixels: NDArray[np.generic]) -> Array:
    """(N, 3) unit directions in the world of view k's rays through (N, 2) pixels (column, row)."""
    homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
    directions = np.linalg.solve(views.intrinsics[k], homogeneous.T).T @ views.poses[k, :3, :3].T
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)
