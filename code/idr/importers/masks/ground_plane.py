"""The table that an object stands on: a plane whose picture the views have in common.

What lies on the plane looks the same in all views once brought there by their homographies; what stands above
it does not. So a textured table tells an object from its ground whatever the colors of the two are.

B views, N points, H rows, W columns, G cells along a side of the table's picture. World frame and unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import decompose_projection, project_points
from idr.importers.masks.seeds import Seeds
from idr.importers.source import Array

NEAR = 3.0
"""Points farther from the middle of the ball than this many radii are not asked; the table's picture reaches
as far."""
TRIALS = 500
"""Planes through three points that are tried; with a fifth of the points on the table, 1 in 125 hits it."""
THICKNESS, BELOW = 0.01, 0.05
"""Distance from the plane, over the ball's radius, up to which a point lies on it, and from which it lies
clearly below."""
LEAST_ON, MOST_BELOW = 0.2, 0.05
"""Shares of the near points: on a table, and under one. Most of an object's points lie behind any plane
through its face, so no side of the object passes for a table."""
FEWEST_POINTS = 50
CELLS = 448
"""G."""
LOWEST_SINE = 0.2
"""Sine of the angle between table and sight below which a view adds nothing to the table's picture."""
FEWEST_VIEWS = 5
"""That must see a cell for its color to be known."""
MOST_VIEWS = 60
"""That the table's picture is made of, evenly chosen; they bound time and memory."""
LEAST_DEVIATION = 3.0
"""Gray levels of L*a*b* that a cell's colors differ by from view to view, at least: noise and resampling."""
UNSURE, TEXTURED = 2.5, 1.5
"""Over the usual deviation: above the first a cell is not known, below the second its surroundings are so
plain that agreeing with them says nothing."""
SURROUNDINGS = 15
"""Cells along the window in which texture is measured."""
EDGE = 0.5
"""Share of the largest difference among the 3 x 3 cells around that counts as a deviation: errors of found
cameras shift prints. Measured, mean IoU of made masks: lego on dark and on pale cloth with given cameras
0.964 and 0.959 for 0, 0.948 and 0.930 for 0.5, 0.883 on the dark one for 1 (by color alone); the
photographed teapot with found cameras, 16 views, with the table 0.968 for 0, 0.978 for 0.25, 0.982 for 0.5,
0.985 by color alone, between which the views' agreement hardly tells: found cameras need it."""
SLACK = 1.5
"""A pixel's difference is measured in this many deviations of its cell."""
LOWEST, HIGHEST = -1.0, 3.0
"""Evidence of a pixel that agrees fully, and the most that one which does not may bring."""
WINDOW = 7
"""Pixels along the window over which evidence is averaged."""


@dataclass(frozen=True)
class Plane:
    """A plane {x : normal . x = offset}.

    Attributes:
        normal: (3,) unit vector, towards the cameras.
        offset: In world units.
    """

    normal: Array
    offset: float

    def height(self, points: Array) -> Array:
        """Returns how far (..., 3) points lie above the plane."""
        return np.asarray(points @ self.normal - self.offset, dtype=np.float64)


def find_table(points: Array, seeds: Seeds, projections: Array) -> Plane | None:
    """Looks for a plane below the object that all cameras look down on.

    Args:
        points: (N, 3) sparse points of the scene, wrong ones among them.
        seeds: About where the object is.
        projections: (B, 3, 4).

    Returns:
        The plane; None where the points show none. The same points give the same plane.
    """
    near = points[np.linalg.norm(points - seeds.center, axis=1) < NEAR * seeds.radius]
    if len(near) < FEWEST_POINTS:
        return None
    centers = np.stack([decompose_projection(matrix)[1][:3, 3] for matrix in projections])
    generator = np.random.default_rng(0)
    thickness = THICKNESS * seeds.radius
    best, best_on = None, 0
    for _ in range(TRIALS):
        plane = _fitted(near[generator.choice(len(near), 3, replace=False)], centers)
        on = int((np.abs(plane.height(near)) < thickness).sum())
        if on > best_on:
            best, best_on = plane, on
    if best is None:
        return None
    plane = _fitted(near[np.abs(best.height(near)) < thickness], centers)
    height = plane.height(near)
    fits = (
        (np.abs(height) < thickness).mean() >= LEAST_ON
        and (height < -BELOW * seeds.radius).mean() <= MOST_BELOW
        and (plane.height(centers) > 0).all()
        and abs(plane.height(seeds.center)) < seeds.radius
    )
    return plane if fits else None


