"""Sparse points of the surface from photographs with known cameras: SIFT tracks, triangulated.

B views, N points, T observations of a track. World frame and unit; pixels are (column, row).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import project_points

Array = NDArray[np.float64]
Observations = list[tuple[int, int]]
"""Views and numbers of the keypoints that show one point."""


@dataclass(frozen=True)
class TriangulationSettings:
    """Thresholds of keypoints, matches and points.

    Attributes:
        keypoints: Most keypoints of a view, the strongest.
        contrast: SIFT's threshold of contrast; below OpenCV's 0.04, as objects fill a part of the image.
        neighbors: Views that each view is matched with: those of the nearest viewing directions.
        max_degrees: Largest angle between matched views; SIFT matches few keypoints beyond.
        ratio: Largest ratio of the distances to the nearest and the second nearest descriptor (Lowe 2004).
        epipolar_pixels: Largest distance of a match from its epipolar line.
        reprojection_pixels: Largest distance of an observation from the projected point.
        min_track: Smallest number of views of a point.
        min_degrees: Smallest angle between two rays to a point.
    """

    keypoints: int = 8000
    contrast: float = 0.01
    neighbors: int = 8
    max_degrees: float = 40.0
    ratio: float = 0.8
    epipolar_pixels: float = 1.0
    reprojection_pixels: float = 1.0
    min_track: int = 3
    min_degrees: float = 4.0


@dataclass(frozen=True)
class Triangulation:
    """Triangulated points.

    Attributes:
        points: (N, 3) in the world.
        reprojection: (N,) root mean square reprojection error in pixels.
        track_length: (N,) number of views that show the point.
    """

    points: Array
    reprojection: Array
    track_length: NDArray[np.int64]


def triangulate(
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.bool_]],
    projections: Array,
    settings: TriangulationSettings | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Triangulation:
    """Finds points of the object that several photographs show.

    Args:
        images: B arrays (H, W, 3) of uint8.
        masks: B arrays (H, W) of bool; keypoints outside are not used.
        projections: (B, 3, 4), world to pixels, the third row of the depth.
        settings: Thresholds; None for the defaults.
        log: Receives a line for each stage.
    """
    settings = settings or TriangulationSettings()
    keypoints, descriptors = _detect(images, masks, settings)
    log(f"{sum(map(len, keypoints)):,} keypoints in {len(images)} photographs")
    pairs = _neighbors(projections, settings)
    matches = {
        (i, j): _match(
            (keypoints[i], keypoints[j]), (descriptors[i], descriptors[j]), projections[[i, j]], settings
        )
        for i, j in pairs
    }
    log(f"{sum(map(len, matches.values())):,} matches in {len(pairs)} pairs")
    found = []
    for track in _tracks(matches, settings.min_track):
        point = _triangulate_track(track, keypoints, projections, settings)
        if point is not None:
            found.append(point)
    log(f"{len(found):,} points in {settings.min_track} or more photographs")
    points = np.array([place for place, _, _ in found]).reshape(-1, 3)
    return Triangulation(
        points, np.array([error for _, error, _ in found]), np.array([n for _, _, n in found], np.int64)
    )


def _detect(
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.bool_]],
    settings: TriangulationSettings,
) -> tuple[list[Array], list[NDArray[np.float32]]]:
    """Returns keypoints (K, 2) and RootSIFT descriptors (K, 128) of each view."""
    sift = cv2.SIFT.create(nfeatures=settings.keypoints, contrastThreshold=settings.contrast)
    places, descriptors = [], []
    for image, mask in zip(images, masks, strict=True):
        gray = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)
        found, descriptor = sift.detectAndCompute(gray, 255 * mask.astype(np.uint8))
        if descriptor is None:
            descriptor = np.zeros((0, 128), np.float32)
        # Square roots turn the distance into Hellinger's, which separates better (Arandjelovic 2012).
        normalized = descriptor / np.maximum(descriptor.sum(axis=1, keepdims=True), 1e-9)
        places.append(np.array([point.pt for point in found], np.float64).reshape(-1, 2))
        descriptors.append(np.sqrt(normalized).astype(np.float32))
    return places, descriptors


def _centers(projections: Array) -> Array:
    """Returns the (B, 3) camera centers."""
    return np.stack([-np.linalg.solve(p[:, :3], p[:, 3]) for p in projections])


def _neighbors(projections: Array, settings: TriangulationSettings) -> list[tuple[int, int]]:
    """Returns the pairs of views to match."""
    axes = projections[:, 2, :3] / np.linalg.norm(projections[:, 2, :3], axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))
    # Cameras that look in the same direction from other places see the object from other sides.
    baseline = np.linalg.norm(_centers(projections)[:, None] - _centers(projections), axis=-1)
    np.fill_diagonal(angles, np.inf)
    nearest = np.argsort(angles + baseline / max(baseline.max(), 1e-9), axis=1)[:, : settings.neighbors]
    return sorted(
        {
            (min(i, j), max(i, j))
            for i, others in enumerate(nearest.tolist())
            for j in others
            if angles[i, j] <= settings.max_degrees
        }
    )


def _fundamental(first: Array, second: Array) -> Array:
    """Returns F with x2 F x1 = 0 for the projections of a point (Hartley and Zisserman 2004, eq. 9.1)."""
    center = np.append(_centers(first[None])[0], 1.0)
    epipole = second @ center
    cross = np.array(
        [[0, -epipole[2], epipole[1]], [epipole[2], 0, -epipole[0]], [-epipole[1], epipole[0], 0]]
    )
    return cross @ second @ np.linalg.pinv(first)


def _match(
    places: tuple[Array, Array],
    descriptors: tuple[NDArray[np.float32], NDArray[np.float32]],
    projections: Array,
    settings: TriangulationSettings,
) -> NDArray[np.int64]:
    """Returns (M, 2) numbers of keypoints that match in both directions and lie on epipolar lines."""
    if min(map(len, descriptors)) < 2:
        return np.zeros((0, 2), np.int64)
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    best = [
        {
            one.queryIdx: one.trainIdx
            for one, two in matcher.knnMatch(a, b, k=2)
            if one.distance < settings.ratio * two.distance
        }
        for a, b in (descriptors, descriptors[::-1])
    ]
    mutual = np.array([(i, j) for i, j in best[0].items() if best[1].get(j) == i], np.int64).reshape(-1, 2)
    first, second = (
        np.column_stack((place[mutual[:, side]], np.ones(len(mutual)))) for side, place in enumerate(places)
    )
    f = _fundamental(*projections)
    lines, lines_back = first @ f.T, second @ f
    residual = np.abs((second * lines).sum(axis=1))
    distance = np.maximum(
        residual / np.linalg.norm(lines[:, :2], axis=1), residual / np.linalg.norm(lines_back[:, :2], axis=1)
    )
    return mutual[distance <= settings.epipolar_pixels]


def _tracks(matches: dict[tuple[int, int], NDArray[np.int64]], min_track: int) -> list[Observations]:
    """Joins matches to tracks; those with two keypoints in one view contradict themselves and are dropped."""
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def root(node: tuple[int, int]) -> tuple[int, int]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for (i, j), pairs in matches.items():
        for a, b in pairs.tolist():
            parent[root((i, a))] = root((j, b))
    groups: dict[tuple[int, int], Observations] = defaultdict(list)
    for node in parent:
        groups[root(node)].append(node)
    return [
        sorted(group)
        for group in groups.values()
        if len(group) >= min_track and len({view for view, _ in group}) == len(group)
    ]


def _triangulate_track(
    track: Observations, keypoints: list[Array], projections: Array, settings: TriangulationSettings
) -> tuple[Array, float, int] | None:
    """Returns point, error and number of views; None where the observations do not agree on a point."""
    views = np.array([view for view, _ in track])
    places = np.array([keypoints[view][number] for view, number in track])
    while len(views) >= settings.min_track:
        point = _intersect(places, projections[views])
        seen = [project_points(point[None], projections[view]) for view in views]
        errors = np.linalg.norm(np.array([pixel[0] for pixel, _ in seen]) - places, axis=1)
        if errors.max() <= settings.reprojection_pixels:
            in_front = all(depth[0] > 0 for _, depth in seen)
            wide = _widest_angle(point, _centers(projections[views])) >= settings.min_degrees
            return (point, float(np.sqrt((errors**2).mean())), len(views)) if in_front and wide else None
        keep = np.arange(len(views)) != errors.argmax()
        views, places = views[keep], places[keep]
    return None


def _intersect(places: Array, projections: Array) -> Array:
    """Returns the point (3,) of pixels (T, 2) by the direct linear transform."""
    rows = np.concatenate(
        [place[:, None] * p[2] - p[:2] for place, p in zip(places, projections, strict=True)]
    )
    rows /= np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
    return np.linalg.lstsq(rows[:, :3], -rows[:, 3], rcond=None)[0]


def _widest_angle(point: Array, centers: Array) -> float:
    """Returns the largest angle in degrees between the rays from a point to centers (T, 3)."""
    rays = (centers - point) / np.linalg.norm(centers - point, axis=1, keepdims=True)
    cosines = [rays[i] @ rays[j] for i, j in combinations(range(len(rays)), 2)]
    return float(np.degrees(np.arccos(np.clip(min(cosines), -1, 1))))
