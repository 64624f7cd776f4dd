"""A texture baked from a surface's colors: unwrapping, the texels' places on the surface, the picture.

V vertices, T faces, S texels on the surface. uv has its origin in the
picture's lower left corner; row 0 of the picture is the top.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from idr.export.colors import Coloring
from idr.export.extras import import_mesh_package
from idr.export.mesh_files import Surface

log = logging.getLogger(__name__)

PADDING = 4
"""Texels between charts, about: a viewer's first mipmaps do not mix colors of different charts."""

LANDMARKS = (
    (1 / 3, 1 / 3, 1 / 3),
    *((0.5, 0.5, 0), (0, 0.5, 0.5), (0.5, 0, 0.5)),
    *((1, 0, 0), (0, 1, 0), (0, 0, 1)),
)
"""Barycentric coordinates of points that every face gets a texel for."""

CANDIDATES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Texels:
    """Texels that show the surface, and the point of it that each shows.

    Attributes:
        rows: (S,) their rows.
        columns: (S,) their columns.
        faces: (S,) the face that each lies in.
        weights: (S, 3) barycentric coordinates in that face.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    faces: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Baked:
    """A surface with its texture.

    Attributes:
        surface: The surface; vertices on seams are there once for each side.
        num_texels: S.
        num_unseen: Texels that no view saw.
        used: Share of the texture that shows surface.
    """

    surface: Surface
    num_texels: int
    num_unseen: int
    used: float


def bake(surface: Surface, size: int, coloring: Coloring) -> Baked:
    """Unwraps a surface and paints its texture.

    Args:
        surface: The surface, in the coloring's frame.
        size: Texels along the texture's sides.
        coloring: Gives points of the surface their colors.

    Returns:
        The surface with uv and texture.

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

    picture = np.zeros((size, size, 3), np.uint8)
    covered = np.zeros((size, size), bool)
    picture[texels.rows, texels.columns] = (colors.rgb * 255).round().astype(np.uint8)
    covered[texels.rows, texels.columns] = True
    # Texels between charts take the nearest chart's color, so that interpolation at a seam finds no black.
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    baked = Surface(vertices, faces, normals, None, uv, picture[nearest[0], nearest[1]])
    return Baked(baked, len(points), colors.num_unseen, float(covered.mean()))


def unwrap(surface: Surface, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cuts a surface into charts and packs them into a square.

    Args:
        surface: The surface.
        size: Texels along the square's sides that the packing reckons with, about.

    Returns:
        For each of V' vertices the (V',) original one; (T, 3) faces of the new vertices; (V', 2) uv.

    Raises:
        MissingInputError: ``xatlas`` is not installed.
    """
    xatlas = import_mesh_package("xatlas", "--texture")
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
    log.info("unwrapped into %d charts", atlas.chart_count)
    return original.astype(np.int64), faces.astype(np.int64), uv.astype(np.float64)


def texels_of(uv: NDArray[np.float64], faces: NDArray[np.int64], size: int) -> Texels:
    """Finds the texels that show a face.

    These are the texels whose centers lie in a face, and those in which lie a corner, the middle of an edge
    or the centroid of one: a sliver between two centers, alone in its chart, would else be painted with
    the color of whatever chart is next to it.

    Args:
        uv: (V, 2).
        faces: (T, 3).
        size: Texels along the texture's sides.

    Returns:
        The texels, each once; of several faces that claim one, one that holds its center has it.
    """
    # In texels from the upper left; a texel's center is at whole numbers.
    places = np.column_stack((uv[:, 0] * size, (1.0 - uv[:, 1]) * size)) - 0.5
    triangles = places[faces]  # (T, 3, 2)
    low = np.ceil(triangles.min(axis=1)).astype(np.int64).clip(0)
    high = np.minimum(np.floor(triangles.max(axis=1)).astype(np.int64), size - 1)
    spans = (high - low + 1).clip(0)  # (T, 2) columns and rows
    counts = spans.prod(axis=1)
    found = [_inside(triangles, low, spans, counts, group) for group in _groups(counts, CANDIDATES_AT_ONCE)]
    found += [_touched(triangles, np.array(weights), size) for weights in LANDMARKS]
    rows, columns, owners, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _, first = np.unique(rows * size + columns, return_index=True)
    return Texels(rows[first], columns[first], owners[first], weights[first])


def _touched(
    triangles: NDArray[np.float64], weights: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns, faces and weights of the texels in which one point of each face lies."""
    places = np.round(np.einsum("k,tkd->td", weights, triangles)).astype(np.int64).clip(0, size - 1)
    return places[:, 1], places[:, 0], np.arange(len(triangles)), np.tile(weights, (len(triangles), 1))


def _groups(counts: NDArray[np.int64], limit: int) -> list[NDArray[np.int64]]:
    """Faces in groups of about ``limit`` candidates, so that memory is bounded."""
    group_of = np.cumsum(counts) // limit
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(group_of)) + 1)


def _inside(
    triangles: NDArray[np.float64],
    low: NDArray[np.int64],
    spans: NDArray[np.int64],
    counts: NDArray[np.int64],
    group: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns, faces and weights of the texels inside a group's faces."""
    owners = np.repeat(group, counts[group])
    starts = np.repeat(np.cumsum(counts[group]) - counts[group], counts[group])
    within = np.arange(len(owners)) - starts
    columns = low[owners, 0] + within % spans[owners, 0].clip(1)
    rows = low[owners, 1] + within // spans[owners, 0].clip(1)
    a, b, c = (triangles[owners, k] for k in range(3))
    ab, ac, ap = b - a, c - a, np.column_stack((columns, rows)) - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    area = np.where(np.abs(area) < 1e-12, np.nan, area)  # a face without area holds no texel
    second = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / area
    third = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / area
    weights = np.column_stack((1.0 - second - third, second, third))
    inside = (weights >= -1e-9).all(axis=1)  # False for NaN
    return rows[inside], columns[inside], owners[inside], weights[inside]
