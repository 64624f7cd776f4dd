"""Marching cubes, on one array of values or block by block, and welding of the blocks.

M cells, V vertices, F faces. A block is a cube of cells. Neighboring blocks share the samples on their common
side and therefore the vertices there.
"""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from idr.meshing.grids import SampleGrid
from idr.meshing.sparse import SurfaceSamples
from idr.progress_bar import with_progress

_ZERO_NUDGE = 1e-4
"""Smallest |value|, in grid spacings. A sample of exactly 0 puts several vertices at one position, which
leaves holes. This separates them and moves the surface by at most 1e-4 of a cell."""

DEFAULT_BLOCK = 128
"""Cells along a block's sides; 9 MiB of values."""


class InconsistentSigns(Exception):
    """The sign changes in a cell in which it was excluded: the field exceeds the slope bound."""


def nudge_zeros(volume: NDArray[np.float32], spacing: float) -> None:
    """Moves values close to 0, with gradient norm about 1, away from it, in place; 0 becomes positive."""
    nudge = np.float32(_ZERO_NUDGE * spacing)
    for plane in volume:  # by planes, to avoid a second array of the volume's size
        near_zero = np.abs(plane) < nudge
        plane[near_zero] = np.where(plane[near_zero] < 0, -nudge, nudge)


def triangulate(volume: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns the zero set of nonzero values of both signs, (X, Y, Z), negative inside.

    Returns:
        (V, 3) vertices in array indices, and (F, 3) faces, counter-clockwise seen from outside.
    """
    # "descent" gives outward faces for values that grow outward; tests check the sign of the volume.
    vertices, faces, _, _ = marching_cubes(volume, level=0.0, gradient_direction="descent")
    return vertices, faces


def mesh_blocks(samples: SurfaceSamples, grid: SampleGrid, block: int) -> trimesh.Trimesh | None:
    """Extracts the surface from the samples of a grid around it, by blocks of `block` cells along the sides.

    Returns:
        The mesh in the frame of the grid, in the order of the blocks; None without a surface.

    Raises:
        InconsistentSigns: The samples are not those of one surface.
        ValueError: ``block`` is not a positive multiple of 8.
    """
    if block < 8 or block % 8:
        raise ValueError(f"block = {block}: expected a positive multiple of 8")
    if not len(samples.crossed):
        return None
    last = np.array(grid.shape) - 1
    vertices, faces, num_vertices = [], [], 0
    blocks, counts = np.unique(samples.crossed // block, axis=0, return_counts=True)
    pairs = zip(blocks.astype(np.int64) * block, counts, strict=True)
    for start, count in with_progress(pairs, "marching cubes", len(blocks)):
        volume = samples.values.box(start, np.minimum(last - start, block) + 1)
        fill_missing(volume)
        if _count_crossed(volume) != count:
            raise InconsistentSigns
        nudge_zeros(volume, grid.spacing)
        found, triangles = triangulate(volume)
        vertices.append(found.astype(np.float64) + start)
        faces.append(triangles + num_vertices)
        num_vertices += len(found)
    welded, joined = weld(np.concatenate(vertices), np.concatenate(faces), block)
    return trimesh.Trimesh(vertices=grid.to_frame(welded), faces=joined, process=False)


def fill_missing(volume: NDArray[np.float32]) -> None:
    """Replaces NaN, in place, by the value of an evaluated sample of the same sign; there must be one.

    All corners of cells with a sign change are evaluated. A sample that is not evaluated lies only in cells
    of one sign and has the sign of its neighbors. Such cells hold no vertex, so only the sign matters.
    """
    for axis in range(3):  # along lines, then from line to line, then from plane to plane
        if not np.isnan(volume).any():
            return
        lines = np.moveaxis(volume, axis, 0)
        for order in (lines, lines[::-1]):
            for before, here in zip(order[:-1], order[1:], strict=True):
                np.copyto(here, before, where=np.isnan(here))


def _count_crossed(volume: NDArray[np.float32]) -> int:
    some = every = volume < 0
    for _ in range(3):  # each turn moves the first axis to the end
        some, every = some[:-1] | some[1:], every[:-1] & every[1:]
        some, every = np.moveaxis(some, 0, 2), np.moveaxis(every, 0, 2)
    return int(np.count_nonzero(some & ~every))


def weld(
    vertices: NDArray[np.float64], faces: NDArray[np.integer], block: int
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Merges the vertices, (V, 3) in grid indices, that blocks share; keeps the order of first appearance.

    A vertex on the side between two blocks has bitwise equal coordinates in both: it lies on a grid edge, at
    a position computed from the same two values relative to the same sample.
    """
    on_side = np.flatnonzero((vertices % block == 0).any(axis=1))
    _, first, group = np.unique(vertices[on_side], axis=0, return_index=True, return_inverse=True)
    representative = np.arange(len(vertices))
    representative[on_side] = on_side[first][group.reshape(-1)]
    kept = representative == np.arange(len(vertices))
    return vertices[kept], (np.cumsum(kept) - 1)[representative[faces]]
