"""Triangulates sparse points of a scene with known cameras from feature matches between views.

B views, N points, M matches, H rows, W columns. World frame and unit; pixel (0, 0) is the first pixel's
center.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import decompose_projection, project_points
from idr.importers.source import Array
from idr.progress_bar import with_progress

FEATURES, CONTRAST = 2000, 0.02
"""SIFT's maximum number of features per view, and its contrast threshold: half the default, for smooth
objects."""
NUM_NEIGHBORS = 4
"""Views that each view is matched with."""
MIN_ANGLE = 4.0
"""Degrees between two matched views, seen from the object; depth is uncertain below."""
RATIO = 0.8
"""Lowe's ratio of the best to the second-best match distance."""
MAX_REPROJECTION_ERROR = 1.0
"""Pixels, in both views."""


def sparse_points(images: list[NDArray[np.uint8]], projections: Array, center: Array) -> Array:
    """Triangulates feature matches of neighboring views.

    Wrong matches along epipolar lines are not detected, so the result has outliers.

    Args:
        images: B arrays (H, W, 3), RGB.
        projections: (B, 3, 4) world to pixels.
        center: (3,) approximate center of the object.

    Returns:
        (N, 3) points, N >= 0; points seen by several pairs occur several times.
    """
    finder = cv2.SIFT_create(FEATURES, contrastThreshold=CONTRAST)  # type: ignore[attr-defined]
    grays = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    features = [finder.detectAndCompute(g, None) for g in with_progress(grays, "features", len(images))]
    pixels = [np.array([key.pt for key in keys], np.float64).reshape(-1, 2) for keys, _ in features]
    found = [np.zeros((0, 3))]
    for i, j in with_progress(neighbor_pairs(projections, center), "matching pairs"):
        if min(len(pixels[i]), len(pixels[j])) < 2:
            continue
        matches = cv2.BFMatcher().knnMatch(features[i][1], features[j][1], k=2)
        kept = [(a.queryIdx, a.trainIdx) for a, b in matches if a.distance < RATIO * b.distance]
        if kept:
            first, second = np.array(kept).T
            found.append(triangulated(pixels[i][first], pixels[j][second], projections[i], projections[j]))
    return np.concatenate(found)


def neighbor_pairs(projections: Array, center: Array) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of each view and its `NUM_NEIGHBORS` nearest ones at `MIN_ANGLE` or more.

    The center (3,) is the vertex of the angles.
    """
    origins = np.stack([decompose_projection(matrix)[1][:3, 3] for matrix in projections])
    toward = (origins - center) / np.linalg.norm(origins - center, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(toward @ toward.T, -1.0, 1.0)))
    pairs: set[tuple[int, int]] = set()
    for i, row in enumerate(angles):
        neighbors = [int(j) for j in np.argsort(row) if j != i and row[j] >= MIN_ANGLE][:NUM_NEIGHBORS]
        pairs |= {(min(i, j), max(i, j)) for j in neighbors}
    return sorted(pairs)


def triangulated(first: Array, second: Array, projection_a: Array, projection_b: Array) -> Array:
    """Triangulates matches, (M, 2) pixels in each of two views, whose projections are (3, 4).

    Kept are (N, 3) points in front of both cameras, within `MAX_REPROJECTION_ERROR` of their features.
    """
    homogeneous = cv2.triangulatePoints(projection_a, projection_b, first.T, second.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        points = np.asarray(homogeneous[:3] / homogeneous[3], dtype=np.float64).T
    finite = np.isfinite(points).all(axis=1)
    points, first, second = points[finite], first[finite], second[finite]
    consistent = np.ones(len(points), bool)
    for pixels, projection in ((first, projection_a), (second, projection_b)):
        uv, depth = project_points(points, projection)
        consistent &= (depth > 0) & (np.linalg.norm(uv - pixels, axis=1) <= MAX_REPROJECTION_ERROR)
    return points[consistent]
