"""The hash grid by compiled loops (`hashgrid_loops`) for autograd, differentiable twice.

N points, L levels, F features, W = L F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from idr.model.encodings.hashgrid_torch import Level
from idr.model.kernels import hashgrid_loops as loops


@dataclass(frozen=True)
class _Grid:
    """What the functions below do not differentiate by.

    Attributes:
        levels: L levels.
        bound: Half the cube's side.
        points: (N, 3) points with an edge elsewhere.
    """

    levels: Sequence[Level]
    bound: float
    points: Tensor


class _ByTable(torch.autograd.Function):
    """A value that is known already, with an edge to the table alone.

    The normal is a derivative by the points; with one edge for both, autograd would have the table's summed,
    and thrown away, each time.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, known: Tensor, grid: _Grid) -> Tensor:
        ctx.grid, ctx.shape = grid, table.shape
        return known.view_as(known)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        return _Spread.apply(ctx.grid.points, given, ctx.shape, ctx.grid), None, None


class _ByPoints(torch.autograd.Function):
    """Adds the edge to the points to a value, whose slopes are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, table: Tensor, slopes: Tensor, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, table, slopes)
        ctx.grid = grid
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        x, table, slopes = ctx.saved_tensors
        return given, _Slope.apply(x, table, given, slopes, ctx.grid), None, None, None


class _Spread(torch.autograd.Function):
    """The gradient of given . value by the table."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, given: Tensor, shape: torch.Size, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, given)
        ctx.grid = grid
        still = torch.zeros_like(x)  # along no direction slopes do not count, whatever is asked of them
        return loops.table_gradient(x, given, given, still, x.new_empty(shape), grid.levels, grid.bound)

    @staticmethod
    def backward(ctx: Any, by_table: Tensor) -> Any:
        x, given = ctx.saved_tensors
        levels, bound = ctx.grid.levels, ctx.grid.bound
        by_x = None
        if ctx.needs_input_grad[0]:
            _, slopes = loops.value_and_slopes(x, by_table, levels, bound)
            by_x = _Slope.apply(x, by_table, given, slopes, ctx.grid)
        by_given = interpolate(x, by_table, levels, bound) if ctx.needs_input_grad[1] else None
        return by_x, by_given, None, None


class _Slope(torch.autograd.Function):
    """The gradient of given . value by the points, for known slopes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, given: Tensor, slopes: Tensor, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, table, given, slopes)
        ctx.grid = grid
        return loops.pull(slopes, given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        x, table, given, slopes = ctx.saved_tensors
        levels, bound = ctx.grid.levels, ctx.grid.bound
        wanted = ctx.needs_input_grad
        by_x = loops.bend(x, table, given, v, levels, bound) if wanted[0] else None
        by_table = None
        if wanted[1]:
            nothing = torch.zeros_like(given)
            by_table = loops.table_gradient(x, nothing, given, v, table, levels, bound)
        by_given = loops.push(slopes, v) if wanted[2] else None
        return by_x, by_table, by_given, None, None


def interpolate(x: Tensor, table: Tensor, levels: Sequence[Level], bound: float) -> Tensor:
    """Interpolates as `hashgrid_torch.interpolate` does; differentiable twice.

    Args:
        x: (N, 3) points, float32, on the CPU.
        table: (rows, F) features, float32, on the CPU.
        levels: L levels.
        bound: Half the cube's side.

    Returns:
        (N, W), level by level.
    """
    grid = _Grid(levels, bound, x)
    if torch.is_grad_enabled() and x.requires_grad:
        value, slopes = loops.value_and_slopes(x, table, levels, bound)
        return _ByPoints.apply(_ByTable.apply(table, value, grid), x, table, slopes, grid)
    return _ByTable.apply(table, loops.value(x, table, levels, bound), grid)
