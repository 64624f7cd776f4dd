"""Exact distances from points to the triangles of a mesh.

N points, T triangles, M (point, triangle) pairs, numpy float64, any unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from idr.errors import InputError
from idr.progress_bar import with_progress

Array = NDArray[np.float64]

_MOST_PAIRS = 1 << 16  # pairs processed at once: about 30 MiB of temporaries
_CHUNK_POINTS = 1 << 14


@dataclass(frozen=True)
class ClosestPoints:
    """Nearest points on a mesh, (N, 3), and the distances to them, (N,)."""

    points: Array
    distance: Array


def point_to_mesh_distance(points: ArrayLike, vertices: ArrayLike, faces: ArrayLike) -> Array:
    """Returns the (N,) unsigned distances from points to a triangle mesh; see `closest_points`."""
    return closest_points(points, vertices, faces).distance


def closest_points(points: ArrayLike, vertices: ArrayLike, faces: ArrayLike) -> ClosestPoints:
    """Returns the exact nearest points on a triangle mesh.

    The distance to the triangle with the nearest centroid is an upper bound for each point. Then (point, box)
    pairs descend a tree of bounding boxes of the triangles. A pair is dropped if its box is no nearer than
    the bound, so the nearest triangle is always reached. Pairs are processed from a stack in limited numbers,
    which bounds memory.

    Args:
        points: (N, 3).
        vertices: (V, 3) in the same frame and unit.
        faces: (T, 3) vertex indices; degenerate triangles count as segments or points.

    Raises:
        InputError: The mesh is empty, a shape is wrong, or a value is not finite.
    """
    query = np.asarray(points, dtype=np.float64)
    triangles = _triangles(query, np.asarray(vertices, dtype=np.float64), np.asarray(faces))
    tree = _BoxTree(triangles)
    _, first = cKDTree(tree.triangles.mean(axis=1)).query(query)
    nearest = np.empty_like(query)
    for begin in range(0, len(query), _MOST_PAIRS):
        chunk = slice(begin, begin + _MOST_PAIRS)
        nearest[chunk] = closest_on_triangles(query[chunk], tree.triangles[first[chunk]])
    best = np.linalg.norm(nearest - query, axis=1)
    for begin in with_progress(range(0, len(query), _CHUNK_POINTS), "distances"):
        chunk = slice(begin, begin + _CHUNK_POINTS)
        _descend(query[chunk], tree, best[chunk], nearest[chunk])
    return ClosestPoints(nearest, best)


def _triangles(points: Array, vertices: Array, faces: NDArray[np.integer]) -> Array:
    """Returns the (T, 3, 3) corners of the mesh after checking all inputs."""
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"points of shape {points.shape}: expected finite (N, 3)")
    if faces.ndim != 2 or faces.shape[1] != 3 or len(faces) == 0:
        raise InputError(
            f"mesh with faces of shape {faces.shape}: expected (T, 3) with at least one triangle"
        )
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise InputError(f"mesh with vertices of shape {vertices.shape}: expected finite (V, 3)")
    if not np.issubdtype(faces.dtype, np.integer) or faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"mesh whose faces do not index its {len(vertices)} vertices")
    return vertices[faces]


class _BoxTree:
    """Bounding boxes of a binary tree over triangles.

    Attributes:
        triangles: (2^L, 3, 3) triangles in the order of the tree, the last one repeated to fill it.
        lower, upper: L + 1 arrays (2^l, 3), the boxes of level l. The children of node i are 2i and 2i + 1 of
            the next level; the nodes of the last level are single triangles.
    """

    def __init__(self, triangles: Array) -> None:
        levels = max(len(triangles) - 1, 0).bit_length()
        filling = np.minimum(np.arange(1 << levels), len(triangles) - 1)
        middle = triangles.mean(axis=1)[filling]
        for level in range(levels):  # split every node at the median along its longest side
            groups = middle.reshape(1 << level, -1, 3)
            axis = np.ptp(groups, axis=1).argmax(axis=1)
            keys = np.take_along_axis(groups, axis[:, None, None], axis=2)[..., 0]
            order = np.argsort(keys, axis=1, kind="stable")
            filling = np.take_along_axis(filling.reshape(order.shape), order, axis=1).reshape(-1)
            middle = np.take_along_axis(groups, order[..., None], axis=1).reshape(-1, 3)
        self.triangles = triangles[filling]
        self.lower, self.upper = [self.triangles.min(axis=1)], [self.triangles.max(axis=1)]
        for _ in range(levels):
            self.lower.insert(0, self.lower[0].reshape(-1, 2, 3).min(axis=1))
            self.upper.insert(0, self.upper[0].reshape(-1, 2, 3).max(axis=1))


def _descend(points: Array, tree: _BoxTree, best: Array, nearest: Array) -> None:
    """Updates `best` (n,) and `nearest` (n, 3) in place to the minimum over the whole tree."""
    last = len(tree.lower) - 1
    stack = [(0, np.arange(len(points)), np.zeros(len(points), dtype=np.intp))]  # (level, points, nodes)
    while stack:
        level, point, node = stack.pop()
        if len(point) > _MOST_PAIRS:
            half = len(point) // 2
            stack += [(level, point[half:], node[half:]), (level, point[:half], node[:half])]
            continue
        at = points[point]
        outside = np.maximum(np.maximum(tree.lower[level][node] - at, at - tree.upper[level][node]), 0.0)
        nearer = np.einsum("ij,ij->i", outside, outside) < np.square(best[point])
        point, node = point[nearer], node[nearer]
        if not len(point):
            continue
        if level < last:
            stack.append((level + 1, np.repeat(point, 2), (2 * node[:, None] + (0, 1)).reshape(-1)))
            continue
        found = closest_on_triangles(points[point], tree.triangles[node])
        distance = np.linalg.norm(found - points[point], axis=1)
        order = np.lexsort((distance, point))  # the nearest of each point comes first
        point, distance, found = point[order], distance[order], found[order]
        winner = np.concatenate(([True], point[1:] != point[:-1])) & (distance < best[point])
        best[point[winner]], nearest[point[winner]] = distance[winner], found[winner]


def closest_on_triangles(points: Array, triangles: Array) -> Array:
    """Returns the nearest point, (M, 3), on triangle m, (M, 3, 3), to point m, (M, 3).

    Candidates are the foot of the perpendicular, if inside, and the nearest point of each side, which covers
    degenerate triangles.
    """
    corners = [triangles[:, k] for k in range(3)]
    nearest = np.empty_like(points)
    least = np.full(len(points), np.inf)
    for k in range(3):
        candidate = _closest_on_segments(points, corners[k], corners[(k + 1) % 3])
        squared = np.square(candidate - points).sum(axis=1)
        better = squared < least
        nearest[better], least[better] = candidate[better], squared[better]

    side_u, side_v, from_corner = corners[1] - corners[0], corners[2] - corners[0], points - corners[0]
    normal = np.cross(side_u, side_v)
    area = np.square(normal).sum(axis=1)
    flat = area > 0
    area = np.where(flat, area, 1.0)
    # Barycentric coordinates of the foot of the perpendicular.
    v = np.einsum("ij,ij->i", np.cross(from_corner, side_v), normal) / area
    w = np.einsum("ij,ij->i", np.cross(side_u, from_corner), normal) / area
    inside = flat & (v >= 0) & (w >= 0) & (v + w <= 1)
    foot = points - (np.einsum("ij,ij->i", from_corner, normal) / area)[:, None] * normal
    # The coordinates of a sliver are mostly rounding: accept the foot only if it is the nearest, too.
    inside &= np.square(foot - points).sum(axis=1) <= least
    nearest[inside] = foot[inside]
    return nearest


def _closest_on_segments(points: Array, start: Array, end: Array) -> Array:
    along = end - start
    square = np.square(along).sum(axis=1)
    parameter = np.einsum("ij,ij->i", points - start, along) / np.where(square > 0, square, 1.0)
    return start + np.clip(parameter, 0.0, 1.0)[:, None] * along
