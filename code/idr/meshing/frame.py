"""The default frame of a mesh: a grid along the surface's own principal axes."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.meshing.extract import extract_mesh
from idr.meshing.grids import SampleGrid, aligned_grid, uniform_grid
from idr.meshing.meshes import largest_component
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS, Device, Field

COARSE_RESOLUTION = 100
"""Samples along each side of the coarse grid (published)."""

MARGIN = 0.2
"""Margin on each side of the surface, unit-sphere units (published)."""

NUM_SURFACE_SAMPLES = 10_000


def surface_frame(
    field: Field,
    bound: float,
    resolution: int,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: Device = "cpu",
    dense: bool = False,
) -> SampleGrid | None:
    """Returns the default grid of a surface: along its principal axes, with a margin on each side.

    The axes and the extent are those of points drawn on the largest component of a coarse mesh.

    Differs: the published code samples the coarse mesh over [-1, 1]^3; here the cube is [-bound, bound]^3,
    the same for the published confs, whose radius is 1. The points are drawn from one seed, so the same field
    gives the same grid.

    `bound` is half the side of the coarse cube, the radius of the bounding sphere; `resolution` is the number
    of samples along the shortest side, ends included; `dense` evaluates all samples of the coarse grid, with
    the same result. For the other arguments, see `extract_mesh`.

    Returns:
        The grid; None if the coarse mesh is empty.
    """
    coarse = extract_mesh(field, uniform_grid(bound, COARSE_RESOLUTION), chunk_points, device, dense)
    if coarse is None:
        return None
    points, _ = trimesh.sample.sample_surface(largest_component(coarse), NUM_SURFACE_SAMPLES, seed=0)
    center = points.mean(axis=0)
    axes = principal_axes(np.asarray(points) - center)
    along_axes = (points - center) @ axes  # (N, 3)
    lower, upper = along_axes.min(axis=0) - MARGIN, along_axes.max(axis=0) + MARGIN
    return aligned_grid(axes, center, lower, upper, resolution)


def principal_axes(offsets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the principal axes of points, (N, 3) relative to their mean, as the columns of a rotation.

    The shortest extent is first. Each of the first two columns has its largest entry positive; the third
    follows from the determinant.
    """
    _, axes = np.linalg.eigh(offsets.T @ offsets)
    for column in range(2):
        axes[:, column] *= np.sign(axes[np.abs(axes[:, column]).argmax(), column])
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    return axes
