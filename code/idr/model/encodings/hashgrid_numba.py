"""The hash grid's interpolation, its gradient and the gradient of that as compiled loops for a CPU.

Each level is one task of one thread, which goes through the points in their order; threads share no sum. So
results repeat to the last bit, with any number of threads. Numbers are float32; `hashgrid_torch` is the
oracle. N points, L levels, F features.

With w_c the weight of a cell's corner c and T_c its features, a level's value is sum_c w_c T_c. The kernels
are the value, the gradients of given . value by the table (spread) and by the points (slope), and the
gradient of v . slope.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from idr.model.encodings.hashgrid_torch import PRIMES, Level

PRIME_Y, PRIME_Z = PRIMES[1:]
ONE = np.float32(1)
ZERO = np.float32(0)

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def _locate(x: Any, n: int, axis: int, resolution: int, bound: Any) -> Any:
    """Returns the cell along an axis, the place in it, and d place / dx."""
    at, scale = x[n, axis], np.float32(resolution) / (np.float32(2) * bound)
    slope = scale
    if at < -bound:
        at, slope = -bound, ZERO
    elif at > bound:
        at, slope = bound, ZERO
    place = (at + bound) * scale
    if not place >= ZERO:  # not a number: any cell will do, the weights are not numbers either
        return 0, place, slope
    cell = min(int(place), resolution - 1)
    return cell, place - np.float32(cell), slope


@_compiled
def _factors(resolution: int, dense: bool) -> Any:
    """Returns what the second and third coordinate of a vertex are multiplied by."""
    if dense:
        return np.uint32(resolution + 1), np.uint32((resolution + 1) ** 2)
    return np.uint32(PRIME_Y), np.uint32(PRIME_Z)


@_compiled
def _row(i: int, j: int, k: int, factors: Any, offset: int, size: int, dense: bool) -> Any:
    """Returns a vertex's row; hashes wrap around at 32 bits, of which the table takes the lowest."""
    a, b, c = np.uint32(i), np.uint32(np.uint32(j) * factors[0]), np.uint32(np.uint32(k) * factors[1])
    row = np.uint32(a + b + c) if dense else np.uint32((a ^ b ^ c) & np.uint32(size - 1))
    return np.uint64(row) + np.uint64(offset)


# The number of features is a constant of each kernel: its loops are unrolled, for half the time.


@functools.cache
def _value(num_features: int) -> Any:
    """Returns the kernel of the value: (x, table, bound, *level, out), adds to out (N, L F)."""

    def value(
        x: Any, table: Any, bound: Any, level: int, resolution: int, offset: int, size: int, dense: bool,
        out: Any,
    ) -> None:  # fmt: skip
        factors = _factors(resolution, dense)
        total = np.zeros(num_features, np.float32)
        for n in range(x.shape[0]):
            i, fx, _ = _locate(x, n, 0, resolution, bound)
            j, fy, _ = _locate(x, n, 1, resolution, bound)
            k, fz, _ = _locate(x, n, 2, resolution, bound)
            total[:] = ZERO
            for d in range(2):
                for b in range(2):
                    across = (fy if b else ONE - fy) * (fz if d else ONE - fz)
                    for a in range(2):
                        row = _row(i + a, j + b, k + d, factors, offset, size, dense)
                        for f in range(num_features):
                            total[f] += across * (fx if a else ONE - fx) * table[row, f]
            for f in range(num_features):
                out[n, level * num_features + f] = total[f]

    return _compiled(value)


@functools.cache
def _spread(num_features: int) -> Any:
    """Returns the kernel of the gradient by the table: (x, given, bound, *level, out), adds to out."""

    def spread(
        x: Any, given: Any, bound: Any, level: int, resolution: int, offset: int, size: int, dense: bool,
        out: Any,
    ) -> None:  # fmt: skip
        factors = _factors(resolution, dense)
        for n in range(x.shape[0]):
            i, fx, _ = _locate(x, n, 0, resolution, bound)
            j, fy, _ = _locate(x, n, 1, resolution, bound)
            k, fz, _ = _locate(x, n, 2, resolution, bound)
            for d in range(2):
                for b in range(2):
                    across = (fy if b else ONE - fy) * (fz if d else ONE - fz)
                    for a in range(2):
                        row = _row(i + a, j + b, k + d, factors, offset, size, dense)
                        weight = across * (fx if a else ONE - fx)
                        for f in range(num_features):
                            out[row, f] += weight * given[n, level * num_features + f]

    return _compiled(spread)


