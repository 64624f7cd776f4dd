"""Renders phone-like photographs of the built-in teapot: on a table, with lens distortion.

H rows, W columns, S samples per pixel, N points. numpy in float64, in the unit-sphere frame (z up).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from idr.demo.render import RenderedView, colors, intersect, pixel_centers, safe_start, subpixel_offsets
from idr.demo.teapot import Array, sdf

TABLE_HEIGHT, TABLE_RADIUS = -0.48, 2.3  # z of the table top that the teapot stands on, and its size

_TEXELS, _TEXTURE_SIDE = 2048, 5.0  # texture of the table: samples along a side, and side length
_SPECKLE_CELLS, _SPECKLE_SIZE, _SPECKLE_DEPTH = 64, 0.016, 0.3
_SHADE_REACH, _SHADE_DEPTH = 0.3, 0.55  # contact shadow on the table
_ROOM_BLUR = 24.0  # the room is out of focus
_UNDISTORTING_STEPS = 20


@dataclass(frozen=True)
class PhoneLens:
    """A camera with two radial distortion coefficients, COLMAP's RADIAL.

    Attributes:
        intrinsics: (4, 4) K; integer pixels are centers.
        radial: (k1, k2): normalized points x are distorted to x (1 + k1 r^2 + k2 r^4).
    """

    intrinsics: Array
    radial: tuple[float, float]

    def distort(self, points: Array) -> Array:
        """Distorts (N, 2) normalized points."""
        square = np.square(points).sum(axis=1, keepdims=True)
        return points * (1 + self.radial[0] * square + self.radial[1] * square**2)

    def rays(self, uv: Array) -> Array:
        """(N, 3) unit directions of (N, 2) pixels in the camera's frame."""
        focal, center = np.diag(self.intrinsics)[:2], self.intrinsics[:2, 2]
        distorted = (uv - center) / focal
        points = distorted
        for _ in range(_UNDISTORTING_STEPS):  # a contraction, since the coefficients are small
            points = points * distorted / np.where(self.distort(points) == 0, 1.0, self.distort(points))
            points = np.where(distorted == 0, 0.0, points)
        directions = np.column_stack((points, np.ones(len(points))))
        return directions / np.linalg.norm(directions, axis=1, keepdims=True)


