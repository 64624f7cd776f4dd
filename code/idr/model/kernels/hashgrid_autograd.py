"""The hash grid in kernels (`hashgrid_loops`, `gpu.hashgrid`) for autograd, differentiable twice.

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


@dataclass(frozen=True)
class _Grid:
    """Constants of the functions below; `_ByPoints` connects the points (N, 3) to the graph.

    ``kernels`` has the functions of `hashgrid_loops` for the device of the points.
    """

    kernels: Any
    levels: Sequence[Level]
    bound: float
    points: Tensor


class _ByTable(torch.autograd.Function):
    """Connects a computed value to the table alone in the graph.

    The normal is a derivative w.r.t. the points. With one node for table and points, autograd would also
    compute the table's gradient for each normal, and discard it.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, value: Tensor, grid: _Grid) -> Tensor:
        ctx.grid, ctx.shape = grid, table.shape
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, by_value: Tensor) -> Any:
        return _GradientByTable.apply(ctx.grid.points, by_value, ctx.shape, ctx.grid), None, None


class _ByPoints(torch.autograd.Function):
    """Connects a computed value to the points in the graph, with its computed slopes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, table: Tensor, slopes: Tensor, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, table, slopes)
        ctx.grid = grid
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, by_value: Tensor) -> Any:
        x, table, slopes = ctx.saved_tensors
        return by_value, _GradientByPoints.apply(x, table, by_value, slopes, ctx.grid), None, None, None


class _GradientByTable(torch.autograd.Function):
    """The gradient of by_value . value w.r.t. the table."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by_value: Tensor, shape: torch.Size, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, by_value)
        ctx.grid = grid
        zero = torch.zeros_like(x)  # the slopes do not contribute
        like = x.new_empty(shape)
        return grid.kernels.table_gradient(x, by_value, by_value, zero, like, grid.levels, grid.bound)

    @staticmethod
    def backward(ctx: Any, by_table: Tensor) -> Any:
        x, by_value = ctx.saved_tensors
        kernels, levels, bound = ctx.grid.kernels, ctx.grid.levels, ctx.grid.bound
        by_x = None
        if ctx.needs_input_grad[0]:
            _, slopes = kernels.value_and_slopes(x, by_table, levels, bound)
            by_x = _GradientByPoints.apply(x, by_table, by_value, slopes, ctx.grid)
        by_by_value = interpolate(kernels, x, by_table, levels, bound) if ctx.needs_input_grad[1] else None
        return by_x, by_by_value, None, None


class _GradientByPoints(torch.autograd.Function):
    """The gradient of by_value . value w.r.t. the points, from computed slopes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, by_value: Tensor, slopes: Tensor, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, table, by_value, slopes)
        ctx.grid = grid
        return grid.kernels.pull(slopes, by_value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        x, table, by_value, slopes = ctx.saved_tensors
        kernels, levels, bound = ctx.grid.kernels, ctx.grid.levels, ctx.grid.bound
        needed = ctx.needs_input_grad
        by_x = kernels.bend(x, table, by_value, v, levels, bound) if needed[0] else None
        by_table = None
        if needed[1]:
            zero = torch.zeros_like(by_value)
            by_table = kernels.table_gradient(x, zero, by_value, v, table, levels, bound)
        by_by_value = kernels.push(slopes, v) if needed[2] else None
        return by_x, by_table, by_by_value, None, None


def interpolate(kernels: Any, x: Tensor, table: Tensor, levels: Sequence[Level], bound: float) -> Tensor:
    """Interpolates as `hashgrid_torch.interpolate` does, (N, W), on the kernels' device in float32.

    It is differentiable twice.
    """
    grid = _Grid(kernels, levels, bound, x)
    if torch.is_grad_enabled() and x.requires_grad:
        value, slopes = kernels.value_and_slopes(x, table, levels, bound)
        return _ByPoints.apply(_ByTable.apply(table, value, grid), x, table, slopes, grid)
    return _ByTable.apply(table, kernels.value(x, table, levels, bound), grid)