@functools.cache
def _slope(num_features: int) -> Any:
    """Returns the kernel of the gradient by x: (x, table, given, bound, *level, out), out (L, N, 3)."""

    def slope(
        x: Any, table: Any, given: Any, bound: Any, level: int, resolution: int, offset: int, size: int,
        dense: bool, out: Any,
    ) -> None:  # fmt: skip
        factors = _factors(resolution, dense)
        for n in range(x.shape[0]):
            i, fx, sx = _locate(x, n, 0, resolution, bound)
            j, fy, sy = _locate(x, n, 1, resolution, bound)
            k, fz, sz = _locate(x, n, 2, resolution, bound)
            gx, gy, gz = ZERO, ZERO, ZERO
            for d in range(2):
                for b in range(2):
                    wy, wz = fy if b else ONE - fy, fz if d else ONE - fz
                    for a in range(2):
                        wx = fx if a else ONE - fx
                        row = _row(i + a, j + b, k + d, factors, offset, size, dense)
                        dot = ZERO
                        for f in range(num_features):
                            dot += given[n, level * num_features + f] * table[row, f]
                        gx += (dot if a else -dot) * wy * wz
                        gy += (dot if b else -dot) * wx * wz
                        gz += (dot if d else -dot) * wx * wy
            out[level, n, 0], out[level, n, 1], out[level, n, 2] = gx * sx, gy * sy, gz * sz

    return _compiled(slope)


@functools.cache
def _slope_gradient(num_features: int) -> Any:
    """Returns the kernel of the gradient of v . slope by all that the slope depends on."""

    def slope_gradient(
        x: Any, table: Any, given: Any, v: Any, bound: Any, level: int, resolution: int, offset: int,
        size: int, dense: bool, by_x: Any, by_table: Any, by_given: Any,
    ) -> None:  # fmt: skip
        factors = _factors(resolution, dense)
        total = np.zeros(num_features, np.float32)
        for n in range(x.shape[0]):
            i, fx, sx = _locate(x, n, 0, resolution, bound)
            j, fy, sy = _locate(x, n, 1, resolution, bound)
            k, fz, sz = _locate(x, n, 2, resolution, bound)
            vx, vy, vz = v[n, 0] * sx, v[n, 1] * sy, v[n, 2] * sz
            gx, gy, gz = ZERO, ZERO, ZERO
            total[:] = ZERO
            for d in range(2):
                for b in range(2):
                    wy, wz = fy if b else ONE - fy, fz if d else ONE - fz
                    py, pz = vy if b else -vy, vz if d else -vz
                    for a in range(2):
                        wx, px = (fx, vx) if a else (ONE - fx, -vx)
                        along = px * wy * wz + py * wx * wz + pz * wx * wy  # v . gradient of the weight
                        row = _row(i + a, j + b, k + d, factors, offset, size, dense)
                        dot = ZERO
                        for f in range(num_features):
                            weight = given[n, level * num_features + f]
                            dot += weight * table[row, f]
                            total[f] += along * table[row, f]
                            by_table[row, f] += along * weight
                        gx += (dot if a else -dot) * (py * wz + pz * wy)
                        gy += (dot if b else -dot) * (px * wz + pz * wx)
                        gz += (dot if d else -dot) * (px * wy + py * wx)
            by_x[level, n, 0], by_x[level, n, 1], by_x[level, n, 2] = gx * sx, gy * sy, gz * sz
            for f in range(num_features):
                by_given[n, level * num_features + f] = total[f]

    return _compiled(slope_gradient)


