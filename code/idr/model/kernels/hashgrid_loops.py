"""The hash grid's interpolation and its derivatives as compiled loops for a CPU, without autograd.

Each level is one job of one thread, which visits the points in order; threads share no sum. Results are
therefore bit-equal for any number of threads. Values are float32; `hashgrid_torch` is the reference. N
points, L levels, F features, W = L F.

With the weight w_c of a cell's corner c and its features T_c, the value of a level is sum_c w_c T_c, and its
slopes are the derivatives of the value w.r.t. the point. Four loops over the grid suffice: the value, the
value and its slopes (with one lookup per corner), the gradient w.r.t. the table, and the gradient of the
slopes w.r.t. the point. `hashgrid_numba` and `fused_field` assemble all gradients from them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idr.model.encodings.hashgrid_torch import PRIMES, Level
from idr.model.kernels.numba_support import ONE, ZERO, compiled, in_threads

PRIME_Y, PRIME_Z = PRIMES[1:]

_compiled = compiled()


@_compiled
def _locate(x: Any, n: int, axis: int, resolution: int, bound: Any) -> Any:
    """Returns the cell along an axis, the position in it, and d position / dx."""
    at, scale = x[n, axis], np.float32(resolution) / (np.float32(2) * bound)
    slope = scale
    if at < -bound:
        at, slope = -bound, ZERO
    elif at > bound:
        at, slope = bound, ZERO
    position = (at + bound) * scale
    if not position >= ZERO:  # NaN: any cell will do, because the weights are NaN
        return 0, position, slope
    cell = min(int(position), resolution - 1)
    return cell, position - np.float32(cell), slope


@_compiled
def factors_of(resolution: int, dense: bool) -> Any:
    """Returns the factors of a vertex's second and third coordinate in its row index."""
    if dense:
        return np.uint32(resolution + 1), np.uint32((resolution + 1) ** 2)
    return np.uint32(PRIME_Y), np.uint32(PRIME_Z)


@_compiled
def row_of(i: int, j: int, k: int, factors: Any, offset: int, size: int, dense: bool) -> Any:
    """Returns the row of a vertex; hashes are modulo 2^32, and their lowest bits give the row."""
    a, b, c = np.uint32(i), np.uint32(np.uint32(j) * factors[0]), np.uint32(np.uint32(k) * factors[1])
    row = np.uint32(a + b + c) if dense else np.uint32((a ^ b ^ c) & np.uint32(size - 1))
    return np.uint64(row) + np.uint64(offset)


# The number of features is a constant of each kernel, so that its loops are unrolled, which halves the time.
# `grid` is a level's number, resolution, offset, size, and whether it is dense.


@functools.cache
def _value(num_features: int) -> Any:
    """Returns the kernel of the value: (x, table, bound, grid, out), writes out (N, W)."""

    def value(x: Any, table: Any, bound: Any, grid: Any, out: Any) -> None:
        level, resolution, offset, size, dense = grid
        factors = factors_of(resolution, dense)
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
                        row = row_of(i + a, j + b, k + d, factors, offset, size, dense)
                        for f in range(num_features):
                            total[f] += across * (fx if a else ONE - fx) * table[row, f]
            for f in range(num_features):
                out[n, level * num_features + f] = total[f]

    return _compiled(value)


