"""The textured ground plane below the object, whose appearance is consistent across views.

Points on the plane look the same in all views once these are warped by the plane's homographies; points above
it do not. A textured ground thus separates object from background whatever their colors.

B views, N points, H rows, W columns, G cells along a side of the plane's image. World frame and unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.geometry.cameras import decompose_projection, project_points
from idr.importers.masks.seeds import Seeds
from idr.importers.source import Array
from idr.preprocess.scene_views import Mask

Bytes = NDArray[np.uint8]
Layer = NDArray[np.float32]

CELLS = 448
"""G."""


@dataclass(frozen=True)
class _Tuning:
    """Constants of the ground plane. Radii are those of the ball around the object.

    The mean IoU of masks decided on `edge`. For 0, 0.5 and 1 it is, for lego on dark cloth, exact cameras,
    0.964, 0.948 and 0.883 (color alone); for a photographed teapot, estimated cameras, 0.968, 0.982 and
    0.985 (color alone).
    """

    near: float = 3.0  # radii: half side of the plane's image, and largest distance of points used
    trials: int = 500  # planes through three random points; with 1/5 of them on the ground, 1 in 125 hits it
    thickness: float = 0.01  # radii: distance up to which a point lies on the plane
    below: float = 0.05  # radii: distance beyond which a point lies below it
    # No face of the object passes as ground: most of its points lie behind a plane through a face.
    min_on: float = 0.2  # share of the near points on the plane
    max_below: float = 0.05  # share of the near points below it
    min_points: int = 50
    min_sine: float = 0.2  # of the angle between plane and viewing ray, for a view to be used
    min_views: int = 5  # that see a cell, for its color to be reliable
    max_views: int = 60  # evenly chosen, that the plane's image is made from; bounds time and memory
    min_deviation: float = 3.0  # gray levels of L*a*b*, lower bound between views: noise and resampling
    max_deviation: float = 2.5  # typical deviations above which a cell is unreliable
    textured: float = 1.5  # typical deviations of a neighborhood, below which agreement means nothing
    neighborhood: int = 15  # cells: window over which texture is measured
    edge: float = 0.5  # share of the largest color difference of 3 x 3 cells: pose errors shift edges
    deviations: float = 1.5  # of a cell, that a pixel's color difference is divided by
    min_evidence: float = -1.0  # of a pixel that agrees perfectly
    max_evidence: float = 3.0  # upper bound for one that does not agree
    window: int = 7  # pixels over which evidence is averaged


TUNING = _Tuning()


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
        """Signed height of (..., 3) points above the plane."""
        return np.asarray(points @ self.normal - self.offset, dtype=np.float64)


def find_ground_plane(points: Array, seeds: Seeds, projections: Array) -> Plane | None:
    """Finds a plane below the object that all cameras look down on, by RANSAC with a fixed seed.

    The points are (N, 3) sparse ones of the scene, with outliers; the projections (B, 3, 4). None if the
    points do not show a plane.
    """
    near = points[np.linalg.norm(points - seeds.center, axis=1) < TUNING.near * seeds.radius]
    if len(near) < TUNING.min_points:
        return None
    centers = np.stack([decompose_projection(matrix)[1][:3, 3] for matrix in projections])
    generator = np.random.default_rng(0)
    thickness = TUNING.thickness * seeds.radius
    samples = (generator.choice(len(near), 3, replace=False) for _ in range(TUNING.trials))
    trials = (_fitted(near[sample], centers) for sample in samples)
    best = max(trials, key=lambda plane: int((np.abs(plane.height(near)) < thickness).sum()))
    plane = _fitted(near[np.abs(best.height(near)) < thickness], centers)
    height = plane.height(near)
    fits = (
        (np.abs(height) < thickness).mean() >= TUNING.min_on
        and (height < -TUNING.below * seeds.radius).mean() <= TUNING.max_below
        and (plane.height(centers) > 0).all()
        and abs(plane.height(seeds.center)) < seeds.radius
    )
    return plane if fits else None


def _fitted(points: Array, centers: Array) -> Plane:
    """The least-squares plane, its normal towards the cameras."""
    mean = points.mean(axis=0)
    normal = np.linalg.svd(points - mean, full_matrices=False)[2][2]
    if np.median((centers - mean) @ normal) < 0:
        normal = -normal
    return Plane(normal, float(mean @ normal))


@dataclass(frozen=True)
class _PlaneImage:
    """The plane seen from above."""

    colors: Layer  # (G, G, 3) median over the views, L*a*b* in gray levels
    deviations: Layer  # (G, G) median difference of the views from it
    num_views: Layer  # (G, G) that see the cell
    typical: float  # median deviation over the reliable cells
    texture: Layer  # (G, G) standard deviation of the colors around each cell
    edges: Layer  # (G, G) color change under a shift of half a cell, which pose errors may cause


class GroundPlane:
    """A ground plane with a square raster below the object; projections are (B, 3, 4)."""

    def __init__(self, plane: Plane, seeds: Seeds, projections: Array) -> None:
        self.plane, self.projections = plane, projections
        other = np.eye(3)[np.argmin(np.abs(plane.normal))]
        first = np.cross(plane.normal, other)
        first /= np.linalg.norm(first)
        self.axes = np.stack([first, np.cross(plane.normal, first)])  # (2, 3)
        self.origin = seeds.center - plane.height(seeds.center) * plane.normal
        self.half_side = TUNING.near * seeds.radius

    def evidence(self, images: list[Bytes], masks: list[Mask], plain: bool = False) -> list[Layer]:
        """Compares each of B images (H, W, 3), RGB, with the plane's image, made without the masks' pixels.

        Agreement where the plane has no texture means nothing, unless `plain`.

        Returns:
            B arrays (H, W): approximate log odds of object against ground, from `min_evidence` where the
            ground is seen to `max_evidence`; 0 where undecided.
        """
        labs = [np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), dtype=np.uint8) for image in images]
        plane_image = self._plane_image(labs, masks)
        return [self._compared(k, lab, plane_image, plain) for k, lab in enumerate(labs)]

    def _plane_image(self, labs: list[Bytes], masks: list[Mask]) -> _PlaneImage:
        views = np.unique(np.linspace(0, len(labs) - 1, min(len(labs), TUNING.max_views)).astype(int))
        colors, sees = self._warped(labs, masks, views)  # (V, G * G, 3), (V, G * G)
        count = sees.sum(axis=0)
        middle = np.maximum(0, (count - 1) // 2)[None]
        median = np.take_along_axis(np.sort(colors, axis=0), middle[..., None], axis=0)[0].astype(np.float32)
        differences = np.full(sees.shape, 255, np.uint8)
        for row, seen in enumerate(sees):
            distance = np.linalg.norm(colors[row, seen].astype(np.float32) - median[seen], axis=1)
            differences[row, seen] = np.minimum(distance, 254)
        deviations = np.take_along_axis(np.sort(differences, axis=0), middle, axis=0)[0].astype(np.float32)
        reliable = count >= TUNING.min_views
        typical = max(TUNING.min_deviation, float(np.median(deviations[reliable])) if reliable.any() else 0.0)
        shape, window, square = (CELLS, CELLS), (TUNING.neighborhood,) * 2, np.ones((3, 3), np.uint8)
        median = median.reshape(*shape, 3)
        variance = (cv2.blur(median**2, window) - cv2.blur(median, window) ** 2).sum(axis=2)
        edges = np.linalg.norm(cv2.dilate(median, square) - cv2.erode(median, square), axis=2)
        texture, edges = np.sqrt(np.maximum(variance, 0.0)), (TUNING.edge * edges).astype(np.float32)
        num_views = count.astype(np.float32).reshape(shape)
        return _PlaneImage(median, deviations.reshape(shape), num_views, typical, texture, edges)

    def _warped(self, labs: list[Bytes], masks: list[Mask], views: NDArray[np.int_]) -> tuple[Bytes, Mask]:
        """Colors (V, G * G, 3) of the cells in V views, 255 (sorts last) where unseen; visibility."""
        axis = np.linspace(-self.half_side, self.half_side, CELLS)
        across, along = np.meshgrid(axis, axis)
        cells = self.origin + np.stack([across, along], axis=-1).reshape(-1, 2) @ self.axes  # (G * G, 3)
        colors = np.full((len(views), CELLS**2, 3), 255, np.uint8)
        sees = np.zeros((len(views), CELLS**2), bool)
        for row, k in enumerate(views):
            size = np.array(labs[k].shape[1::-1])
            uv, depth = project_points(cells, self.projections[k])
            from_camera = cells - decompose_projection(self.projections[k])[1][:3, 3]
            sine = np.abs(from_camera @ self.plane.normal) / np.linalg.norm(from_camera, axis=1)
            seen = (depth > 0) & ((uv >= 0) & (uv <= size - 1)).all(axis=1) & (sine > TUNING.min_sine)
            maps = [np.where(seen, uv[:, i], -9).astype(np.float32).reshape(CELLS, CELLS) for i in range(2)]
            hidden = cv2.dilate(masks[k].astype(np.uint8), np.ones((5, 5), np.uint8))
            seen &= cv2.remap(hidden, maps[0], maps[1], cv2.INTER_NEAREST).ravel() == 0
            warped = cv2.remap(labs[k], maps[0], maps[1], cv2.INTER_LINEAR).reshape(-1, 3)
            colors[row, seen], sees[row] = np.minimum(warped[seen], 254), seen
        return colors, sees

    def _compared(self, k: int, lab: Bytes, plane_image: _PlaneImage, plain: bool) -> Layer:
        column, row, on_plane = self._cells(k, lab.shape[:2])
        colors, deviations, texture, edges = (
            cv2.remap(layer, column, row, cv2.INTER_LINEAR)
            for layer in (plane_image.colors, plane_image.deviations, plane_image.texture, plane_image.edges)
        )
        num_views = cv2.remap(plane_image.num_views, column, row, cv2.INTER_NEAREST)
        typical, least = plane_image.typical, TUNING.min_evidence
        reliable = on_plane & (num_views >= TUNING.min_views) & (deviations < TUNING.max_deviation * typical)
        scale = TUNING.deviations * np.maximum(np.maximum(deviations, typical), edges)
        difference = np.linalg.norm(lab.astype(np.float32) - colors, axis=2)
        evidence = np.clip(0.5 * (difference / scale) ** 2 + least, least, TUNING.max_evidence)
        uniform = (texture < TUNING.textured * typical) & (not plain)
        evidence = np.where(reliable & ~((evidence < 0) & uniform), evidence, 0.0).astype(np.float32)
        window = (TUNING.window, TUNING.window)
        share = np.maximum(cv2.blur(reliable.astype(np.float32), window), 1e-6)
        return np.where(reliable, cv2.blur(evidence, window) / share, 0.0).astype(np.float32)

    def _cells(self, k: int, size: tuple[int, ...]) -> tuple[Layer, Layer, Mask]:
        """Column and row in the plane's image that each pixel of view k sees, and whether it sees one."""
        intrinsics, pose = decompose_projection(self.projections[k])
        rows, columns = np.mgrid[: size[0], : size[1]]
        pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).astype(np.float64)
        rays = pixels @ np.linalg.inv(intrinsics[:3, :3]).T @ pose[:3, :3].T
        slope = rays @ self.plane.normal
        down = slope < -1e-9
        depth = -self.plane.height(pose[:3, 3]) / np.where(down, slope, -1.0)
        in_plane = (pose[:3, 3] + depth[..., None] * rays - self.origin) @ self.axes.T  # (H, W, 2)
        cells = (in_plane / self.half_side + 1) / 2 * (CELLS - 1)
        inside = down & (cells > 0).all(axis=-1) & (cells < CELLS - 1).all(axis=-1)
        cells = np.where(inside[..., None], cells, -9.0).astype(np.float32)
        return cells[..., 0], cells[..., 1], inside
