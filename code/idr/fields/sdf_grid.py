"""A sparse grid of signed distances: coarse far away, fine near the surface, with a bound of its error.

N points, n nodes along a side of the finest level. Let f have the Lipschitz constant L, and nodes be h
apart. Between nodes f differs from its trilinear interpolation by L h sqrt(3) / 2 at most, since the
weights sum to one and no point of a cell is further than that from its nodes on weighted average. That
bound holds whatever f does in a cell. Where f is smooth it is far too wide: there the error falls to a
quarter with each halving of the cells, so that the last correction, which new nodes made to the
interpolation between old ones, bounds what is left. A part of the surface that is thinner than a cell shows
in both: f has a kink there, which new nodes see as a correction of the order of h, and the first bound
takes over.

Where f is smooth, cubics through four nodes of a line are nearer to it than straight lines, and tell where it
is smallest. So the nodes of a next level, and of the 64 cells along a side that are looked at, are put
between the known ones by cubics; only between those is the grid trilinear. The bounds are the larger of what
new nodes correct in either.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

Sdf = Callable[[Tensor], Tensor]
"""Maps (N, 3) points in the unit-sphere frame to (N,) signed distances."""

COARSEST_CELLS = 16
"""Cells along a side of the level that is evaluated everywhere."""

INTERPOLATION = math.sqrt(3) / 2
"""Bound of the interpolation error in units of L h."""


RESOLVED_NODES = 2
"""Where a node that is as near, counted in nodes, lies inside the object, the grid resolves the surface: the
last correction bounds the error. It is four times what is left where f is smooth."""

KINK_SAFETY = 2.0
"""Elsewhere a sheet thinner than a cell may pass: of its kink, twice the correction can be left."""

SHOWN_NODES = 65
"""Nodes along a side from which trilinear interpolation is taken; coarser grids are refined by cubics."""

LEAST_ERROR = 0.002
"""Least bound of the error, in units of half the cube's side."""

LEAST_ERROR_OF_SPACING = 0.064
"""The same in units of the nodes' distance, where that is less: beyond 64 cells along a side."""


@dataclass(frozen=True)
class SdfGrid:
    """f on the nodes of a cube around the origin.

    Attributes:
        values: (n, n, n) f at the finest level's nodes, the first index along x; interpolated from a coarser
            level where that level shows that f has no zero within its cells.
        errors: (n, n, n) bound of |f - interpolation| around the nodes, valid where the interpolation is
            below it.
        half_side: Half the cube's side, unit-sphere frame.
        lipschitz: L, the bound that the sparsity relies on.
        num_evaluations: Evaluations of f that the grid took.
    """

    values: Tensor
    errors: Tensor
    half_side: float
    lipschitz: float
    num_evaluations: int

    @functools.cached_property
    def _volumes(self) -> Tensor:
        """(1, 2, m, m, m): values and errors on nodes that are close enough for trilinear interpolation."""
        values, errors = self.values, self.errors
        while values.shape[0] < SHOWN_NODES:
            values, errors = halve_cubic(values), halve_linear(errors)
        return torch.stack((values, errors))[None]

    @functools.cached_property
    def nodes(self) -> Tensor:
        """(m, m, m, 2): the same side by side, the first index along x, for compiled loops."""
        return self._volumes[0].movedim(0, 3).contiguous()

    @property
    def spacing(self) -> float:
        """h, distance of neighboring nodes of the finest level."""
        return 2 * self.half_side / (self.values.shape[0] - 1)

    @property
    def widest_error(self) -> float:
        """The bound of |f - interpolation| that relies on L alone."""
        return self.lipschitz * self.spacing * INTERPOLATION

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates f, and the bound of its error: by cubics to finer nodes, between these trilinearly.

        Args:
            points: (..., 3) in the unit-sphere frame; outside the cube the nearest point of it counts.

        Returns:
            values: (...) interpolated f.
            errors: (...) bound of what f differs from it.
        """
        where = points.reshape(1, -1, 3).flip(-1) / self.half_side
        values, errors = _sample_along(self._volumes, where)
        return values.reshape(points.shape[:-1]), errors.reshape(points.shape[:-1])

    def along(self, origin: Tensor, direction: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates f, and the bound of its error, along rays, to the last bit as `at` does.

        Args:
            origin: (R, 3) in the unit-sphere frame.
            direction: (R, 3).
            depths: (R, S).

        Returns:
            values: (R, S) interpolated f.
            errors: (R, S) bound of what f differs from it.
        """
        start, step = (x.flip(-1).T.unsqueeze(2) for x in (origin, direction))  # (3, R, 1)
        where = (start + depths.unsqueeze(0) * step) / self.half_side  # (3, R, S): long rows are quick
        values, errors = _sample_along(self._volumes, where.permute(1, 2, 0))
        return values, errors


