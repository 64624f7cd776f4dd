"""The hash grid's values together with their derivatives by the point, as compiled loops for a CPU.

Where f and its gradient are both wanted (`idr.model.fused_field`), each vertex is looked up once for both,
and once more for the sums that training adds to the table. As in `hashgrid_numba`, whose loops are the oracle
beside `hashgrid_torch`, a level is one task of one thread, points in their order: results repeat to the last
bit. N points, L levels, F features, W = L F.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idr.model.encodings.hashgrid_numba import ONE, ZERO, _compiled, _each_level, _factors, _locate, _row
from idr.model.encodings.hashgrid_torch import Level

# The number of features is a constant of each kernel: its loops are unrolled.


@functools.cache
def _tangents(num_features: int) -> Any:
    """Returns the kernel of value and derivative: (x, table, bound, *level, out (N, W), slopes (N, W, 3))."""

    def tangents(
        x: Any, table: Any, bound: Any, level: int, resolution: int, offset: int, size: int, dense: bool,
        out: Any, slopes: Any,
    ) -> None:  # fmt: skip
        factors = _factors(resolution, dense)
        first = level * num_features
        for n in range(x.shape[0]):
            i, fx, sx = _locate(x, n, 0, resolution, bound)
            j, fy, sy = _locate(x, n, 1, resolution, bound)
            k, fz, sz = _locate(x, n, 2, resolution, bound)
            ex, ey, ez = ONE - fx, ONE - fy, ONE - fz
            r000 = _row(i, j, k, factors, offset, size, dense)
            r100 = _row(i + 1, j, k, factors, offset, size, dense)
            r010 = _row(i, j + 1, k, factors, offset, size, dense)
            r110 = _row(i + 1, j + 1, k, factors, offset, size, dense)
            r001 = _row(i, j, k + 1, factors, offset, size, dense)
            r101 = _row(i + 1, j, k + 1, factors, offset, size, dense)
            r011 = _row(i, j + 1, k + 1, factors, offset, size, dense)
            r111 = _row(i + 1, j + 1, k + 1, factors, offset, size, dense)
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
    """Returns the kernel that adds to the table's gradient.

    (x, by_value (N, W), by_slope (N, W), v (N, 3), bound, *level, into) adds the gradient of
    by_value . value + by_slope . (slopes v).
    """

    def scatter(
        x: Any, by_value: Any, by_slope: Any, v: Any, bound: Any, level: int, resolution: int, offset: int,
        size: int, dense: bool, into: Any,
    ) -> None:  # fmt: skip
        factors = _factors(resolution, dense)
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
                        row = _row(i + a, j + b, k + d, factors, offset, size, dense)
                        for f in range(num_features):
                            into[row, f] += weight * by_value[n, first + f] + along * by_slope[n, first + f]

    return _compiled(scatter)


@functools.cache
def _bend(num_features: int) -> Any:
    """Returns the kernel of the gradient by x of given . (slopes v).

    (x, table, given (N, W), v (N, 3), bound, *level, out) writes to out (L, N, 3).
    """

    def bend(
        x: Any, table: Any, given: Any, v: Any, bound: Any, level: int, resolution: int, offset: int,
        size: int, dense: bool, out: Any,
    ) -> None:  # fmt: skip
        factors = _factors(resolution, dense)
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
                        row = _row(i + a, j + b, k + d, factors, offset, size, dense)
                        dot = ZERO
                        for f in range(num_features):
                            dot += given[n, level * num_features + f] * table[row, f]
                        gx += (dot if a else -dot) * (py * wz + pz * wy)
                        gy += (dot if b else -dot) * (px * wz + pz * wx)
                        gz += (dot if d else -dot) * (px * wy + py * wx)
            out[level, n, 0], out[level, n, 1], out[level, n, 2] = gx * sx, gy * sy, gz * sz

    return _compiled(bend)


@_compiled
def _pull(slopes: Any, given: Any, out: Any) -> None:
    """Writes slopes^T given, (N, 3), for slopes (N, W, 3) and given (N, W)."""
    for n in range(given.shape[0]):
        gx, gy, gz = ZERO, ZERO, ZERO
        for w in range(given.shape[1]):
            gx += slopes[n, w, 0] * given[n, w]
            gy += slopes[n, w, 1] * given[n, w]
            gz += slopes[n, w, 2] * given[n, w]
        out[n, 0], out[n, 1], out[n, 2] = gx, gy, gz


@_compiled
def _push(slopes: Any, v: Any, out: Any) -> None:
    """Writes slopes v, (N, W), for slopes (N, W, 3) and v (N, 3)."""
    for n in range(v.shape[0]):
        for w in range(out.shape[1]):
            out[n, w] = slopes[n, w, 0] * v[n, 0] + slopes[n, w, 1] * v[n, 1] + slopes[n, w, 2] * v[n, 2]


def _numpy(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def value_and_slopes(
    x: Tensor, table: Tensor, levels: Sequence[Level], bound: float
) -> tuple[Tensor, Tensor]:
    """Interpolates as `hashgrid_torch.interpolate` does, and differentiates; no graph.

    Args:
        x: (N, 3) points, float32, on the CPU.
        table: (rows, F) features, float32, on the CPU.
        levels: L levels.
        bound: Half the cube's side.

    Returns:
        value: (N, W), level by level.
        slopes: (N, W, 3) d value / dx.
    """
    width = len(levels) * table.shape[1]
    out, slopes = x.new_empty(x.shape[0], width), x.new_empty(x.shape[0], width, 3)
    points, rows, *into = _numpy(x, table, out, slopes)
    kernel, half = _tangents(table.shape[1]), np.float32(bound)
    _each_level(levels, lambda *level: kernel(points, rows, half, *level, *into))
    return out, slopes


def pull(slopes: Tensor, given: Tensor) -> Tensor:
    """Returns slopes^T given, (N, 3), for slopes (N, W, 3) and given (N, W)."""
    out = given.new_empty(given.shape[0], 3)
    _pull(*_numpy(slopes, given, out))
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
    """Returns the gradient by the table of by_value . value + by_slope . (slopes v).

    Args:
        x: (N, 3) points.
        by_value: (N, W).
        by_slope: (N, W).
        v: (N, 3).
        like: (rows, F) the table.
        levels: L levels.
        bound: Half the cube's side.

    Returns:
        (rows, F).
    """
    out = torch.zeros_like(like)
    inputs, (into,) = _numpy(x, by_value, by_slope, v), _numpy(out)
    kernel, half = _scatter(like.shape[1]), np.float32(bound)
    _each_level(levels, lambda *level: kernel(*inputs, half, *level, into))
    return out


def bend(x: Tensor, table: Tensor, given: Tensor, v: Tensor, levels: Sequence[Level], bound: float) -> Tensor:
    """Returns the gradient (N, 3) by the points of given . (slopes v), for given (N, W) and v (N, 3)."""
    parts = np.empty((len(levels), x.shape[0], 3), np.float32)
    inputs = _numpy(x, table, given, v)
    kernel, half = _bend(table.shape[1]), np.float32(bound)
    _each_level(levels, lambda *level: kernel(*inputs, half, *level, parts))
    return torch.from_numpy(parts.sum(axis=0))  # level after level
