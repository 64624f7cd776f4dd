"""Evaluating a field at a grid's samples, chunk by chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.errors import InputError
from idr.meshing.grids import SampleGrid

log = logging.getLogger(__name__)

Field = Callable[[Tensor], Tensor]
"""A signed distance: (N, 3) points -> (N,) or (N, 1) values, negative inside."""

DEFAULT_CHUNK_POINTS = 100_000
"""Points in one call of the field: about 0.6 GiB with 8 layers of 512."""

_SECONDS_BETWEEN_LINES = 15.0

_LARGE_GIB = 4.0
"""Volumes beyond this are announced: a thin object's own frame has far more samples along its long sides."""


class GridSampler:
    """Evaluates a field at samples of a grid; only one chunk of points exists at a time.

    Args:
        field: The field; called without gradients with points on ``device``.
        grid: Where to sample.
        chunk_points: Points a call, at least 1.
        device: Where the points are made.

    Attributes:
        grid: The grid.
        evaluations: Samples evaluated so far.

    Raises:
        ValueError: ``chunk_points`` is not positive.
    """

    def __init__(
        self,
        field: Field,
        grid: SampleGrid,
        chunk_points: int = DEFAULT_CHUNK_POINTS,
        device: torch.device | str = "cpu",
    ) -> None:
        if chunk_points < 1:
            raise ValueError(f"chunk_points = {chunk_points}: expected at least 1")
        self.grid = grid
        self.evaluations = 0
        self._field = field
        self._chunk_points = chunk_points
        self._device = device

    def evaluate(self, numbers: NDArray[np.int64] | range, title: str) -> NDArray[np.float32]:
        """Evaluates the field at some samples.

        Args:
            numbers: (N,) flat numbers of the samples, the last index running fastest.
            title: What is sampled, for the lines that tell how far it is.

        Returns:
            (N,) values, on the CPU.

        Raises:
            InputError: The field is not finite somewhere.
        """
        values = np.empty(len(numbers), dtype=np.float32)
        started = reported = time.monotonic()
        with torch.no_grad():
            for start in range(0, len(numbers), self._chunk_points):
                stop = min(start + self._chunk_points, len(numbers))
                points = self.grid.points_at(self._on_device(numbers[start:stop]))
                values[start:stop] = self._field(points).reshape(-1).float().cpu().numpy()
                if not np.isfinite(values[start:stop]).all():
                    raise InputError("the SDF is not finite everywhere: take an earlier checkpoint")
                now = time.monotonic()
                if now - reported > _SECONDS_BETWEEN_LINES:
                    left = (now - started) * (len(numbers) - stop) / stop
                    log.info("sampling %s: %.0f %%, %.0f s left", title, 100 * stop / len(numbers), left)
                    reported = now
        self.evaluations += len(numbers)
        return values

    def _on_device(self, numbers: NDArray[np.int64] | range) -> Tensor:
        if isinstance(numbers, range):
            return torch.arange(numbers.start, numbers.stop, device=self._device)
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._device)


def sample_volume(
    field: Field,
    grid: SampleGrid,
    chunk_points: int = DEFAULT_CHUNK_POINTS,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Evaluates a field at all samples of a grid.

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
    sampler = GridSampler(field, grid, chunk_points, device)
    size_text = " x ".join(str(count) for count in grid.shape)
    gib = grid.num_samples * 4 / 2**30
    if gib > _LARGE_GIB:
        log.warning("a grid of %s samples takes %.1f GiB: a lower resolution takes less", size_text, gib)
    try:
        volume = sampler.evaluate(range(grid.num_samples), f"{size_text} points")
    except MemoryError as error:
        raise InputError(
            f"a grid of {size_text} samples needs {gib:.0f} GiB: lower the resolution"
        ) from error
    return volume.reshape(grid.shape)
