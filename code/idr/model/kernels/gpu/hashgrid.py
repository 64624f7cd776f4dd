"""The hash grid's interpolation and its derivatives on a GPU, without autograd; see `hashgrid_loops`.

A program computes a block of points in one level. N points, L levels, F features, W = L F.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from idr.model.encodings.hashgrid_torch import PRIMES, Level
from idr.model.kernels.gpu.support import launch

BLOCK = 128
"""Points per program."""


@functools.lru_cache(maxsize=64)
def level_numbers(levels: tuple[Level, ...], bound: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns what the kernels read of each level.

    Returns:
        (L, 6) int32: resolution, offset, size - 1, whether it is dense, and the factors of a vertex's second
        and third coordinate in its row, modulo 2^32; (L,) cells per unit of length.
    """
    numbers = []
    for level in levels:
        side = level.resolution + 1
        factors = (side, side**2) if level.dense else PRIMES[1:]
        numbers.append((level.resolution, level.offset, level.size - 1, int(level.dense), *factors))
    table = torch.tensor(numbers, dtype=torch.int64).to(torch.int32)  # the upper half is cut off
    scales = table[:, 0].float() / (2 * bound)
    return table.to(device), scales.to(device)


@triton.jit
def place(at, scale, resolution, bound):
    """Returns the cell along an axis, the position in it, and d position / dx."""
    inside = tl.where(at < -bound, -bound, tl.where(at > bound, bound, at))  # NaN stays NaN
    position = (inside + bound) * scale
    last = (resolution - 1).to(tl.float32)
    cell = tl.where(position >= 0, tl.minimum(tl.floor(position), last), 0.0)
    return cell.to(tl.int32), position - cell, tl.where(inside == at, scale, 0.0)


@triton.jit
def row_of(
    i, j, k, offset, mask, dense, factor_y, factor_z
):
    """Returns the row of a vertex; hashes are modulo 2^32, and their lowest bits give the row."""
    b = tl.mul(j, factor_y, sanitize_overflow=False)
    c = tl.mul(k, factor_z, sanitize_overflow=False)
    total = tl.add(tl.add(i, b, sanitize_overflow=False), c, sanitize_overflow=False)
    return tl.where(dense != 0, total, (i ^ b ^ c) & mask).to(tl.int64) + offset


@triton.jit
def _locate(x, n, here, numbers, scales, level, bound):
    """Returns cells, positions and slopes along the three axes."""
    scale, resolution = tl.load(scales + level), tl.load(numbers + 6 * level)
    i, fx, sx = place(tl.load(x + 3 * n, here, 0.0), scale, resolution, bound)
    j, fy, sy = place(tl.load(x + 3 * n + 1, here, 0.0), scale, resolution, bound)
    k, fz, sz = place(tl.load(x + 3 * n + 2, here, 0.0), scale, resolution, bound)
    return i, j, k, fx, fy, fz, sx, sy, sz


@triton.jit
def _row(numbers, level, i, j, k):
    """Returns the rows of vertices of one level."""
    at = numbers + 6 * level
    return row_of(
        i, j, k, tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
    )


@triton.jit
def _value(
    x, table, numbers, scales, out, slopes, bound, num_points,
    width, F: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, WITH_SLOPES: tl.constexpr,
):  # fmt: skip
    level, f = tl.program_id(1), tl.arange(0, COLUMNS)
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = n < num_points
    i, j, k, fx, fy, fz, sx, sy, sz = _locate(x, n, here, numbers, scales, level, bound)
    cells = here[:, None] & (f < F)[None, :]
    total = tl.zeros((BLOCK, COLUMNS), tl.float32)
    gx, gy, gz = total, total, total
    for d in tl.static_range(2):
        wz = fz if d else 1.0 - fz
        for b in tl.static_range(2):
            wy = fy if b else 1.0 - fy
            for a in tl.static_range(2):
                wx = fx if a else 1.0 - fx
                row = _row(numbers, level, i + a, j + b, k + d)
                corner = tl.load(table + row[:, None] * F + f[None, :], cells, 0.0)
                total += (wx * wy * wz)[:, None] * corner
                if WITH_SLOPES:
                    gx += (wy * wz)[:, None] * (corner if a else -corner)
                    gy += (wx * wz)[:, None] * (corner if b else -corner)
                    gz += (wx * wy)[:, None] * (corner if d else -corner)
    at = n[:, None] * width + level * F + f[None, :]
    tl.store(out + at, total, cells)
    if WITH_SLOPES:
        tl.store(slopes + 3 * at, gx * sx[:, None], cells)
        tl.store(slopes + 3 * at + 1, gy * sy[:, None], cells)
        tl.store(slopes + 3 * at + 2, gz * sz[:, None], cells)