@functools.cache
def _tangents(num_features: int) -> Any:
    """Returns the kernel of value and slopes: (x, table, bound, grid, out (N, W), slopes (N, W, 3))."""

    def tangents(x: Any, table: Any, bound: Any, grid: Any, out: Any, slopes: Any) -> None:
        level, resolution, offset, size, dense = grid
        factors = factors_of(resolution, dense)
        first = level * num_features
        for n in range(x.shape[0]):
            i, fx, sx = _locate(x, n, 0, resolution, bound)
            j, fy, sy = _locate(x, n, 1, resolution, bound)
            k, fz, sz = _locate(x, n, 2, resolution, bound)
            ex, ey, ez = ONE - fx, ONE - fy, ONE - fz
            r000 = row_of(i, j, k, factors, offset, size, dense)
            r100 = row_of(i + 1, j, k, factors, offset, size, dense)
            r010 = row_of(i, j + 1, k, factors, offset, size, dense)
            r110 = row_of(i + 1, j + 1, k, factors, offset, size, dense)
            r001 = row_of(i, j, k + 1, factors, offset, size, dense)
            r101 = row_of(i + 1, j, k + 1, factors, offset, size, dense)
            r011 = row_of(i, j + 1, k + 1, factors, offset, size, dense)
            r111 = row_of(i + 1, j + 1, k + 1, factors, offset, size, dense)
            for f in range(num_features):
                a, b, c, d = table[r000, f], table[r100, f], table[r010, f], table[r110, f]
                e, g, h, m = table[r001, f], table[r101, f], table[r011, f], table[r111, f]
                # Along x first, then y, then z.
                low, high = a * ex + b * fx, c * ex + d * fx
                low_z, high_z = e * ex + g * fx, h * ex + m * fx
                near, far = low * ey + high * fy, low_z * ey + high_z * fy
                out[n, first + f] = near * ez + far * fz
                slope_x = ((b - a) * ey + (d - c) * fy) * ez + ((g - e) * ey + (m - h) * fy) * fz
                slopes[n, first + f, 0] = slope_x * sx
                slopes[n, first + f, 1] = ((high - low) * ez + (high_z - low_z) * fz) * sy
                slopes[n, first + f, 2] = (far - near) * sz

    return _compiled(tangents)


@functools.cache
def _scatter(num_features: int) -> Any:
    """Returns the kernel of the gradient w.r.t. the table.

    (x, by_value (N, W), by_slope (N, W), v (N, 3), bound, grid, out) adds to out (rows, F) the gradient of
    by_value . value + by_slope . (slopes v).
    """

    def scatter(x: Any, by_value: Any, by_slope: Any, v: Any, bound: Any, grid: Any, out: Any) -> None:
        level, resolution, offset, size, dense = grid
        factors = factors_of(resolution, dense)
        first = level * num_features
        for n in range(x.shape[0]):
            i, fx, sx = _locate(x, n, 0, resolution, bound)
            j, fy, sy = _locate(x, n, 1, resolution, bound)
            k, fz, sz = _locate(x, n, 2, resolution, bound)
            vx, vy, vz = v[n, 0] * sx, v[n, 1] * sy, v[n, 2] * sz
            for d in range(2):
                wz, pz = (fz, vz) if d else (ONE - fz, -vz)
                for b in range(2):
                    wy, py = (fy, vy) if b else (ONE - fy, -vy)
                    across, along_yz = wy * wz, py * wz + pz * wy
                    for a in range(2):
                        wx, px = (fx, vx) if a else (ONE - fx, -vx)
                        weight, along = wx * across, px * across + wx * along_yz
                        row = row_of(i + a, j + b, k + d, factors, offset, size, dense)
                        for f in range(num_features):
                            out[row, f] += weight * by_value[n, first + f] + along * by_slope[n, first + f]

    return _compiled(scatter)


@functools.cache
def _bend(num_features: int) -> Any:
    """Returns the kernel of the gradient of by_slope . (slopes v) w.r.t. x.

    (x, table, by_slope (N, W), v (N, 3), bound, grid, out) writes to out (L, N, 3).
    """

    def bend(x: Any, table: Any, by_slope: Any, v: Any, bound: Any, grid: Any, out: Any) -> None:
        level, resolution, offset, size, dense = grid
        factors = factors_of(resolution, dense)
        for n in range(x.shape[0]):
            i, fx, sx = _locate(x, n, 0, resolution, bound)
            j, fy, sy = _locate(x, n, 1, resolution, bound)
            k, fz, sz = _locate(x, n, 2, resolution, bound)
            vx, vy, vz = v[n, 0] * sx, v[n, 1] * sy, v[n, 2] * sz
            gx, gy, gz = ZERO, ZERO, ZERO
            for d in range(2):
                wz, pz = (fz, vz) if d else (ONE - fz, -vz)
                for b in range(2):
                    wy, py = (fy, vy) if b else (ONE - fy, -vy)
                    for a in range(2):
                        wx, px = (fx, vx) if a else (ONE - fx, -vx)
                        row = row_of(i + a, j + b, k + d, factors, offset, size, dense)
                        dot = ZERO
                        for f in range(num_features):
                            dot += by_slope[n, level * num_features + f] * table[row, f]
                        gx += (dot if a else -dot) * (py * wz + pz * wy)
                        gy += (dot if b else -dot) * (px * wz + pz * wx)
                        gz += (dot if d else -dot) * (px * wy + py * wx)
            out[level, n, 0], out[level, n, 1], out[level, n, 2] = gx * sx, gy * sy, gz * sz

    return _compiled(bend)


