"""Bakes the colors of a surface into a texture.

V vertices, T faces, S texels on the surface. The origin of uv is the lower left corner; row 0 is the top.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from idr.export.colors import Coloring
from idr.export.mesh_files import import_mesh_package
from idr.export.surface import Array, Surface

log = logging.getLogger(__name__)

Indices = NDArray[np.int64]

PADDING = 4
"""Approximate gap between charts, texels, so that a viewer's first mipmaps do not mix charts."""

LANDMARKS = (
    (1 / 3, 1 / 3, 1 / 3),
    *((0.5, 0.5, 0), (0, 0.5, 0.5), (0.5, 0, 0.5)),
    *((1, 0, 0), (0, 1, 0), (0, 0, 1)),
)
"""Barycentric coordinates of the points of a face that always get a texel."""

CANDIDATES_AT_ONCE = 4_000_000
"""Texels tested at once; bounds memory."""


@dataclass(frozen=True)
class Texels:
    """Texels on the surface and their points.

    Attributes:
        rows: (S,) rows.
        columns: (S,) columns.
        faces: (S,) face of each.
        weights: (S, 3) barycentric coordinates in that face.
    """

    rows: Indices
    columns: Indices
    faces: Indices
    weights: Array


@dataclass(frozen=True)
class Baked:
    """A surface with its texture, vertices on seams duplicated.

    ``num_unseen`` of S texels are seen by no view; ``used`` is the fraction of the texture on the surface.
    """

    surface: Surface
    num_texels: int
    num_unseen: int
    used: float


def bake(surface: Surface, size: int, coloring: Coloring) -> Baked:
    """Unwraps a surface, in the coloring's frame, and colors its texture of (`size`, `size`) texels.

    Raises:
        MissingInputError: ``xatlas`` is not installed.
    """
    original, faces, uv = unwrap(surface, size)
    vertices, normals = surface.vertices[original], surface.normals[original]
    texels = texels_of(uv, faces, size)
    corners = faces[texels.faces]  # (S, 3)
    points = (vertices[corners] * texels.weights[..., None]).sum(axis=1)
    directions = (normals[corners] * texels.weights[..., None]).sum(axis=1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-12)
    colors = coloring(points, directions)

    image = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), bool)
    image[texels.rows, texels.columns] = (colors.rgb * 255).round().astype(np.uint8)
    covered[texels.rows, texels.columns] = True
    # Texels between charts get the nearest chart's color, so that interpolation at a seam mixes in no black.
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    baked = Surface(vertices, faces, normals, None, uv, image[nearest[0], nearest[1]])
    return Baked(baked, len(points), colors.num_unseen, float(covered.mean()))


def unwrap(surface: Surface, size: int) -> tuple[Indices, Indices, Array]:
    """Cuts a surface into charts and packs them into a square of about `size` texels along the sides.

    Returns:
        (V',) original vertex of each new vertex, (T, 3) faces of the new vertices, and (V', 2) uv.
    """
    xatlas = import_mesh_package("xatlas", "--texture")
    log.info("unwrapping %d faces", len(surface.faces))
    atlas = xatlas.Atlas()
    atlas.add_mesh(
        np.ascontiguousarray(surface.vertices, dtype=np.float32),
        np.ascontiguousarray(surface.faces, dtype=np.uint32),
        np.ascontiguousarray(surface.normals, dtype=np.float32),
    )
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, PADDING, True
    atlas.generate(xatlas.ChartOptions(), packing)
    original, faces, uv = atlas[0]
    log.debug("unwrapped into %d charts", atlas.chart_count)
    return original.astype(np.int64), faces.astype(np.int64), uv.astype(np.float64)


def texels_of(uv: Array, faces: Indices, size: int) -> Texels:
    """Returns the texels on the surface, each once.

    These are the texels whose center lies in a face, and the texels of the `LANDMARKS` of a face. Without the
    latter, a sliver between texel centers would get the color of a neighboring chart. A texel claimed by
    several faces belongs to one that contains its center, if any.
    """
    # In texels from the upper left corner; texel centers are at whole numbers.
    places = np.column_stack((uv[:, 0] * size, (1.0 - uv[:, 1]) * size)) - 0.5
    triangles = places[faces]  # (T, 3, 2)
    low = np.ceil(triangles.min(axis=1)).astype(np.int64).clip(0)
    high = np.minimum(np.floor(triangles.max(axis=1)).astype(np.int64), size - 1)
    spans = (high - low + 1).clip(0)  # (T, 2) columns and rows
    counts = spans.prod(axis=1)
    group_ends = np.flatnonzero(np.diff(np.cumsum(counts) // CANDIDATES_AT_ONCE)) + 1
    groups = np.split(np.arange(len(counts)), group_ends)
    found = [_inside(triangles, low, spans, counts, group) for group in groups]
    found += [_touched(triangles, np.array(weights), size) for weights in LANDMARKS]
    rows, columns, owners, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _, first = np.unique(rows * size + columns, return_index=True)
    return Texels(rows[first], columns[first], owners[first], weights[first])


def _touched(triangles: Array, weights: Array, size: int) -> tuple[Indices, Indices, Indices, Array]:
    """Rows, columns, faces and weights of the texels that contain one point of each face."""
    places = np.round(np.einsum("k,tkd->td", weights, triangles)).astype(np.int64).clip(0, size - 1)
    return places[:, 1], places[:, 0], np.arange(len(triangles)), np.tile(weights, (len(triangles), 1))


def _inside(
    triangles: Array, low: Indices, spans: Indices, counts: Indices, group: Indices
) -> tuple[Indices, Indices, Indices, Array]:
    """Rows, columns, faces and weights of the texels with centers in a group's faces."""
    owners = np.repeat(group, counts[group])
    starts = np.repeat(np.cumsum(counts[group]) - counts[group], counts[group])
    within = np.arange(len(owners)) - starts
    columns = low[owners, 0] + within % spans[owners, 0].clip(1)
    rows = low[owners, 1] + within // spans[owners, 0].clip(1)
    a, b, c = (triangles[owners, k] for k in range(3))
    ab, ac, ap = b - a, c - a, np.column_stack((columns, rows)) - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    area = np.where(np.abs(area) < 1e-12, np.nan, area)  # a degenerate face contains no texel
    second = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / area
    third = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / area
    weights = np.column_stack((1.0 - second - third, second, third))
    inside = (weights >= -1e-9).all(axis=1)  # False for NaN
    return rows[inside], columns[inside], owners[inside], weights[inside]
