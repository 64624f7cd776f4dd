"""The hash grid's interpolation in plain torch: any device, any dtype, any order of derivative.

It is the reference for the compiled kernels. N points, L levels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PRIMES = (1, 2654435761, 805459861)
"""Factors of a vertex's coordinates in its hash (Mueller et al. 2022, section 3)."""


@dataclass(frozen=True)
class Level:
    """A grid of vertices over the cube.

    Attributes:
        resolution: Cells per side.
        offset: First row of the level in the table.
        size: Number of rows.
        dense: Every vertex has its own row; otherwise vertices share rows by their hash, and ``size`` is a
            power of two.
    """

    resolution: int
    offset: int
    size: int
    dense: bool


def interpolate(x: Tensor, table: Tensor, levels: Tensor, bound: float) -> Tensor:
    """Interpolates each level's features trilinearly.

    Args:
        x: (N, 3) points. A point outside [-bound, bound]^3 gets the features of the nearest point of the
            cube, and zero derivatives along the axes along which it is outside.
        table: (rows, F) features.
        levels: (3, L) int64: resolution, offset and size of each `Level`.
        bound: Half the side of the cube.

    Returns:
        (N, L F), level by level.
    """
    resolution = levels[0].to(x.dtype).view(1, -1, 1)  # (1, L, 1)
    scale = resolution / (2 * bound)
    place = (x.clamp(-bound, bound) + bound).unsqueeze(1) * scale  # (N, L, 3), in cells
    cell = torch.minimum(place.detach().floor().nan_to_num(0), resolution - 1)  # NaN stays NaN
    fraction = place - cell
    base = cell.long()
    corners = [(i, j, k) for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    rows = torch.stack([_rows(base, corner, levels) for corner in corners], dim=2)  # (N, L, 8)
    sides = (1 - fraction, fraction)
    weights = torch.stack(
        [sides[i][..., 0] * sides[j][..., 1] * sides[k][..., 2] for i, j, k in corners], dim=2
    )  # (N, L, 8)
    # The gradient of `embedding` sums each row in the order of the points; that of indexing may not.
    return (functional.embedding(rows, table) * weights.unsqueeze(3)).sum(dim=2).flatten(1)


def _rows(base: Tensor, corner: tuple[int, int, int], levels: Tensor) -> Tensor:
    """Returns the rows (N, L) of one corner of cells (N, L, 3)."""
    resolution, offset, size = levels
    i, j, k = (base[..., axis] + corner[axis] for axis in range(3))
    side = resolution + 1
    dense = i + side * (j + side * k)
    hashed = (i * PRIMES[0] ^ j * PRIMES[1] ^ k * PRIMES[2]) & (size - 1)
    return torch.where(side**3 <= size, dense, hashed) + offset
