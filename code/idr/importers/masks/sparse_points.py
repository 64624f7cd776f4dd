"""Sparse points of a scene whose cameras are given, from features that two views share.

B views, N points, M matches, H rows, W columns. World frame and unit; pixels count from the first one's
center.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import decompose_projection, project_points
from idr.importers.source import Array

FEATURES, CONTRAST = 2000, 0.02
"""SIFT's largest number of features a view, and the contrast that it asks of them; half of its default, for
smooth objects."""
PARTNERS = 4
"""Views that each one is compared with: the nearest in angle that are not too near."""
LEAST_ANGLE = 4.0
"""Degrees between two views seen from the middle; depth is uncertain below."""
RATIO = 0.8
"""Lowe's: the best match must be this much nearer than the second."""
LARGEST_ERROR = 1.0
"""Pixels between a feature and its point, in both views."""


def sparse_points(images: list[NDArray[np.uint8]], projections: Array, middle: Array) -> Array:
    """Triangulates what neighboring views have in common.

    Wrong matches that happen to lie on each other's epipolar lines stay in: whoever uses the points must bear
    some that are nowhere.

    Args:
        images: B arrays (H, W, 3), RGB.
        projections: (B, 3, 4) world to pixels.
        middle: (3,) about where the object is.

    Returns:
        (N, 3) points; a point seen by several pairs comes several times. N may be 0.
    """
    finder = cv2.SIFT_create(FEATURES, contrastThreshold=CONTRAST)  # type: ignore[attr-defined]
    features = [finder.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None) for image in images]
    spots = [np.array([key.pt for key in keys], np.float64).reshape(-1, 2) for keys, _ in features]
    found = [np.zeros((0, 3))]
    for i, j in neighbor_pairs(projections, middle):
        if min(len(spots[i]), len(spots[j])) < 2:
            continue
        matches = cv2.BFMatcher().knnMatch(features[i][1], features[j][1], k=2)
        kept = [(a.queryIdx, a.trainIdx) for a, b in matches if a.distance < RATIO * b.distance]
        if kept:
            first, second = np.array(kept).T
            found.append(triangulated(spots[i][first], spots[j][second], projections[i], projections[j]))
    return np.concatenate(found)


def neighbor_pairs(projections: Array, middle: Array) -> list[tuple[int, int]]:
    """Returns for each view the `PARTNERS` nearest ones that are at least `LEAST_ANGLE` apart from it.

    Args:
        projections: (B, 3, 4).
        middle: (3,) from where angles are measured.

    Returns:
        Pairs of numbers, each pair once, the lower number first.
    """
    centers = np.stack([decompose_projection(matrix)[1][:3, 3] for matrix in projections])
    toward = (centers - middle) / np.linalg.norm(centers - middle, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(toward @ toward.T, -1.0, 1.0)))
    pairs: set[tuple[int, int]] = set()
    for i, row in enumerate(angles):
        partners = [int(j) for j in np.argsort(row) if j != i and row[j] >= LEAST_ANGLE][:PARTNERS]
        pairs |= {(min(i, j), max(i, j)) for j in partners}
    return sorted(pairs)


def triangulated(first: Array, second: Array, projection_a: Array, projection_b: Array) -> Array:
    """Triangulates matches and keeps the points that project to their features.

    Args:
        first: (M, 2) pixels in one view.
        second: (M, 2) pixels in the other.
        projection_a: (3, 4) of the first view.
        projection_b: (3, 4) of the second.

    Returns:
        (N, 3) points before both cameras, within `LARGEST_ERROR` pixels of their features.
    """
    homogeneous = cv2.triangulatePoints(projection_a, projection_b, first.T, second.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        points = np.asarray(homogeneous[:3] / homogeneous[3], dtype=np.float64).T
    good = np.isfinite(points).all(axis=1)
    points, first, second = points[good], first[good], second[good]
    fine = np.ones(len(points), bool)
    for spots, projection in ((first, projection_a), (second, projection_b)):
        uv, depth = project_points(points, projection)
        fine &= (depth > 0) & (np.linalg.norm(uv - spots, axis=1) <= LARGEST_ERROR)
    return points[fine]