def _sample_along(volumes: Tensor, where: Tensor) -> tuple[Tensor, ...]:
    """Interpolates volumes on a cube trilinearly.

    Args:
        volumes: (1, C, m, m, m).
        where: (R, S, 3) positions between -1 and 1, the volumes' last axis first: grid_sample counts them so,
            and flipping positions is cheaper than volumes.

    Returns:
        C tensors (R, S).
    """
    num_rays, num_samples, _ = where.shape
    if where.device.type == "cpu":  # there threads share the batches, not the points of one
        volumes = volumes.expand(num_rays, -1, -1, -1, -1)
        where = where.reshape(num_rays, 1, 1, num_samples, 3)
    else:
        where = where.reshape(1, 1, 1, -1, 3)
    sampled = functional.grid_sample(
        volumes.to(where), where, mode="bilinear", padding_mode="border", align_corners=True
    )
    return tuple(channel.reshape(num_rays, num_samples) for channel in sampled.unbind(1))


@functools.cache
def _halving(side: int, cubic: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the (2 side - 1, side) weights that put a node between each two neighbors of a line.

    They are kept: a copy to an accelerator would make the host wait.
    """
    weights = torch.zeros(2 * side - 1, side, dtype=torch.float64)
    for node in range(side):
        weights[2 * node, node] = 1.0
    for node in range(side - 1):
        if not cubic or side < 4:
            weights[2 * node + 1, node] = weights[2 * node + 1, node + 1] = 0.5
            continue
        first = min(max(node - 1, 0), side - 4)  # of the four nodes of the cubic
        at = node + 0.5 - first
        for k in range(4):
            others = [j for j in range(4) if j != k]
            weights[2 * node + 1, first + k] = math.prod((at - j) / (k - j) for j in others)
    return weights.to(device, dtype)


def _along_each_axis(values: Tensor, cubic: bool) -> Tensor:
    weights = _halving(values.shape[0], cubic, values.dtype, values.device)
    for _ in range(3):  # each product moves the first axis to the end
        values = torch.tensordot(values, weights, dims=([0], [1]))
    return values


def halve_cubic(values: Tensor) -> Tensor:
    """Halves the spacing of (n, n, n) nodes by cubics through four nodes of a line; the old ones are kept."""
    halved = _along_each_axis(values, cubic=True)
    halved[::2, ::2, ::2] = values  # products round
    return halved


def halve_linear(values: Tensor) -> Tensor:
    """Halves the spacing of (n, n, n) nodes linearly."""
    return _along_each_axis(values, cubic=False)


@torch.no_grad()
def build_sdf_grid(
    sdf: Sdf, half_side: float, levels: int, slack: float, like: Tensor, whole_levels: int = 0
) -> SdfGrid:
    """Evaluates f on a cube, finer and finer where its surface may be.

    Args:
        sdf: f.
        half_side: Half the cube's side.
        levels: Times that cells are halved, from 16 along a side.
        slack: How far from zero f must stay in cells that are not split.
        like: A tensor that gives device and dtype.
        whole_levels: So many of the levels are evaluated in all of the ball within the cube, for f far from
            its surface.

    Returns:
        The grid.
    """
    side = COARSEST_CELLS + 1
    axis = torch.linspace(-half_side, half_side, side, dtype=like.dtype, device=like.device)
    nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    values = sdf(nodes).reshape((side,) * 3)
    lipschitz = lipschitz_bound(values, 2 * half_side / COARSEST_CELLS)
    grid = SdfGrid(values, torch.zeros_like(values), half_side, lipschitz, nodes.shape[0])
    grid = replace(grid, errors=torch.full_like(values, grid.widest_error))
    for level in range(levels):
        grid = refine_sdf_grid(sdf, grid, slack, whole=level < whole_levels)
    return grid


@torch.no_grad()
def refine_sdf_grid(sdf: Sdf, grid: SdfGrid, slack: float, whole: bool = False) -> SdfGrid:
    """Halves a grid's cells where a surface may be.

    A cell is split when |f| at one of its nodes is at most L h sqrt(3) / 2 + slack: where all are above, no
    point of the cell comes nearer to zero than the slack, whatever the surface looks like between nodes.
    L is estimated by `lipschitz_bound` from the nodes of every level before it is split.

    Args:
        sdf: f.
        grid: The grid of the same f.
        slack: How far from zero f must stay in cells that are not split.
        whole: Split all cells of the ball within the cube.

    Returns:
        The grid with half the spacing.
    """
    half_side, known = grid.half_side, grid.values
    cells = 2 * (known.shape[0] - 1)
    spacing = 2 * half_side / cells
    split = cells_near_zero(known, grid.widest_error + slack)
    values = halve_cubic(known)
    corrected = nodes_of_cells(split)
    if whole:
        corrected |= _in_ball(cells, half_side, values)
    wanted = corrected.clone()
    wanted[::2, ::2, ::2] = False
    index = wanted.nonzero()  # (N, 3)
    new = sdf(index.to(values.dtype) * spacing - half_side)
    errors = torch.zeros_like(values)
    by_lines = halve_linear(known)[wanted]  # what the bound is known to hold for
    errors[wanted] = torch.maximum((new - values[wanted]).abs(), (new - by_lines).abs())
    values[wanted] = new
    lipschitz = max(grid.lipschitz, lipschitz_bound(values, spacing))
    resolved = _largest_around(-values, RESOLVED_NODES) > 0
    errors = torch.where(resolved, _largest_around(errors, 1), KINK_SAFETY * _largest_around(errors, 2))
    errors = errors + min(LEAST_ERROR * half_side, LEAST_ERROR_OF_SPACING * spacing)
    finer = SdfGrid(values, errors, half_side, lipschitz, grid.num_evaluations + index.shape[0])
    errors = torch.where(corrected, errors.clamp_max(finer.widest_error), finer.widest_error)
    return replace(finer, errors=errors)


def _in_ball(cells: int, half_side: float, like: Tensor) -> Tensor:
    """Returns the nodes (cells + 1, ...) of the cells that the ball within the cube meets."""
    axis = torch.linspace(-half_side, half_side, cells + 1, dtype=like.dtype, device=like.device)
    distance = (axis.view(-1, 1, 1) ** 2 + axis.view(-1, 1) ** 2 + axis**2).sqrt()
    return distance <= half_side * (1 + 2 * math.sqrt(3) / cells)  # a cell's diagonal beyond


def _largest_around(values: Tensor, nodes: int) -> Tensor:
    """Returns the largest of (n, n, n) values among the nodes up to a distance along each axis."""
    for _ in range(3):  # each turn moves the first axis to the end
        side = values.shape[0]
        padded = functional.pad(values.movedim(0, 2), (nodes, nodes), value=-torch.inf)
        values = padded[..., :side]
        for shift in range(1, 2 * nodes + 1):  # a third of the time of max_pool3d, or less
            values = torch.maximum(values, padded[..., shift : shift + side])
    return values


def lipschitz_bound(values: Tensor, spacing: float) -> float:
    """Estimates the Lipschitz constant of f near its surface.

    It is the 99.9th percentile of the differences between neighboring nodes of which one is within two
    spacings of zero, and at least 1. f is trained towards 1; single spots are steeper (up to 2.7 was seen),
    but there f is far from zero for its distance, which errs on the safe side.

    Args:
        values: (n, n, n) f at nodes.
        spacing: Distance of neighboring nodes.

    Returns:
        The estimate.
    """
    slopes = []
    for axis in range(3):
        first = values.narrow(axis, 0, values.shape[axis] - 1)
        second = values.narrow(axis, 1, values.shape[axis] - 1)
        near = torch.minimum(first.abs(), second.abs()) <= 2 * spacing
        slopes.append((second - first).abs()[near] / spacing)
    steepest = torch.cat(slopes).sort().values
    if steepest.numel() == 0:
        return 1.0
    return max(1.0, float(steepest[round(0.999 * (steepest.numel() - 1))]))


def cells_near_zero(values: Tensor, reach: float) -> Tensor:
    """Returns the cells with a node where |f| is at most ``reach``.

    Args:
        values: (n, n, n) f at nodes.
        reach: The bound.

    Returns:
        (n - 1, n - 1, n - 1) bool.
    """
    return -functional.max_pool3d(-values.abs()[None, None], kernel_size=2, stride=1)[0, 0] <= reach


def nodes_of_cells(cells: Tensor) -> Tensor:
    """Returns the nodes, at half the cells' spacing, in and on marked cells.

    Args:
        cells: (m, m, m) bool.

    Returns:
        (2 m + 1, 2 m + 1, 2 m + 1) bool.
    """
    m = cells.shape[0]
    at_centers = torch.zeros((2 * m + 1,) * 3, device=cells.device)
    at_centers[1::2, 1::2, 1::2] = cells.to(at_centers.dtype)
    return functional.max_pool3d(at_centers[None, None], kernel_size=3, stride=1, padding=1)[0, 0] > 0
