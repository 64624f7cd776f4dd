"""Meshing block by block, and welding the blocks.

M cells, V vertices, F faces. A block is a cube of cells; with its neighbors it shares the samples on its
sides, and so the vertices there.
"""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.meshing.grids import SampleGrid
from idr.meshing.marching import nudge_zeros, triangulate
from idr.meshing.sparse import SurfaceSamples

DEFAULT_BLOCK = 128
"""Cells along a block's sides: 9 MiB of values."""


class InconsistentSigns(Exception):
    """Signs change in cells where they were ruled not to: the field does not keep the bound on its slopes."""


def mesh_blocks(samples: SurfaceSamples, grid: SampleGrid, block: int) -> trimesh.Trimesh | None:
    """Extracts the surface from the samples around it.

    Args:
        samples: What was evaluated.
        grid: Where the samples lie.
        block: Cells along a block's sides, a multiple of 8.

    Returns:
        The mesh in the grid's frame, blocks and their faces in order, or None without a surface.

    Raises:
        InconsistentSigns: The samples do not belong to one surface.
        ValueError: ``block`` is not a positive multiple of 8.
    """
    if block < 8 or block % 8:
        raise ValueError(f"block = {block}: expected a positive multiple of 8")
    if not len(samples.crossed):
        return None
    last = np.array(grid.shape) - 1
    vertices, faces, num_vertices = [], [], 0
    blocks, counts = np.unique(samples.crossed // block, axis=0, return_counts=True)
    for start, count in zip(blocks.astype(np.int64) * block, counts, strict=True):
        volume = samples.values.box(start, np.minimum(last - start, block) + 1)
        fill_unknown(volume)
        if _count_crossed(volume) != count:
            raise InconsistentSigns
        nudge_zeros(volume, grid.spacing)
        found, triangles = triangulate(volume)
        vertices.append(found.astype(np.float64) + start)
        faces.append(triangles + num_vertices)
        num_vertices += len(found)
    welded, joined = weld(np.concatenate(vertices), np.concatenate(faces), block)
    return trimesh.Trimesh(vertices=grid.to_frame(welded), faces=joined, process=False)


def fill_unknown(volume: NDArray[np.float32]) -> None:
    """Fills samples that were not evaluated with the value of an evaluated one of the same sign, in place.

    All corners of cells that change sign are evaluated, so a sample that is not lies in cells of one sign
    only and has that of its neighbors. Marching cubes reads the sign alone: no vertex lies in such cells.

    Args:
        volume: (X, Y, Z) values, nan where unknown, at least one known.
    """
    for axis in range(3):  # line by line; then the lines of which nothing is known, from those beside them
        if not np.isnan(volume).any():
            return
        lines = np.moveaxis(volume, axis, 0)
        for order in (lines, lines[::-1]):
            for before, here in zip(order[:-1], order[1:], strict=True):
                np.copyto(here, before, where=np.isnan(here))


def _count_crossed(volume: NDArray[np.float32]) -> int:
    """Number of cells whose corners differ in sign."""
    some = every = volume < 0
    for axis in range(3):
        some, every = np.moveaxis(some, axis, 0), np.moveaxis(every, axis, 0)
        some, every = some[:-1] | some[1:], every[:-1] & every[1:]
        some, every = np.moveaxis(some, 0, axis), np.moveaxis(every, 0, axis)
    return int(np.count_nonzero(some & ~every))


def weld(
    vertices: NDArray[np.float64], faces: NDArray[np.integer], block: int
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Merges the vertices that blocks share.

    A vertex on the side between two blocks has the same place in both to the last bit: it lies on an edge of
    the grid, at a place computed from the same two values and counted from the same sample.

    Args:
        vertices: (V, 3) in grid indices.
        faces: (F, 3).
        block: Cells along a block's sides.

    Returns:
        The vertices in the order in which they first appeared, and the faces.
    """
    on_side = np.flatnonzero((vertices % block == 0).any(axis=1))
    _, first, group = np.unique(vertices[on_side], axis=0, return_index=True, return_inverse=True)
    stands_for = np.arange(len(vertices))
    stands_for[on_side] = on_side[first][group.reshape(-1)]
    kept = stands_for == np.arange(len(vertices))
    return vertices[kept], (np.cumsum(kept) - 1)[stands_for[faces]]
