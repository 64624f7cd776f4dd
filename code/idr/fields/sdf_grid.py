"""A sparse grid of signed distances, fine near the surface, with a bound of its error.

N points, n nodes along a side of the finest level. Let f have the Lipschitz constant L and let nodes be h
apart. Between nodes, f differs from its trilinear interpolation by at most L h sqrt(3) / 2: the weights sum
to one, and the weighted mean distance from a point of a cell to its nodes is at most h sqrt(3) / 2.

That bound holds for any f. Where f is smooth it is far too wide: each halving of the cells divides the error
by four, so that the latest correction, by which new nodes differ from the interpolation between old ones,
bounds the rest. A part of the surface thinner than a cell shows up in both: f has a kink there, which new
nodes see as a correction of the order of h, and the first bound applies.

Where f is smooth, cubics through four nodes of a line are closer to it than straight lines, and locate its
minima. New nodes are therefore interpolated by cubics, up to 64 cells along a side; between those the grid is
trilinear. The bounds are the larger of the corrections to either interpolation.
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


@dataclass(frozen=True)
class GridConstants:
    """Tuned on trained networks and on the shapes of ``tests/fields`` and ``tests/model/tracing``.

    Attributes:
        coarsest_cells: Cells along a side of the level that is evaluated everywhere.
        resolved_nodes: A surface is resolved if a node at most this many nodes away lies inside the object.
            There the latest correction bounds the error; where f is smooth, it is four times the error.
        kink_safety: Error bound over the latest correction elsewhere, where a sheet thinner than a cell may
            lie: up to twice the correction of its kink can remain.
        trilinear_nodes: Nodes along a side from which interpolation is trilinear; coarser grids are refined
            by cubics.
        min_error: Smallest error bound, in units of half the cube's side.
        min_error_of_spacing: The same in units of h; the smaller of the two counts, this one beyond 64 cells
            along a side.
    """

    coarsest_cells: int = 16
    resolved_nodes: int = 2
    kink_safety: float = 2.0
    trilinear_nodes: int = 65
    min_error: float = 0.002
    min_error_of_spacing: float = 0.064


GRID = GridConstants()


@dataclass(frozen=True)
class SdfGrid:
    """f on the nodes of a cube around the origin.

    Attributes:
        values: (n, n, n) f at the finest level's nodes, the first index along x; interpolated from a coarser
            level where that level shows that f has no zero in its cells.
        errors: (n, n, n) bound of |f - interpolation| around the nodes, valid where |interpolation| is at
            most this bound.
        half_side: Half the cube's side, unit-sphere frame.
        lipschitz: L.
        num_evaluations: Evaluations of f that the grid took.
    """

    values: Tensor
    errors: Tensor
    half_side: float
    lipschitz: float
    num_evaluations: int

    @functools.cached_property
    def _volumes(self) -> Tensor:
        """(1, 2, m, m, m): values and errors on nodes dense enough for trilinear interpolation."""
        values, errors = self.values, self.errors
        while values.shape[0] < GRID.trilinear_nodes:
            values, errors = halve_cubic(values), halve_linear(errors)
        return torch.stack((values, errors))[None]

    @functools.cached_property
    def nodes(self) -> Tensor:
        """(m, m, m, 2): value and error of each of these nodes, the first index along x."""
        return self._volumes[0].movedim(0, 3).contiguous()

    @property
    def spacing(self) -> float:
        """h, distance between neighboring nodes of the finest level."""
        return 2 * self.half_side / (self.values.shape[0] - 1)

    @property
    def widest_error(self) -> float:
        """The bound of |f - interpolation| from L alone."""
        return self.lipschitz * self.spacing * (math.sqrt(3) / 2)

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates f and the bound of its error.

        Args:
            points: (..., 3) in the unit-sphere frame, clamped to the cube.

        Returns:
            values: (...) interpolated f.
            errors: (...) bound of |f - values|.
        """
        where = points.reshape(1, -1, 3).flip(-1) / self.half_side
        values, errors = _interpolate(self._volumes, where)
        return values.reshape(points.shape[:-1]), errors.reshape(points.shape[:-1])

    def along(self, origin: Tensor, direction: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates f and the bound of its error, (R, S) each, along rays; bit-equal to `at`."""
        start, step = (x.flip(-1).T.unsqueeze(2) for x in (origin, direction))  # (3, R, 1)
        where = (start + depths.unsqueeze(0) * step) / self.half_side  # (3, R, S): long rows are fast
        return _interpolate(self._volumes, where.permute(1, 2, 0))


def _interpolate(volumes: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolates two volumes on a cube, (1, 2, m, m, m), trilinearly; returns (R, S) of each.

    `where`, (R, S, 3), are positions in [-1, 1], the volumes' last axis first, as grid_sample has them:
    flipping positions is cheaper than flipping volumes.
    """
    num_rays, num_samples, _ = where.shape
    if where.device.type == "cpu":  # there, threads divide the batch, not the points of one element
        volumes = volumes.expand(num_rays, -1, -1, -1, -1)
        where = where.reshape(num_rays, 1, 1, num_samples, 3)
    else:
        where = where.reshape(1, 1, 1, -1, 3)
    sampled = functional.grid_sample(
        volumes.to(where), where, mode="bilinear", padding_mode="border", align_corners=True
    )
    first, second = sampled.unbind(1)
    return first.reshape(num_rays, num_samples), second.reshape(num_rays, num_samples)


@functools.cache
def _halving(side: int, cubic: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the (2 side - 1, side) weights that put a node between neighbors of a line.

    Cached, since a copy to an accelerator synchronizes.
    """
    weights = torch.zeros(2 * side - 1, side, dtype=torch.float64)
    weights[::2] = torch.eye(side, dtype=torch.float64)
    for node in range(side - 1):
        if not cubic or side < 4:
            weights[2 * node + 1, node] = weights[2 * node + 1, node + 1] = 0.5
            continue
        first = min(max(node - 1, 0), side - 4)  # of the cubic's four nodes
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
    """Halves the spacing of (n, n, n) nodes by cubics along the axes; old nodes keep their values."""
    halved = _along_each_axis(values, cubic=True)
    halved[::2, ::2, ::2] = values  # products round
    return halved


def halve_linear(values: Tensor) -> Tensor:
    """Halves the spacing of (n, n, n) nodes linearly."""
    return _along_each_axis(values, cubic=False)


@torch.no_grad()
def build_sdf_grid(
    sdf: Sdf, half_side: float, levels: int, margin: float, like: Tensor, full_levels: int = 0
) -> SdfGrid:
    """Evaluates f on a cube, with ever smaller cells where its surface may be.

    Args:
        sdf: f.
        half_side: Half the cube's side.
        levels: Number of times that cells are halved, from 16 along a side.
        margin: Distance from zero that f keeps in cells which are not split.
        like: A tensor with the device and dtype to use.
        full_levels: Number of levels that are evaluated in the whole ball inscribed in the cube.
    """
    cells = GRID.coarsest_cells
    side = cells + 1
    axis = torch.linspace(-half_side, half_side, side, dtype=like.dtype, device=like.device)
    nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    values = sdf(nodes).reshape((side,) * 3)
    lipschitz = lipschitz_bound(values, 2 * half_side / cells)
    grid = SdfGrid(values, torch.zeros_like(values), half_side, lipschitz, nodes.shape[0])
    grid = replace(grid, errors=torch.full_like(values, grid.widest_error))
    for level in range(levels):
        grid = refine_sdf_grid(sdf, grid, margin, whole_ball=level < full_levels)
    return grid


@torch.no_grad()
def refine_sdf_grid(sdf: Sdf, grid: SdfGrid, margin: float, whole_ball: bool = False) -> SdfGrid:
    """Halves a grid's cells where a surface may be.

    A cell is split if |f| at one of its nodes is at most L h sqrt(3) / 2 + margin. If all are above, no point
    of the cell comes closer to zero than the margin, whatever the surface between the nodes. L is estimated
    by `lipschitz_bound` from the nodes of every level before it is split.

    Args:
        sdf: f.
        grid: The grid of the same f.
        margin: Distance from zero that f keeps in cells which are not split.
        whole_ball: Split all cells of the ball inscribed in the cube.
    """
    half_side, known = grid.half_side, grid.values
    cells = 2 * (known.shape[0] - 1)
    spacing = 2 * half_side / cells
    split = cells_near_zero(known, grid.widest_error + margin)
    values = halve_cubic(known)
    corrected = nodes_of_cells(split)
    if whole_ball:
        corrected |= _in_ball(cells, half_side, values)
    is_new = corrected.clone()
    is_new[::2, ::2, ::2] = False
    index = is_new.nonzero()  # (N, 3)
    new = sdf(index.to(values.dtype) * spacing - half_side)
    errors = torch.zeros_like(values)
    linear = halve_linear(known)[is_new]  # the interpolation for which the bound is proved
    errors[is_new] = torch.maximum((new - values[is_new]).abs(), (new - linear).abs())
    values[is_new] = new
    lipschitz = max(grid.lipschitz, lipschitz_bound(values, spacing))
    resolved = _largest_around(-values, GRID.resolved_nodes) > 0
    errors = torch.where(resolved, _largest_around(errors, 1), GRID.kink_safety * _largest_around(errors, 2))
    errors = errors + min(GRID.min_error * half_side, GRID.min_error_of_spacing * spacing)
    finer = SdfGrid(values, errors, half_side, lipschitz, grid.num_evaluations + index.shape[0])
    errors = torch.where(corrected, errors.clamp_max(finer.widest_error), finer.widest_error)
    return replace(finer, errors=errors)


def _in_ball(cells: int, half_side: float, like: Tensor) -> Tensor:
    """Returns (cells + 1, ...) bool: the nodes of the cells that the ball inscribed in the cube meets."""
    axis = torch.linspace(-half_side, half_side, cells + 1, dtype=like.dtype, device=like.device)
    distance = (axis.view(-1, 1, 1) ** 2 + axis.view(-1, 1) ** 2 + axis**2).sqrt()
    return distance <= half_side * (1 + 2 * math.sqrt(3) / cells)  # plus a cell's diagonal


def _largest_around(values: Tensor, nodes: int) -> Tensor:
    """Returns the largest of (n, n, n) values up to a number of nodes away along each axis."""
    for _ in range(3):  # each turn moves the first axis to the end
        side = values.shape[0]
        padded = functional.pad(values.movedim(0, 2), (nodes, nodes), value=-torch.inf)
        values = padded[..., :side]
        for shift in range(1, 2 * nodes + 1):  # at most a third of the time of max_pool3d
            values = torch.maximum(values, padded[..., shift : shift + side])
    return values


def lipschitz_bound(values: Tensor, spacing: float) -> float:
    """Estimates the Lipschitz constant of f near its surface.

    It is the 99.9th percentile of the slopes between neighboring nodes of which one is within two spacings of
    zero, and at least 1. f is trained towards 1; single spots are steeper (up to 2.7 was measured), but there
    f is far from zero for its distance, which is the safe side.
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


def cells_near_zero(values: Tensor, bound: float) -> Tensor:
    """Returns (n - 1, n - 1, n - 1) bool: cells with |f| at most a bound at one of (n, n, n) nodes."""
    return -functional.max_pool3d(-values.abs()[None, None], kernel_size=2, stride=1)[0, 0] <= bound


def nodes_of_cells(cells: Tensor) -> Tensor:
    """Returns (2 m + 1, ...) bool: the nodes at half the spacing in and on marked (m, m, m) cells."""
    m = cells.shape[0]
    at_centers = torch.zeros((2 * m + 1,) * 3, device=cells.device)
    at_centers[1::2, 1::2, 1::2] = cells.to(at_centers.dtype)
    return functional.max_pool3d(at_centers[None, None], kernel_size=3, stride=1, padding=1)[0, 0] > 0