def _numpy(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _each_level(levels: Sequence[Level], task: Callable[..., None]) -> None:
    """Does a task for each level, by as many threads as torch uses."""
    jobs = [(k, level.resolution, level.offset, level.size, level.dense) for k, level in enumerate(levels)]
    threads = min(torch.get_num_threads(), len(jobs))
    if threads == 1:
        for job in jobs:
            task(*job)
        return
    with ThreadPoolExecutor(threads) as pool:  # made anew: threads kept would not survive a fork
        for done in [pool.submit(task, *job) for job in jobs]:
            done.result()


@dataclass(frozen=True)
class _Grid:
    """What the functions below do not differentiate by; also points with an edge elsewhere."""

    levels: Sequence[Level]
    bound: float
    points: Tensor | None = None


def _evaluate(x: Tensor, table: Tensor, grid: _Grid) -> Tensor:
    out = x.new_empty(x.shape[0], len(grid.levels) * table.shape[1])
    points, rows, into = _numpy(x, table, out)
    kernel, bound = _value(table.shape[1]), np.float32(grid.bound)
    _each_level(grid.levels, lambda *level: kernel(points, rows, bound, *level, into))
    return out


class _ByTable(torch.autograd.Function):
    """The value, with an edge to the table alone.

    The normal is a derivative by the points; with one edge for both, autograd would have the table's summed,
    and thrown away, each time.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, grid: _Grid) -> Tensor:
        assert grid.points is not None
        ctx.grid, ctx.shape = grid, table.shape
        return _evaluate(grid.points, table, grid)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        return _Spread.apply(ctx.grid.points, given, ctx.shape, ctx.grid), None


class _ByPoints(torch.autograd.Function):
    """Adds the edge to the points to a value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, grid: _Grid, table: Tensor) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.grid = grid
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        x, table = ctx.saved_tensors
        return given, _Slope.apply(x, table, given, ctx.grid), None, None


class _Spread(torch.autograd.Function):
    """The gradient of given . value by the table."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, given: Tensor, shape: torch.Size, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, given)
        ctx.grid = grid
        out = x.new_zeros(shape)
        points, weights, into = _numpy(x, given, out)
        kernel, bound = _spread(shape[1]), np.float32(grid.bound)
        _each_level(grid.levels, lambda *level: kernel(points, weights, bound, *level, into))
        return out

    @staticmethod
    def backward(ctx: Any, by_table: Tensor) -> Any:
        x, given = ctx.saved_tensors
        by_x = _Slope.apply(x, by_table, given, ctx.grid) if ctx.needs_input_grad[0] else None
        by_given = None
        if ctx.needs_input_grad[1]:
            by_given = interpolate(x, by_table, ctx.grid.levels, ctx.grid.bound)
        return by_x, by_given, None, None


class _Slope(torch.autograd.Function):
    """The gradient of given . value by the points."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, given: Tensor, grid: _Grid) -> Tensor:
        ctx.save_for_backward(x, table, given)
        ctx.grid = grid
        points, rows, weights = _numpy(x, table, given)
        parts = np.empty((len(grid.levels), x.shape[0], 3), np.float32)
        kernel, bound = _slope(table.shape[1]), np.float32(grid.bound)
        _each_level(grid.levels, lambda *level: kernel(points, rows, weights, bound, *level, parts))
        return torch.from_numpy(parts.sum(axis=0))  # level after level

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        x, table, given = ctx.saved_tensors
        parts = np.empty((len(ctx.grid.levels), x.shape[0], 3), np.float32)
        by_table, by_given = torch.zeros_like(table), x.new_empty(given.shape)
        inputs, outputs = _numpy(x, table, given, v), _numpy(by_table, by_given)
        kernel, bound = _slope_gradient(table.shape[1]), np.float32(ctx.grid.bound)
        _each_level(ctx.grid.levels, lambda *level: kernel(*inputs, bound, *level, parts, *outputs))
        return torch.from_numpy(parts.sum(axis=0)), by_table, by_given, None


def interpolate(x: Tensor, table: Tensor, levels: Sequence[Level], bound: float) -> Tensor:
    """Interpolates as `hashgrid_torch.interpolate` does; differentiable twice.

    Args:
        x: (N, 3) points, float32, on the CPU.
        table: (rows, F) features, float32, on the CPU.
        levels: L levels.
        bound: Half the cube's side.

    Returns:
        (N, L F), level by level.
    """
    value = _ByTable.apply(table, _Grid(levels, bound, x))
    if torch.is_grad_enabled() and x.requires_grad:
        return _ByPoints.apply(value, x, _Grid(levels, bound), table)
    return value
