"""Correcting a grid of f by its values at scattered points.

N points, n nodes along a side of a lattice over the grid's cube.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idr.fields.sdf_grid import halve_linear

LATTICES = (3, 5, 9, 17, 33)
"""Nodes along a side, coarse to fine; the coarse ones extend a correction to where points are few."""

DAMPING = 1.0
"""Weight of a zero correction at each node, in points."""

RIPPLE_NODES = 9
"""Nodes along a side, a quarter radius apart, of the lattice whose residual measures ripples of f."""


def fit_lattice(
    points: Tensor, residual: Tensor, half_side: float, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Averages residuals around the nodes of ever finer lattices; each fits what the coarser ones leave.

    All sums are matrix products, whose results are reproducible to the bit.

    Args:
        points: (N, 3) points in the unit-sphere frame; those outside the cube are ignored.
        residual: (N,) f minus the grid there.
        half_side: Half the cube's side.
        total: Sums a tensor over the processes that share the points.

    Returns:
        correction: (n, n, n) at the nodes of the finest lattice, for trilinear interpolation.
        ripples: () mean absolute residual after the lattice of ``RIPPLE_NODES``.
    """
    place = (points + half_side) / (2 * half_side)  # (N, 3)
    in_cube = ((place >= 0) & (place <= 1)).all(dim=1).to(points.dtype)  # (N,)
    correction = torch.zeros((2,) * 3, dtype=points.dtype, device=points.device)
    ripples = torch.zeros((), dtype=points.dtype, device=points.device)
    for side in LATTICES:
        nodes = torch.arange(side, dtype=points.dtype, device=points.device)
        hats = (1 - (place.unsqueeze(2) * (side - 1) - nodes).abs()).clamp_min(0)  # (N, 3, n)
        in_plane = (hats[:, 0, :, None] * hats[:, 1, None, :]).flatten(1)  # (N, n^2)
        weighted = (hats[:, 2] * (in_cube * residual).unsqueeze(1), hats[:, 2] * in_cube.unsqueeze(1))
        sums = total(in_plane.T @ torch.cat(weighted, dim=1)).view(side, side, 2, side)
        new = sums[:, :, 0] / (sums[:, :, 1] + DAMPING)  # (n, n, n)
        residual = residual - ((in_plane @ new.reshape(side**2, side)) * hats[:, 2]).sum(dim=1)
        correction = halve_linear(correction) + new
        if side == RIPPLE_NODES:
            left = total(torch.stack(((in_cube * residual.abs()).sum(), in_cube.sum())))
            ripples = left[0] / left[1].clamp_min(1)
    return correction, ripples
