"""Regular grids of sample points, axis-aligned or rotated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


@dataclass(frozen=True)
class SampleGrid:
    """A regular grid: sample (i, j, k) lies at ``origin + axes @ (spacing * (i, j, k))``.

    The samples are never stored as one array; `points_at` computes some.

    Attributes:
        origin: (3,) position of sample (0, 0, 0).
        axes: (3, 3) rotation (determinant +1); column d is the direction of index d.
        spacing: Distance between neighboring samples, the same along all axes.
        shape: Number of samples along the three axes, each at least 2.
    """

    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: float
    shape: tuple[int, int, int]

    @property
    def num_samples(self) -> int:
        """Total number of samples."""
        return math.prod(self.shape)

    def to_frame(self, indices: Array) -> NDArray[np.float64]:
        """Maps (N, 3) grid indices, which may be fractional, to (N, 3) positions."""
        return self.origin + (np.asarray(indices, dtype=np.float64) * self.spacing) @ self.axes.T

    def points_at(self, numbers: Tensor) -> Tensor:
        """Returns the positions, (N, 3) float32, of samples of row-major flat indices, (N,) int64."""
        along = (
            torch.div(numbers, self.shape[1] * self.shape[2], rounding_mode="floor"),
            torch.div(numbers, self.shape[2], rounding_mode="floor") % self.shape[1],
            numbers % self.shape[2],
        )
        indices = torch.stack(along, dim=-1).float()  # exact: an axis has fewer than 2^24 samples
        steps = torch.tensor(self.axes.T * self.spacing, dtype=torch.float32, device=numbers.device)
        return torch.tensor(self.origin, dtype=torch.float32, device=numbers.device) + indices @ steps


def uniform_grid(half_side: float, resolution: int) -> SampleGrid:
    """Returns the axis-aligned grid over [-half_side, half_side]^3, `resolution` samples along each side."""
    lower = np.full(3, -float(half_side))
    return aligned_grid(np.eye(3), np.zeros(3), lower, -lower, resolution)


def aligned_grid(axes: Array, center: Array, lower: Array, upper: Array, resolution: int) -> SampleGrid:
    """Returns an evenly spaced grid over a rotated box, with ``resolution`` samples along its shortest side.

    Args:
        axes: (3, 3) rotation whose columns are the box's axes.
        center: (3,) origin of the box coordinates.
        lower: (3,) lower ends of the box along its axes, relative to ``center``.
        upper: (3,) upper ends, likewise.
        resolution: Samples along the shortest side, ends included, at least 2.

    Returns:
        The grid; along the longer sides it exceeds the upper end by less than one spacing.

    Raises:
        ValueError: The box is empty, the axes are not a rotation, or the resolution is below 2.
    """
    axes, center, lower, upper = (np.asarray(each, dtype=np.float64) for each in (axes, center, lower, upper))
    if resolution < 2:
        raise ValueError(f"resolution {resolution}: expected at least 2 samples along the shortest side")
    sides = upper - lower
    if not (np.isfinite(sides).all() and (sides > 0).all()):
        raise ValueError(f"box with sides {sides}: expected finite positive sides")
    if not (np.allclose(axes @ axes.T, np.eye(3), atol=1e-6) and np.linalg.det(axes) > 0):
        raise ValueError("the grid's axes are no rotation (orthonormal, determinant +1)")
    spacing = float(sides.min()) / (resolution - 1)
    # The tolerance prevents an extra sample by rounding if a side is a multiple of the spacing.
    nx, ny, nz = (np.ceil(sides / spacing - 1e-6).astype(int) + 1).tolist()
    return SampleGrid(center + axes @ lower, axes, spacing, (nx, ny, nz))
