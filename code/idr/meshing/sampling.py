"""Evaluation of a field at the samples of a grid, in chunks."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.errors import InputError
from idr.meshing.grids import SampleGrid
from idr.progress_bar import with_progress

log = logging.getLogger(__name__)

Field = Callable[[Tensor], Tensor]
"""A signed distance: (N, 3) points -> (N,) or (N, 1) values, negative inside."""
Device = torch.device | str

DEFAULT_CHUNK_POINTS = 100_000
"""Points per call of the field; about 0.6 GiB with 8 layers of 512 units."""

_LARGE_GIB = 4.0
"""Size of a volume above which a warning is logged; the frame of a thin object may have very many samples."""


class GridSampler:
    """Evaluates a field at samples of a grid, `chunk_points` at a time on `device`, without gradients.

    Attributes:
        grid: The samples.
        evaluations: Number of samples evaluated so far.

    Raises:
        ValueError: ``chunk_points`` is not positive.
    """

    def __init__(
        self, field: Field, grid: SampleGrid, chunk_points: int = DEFAULT_CHUNK_POINTS, device: Device = "cpu"
    ) -> None:
        if chunk_points < 1:
            raise ValueError(f"chunk_points = {chunk_points}: expected at least 1")
        self.grid = grid
        self.evaluations = 0
        self._field = field
        self._chunk_points = chunk_points
        self._device = device

    def evaluate(self, numbers: NDArray[np.int64] | range, title: str) -> NDArray[np.float32]:
        """Returns the field, (N,) on the CPU, at samples of row-major flat indices; `title` is for messages.

        Raises:
            InputError: The field is not finite somewhere.
        """
        values = np.empty(len(numbers), dtype=np.float32)
        with torch.no_grad():
            starts = range(0, len(numbers), self._chunk_points)
            for start in with_progress(starts, f"sampling {title}"):
                stop = min(start + self._chunk_points, len(numbers))
                points = self.grid.points_at(self._on_device(numbers[start:stop]))
                values[start:stop] = self._field(points).reshape(-1).float().cpu().numpy()
                if not np.isfinite(values[start:stop]).all():
                    raise InputError("the SDF is not finite everywhere: take an earlier checkpoint")
        self.evaluations += len(numbers)
        return values

    def _on_device(self, numbers: NDArray[np.int64] | range) -> Tensor:
        if isinstance(numbers, range):
            return torch.arange(numbers.start, numbers.stop, device=self._device)
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._device)


def sample_volume(
    field: Field, grid: SampleGrid, chunk_points: int = DEFAULT_CHUNK_POINTS, device: Device = "cpu"
) -> NDArray[np.float32]:
    """Returns a field at all samples of a grid, in the grid's shape, on the CPU; see `GridSampler`.

    Raises:
        ValueError: ``chunk_points`` is not positive.
        InputError: The field is not finite somewhere, or the volume does not fit in memory.
    """
    sampler = GridSampler(field, grid, chunk_points, device)
    size = " x ".join(str(count) for count in grid.shape)
    gib = grid.num_samples * 4 / 2**30
    if gib > _LARGE_GIB:
        log.warning("a grid of %s samples takes %.1f GiB: a lower resolution takes less", size, gib)
    try:
        volume = sampler.evaluate(range(grid.num_samples), f"{size} points")
    except MemoryError as error:
        raise InputError(f"a grid of {size} samples needs {gib:.0f} GiB: lower the resolution") from error
    return volume.reshape(grid.shape)