@triton.jit
def _scatter(
    x, by_value, by_slope, v, numbers, scales, out, rows, bound,
    num_points, width, F: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
    ATOMIC: tl.constexpr,
):  # fmt: skip
    """Adds a point's terms to its vertices, or writes them to out (L N 8, F) and their rows to rows."""
    level, f = tl.program_id(1), tl.arange(0, COLUMNS)
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = n < num_points
    i, j, k, fx, fy, fz, sx, sy, sz = _locate(x, n, here, numbers, scales, level, bound)
    vx = tl.load(v + 3 * n, here, 0.0) * sx
    vy = tl.load(v + 3 * n + 1, here, 0.0) * sy
    vz = tl.load(v + 3 * n + 2, here, 0.0) * sz
    cells = here[:, None] & (f < F)[None, :]
    at = n[:, None] * width + level * F + f[None, :]
    of_value, of_slope = tl.load(by_value + at, cells, 0.0), tl.load(by_slope + at, cells, 0.0)
    for d in tl.static_range(2):
        wz, pz = (fz if d else 1.0 - fz), (vz if d else -vz)
        for b in tl.static_range(2):
            wy, py = (fy if b else 1.0 - fy), (vy if b else -vy)
            for a in tl.static_range(2):
                wx, px = (fx if a else 1.0 - fx), (vx if a else -vx)
                along = px * wy * wz + wx * (py * wz + pz * wy)
                term = (wx * wy * wz)[:, None] * of_value + along[:, None] * of_slope
                row = _row(numbers, level, i + a, j + b, k + d)
                if ATOMIC:
                    tl.atomic_add(out + row[:, None] * F + f[None, :], term, cells, sem="relaxed")
                else:
                    entry = (level * num_points + n) * 8 + (4 * d + 2 * b + a)
                    tl.store(rows + entry, row, here)
                    tl.store(out + entry[:, None] * F + f[None, :], term, cells)


