"""Marching cubes on a field that is sampled chunk by chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from skimage.measure import marching_cubes
from torch import Tensor

from idr.errors import InputError
from idr.meshing.grids import SampleGrid

log = logging.getLogger(__name__)

Field = Callable[[Tensor], Tensor]
"""A signed distance: (N, 3) points -> (N,) or (N, 1) values, negative inside."""

DEFAULT_CHUNK_POINTS = 100_000
"""Points in one call of the field: about 0.6 GiB with 8 layers of 512."""

_ZERO_NUDGE = 1e-4
"""Smallest |value| kept, in grid spacings. A sample of exactly 0 puts several vertices on one spot, which
leaves holes; this keeps them apart and moves the surface by a ten-thousandth of a cell at most."""

_SECONDS_BETWEEN_LINES = 15.0

_LARGE_GIB = 4.0
"""Volumes beyond this are announced: a thin object's own frame has far more samples along its long sides."""


def sample_volume(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Evaluates a field at all samples of a grid; only one chunk of points exists at a time.

    Args:
        field: The field; called without gradients with points on ``device``.
        grid: Where to sample.
        chunk_points: Points a call, at least 1.
        device: Where the points are made.

    Returns:
        Values of the grid's shape, on the CPU.

    Raises:
        ValueError: ``chunk_points`` is not positive.
        InputError: The field is not finite somewhere, or the volume does not fit in memory.
    """
    if chunk_points < 1:
        raise ValueError(f"chunk_points = {chunk_points}: expected at least 1")
    size_text = " x ".join(str(count) for count in grid.shape)
    gib = grid.num_samples * 4 / 2**30
    if gib > _LARGE_GIB:
        log.warning("a grid of %s samples takes %.1f GiB: a lower resolution takes less", size_text, gib)
    try:
        volume = np.empty(grid.num_samples, dtype=np.float32)
    except MemoryError as error:
        raise InputError(
            f"a grid of {size_text} samples needs {gib:.0f} GiB: lower the resolution"
        ) from error
    started = reported = time.monotonic()
    with torch.no_grad():
        for start in range(0, volume.size, chunk_points):
            stop = min(start + chunk_points, volume.size)
            volume[start:stop] = field(grid.points(start, stop, device)).reshape(-1).float().cpu().numpy()
            if not np.isfinite(volume[start:stop]).all():
                raise InputError("the SDF is not finite everywhere: take an earlier checkpoint")
            now = time.monotonic()
            if now - reported > _SECONDS_BETWEEN_LINES:
                left = (now - started) * (volume.size - stop) / stop
                log.info(
                    "sampling %s points: %.0f %%, %.0f s left", size_text, 100 * stop / volume.size, left
                )
                reported = now
    return volume.reshape(grid.shape)


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
    nudge = np.float32(_ZERO_NUDGE * grid.spacing)
    for plane in volume:  # plane by plane: no second array of the volume's size
        near_zero = np.abs(plane) < nudge
        plane[near_zero] = np.where(plane[near_zero] < 0, -nudge, nudge)
    if volume.min() > 0 or volume.max() < 0:
        return None
    # "descent" is what gives outward faces where values grow outwards; the tests hold the sign of the volume.
    indices, faces, _, _ = marching_cubes(volume, level=0.0, gradient_direction="descent")
    return trimesh.Trimesh(vertices=grid.to_frame(indices), faces=faces, process=False)


def extract_mesh(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: torch.device | str = "cpu",
) -> trimesh.Trimesh | None:
    """Extracts the zero set of a field: `sample_volume`, then `marching_cubes_volume`.

    Args:
        field: (N, 3) points -> (N,) signed distances, negative inside.
        grid: Where to sample.
        chunk_points: Points a call of the field.
        device: Where the points are made.

    Returns:
        The mesh with outward faces, in the field's frame, or None without a surface in the grid.

    Raises:
        InputError: The field is not finite somewhere, or the volume does not fit in memory.
    """
    return marching_cubes_volume(sample_volume(field, grid, chunk_points, device), grid)
