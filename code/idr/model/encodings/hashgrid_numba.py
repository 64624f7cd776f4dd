"""The hash grid's interpolation, its gradient and the gradient of that as compiled loops for a CPU.

Each level is one task of one thread, which goes through the points in their order; threads share no sum. So
results repeat to the last bit, with any number of threads. Numbers are float32; `hashgrid_torch` is the
oracle. N points, L levels, F features.

With w_c the weight of a cell's corner c and T_c its features, out = sum_c w_c T_c. The kernels are its value,
`Slope` (gradient by x of G . out), `Spread` (gradient by T of G . out), and the gradient of V . slope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


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
    if not place >= ZERO:  # not a number: any cell, the result is not a number either
        return 0, place, slope
    cell = min(int(place), resolution - 1)
    return cell, place - np.float32(cell), slope


@_compiled
def _row(i: int, j: int, k: int, resolution: int, offset: int, size: int, dense: bool) -> int:
    if dense:
        side = resolution + 1
        return offset + i + side * (j + side * k)
    return offset + ((i ^ (j * PRIME_Y) ^ (k * PRIME_Z)) & (size - 1))


@_compiled
def _value(
    x: Any, table: Any, bound: Any, level: int, resolution: int, offset: int, size: int, dense: bool, out: Any
) -> None:
    num_features = table.shape[1]
    first = level * num_features
    for n in range(x.shape[0]):
        i, fx, _ = _locate(x, n, 0, resolution, bound)
        j, fy, _ = _locate(x, n, 1, resolution, bound)
        k, fz, _ = _locate(x, n, 2, resolution, bound)
        for c in range(8):
            a, b, d = c & 1, (c >> 1) & 1, c >> 2
            weight = (fx if a else ONE - fx) * (fy if b else ONE - fy) * (fz if d else ONE - fz)
            row = _row(i + a, j + b, k + d, resolution, offset, size, dense)
            for f in range(num_features):
                out[n, first + f] += weight * table[row, f]


@_compiled
def _spread(
    x: Any, given: Any, bound: Any, level: int, resolution: int, offset: int, size: int, dense: bool, out: Any
) -> None:
    num_features = out.shape[1]
    first = level * num_features
    for n in range(x.shape[0]):
        i, fx, _ = _locate(x, n, 0, resolution, bound)
        j, fy, _ = _locate(x, n, 1, resolution, bound)
        k, fz, _ = _locate(x, n, 2, resolution, bound)
        for c in range(8):
            a, b, d = c & 1, (c >> 1) & 1, c >> 2
            weight = (fx if a else ONE - fx) * (fy if b else ONE - fy) * (fz if d else ONE - fz)
            row = _row(i + a, j + b, k + d, resolution, offset, size, dense)
            for f in range(num_features):
                out[row, f] += weight * given[n, first + f]


@_compiled
def _slope(
    x: Any, table: Any, given: Any, bound: Any, level: int, resolution: int, offset: int, size: int,
    dense: bool, out: Any,
) -> None:  # fmt: skip
    num_features = table.shape[1]
    first = level * num_features
    for n in range(x.shape[0]):
        i, fx, sx = _locate(x, n, 0, resolution, bound)
        j, fy, sy = _locate(x, n, 1, resolution, bound)
        k, fz, sz = _locate(x, n, 2, resolution, bound)
        gx, gy, gz = ZERO, ZERO, ZERO
        for c in range(8):
            a, b, d = c & 1, (c >> 1) & 1, c >> 2
            wx, wy, wz = fx if a else ONE - fx, fy if b else ONE - fy, fz if d else ONE - fz
            row = _row(i + a, j + b, k + d, resolution, offset, size, dense)
            dot = ZERO
            for f in range(num_features):
                dot += given[n, first + f] * table[row, f]
            gx += (dot if a else -dot) * wy * wz
            gy += (dot if b else -dot) * wx * wz
            gz += (dot if d else -dot) * wx * wy
        out[level, n, 0], out[level, n, 1], out[level, n, 2] = gx * sx, gy * sy, gz * sz


@_compiled
def _slope_gradient(
    x: Any, table: Any, given: Any, v: Any, bound: Any, level: int, resolution: int, offset: int, size: int,
    dense: bool, by_x: Any, by_table: Any, by_given: Any,
) -> None:  # fmt: skip
    num_features = table.shape[1]
    first = level * num_features
    for n in range(x.shape[0]):
        i, fx, sx = _locate(x, n, 0, resolution, bound)
        j, fy, sy = _locate(x, n, 1, resolution, bound)
        k, fz, sz = _locate(x, n, 2, resolution, bound)
        vx, vy, vz = v[n, 0] * sx, v[n, 1] * sy, v[n, 2] * sz
        gx, gy, gz = ZERO, ZERO, ZERO
        for c in range(8):
            a, b, d = c & 1, (c >> 1) & 1, c >> 2
            wx, wy, wz = fx if a else ONE - fx, fy if b else ONE - fy, fz if d else ONE - fz
            px, py, pz = vx if a else -vx, vy if b else -vy, vz if d else -vz  # v . grad, axis by axis
            along = px * wy * wz + py * wx * wz + pz * wx * wy
            row = _row(i + a, j + b, k + d, resolution, offset, size, dense)
            dot = ZERO
            for f in range(num_features):
                feature, weight = table[row, f], given[n, first + f]
                dot += weight * feature
                by_given[n, first + f] += along * feature
                by_table[row, f] += along * weight
            gx += (dot if a else -dot) * (py * wz + pz * wy)
            gy += (dot if b else -dot) * (px * wz + pz * wx)
            gz += (dot if d else -dot) * (px * wy + py * wx)
        by_x[level, n, 0], by_x[level, n, 1], by_x[level, n, 2] = gx * sx, gy * sy, gz * sz


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


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, levels: Sequence[Level], bound: float) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.levels, ctx.bound = levels, bound
        out = x.new_zeros(x.shape[0], len(levels) * table.shape[1])
        points, rows, into = _numpy(x, table, out)
        _each_level(levels, lambda *level: _value(points, rows, np.float32(bound), *level, into))
        return out

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        x, table = ctx.saved_tensors
        by_x = _Slope.apply(x, table, given, ctx.levels, ctx.bound) if ctx.needs_input_grad[0] else None
        by_table = None
        if ctx.needs_input_grad[1]:
            by_table = _Spread.apply(x, given, table.shape, ctx.levels, ctx.bound)
        return by_x, by_table, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, given: Tensor, shape: Any, levels: Sequence[Level], bound: float
    ) -> Tensor:
        ctx.save_for_backward(x, given)
        ctx.levels, ctx.bound = levels, bound
        out = x.new_zeros(shape)
        points, weights, into = _numpy(x, given, out)
        _each_level(levels, lambda *level: _spread(points, weights, np.float32(bound), *level, into))
        return out

    @staticmethod
    def backward(ctx: Any, by_table: Tensor) -> Any:
        x, given = ctx.saved_tensors
        by_x = _Slope.apply(x, by_table, given, ctx.levels, ctx.bound) if ctx.needs_input_grad[0] else None
        by_given = None
        if ctx.needs_input_grad[1]:
            by_given = _Interpolate.apply(x, by_table, ctx.levels, ctx.bound)
        return by_x, by_given, None, None, None


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, given: Tensor, levels: Sequence[Level], bound: float
    ) -> Tensor:
        ctx.save_for_backward(x, table, given)
        ctx.levels, ctx.bound = levels, bound
        out = x.new_empty(len(levels), x.shape[0], 3)
        points, rows, weights, into = _numpy(x, table, given, out)
        _each_level(levels, lambda *level: _slope(points, rows, weights, np.float32(bound), *level, into))
        return torch.from_numpy(into.sum(axis=0))  # level after level

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        x, table, given = ctx.saved_tensors
        by_x = x.new_empty(len(ctx.levels), x.shape[0], 3)
        by_table, by_given = torch.zeros_like(table), x.new_zeros(given.shape)
        points, rows, weights, along = _numpy(x, table, given, v)
        outputs = _numpy(by_x, by_table, by_given)
        bound = np.float32(ctx.bound)
        _each_level(
            ctx.levels,
            lambda *level: _slope_gradient(points, rows, weights, along, bound, *level, *outputs),
        )
        return torch.from_numpy(outputs[0].sum(axis=0)), by_table, by_given, None, None


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
    return _Interpolate.apply(x, table, levels, bound)