class Room:
    """The object's surroundings: a printed table top and blurred walls with random textures."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.table = _table_texture(generator)  # (T, T, 3)
        walls = gaussian_filter(generator.random((128, 256)), _ROOM_BLUR / 4, mode="wrap")
        self.walls = 0.35 + 0.4 * (walls - walls.min()) / np.ptp(walls)
        self.speckles = gaussian_filter(generator.random((_SPECKLE_CELLS,) * 3), 0.7, mode="wrap")
        self.speckles -= np.quantile(self.speckles, 0.7)
        self.speckles /= self.speckles.max()

    def color(self, origin: Array, directions: Array) -> Array:
        """(N, 3) colors of rays, from a center above the table, that miss the object."""
        rgb = self._wall_color(directions)
        down = directions[:, 2] < -1e-6
        depth = (TABLE_HEIGHT - origin[2]) / np.where(down, directions[:, 2], -1.0)
        points = origin + depth[:, None] * directions
        on_table = down & (np.hypot(points[:, 0], points[:, 1]) < TABLE_RADIUS)
        rgb[on_table] = self._table_color(points[on_table])
        return rgb

    def speckled(self, rgb: Array, points: Array) -> Array:
        """Darkens the glaze by a solid texture of speckles at (N, 3) points."""
        cells = (points / _SPECKLE_SIZE).T % _SPECKLE_CELLS
        depth = map_coordinates(self.speckles, cells, order=1, mode="grid-wrap")
        return rgb * (1 - _SPECKLE_DEPTH * np.clip(3 * depth, 0.0, 1.0)[:, None])

    def _table_color(self, points: Array) -> Array:
        texels = (points[:, :2] / _TEXTURE_SIDE + 0.5).T * (_TEXELS - 1)
        channels = np.moveaxis(self.table, 2, 0)
        rgb = np.stack([map_coordinates(c, texels, order=1, mode="nearest") for c in channels], axis=1)
        near = np.clip(sdf(points) / _SHADE_REACH, 0.0, 1.0)
        return rgb * (1 - _SHADE_DEPTH * (1 - near) ** 2)[:, None]

    def _wall_color(self, directions: Array) -> Array:
        azimuth = np.arctan2(directions[:, 1], directions[:, 0]) / (2 * np.pi) + 0.5
        height = np.arccos(np.clip(directions[:, 2], -1, 1)) / np.pi
        rows, columns = height * (len(self.walls) - 1), azimuth * self.walls.shape[1]
        gray = map_coordinates(self.walls, (rows, columns), order=1, mode="grid-wrap")
        return np.outer(gray, (0.62, 0.60, 0.66))


def _table_texture(generator: np.random.Generator) -> Array:
    """(T, T, 3) texture: a dark cloth with prints of all sizes, in colors that the teapot does not have."""
    side = _TEXELS
    grain = np.zeros((side, side))
    for cells, weight in ((16, 0.3), (64, 0.35), (256, 0.35)):
        noise = np.kron(generator.random((cells, cells)), np.ones((side // cells,) * 2))
        noise = gaussian_filter(noise, side / cells / 3, mode="wrap")
        grain += weight * (noise - noise.mean()) / noise.std()
    cloth = 0.5 + 0.22 * grain
    rgb = np.clip(cloth, 0.1, 0.9)[..., None] * np.array([0.36, 0.22, 0.24])
    inks = np.array([[0.10, 0.09, 0.22], [0.42, 0.20, 0.16], [0.08, 0.08, 0.09], [0.45, 0.38, 0.48]])
    rows, columns = np.mgrid[:side, :side]
    for _ in range(1400):
        row, column = generator.integers(0, side, 2)
        half, turn = np.exp(generator.uniform(np.log(4), np.log(26))), generator.uniform(0, np.pi)
        box = np.s_[
            max(int(row - 2 * half), 0) : int(row + 2 * half) + 1,
            max(int(column - 2 * half), 0) : int(column + 2 * half) + 1,
        ]
        y, x = rows[box] - row, columns[box] - column
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        inside = np.maximum(np.abs(along), np.abs(across) * generator.uniform(1, 3)) < half
        rgb[box][inside] = inks[generator.integers(len(inks))] * generator.uniform(0.7, 1.1)
    return np.clip(gaussian_filter(rgb, (1.0, 1.0, 0.0)), 0.0, 1.0)


def render_photo(
    lens: PhoneLens, pose: Array, img_res: tuple[int, int], supersampling: int, room: Room
) -> RenderedView:
    """Renders a view, whose coverage is that of the object; S is the square of `supersampling`.

    The pose, (4, 4) camera-to-world, is above the table and outside the object's bounding ball.
    """
    height, width = img_res
    uv = pixel_centers(img_res)
    offsets = subpixel_offsets(supersampling)
    origin, turn = pose[:3, 3], pose[:3, :3].T
    centers = lens.rays(uv) @ turn  # (H W, 3)
    corner = lens.rays(uv + 0.5) @ turn
    # A pixel's samples lie within its corners; 20 % margin allows for the distortion.
    start = safe_start(origin, centers, 1.2 * float(np.linalg.norm(corner - centers, axis=1).max()))
    rgb, coverage = np.zeros((len(uv), 3)), np.zeros(len(uv))
    for offset in offsets:
        directions = lens.rays(uv + offset) @ turn
        candidates = np.flatnonzero(np.isfinite(start))
        origins = np.broadcast_to(origin, (len(candidates), 3))
        depth, hit = intersect(origins, directions[candidates], start[candidates])
        seen, depth = candidates[hit], depth[hit]
        color = room.color(origin, directions)
        glaze = colors(origins[: len(seen)], directions[seen], depth)
        color[seen] = room.speckled(glaze, origin + depth[:, None] * directions[seen])
        rgb += color / len(offsets)
        coverage[seen] += 1 / len(offsets)
    return RenderedView(rgb.reshape(height, width, 3), coverage.reshape(height, width))