@triton.jit
def _bend(
    x, table, by_slope, v, numbers, scales, out, bound,
    num_points, width, F: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of by_slope . (slopes v) w.r.t. x to out (L, N, 3)."""
    level, f = tl.program_id(1), tl.arange(0, COLUMNS)
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = n < num_points
    i, j, k, fx, fy, fz, sx, sy, sz = _locate(x, n, here, numbers, scales, level, bound)
    vx = tl.load(v + 3 * n, here, 0.0) * sx
    vy = tl.load(v + 3 * n + 1, here, 0.0) * sy
    vz = tl.load(v + 3 * n + 2, here, 0.0) * sz
    cells = here[:, None] & (f < F)[None, :]
    of_slope = tl.load(by_slope + n[:, None] * width + level * F + f[None, :], cells, 0.0)
    gx, gy, gz = 0.0 * fx, 0.0 * fy, 0.0 * fz
    for d in tl.static_range(2):
        wz, pz = (fz if d else 1.0 - fz), (vz if d else -vz)
        for b in tl.static_range(2):
            wy, py = (fy if b else 1.0 - fy), (vy if b else -vy)
            for a in tl.static_range(2):
                wx, px = (fx if a else 1.0 - fx), (vx if a else -vx)
                row = _row(numbers, level, i + a, j + b, k + d)
                corner = tl.load(table + row[:, None] * F + f[None, :], cells, 0.0)
                dot = tl.sum(of_slope * corner, axis=1)
                gx += (dot if a else -dot) * (py * wz + pz * wy)
                gy += (dot if b else -dot) * (px * wz + pz * wx)
                gz += (dot if d else -dot) * (px * wy + py * wx)
    at = out + 3 * (level * num_points + n)
    tl.store(at, gx * sx, here)
    tl.store(at + 1, gy * sy, here)
    tl.store(at + 2, gz * sz, here)


def _run(
    kernel: Any,
    inputs: Sequence[Tensor],
    levels: Sequence[Level],
    bound: float,
    outputs: Sequence[Tensor],
    num_features: int,
    **constants: int,
) -> None:
    """Runs a kernel for each block of points and each level."""
    x, num_levels = inputs[0], len(levels)
    numbers = level_numbers(tuple(levels), bound, x.device)
    arguments = (*(t.detach().contiguous() for t in inputs), *numbers, *outputs, bound, x.shape[0])
    constants |= {"F": num_features, "COLUMNS": triton.next_power_of_2(num_features), "BLOCK": BLOCK}
    programs = (triton.cdiv(x.shape[0], BLOCK), num_levels)
    launch(kernel, programs, *arguments, num_levels * num_features, **constants)


@dataclass(frozen=True)
class GpuGrid:
    """The functions of `hashgrid_loops` on a GPU.

    Attributes:
        atomic: The table's gradient is summed by atomic additions, in an order that differs from run to run:
            results are not deterministic. Otherwise its terms are sorted by row and summed in a fixed order,
            which takes 8 L (F + 2) numbers of memory per point.
    """

    atomic: bool = False

    def value(self, x: Tensor, table: Tensor, levels: Sequence[Level], bound: float) -> Tensor:
        """Interpolates, see `hashgrid_loops.value`."""
        out = x.new_empty(x.shape[0], len(levels) * table.shape[1])
        _run(_value, (x, table), levels, bound, (out, out), table.shape[1], WITH_SLOPES=False)
        return out

    def value_and_slopes(
        self, x: Tensor, table: Tensor, levels: Sequence[Level], bound: float
    ) -> tuple[Tensor, Tensor]:
        """Interpolates with slopes, see `hashgrid_loops.value_and_slopes`."""
        width = len(levels) * table.shape[1]
        out, slopes = x.new_empty(x.shape[0], width), x.new_empty(x.shape[0], width, 3)
        _run(_value, (x, table), levels, bound, (out, slopes), table.shape[1], WITH_SLOPES=True)
        return out, slopes

    def pull(self, slopes: Tensor, by_value: Tensor) -> Tensor:
        """Returns slopes^T by_value, (N, 3), for slopes (N, W, 3) and by_value (N, W)."""
        return torch.bmm(by_value.unsqueeze(1), slopes).squeeze(1)

    def push(self, slopes: Tensor, v: Tensor) -> Tensor:
        """Returns slopes v, (N, W), for slopes (N, W, 3) and v (N, 3)."""
        return torch.bmm(slopes, v.unsqueeze(2)).squeeze(2)

    def table_gradient(
        self,
        x: Tensor,
        by_value: Tensor,
        by_slope: Tensor,
        v: Tensor,
        like: Tensor,
        levels: Sequence[Level],
        bound: float,
    ) -> Tensor:
        """Differentiates by the table, see `hashgrid_loops.table_gradient`."""
        inputs, (num_rows, num_features) = (x, by_value, by_slope, v), like.shape
        if self.atomic:
            out = torch.zeros_like(like)
            _run(_scatter, inputs, levels, bound, (out, out), num_features, ATOMIC=True)
            return out
        num_terms = 8 * len(levels) * x.shape[0]
        terms = x.new_empty(num_terms, num_features)
        rows = torch.empty(num_terms, dtype=torch.int64, device=x.device)
        _run(_scatter, inputs, levels, bound, (terms, rows), num_features, ATOMIC=False)
        # It sorts by row and sums each row in the order of the terms.
        return torch.ops.aten.embedding_dense_backward(terms, rows, num_rows, -1, False)

    def bend(
        self, x: Tensor, table: Tensor, by_slope: Tensor, v: Tensor, levels: Sequence[Level], bound: float
    ) -> Tensor:
        """Differentiates the slopes by the points, see `hashgrid_loops.bend`."""
        of_levels = x.new_empty(len(levels), x.shape[0], 3)
        _run(_bend, (x, table, by_slope, v), levels, bound, (of_levels,), table.shape[1])
        return of_levels.sum(dim=0)
