"""Sparse points of the surface from photographs with known cameras: SIFT tracks, triangulated.

B views, N points, T observations of a track. World frame and unit; pixels are (column, row).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from idr.geometry.cameras import project_points
from idr.preprocess.scene_views import Array
from idr.progress_bar import with_progress

Descriptors = NDArray[np.float32]
Observations = list[tuple[int, int]]
"""Views and numbers of the keypoints that show one point."""


@dataclass(frozen=True)
class TriangulationSettings:
    """Thresholds of keypoints, matches and points."""

    keypoints: int = 8000  # of a view, the strongest
    contrast: float = 0.01  # of SIFT; below OpenCV's 0.04, as objects fill a part of the image
    neighbors: int = 8  # views that each view is matched with: those of the nearest viewing directions
    max_degrees: float = 40.0  # between matched views; SIFT matches few keypoints beyond
    ratio: float = 0.8  # largest, of the distances to the nearest and second nearest descriptor (Lowe 2004)
    epipolar_pixels: float = 1.0  # largest distance of a match from its epipolar line
    reprojection_pixels: float = 1.0  # largest distance of an observation from the projected point
    min_track: int = 3  # views of a point
    min_degrees: float = 4.0  # smallest, of the widest angle between two rays to a point


SETTINGS = TriangulationSettings()


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
    log: Callable[[str], None] = lambda _: None,
) -> Triangulation:
    """Finds points of the object that several photographs, B arrays (H, W, 3), show.

    Keypoints outside the masks, (H, W), are not used. The third row of the (B, 3, 4) projections gives the
    depth. `log` receives a line for each stage.
    """
    keypoints, descriptors = _detect(images, masks)
    log(f"{sum(map(len, keypoints)):,} keypoints in {len(images)} photographs")
    pairs = _neighbors(projections)
    matches = {
        (i, j): _match((keypoints[i], keypoints[j]), (descriptors[i], descriptors[j]), projections[[i, j]])
        for i, j in with_progress(pairs, "matching pairs")
    }
    log(f"{sum(map(len, matches.values())):,} matches in {len(pairs)} pairs")
    tracks = _tracks(matches, SETTINGS.min_track)
    results = (_triangulate_track(track, keypoints, projections) for track in tracks)
    found = [result for result in results if result is not None]
    log(f"{len(found):,} points in {SETTINGS.min_track} or more photographs")
    points, errors, lengths = zip(*found, strict=True) if found else ((), (), ())
    return Triangulation(np.array(points).reshape(-1, 3), np.array(errors), np.array(lengths, np.int64))


def _detect(
    images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.bool_]]
) -> tuple[list[Array], list[Descriptors]]:
    """Returns keypoints (K, 2) and RootSIFT descriptors (K, 128) of each view."""
    sift = cv2.SIFT.create(nfeatures=SETTINGS.keypoints, contrastThreshold=SETTINGS.contrast)
    places, descriptors = [], []
    pairs = zip(images, masks, strict=True)
    for image, mask in with_progress(pairs, "keypoints", len(images)):
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


def _neighbors(projections: Array) -> list[tuple[int, int]]:
    """Returns the pairs of views to match."""
    axes = projections[:, 2, :3] / np.linalg.norm(projections[:, 2, :3], axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))
    # Cameras that look in the same direction from other places see the object from other sides.
    baseline = np.linalg.norm(_centers(projections)[:, None] - _centers(projections), axis=-1)
    np.fill_diagonal(angles, np.inf)
    nearest = np.argsort(angles + baseline / max(baseline.max(), 1e-9), axis=1)[:, : SETTINGS.neighbors]
    pairs = ((i, j) for i, others in enumerate(nearest.tolist()) for j in others)
    return sorted({(min(i, j), max(i, j)) for i, j in pairs if angles[i, j] <= SETTINGS.max_degrees})


def _fundamental(first: Array, second: Array) -> Array:
    """Returns F with x2 F x1 = 0 for the projections of a point (Hartley and Zisserman 2004, eq. 9.1)."""
    center = np.append(_centers(first[None])[0], 1.0)
    epipole = second @ center
    cross = np.cross(np.eye(3), epipole)  # the matrix of v -> epipole x v
    return cross @ second @ np.linalg.pinv(first)


def _match(
    places: tuple[Array, Array], descriptors: tuple[Descriptors, Descriptors], projections: Array
) -> NDArray[np.int64]:
    """Returns (M, 2) numbers of keypoints that match in both directions and lie on epipolar lines."""
    if min(map(len, descriptors)) < 2:
        return np.zeros((0, 2), np.int64)
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    best = [
        {one.queryIdx: one.trainIdx for one, two in nearest if one.distance < SETTINGS.ratio * two.distance}
        for nearest in (matcher.knnMatch(a, b, k=2) for a, b in (descriptors, descriptors[::-1]))
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
    return mutual[distance <= SETTINGS.epipolar_pixels]


def _tracks(matches: dict[tuple[int, int], NDArray[np.int64]], min_track: int) -> list[Observations]:
    """Joins matches to tracks; those with two keypoints in one view contradict themselves and are dropped."""
    joined = DisjointSet()
    for (i, j), pairs in matches.items():
        for a, b in pairs.tolist():
            joined.add((i, a))
            joined.add((j, b))
            joined.merge((i, a), (j, b))
    tracks = [sorted(track) for track in joined.subsets() if len(track) >= min_track]
    return [track for track in tracks if len({view for view, _ in track}) == len(track)]


def _triangulate_track(
    track: Observations, keypoints: list[Array], projections: Array
) -> tuple[Array, float, int] | None:
    """Returns point, error and number of views; None where the observations do not agree on a point."""
    views = np.array([view for view, _ in track])
    places = np.array([keypoints[view][number] for view, number in track])
    while len(views) >= SETTINGS.min_track:
        point = intersect(places, projections[views])
        seen = [project_points(point[None], projections[view]) for view in views]
        errors = np.linalg.norm(np.array([pixel[0] for pixel, _ in seen]) - places, axis=1)
        if errors.max() <= SETTINGS.reprojection_pixels:
            in_front = all(depth[0] > 0 for _, depth in seen)
            wide = widest_angle(point, _centers(projections[views])) >= SETTINGS.min_degrees
            return (point, float(np.sqrt((errors**2).mean())), len(views)) if in_front and wide else None
        keep = np.arange(len(views)) != errors.argmax()
        views, places = views[keep], places[keep]
    return None


def intersect(places: Array, projections: Array) -> Array:
    """Returns the point (3,) of pixels (T, 2) by the direct linear transform."""
    rows = np.concatenate(
        [place[:, None] * p[2] - p[:2] for place, p in zip(places, projections, strict=True)]
    )
    rows /= np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
    return np.linalg.lstsq(rows[:, :3], -rows[:, 3], rcond=None)[0]


def widest_angle(point: Array, centers: Array) -> float:
    """Returns the largest angle in degrees between the rays from a point to centers (T, 3); 0 for one."""
    rays = (centers - point) / np.linalg.norm(centers - point, axis=1, keepdims=True)  # (T, 3)
    cosines = [rays[i] @ rays[j] for i, j in combinations(range(len(rays)), 2)]
    return float(np.degrees(np.arccos(np.clip(min(cosines, default=1.0), -1, 1))))
