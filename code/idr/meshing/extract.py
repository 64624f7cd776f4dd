"""THE extractor of zero sets: marching cubes, on the samples that the surface needs or on all of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray

from idr.meshing.blocks import DEFAULT_BLOCK, InconsistentSigns, mesh_blocks
from idr.meshing.grids import SampleGrid
from idr.meshing.marching import nudge_zeros, triangulate
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS, Field, GridSampler, sample_volume
from idr.meshing.sparse import SurfaceSearch, strides_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """A surface and what it took.

    Attributes:
        mesh: The mesh with outward faces, in the field's frame, or None without a surface in the grid.
        evaluations: Samples of the grid that were evaluated, each once.
        num_samples: Samples that the grid has.
        slope_bounds: The least and the largest, over the grid's regions, of the bounds on the field's slopes
            under which no sign of a sample is missed; infinite where all were evaluated.
    """

    mesh: trimesh.Trimesh | None
    evaluations: int
    num_samples: int
    slope_bounds: tuple[float, float]


def extract_sparse(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: torch.device | str = "cpu",
    block: int = DEFAULT_BLOCK,
) -> Extraction:
    """Extracts a zero set, evaluating the field coarse to fine where a zero is not ruled out.

    The mesh is that of `extract_dense` up to rounding and the order of its parts, as long as the field keeps
    the slopes' bound, which is learnt from its values and reported. A grid of fewer than 49 samples along its
    shortest side is evaluated whole.

    Args:
        field: (N, 3) points -> (N,) signed distances, negative inside.
        grid: Where to sample.
        chunk_points: Points a call of the field.
        device: Where the points are made.
        block: Cells along the sides of the blocks that are meshed at once, a multiple of 8; bounds memory.

    Returns:
        The mesh and the count of evaluations.

    Raises:
        InputError: The field is not finite somewhere.
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
            search.distrust()
    result = Extraction(mesh, sampler.evaluations, grid.num_samples, search.bounds.extremes)
    log.info(
        "%s evaluations, %.2f %% of the grid's %s; slopes bounded by %.2f to %.2f, region by region",
        f"{result.evaluations:,}",
        100 * result.evaluations / result.num_samples,
        f"{result.num_samples:,}",
        *result.slope_bounds,
    )
    return result


def extract_dense(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: torch.device | str = "cpu",
) -> Extraction:
    """Extracts a zero set from all samples of a grid: the oracle of `extract_sparse`.

    Args:
        field: (N, 3) points -> (N,) signed distances, negative inside.
        grid: Where to sample.
        chunk_points: Points a call of the field.
        device: Where the points are made.

    Returns:
        The mesh and the count of evaluations.

    Raises:
        InputError: The field is not finite somewhere, or the volume does not fit in memory.
    """
    mesh = marching_cubes_volume(sample_volume(field, grid, chunk_points, device), grid)
    return Extraction(mesh, grid.num_samples, grid.num_samples, (np.inf, np.inf))


def extract_mesh(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: torch.device | str = "cpu",
    dense: bool = False,
) -> trimesh.Trimesh | None:
    """Extracts the zero set of a field.

    Args:
        field: (N, 3) points -> (N,) signed distances, negative inside.
        grid: Where to sample.
        chunk_points: Points a call of the field.
        device: Where the points are made.
        dense: Evaluate all samples, not only those that the surface needs.

    Returns:
        The mesh with outward faces, in the field's frame, or None without a surface in the grid.

    Raises:
        InputError: The field is not finite somewhere, or the volume does not fit in memory.
    """
    extract = extract_dense if dense else extract_sparse
    return extract(field, grid, chunk_points, device).mesh


def marching_cubes_volume(volume: NDArray[np.float32], grid: SampleGrid) -> trimesh.Trimesh | None:
    """Extracts the zero set of sampled values.

    Args:
        volume: Values at the grid's samples, negative inside, of gradient about 1. Values next to 0 are
            moved away from it in place.
        grid: Where the samples lie.

    Returns:
        The mesh in the grid's frame, faces counter-clockwise seen from outside (where values are positive),
        or None where the samples have one sign only. A surface that leaves the grid is open there.
    """
    nudge_zeros(volume, grid.spacing)
    if volume.min() > 0 or volume.max() < 0:
        return None
    indices, faces = triangulate(volume)
    return trimesh.Trimesh(vertices=grid.to_frame(indices), faces=faces, process=False)
