"""The visual hull: all points that are consistent with the views' masks.

B views, N points or cells. Coordinates are those of `Carver`'s region: its center is the origin, its axes are
the first camera's, and its unit is chosen by the caller. Results are therefore independent of the world's
origin, axes and unit.

A point belongs to the hull if nearly all views that see it (in front of the camera, within the image) see it
inside their mask. "Nearly all" means `INSIDE_SHARE` = 45/49: the published rule, at least 45 of DTU's 49
views, as a share. It must also be seen by that share of the largest number of views that see any point of the
hull: outside the common field of view, too few masks carve. Differs: the published code requires 45 views
whatever their number, in a box that depends on the world's origin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import project_points
from idr.preprocess.scene_views import Array, Mask, SceneViews
from idr.progress_bar import with_progress

INSIDE_SHARE = 45 / 49
CELLS_FIRST = 24
"""Cells along each side of the region at the coarsest level."""
CELLS_BUDGET = 600_000
"""Upper bound on the number of cells at the finest level; a compact object then spans about 100 cells."""
MAX_HALVINGS = 12
"""Objects thinner than region / (24 * 2**12) are not found."""


@dataclass(frozen=True)
class SceneHull:
    """The visual hull within a region, sampled on a regular grid; world frame and unit.

    Attributes:
        points: (N, 3) centers of grid cells in the hull, N >= 0.
        spacing: Side of a cell.
        most_views: Largest number of views that see one point of the hull.
        is_open: Whether the hull reaches the region's border: the views do not bound it, it is cut off, and
            unsuitable for a sphere.
        center: (3,) the region's center; for a scene the point nearest to the rays through masks' centroids.
        outline: The carver's unit; for a scene the radius of the smallest ball around `center` whose outlines
            contain all masks.
        rarely_seen: (M, 3) further cells that every view agrees with as above, but that too few views see to
            belong to the hull. Where the image cuts the object off, nothing is known about them.
    """

    points: Array
    spacing: float
    most_views: int
    is_open: bool
    center: Array
    outline: float
    rarely_seen: Array = field(default_factory=lambda: np.empty((0, 3)))


def cube_grid(axis: NDArray[np.floating]) -> Array:
    """(n^3, 3) points whose coordinates are all combinations of n values."""
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def needed_views(count: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """Number of views that count as nearly all of `count`: 45 of 49, 15 of 16, all of 12 or fewer."""
    return np.ceil(np.asarray(count) * INSIDE_SHARE - 1e-9).astype(np.int64)


def fewest_views(num_views: int) -> int:
    """Number of views that must see a point: half of all, at least two."""
    return max(2, -(-num_views // 2))


class Carver:
    """Carves the visual hull from a ball, in the frame of the ball's center and the first camera's axes.

    Args:
        views: Masks and cameras.
        center: (3,) center of the region in the world.
        unit: Unit of this frame in world units.
    """

    def __init__(self, views: SceneViews, center: NDArray[np.floating], unit: float) -> None:
        self.views, self.unit = views, unit
        self.to_world = np.eye(4)
        self.to_world[:3, :3] = unit * views.poses[0, :3, :3]
        self.to_world[:3, 3] = center
        # project_points scales each projection by its third row, so depth is in this frame's unit.
        self.projections = views.projections @ self.to_world  # (B, 3, 4)
        self.centers = self.from_world(views.centers)  # (B, 3)
        self._to_mask = [_distance_to_mask(mask) for mask in with_progress(views.masks, "masks")]

    def from_world(self, points: Array) -> Array:
        """Moves (N, 3) points from the world to this frame."""
        world_to_local = np.linalg.inv(self.to_world)
        return points @ world_to_local[:3, :3].T + world_to_local[:3, 3]

    def carve(self, region_radius: float, rarest: int | None = None) -> SceneHull:
        """Carves the hull from the ball around the center whose radius is `region_radius` units.

        Cells that cannot contain a point of the hull are dropped and the others halved, so thin parts
        survive. Cells that fewer than `rarest` views see are not `rarely_seen` either; None for as many as
        the hull's points require.
        """
        fewest = fewest_views(len(self.views))
        rarest = fewest if rarest is None else rarest
        spacing = 2.0 * region_radius / CELLS_FIRST
        cells = cube_grid((np.arange(CELLS_FIRST) + 0.5) * spacing - region_radius)
        cells = self._possible(cells, spacing, region_radius, rarest)
        for _ in range(MAX_HALVINGS):
            if len(cells) == 0 or 8 * len(cells) > CELLS_BUDGET:
                break
            spacing /= 2.0
            cells = (cells[:, None] + cube_grid(np.array([-0.5, 0.5])) * spacing).reshape(-1, 3)
            cells = self._possible(cells, spacing, region_radius, rarest)

        cells = cells[np.linalg.norm(cells, axis=1) <= region_radius]
        seen, inside = self.count_views(cells)
        agreed = (seen >= rarest) & (inside >= needed_views(seen))
        most = int(seen[agreed].max(initial=0))
        often = (seen >= needed_views(most)) & (seen >= fewest)
        points = cells[agreed & often]
        most = most if len(points) else 0
        reach = np.linalg.norm(points, axis=1).max(initial=0.0)
        is_open = bool(reach > region_radius - 2.0 * spacing)
        center = self.to_world[:3, 3]
        in_world, rare = (p @ self.to_world[:3, :3].T + center for p in (points, cells[agreed & ~often]))
        return SceneHull(in_world, spacing * self.unit, most, is_open, center, self.unit, rare)

    def count_views(self, points: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of views that see each of (N, 3) points, and that see it inside the mask."""
        seen, inside = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
        for mask, projection in zip(self.views.masks, self.projections, strict=True):
            column, row, sees = nearest_pixels(points, projection, mask.shape)
            seen += sees
            inside[sees] += mask[row[sees], column[sees]]
        return seen, inside

    def _possible(self, cells: Array, spacing: float, region_radius: float, fewest: int) -> Array:
        """Keeps cubic cells (centers (N, 3)) that may contain a point of the hull; conservative."""
        reach = spacing * np.sqrt(3.0) / 2.0  # center to corner
        cells = cells[np.linalg.norm(cells, axis=1) <= region_radius + reach]
        num_views = len(self.views)
        outside, unseen = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64)
        for k in with_progress(range(num_views), "carving"):
            surely_outside, surely_unseen = self._sure(k, cells, reach)
            outside += surely_outside
            unseen += surely_unseen
            # The more views see a point, the more may disagree; all views is the most permissive case.
            keep = (outside <= num_views - needed_views(num_views)) & (unseen <= num_views - fewest)
            if not keep.all():
                cells, outside, unseen = cells[keep], outside[keep], unseen[keep]
        return cells

    def _sure(self, k: int, cells: Array, reach: float) -> tuple[Mask, Mask]:
        """Whether all points within `reach` of each center are seen outside the mask, and all are unseen."""
        height, width = self.views.masks[k].shape
        uv, depth = project_points(cells, self.projections[k])
        in_front = depth > 2.0 * reach
        distance = np.linalg.norm(cells - self.centers[k], axis=1)
        # A step d at depth z moves x/z by (d_x - x/z d_z) / (z + d_z), at most |d| (distance/z) / (z - |d|).
        focal = np.linalg.norm(self.views.intrinsics[k, :2, :2], ord=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            footprint = np.where(in_front, focal * reach * distance / (depth * (depth - reach)), np.inf) + 1.0
        to_edges = np.concatenate((uv, [width - 1, height - 1] - uv), axis=1)  # pixels, negative outside
        border = np.where(in_front, to_edges.min(axis=1), 0.0)
        within = border > footprint
        column, row = (np.where(within, np.round(uv[:, i]), 0).astype(np.int64) for i in (0, 1))
        # One pixel for rounding the center, another (in `footprint`) for rounding the other points.
        outside = within & (self._to_mask[k][row, column] > footprint + 1.0)
        return outside, (depth < -reach) | (border < -footprint)


def _distance_to_mask(mask: Mask) -> NDArray[np.uint8]:
    """Distance of each pixel from the mask, rounded down and clipped to 255; never overestimated."""
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(np.floor(distance), 255).astype(np.uint8)


def nearest_pixels(
    points: Array, projection: Array, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Mask]:
    """Projects (N, 3) points to whole pixels of an image (H, W); the projection is (3, 4) from their frame.

    Returns:
        column, row: (N,) nearest pixel, 0 if the point is not seen.
        sees: (N,) whether the point lies in front of the camera and within the image.
    """
    uv, depth = project_points(points, projection)
    with np.errstate(invalid="ignore"):
        sees = (depth > 0) & (uv > -0.5).all(axis=1) & (uv < np.array(shape[::-1]) - 0.5).all(axis=1)
    pixel = np.zeros(uv.shape, np.int64)
    pixel[sees] = np.floor(uv[sees] + 0.5).astype(np.int64)
    return pixel[:, 0], pixel[:, 1], sees