@_compiled
def _pull(slopes: Any, by_value: Any, out: Any) -> None:
    for n in range(by_value.shape[0]):
        gx, gy, gz = ZERO, ZERO, ZERO
        for w in range(by_value.shape[1]):
            gx += slopes[n, w, 0] * by_value[n, w]
            gy += slopes[n, w, 1] * by_value[n, w]
            gz += slopes[n, w, 2] * by_value[n, w]
        out[n, 0], out[n, 1], out[n, 2] = gx, gy, gz


@_compiled
def _push(slopes: Any, v: Any, out: Any) -> None:
    for n in range(v.shape[0]):
        for w in range(out.shape[1]):
            out[n, w] = slopes[n, w, 0] * v[n, 0] + slopes[n, w, 1] * v[n, 1] + slopes[n, w, 2] * v[n, 2]


def _numpy(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _run(
    kernel: Any, inputs: Sequence[Tensor], levels: Sequence[Level], bound: float, *outputs: Tensor
) -> None:
    """Runs a kernel for each level."""
    arrays, results, half = _numpy(*inputs), _numpy(*outputs), np.float32(bound)
    grids = [(k, level.resolution, level.offset, level.size, level.dense) for k, level in enumerate(levels)]
    in_threads(lambda grid: kernel(*arrays, half, grid, *results), [(grid,) for grid in grids])


def value(x: Tensor, table: Tensor, levels: Sequence[Level], bound: float) -> Tensor:
    """Interpolates as `hashgrid_torch.interpolate` does, (N, W), for tensors in float32 on the CPU."""
    out = x.new_empty(x.shape[0], len(levels) * table.shape[1])
    _run(_value(table.shape[1]), (x, table), levels, bound, out)
    return out


def value_and_slopes(
    x: Tensor, table: Tensor, levels: Sequence[Level], bound: float
) -> tuple[Tensor, Tensor]:
    """Returns `value` (N, W) and its slopes d value / dx (N, W, 3)."""
    width = len(levels) * table.shape[1]
    out, slopes = x.new_empty(x.shape[0], width), x.new_empty(x.shape[0], width, 3)
    _run(_tangents(table.shape[1]), (x, table), levels, bound, out, slopes)
    return out, slopes


def pull(slopes: Tensor, by_value: Tensor) -> Tensor:
    """Returns slopes^T by_value, (N, 3), for slopes (N, W, 3) and by_value (N, W)."""
    out = by_value.new_empty(by_value.shape[0], 3)
    _pull(*_numpy(slopes, by_value, out))
    return out


def push(slopes: Tensor, v: Tensor) -> Tensor:
    """Returns slopes v, (N, W), for slopes (N, W, 3) and v (N, 3)."""
    out = v.new_empty(slopes.shape[:2])
    _push(*_numpy(slopes, v, out))
    return out


def table_gradient(
    x: Tensor,
    by_value: Tensor,
    by_slope: Tensor,
    v: Tensor,
    like: Tensor,
    levels: Sequence[Level],
    bound: float,
) -> Tensor:
    """Returns the gradient of by_value . value + by_slope . (slopes v) w.r.t. a table like (rows, F).

    x and v are (N, 3), by_value and by_slope (N, W).
    """
    out = torch.zeros_like(like)
    _run(_scatter(like.shape[1]), (x, by_value, by_slope, v), levels, bound, out)
    return out


def bend(
    x: Tensor, table: Tensor, by_slope: Tensor, v: Tensor, levels: Sequence[Level], bound: float
) -> Tensor:
    """Returns the gradient (N, 3) of by_slope . (slopes v) w.r.t. x, for by_slope (N, W) and v (N, 3)."""
    of_levels = x.new_empty(len(levels), x.shape[0], 3)
    _run(_bend(table.shape[1]), (x, table, by_slope, v), levels, bound, of_levels)
    return torch.from_numpy(of_levels.numpy().sum(axis=0))  # in the order of the levels