def _fitted(points: Array, centers: Array) -> Plane:
    """The plane with the least squares of distances, its normal towards the cameras."""
    middle = points.mean(axis=0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    if np.median((centers - middle) @ normal) < 0:
        normal = -normal
    return Plane(normal, float(middle @ normal))


@dataclass(frozen=True)
class _Picture:
    """What the table looks like from above.

    Attributes:
        colors: (G, G, 3) median over the views, L*a*b* in gray levels.
        deviations: (G, G) median difference of the views from it.
        views: (G, G) how many views see the cell.
        usual: The median deviation of the table.
        texture: (G, G) deviation of the colors around each cell.
        edges: (G, G) what a shift of half a cell may change: prints have edges, cameras small errors.
    """

    colors: NDArray[np.float32]
    deviations: NDArray[np.float32]
    views: NDArray[np.float32]
    usual: float
    texture: NDArray[np.float32]
    edges: NDArray[np.float32]


class Table:
    """A plane with a raster around the object's foot.

    Args:
        plane: The table.
        seeds: About where the object is.
        projections: (B, 3, 4).
    """

    def __init__(self, plane: Plane, seeds: Seeds, projections: Array) -> None:
        self.plane, self.projections = plane, projections
        aside = np.eye(3)[np.argmin(np.abs(plane.normal))]
        first = np.cross(plane.normal, aside)
        first /= np.linalg.norm(first)
        self.axes = np.stack([first, np.cross(plane.normal, first)])  # (2, 3)
        self.foot = seeds.center - plane.height(seeds.center) * plane.normal
        self.reach = NEAR * seeds.radius

    def evidence(
        self, images: list[NDArray[np.uint8]], masks: list[NDArray[np.bool_]]
    ) -> list[NDArray[np.float32]]:
        """Tells for each pixel whether it shows something else than the table.

        Args:
            images: B arrays (H, W, 3), RGB.
            masks: B arrays (H, W) of bool: what is not asked for the table's picture.

        Returns:
            B arrays (H, W): about the log odds of an object, from `LOWEST` where the table is seen to
            `HIGHEST`; 0 where nothing can be said.
        """
        labs = [np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), dtype=np.uint8) for image in images]
        picture = self._picture(labs, masks)
        return [self._compared(k, lab, picture) for k, lab in enumerate(labs)]

    def _picture(self, labs: list[NDArray[np.uint8]], masks: list[NDArray[np.bool_]]) -> _Picture:
        axis = np.linspace(-self.reach, self.reach, CELLS)
        across, along = np.meshgrid(axis, axis)
        cells = self.foot + np.stack([across, along], axis=-1).reshape(-1, 2) @ self.axes
        chosen = np.unique(np.linspace(0, len(labs) - 1, min(len(labs), MOST_VIEWS)).astype(int))
        # 255 stands for unseen; sorting puts it last.
        seen = np.full((len(chosen), CELLS**2, 3), 255, np.uint8)
        sees = np.zeros((len(chosen), CELLS**2), bool)
        for row, k in enumerate(chosen):
            size = np.array(labs[k].shape[1::-1])
            uv, depth = project_points(cells, self.projections[k])
            from_camera = cells - decompose_projection(self.projections[k])[1][:3, 3]
            sine = np.abs(from_camera @ self.plane.normal) / np.linalg.norm(from_camera, axis=1)
            good = (depth > 0) & (uv >= 0).all(axis=1) & (uv <= size - 1).all(axis=1) & (sine > LOWEST_SINE)
            maps = [np.where(good, uv[:, i], -9).astype(np.float32).reshape(CELLS, CELLS) for i in range(2)]
            hidden = cv2.dilate(masks[k].astype(np.uint8), np.ones((5, 5), np.uint8))
            good &= cv2.remap(hidden, maps[0], maps[1], cv2.INTER_NEAREST).ravel() == 0
            colors = cv2.remap(labs[k], maps[0], maps[1], cv2.INTER_LINEAR).reshape(-1, 3)
            seen[row, good], sees[row] = np.minimum(colors[good], 254), good
        count = sees.sum(axis=0)
        middle = np.maximum(0, (count - 1) // 2)[None]
        median = np.take_along_axis(np.sort(seen, axis=0), middle[..., None], axis=0)[0].astype(np.float32)
        off = np.full(sees.shape, 255, np.uint8)
        for row, good in enumerate(sees):
            distance = np.linalg.norm(seen[row, good].astype(np.float32) - median[good], axis=1)
            off[row, good] = np.minimum(distance, 254)
        deviations = np.take_along_axis(np.sort(off, axis=0), middle, axis=0)[0].astype(np.float32)
        known = count >= FEWEST_VIEWS
        usual = max(LEAST_DEVIATION, float(np.median(deviations[known])) if known.any() else 0.0)
        colors = median.reshape(CELLS, CELLS, 3)
        window = (SURROUNDINGS, SURROUNDINGS)
        variance = (cv2.blur(colors**2, window) - cv2.blur(colors, window) ** 2).sum(axis=2)
        shape = (CELLS, CELLS)
        squares = np.ones((3, 3), np.uint8)
        edges = np.linalg.norm(cv2.dilate(colors, squares) - cv2.erode(colors, squares), axis=2)
        return _Picture(
            colors,
            deviations.reshape(shape),
            count.astype(np.float32).reshape(shape),
            usual,
            np.sqrt(np.maximum(variance, 0.0)),
            (EDGE * edges).astype(np.float32),
        )

    def _compared(self, k: int, lab: NDArray[np.uint8], picture: _Picture) -> NDArray[np.float32]:
        """The evidence of one view, (H, W)."""
        across, along, on_table = self._places(k, lab.shape[:2])
        colors, deviations, texture, edges = (
            cv2.remap(layer, across, along, cv2.INTER_LINEAR)
            for layer in (picture.colors, picture.deviations, picture.texture, picture.edges)
        )
        views = cv2.remap(picture.views, across, along, cv2.INTER_NEAREST)
        known = on_table & (views >= FEWEST_VIEWS) & (deviations < UNSURE * picture.usual)
        scale = SLACK * np.maximum(np.maximum(deviations, picture.usual), edges)
        difference = np.linalg.norm(lab.astype(np.float32) - colors, axis=2)
        found = np.clip(0.5 * (difference / scale) ** 2 + LOWEST, LOWEST, HIGHEST)
        plain = texture < TEXTURED * picture.usual
        found = np.where(known & ~((found < 0) & plain), found, 0.0).astype(np.float32)
        window = (WINDOW, WINDOW)
        share = cv2.blur(known.astype(np.float32), window)
        return np.where(known, cv2.blur(found, window) / np.maximum(share, 1e-6), 0.0).astype(np.float32)

    def _places(
        self, k: int, size: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Where the pixels of a view see the table: column and row in its picture, and whether they do."""
        intrinsics, pose = decompose_projection(self.projections[k])
        rows, columns = np.mgrid[: size[0], : size[1]]
        pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).astype(np.float64)
        rays = pixels @ np.linalg.inv(intrinsics[:3, :3]).T @ pose[:3, :3].T
        slope = rays @ self.plane.normal
        down = slope < -1e-9
        depth = -self.plane.height(pose[:3, 3]) / np.where(down, slope, -1.0)
        places = (pose[:3, 3] + depth[..., None] * rays - self.foot) @ self.axes.T  # (H, W, 2)
        cells = (places / self.reach + 1) / 2 * (CELLS - 1)
        inside = down & (cells > 0).all(axis=-1) & (cells < CELLS - 1).all(axis=-1)
        cells = np.where(inside[..., None], cells, -9.0).astype(np.float32)
        return cells[..., 0], cells[..., 1], inside
