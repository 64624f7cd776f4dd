"""Extracts zero sets by marching cubes, on the samples near the surface or on all samples."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import trimesh

from idr.meshing.blocks import DEFAULT_BLOCK, InconsistentSigns, mesh_blocks, nudge_zeros, triangulate
from idr.meshing.grids import SampleGrid
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS, Device, Field, GridSampler, sample_volume
from idr.meshing.sparse import SurfaceSearch, strides_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """A surface and its cost.

    Attributes:
        mesh: The mesh with outward faces, in the field's frame; None without a surface in the grid.
        evaluations: Number of evaluated samples.
        num_samples: Number of samples of the grid.
        slope_bounds: Smallest and largest bound on the field's slope over the regions of the grid. If the
            field keeps them, no sign is missed. Infinite if all samples were evaluated.
    """

    mesh: trimesh.Trimesh | None
    evaluations: int
    num_samples: int
    slope_bounds: tuple[float, float]


def extract_sparse(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: Device = "cpu",
    block: int = DEFAULT_BLOCK,
) -> Extraction:
    """Extracts a zero set, evaluating the field coarse to fine where a zero cannot be excluded.

    The mesh equals that of `extract_dense`, up to rounding and the order of its parts, if the field keeps the
    slope bounds, which are estimated from its values and reported. A grid of fewer than 49 samples along its
    shortest side is evaluated completely. See `extract_mesh` for the arguments; `block` is the number of
    cells along the sides of a block of marching cubes, a multiple of 8, which bounds memory.
    """
    if len(strides_of(grid.shape)) == 1:
        return extract_dense(field, grid, chunk_points, device)
    sampler = GridSampler(field, grid, chunk_points, device)
    search = SurfaceSearch(sampler)
    while True:
        samples = search.run()
        try:
            mesh = mesh_blocks(samples, grid, block)
            break
        except InconsistentSigns:
            search.widen_bounds()
    result = Extraction(mesh, sampler.evaluations, grid.num_samples, search.bounds.extremes)
    log.debug(
        "%s evaluations, %.2f %% of the grid's %s; slopes bounded by %.2f to %.2f, region by region",
        f"{result.evaluations:,}", 100 * result.evaluations / result.num_samples,
        f"{result.num_samples:,}", *result.slope_bounds,
    )  # fmt: skip
    return result


def extract_dense(
    field: Field, grid: SampleGrid, chunk_points: int = DEFAULT_CHUNK_POINTS, device: Device = "cpu"
) -> Extraction:
    """Extracts a zero set from all samples of a grid, the reference for `extract_sparse`.

    A surface that leaves the grid is open there.
    """
    volume, mesh = sample_volume(field, grid, chunk_points, device), None
    nudge_zeros(volume, grid.spacing)
    if volume.min() < 0 < volume.max():
        indices, faces = triangulate(volume)
        mesh = trimesh.Trimesh(vertices=grid.to_frame(indices), faces=faces, process=False)
    return Extraction(mesh, grid.num_samples, grid.num_samples, (np.inf, np.inf))


def extract_mesh(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: Device = "cpu",
    dense: bool = False,
) -> trimesh.Trimesh | None:
    """Returns the zero set of a field.

    Args:
        field: (N, 3) points -> (N,) signed distances, negative inside.
        grid: The samples.
        chunk_points: Points per call of the field.
        device: Device of the points.
        dense: Evaluate all samples, not only those near the surface.

    Returns:
        The mesh with outward faces, in the field's frame, or None without a surface in the grid.

    Raises:
        InputError: The field is not finite somewhere, or the volume does not fit in memory.
    """
    extract = extract_dense if dense else extract_sparse
    return extract(field, grid, chunk_points, device).mesh
