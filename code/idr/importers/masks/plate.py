"""A plain plate or cloth that the object stands on and masks contain, such as a turntable.

Nothing in its color tells it from the object if all of it lies where the cameras look. Its shape does: masks
of a plate, cast onto its plane, have the same outline from all sides, and those of a solid object do not.

B views, N points, H rows, W columns. World frame and unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from idr.geometry.cameras import decompose_projection
from idr.importers.masks.ground_plane import Plane
from idr.importers.masks.seeds import Seeds
from idr.importers.source import Array
from idr.preprocess.scene_views import Mask
from idr.preprocess.visual_hull import nearest_pixels


@dataclass(frozen=True)
class _Tuning:
    """Constants of the search. Rendered plates cover 0.67 to 0.79 of the masks, other objects at most 0.5."""

    heights: int = 57  # tried
    highest: float = 0.7  # radii of the seeds' ball: distance of a height from its center
    half_side: float = 1.5  # radii: of the square that masks are cast onto
    cells: int = 96  # along its side
    min_seen: float = 0.5  # share of the views that must see a cell
    min_inside: float = 0.9  # of these, in whose mask it must lie
    min_cover: float = 0.6  # common area over the mean area of a cast mask


TUNING = _Tuning()


def find_plate(masks: Sequence[Mask], seeds: Seeds, projections: Array) -> Plane | None:
    """The plane of a plate that B masks (H, W) consist of for the most part, None without one.

    Cameras are taken to be level: the normal is orthogonal to the image rows. The projections are (B, 3, 4).
    """
    poses = np.stack([decompose_projection(matrix)[1] for matrix in projections])
    normal = np.linalg.svd(poses[:, :3, 0], full_matrices=False)[2][2]
    centers = poses[:, :3, 3]
    if np.median((centers - seeds.center) @ normal) < 0:
        normal = -normal
    axis = np.linspace(-TUNING.half_side, TUNING.half_side, TUNING.cells) * seeds.radius
    square = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2) @ np.linalg.svd(normal[None])[2][1:]
    heights = np.linspace(-TUNING.highest, TUNING.highest, TUNING.heights) * seeds.radius
    origins = seeds.center + heights[:, None] * normal
    cover = [_cover(origin + square, masks, projections) for origin in origins]
    best = int(np.argmax(cover))
    plane = Plane(normal, float(origins[best] @ normal))
    return plane if cover[best] > TUNING.min_cover and (plane.height(centers) > 0).all() else None


def _cover(points: Array, masks: Sequence[Mask], projections: Array) -> float:
    """Share of the (N, 3) points in a cast mask that lie in the others, too."""
    seen, inside, total = np.zeros(len(points)), np.zeros(len(points)), 0
    for mask, projection in zip(masks, projections, strict=True):
        column, row, sees = nearest_pixels(points, projection, mask.shape)
        within = sees & mask[row, column]
        seen, inside, total = seen + sees, inside + within, total + int(within.sum())
    common = (seen >= TUNING.min_seen * len(masks)) & (inside >= TUNING.min_inside * np.maximum(seen, 1))
    return float(common.sum() * len(masks) / max(1, total))
