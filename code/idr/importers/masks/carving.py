"""The visual hull of the other views, which bounds the object in each view.

B views, N cells, H rows, W columns. World frame and unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from idr.importers.masks.ground_plane import Layer
from idr.importers.masks.seeds import Seeds
from idr.importers.source import Array
from idr.preprocess.outlines import hull_silhouette
from idr.preprocess.scene_views import Mask, SceneViews
from idr.preprocess.visual_hull import SceneHull, cube_grid, nearest_pixels

GRID = 72
"""Samples along the diameter of the ball to carve."""
MIN_INSIDE_SHARE = 0.8
"""Of the other views must see a point inside; low, since masks are preliminary."""


def other_views_outlines(
    views: SceneViews, seeds: Seeds, certainty: Sequence[Layer] | None = None
) -> list[Mask]:
    """Silhouette, (H, W) in each view, of the hull that the OTHER views' masks carve from the seeds' ball.

    It is all False if that hull is empty. The certainty, B arrays (H, W) from 0 to 1, says how surely a pixel
    outside its mask shows background, thus how much it carves; None for 1 everywhere.
    """
    cells, spacing = ball_cells(seeds)
    seen = np.zeros((len(views), len(cells)), bool)
    inside = np.zeros(seen.shape, np.float32)
    for k, mask in enumerate(views.masks):
        column, row, seen[k] = nearest_pixels(cells, views.projections[k], mask.shape)
        outside = ~mask if certainty is None else np.where(mask, 0.0, certainty[k])
        inside[k] = seen[k] * (1 - outside[row, column])
    num_seen, num_inside = seen.sum(axis=0), inside.sum(axis=0)
    outlines = []
    for k in range(len(views)):
        others, others_inside = num_seen - seen[k], num_inside - inside[k]
        kept = (others >= max(2, (len(views) - 1) // 2)) & (others_inside >= MIN_INSIDE_SHARE * others)
        hull = SceneHull(cells[kept], spacing, 0, False, seeds.center, seeds.radius)
        outlines.append(hull_silhouette(views, k, hull))
    return outlines


def distance_to(region: Mask) -> Layer:
    """Distance of each pixel (H, W) from a region, pixels; 0 inside."""
    distance = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(distance, dtype=np.float32)


def ball_cells(seeds: Seeds) -> tuple[Array, float]:
    """(N, 3) cells of a grid in the seeds' ball, and their spacing."""
    axis = np.linspace(-seeds.radius, seeds.radius, GRID)
    cells = cube_grid(axis)
    return cells[np.linalg.norm(cells, axis=1) <= seeds.radius] + seeds.center, float(axis[1] - axis[0])
