"""Tracing rays against a network on a hash grid, as one compiled loop over rays for a CPU.

A small network costs less than the bookkeeping of tracing with tensors. Here each ray is followed by itself:
f is evaluated point by point, and the next point depends on it. Rays share nothing, so that results are the
same to the last bit with any number of threads. Numbers are float32.

L levels of the grid, R rays, W numbers of the grid a point.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from idr.model.encodings.hashgrid_loops import ONE, ZERO, factors_of, row_of
from idr.model.encodings.hashgrid_torch import Level

MAX_STEPS = 64
"""Most steps along a ray; a dozen are usual."""

LEAST_STEP = 0.004
"""Shortest step while f is above the threshold, in radii of the bounding sphere: grazing rays must get on."""

CLOSE = 0.05
"""Below this |f|, in radii, steps follow the descent seen so far, not f alone."""

LONGEST_STEP = 3.0
"""Most that such a step is longer than f: where the ray slants to the surface by 20 degrees."""

LEAST_STEP_INSIDE = 0.02
"""Shortest step within the object, on the way to where f is smallest behind a hit."""

SOFTPLUS_RANGE, SOFTPLUS_PARTS = 18, 64
"""log(1 + exp(-u)) is tabulated up to u = 18, where float32 knows no difference, in 64 parts a unit: straight
lines between err by 8e-6, which softplus' sharpness of 100 divides to 1e-7."""

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


def _softplus_table() -> Any:
    u = np.arange(SOFTPLUS_RANGE * SOFTPLUS_PARTS + 2) / SOFTPLUS_PARTS
    return np.log1p(np.exp(-u)).astype(np.float32)


_SOFTPLUS = _softplus_table()
_PARTS = np.float32(SOFTPLUS_PARTS)
_LAST_PART = np.float32(SOFTPLUS_RANGE * SOFTPLUS_PARTS)


@_compiled
def _encode(x: Any, y: Any, z: Any, net: Any, into: Any) -> None:
    """Writes a point and its features."""
    table, levels, bound, last_weight = net[0], net[1], net[2], net[3]
    num_levels, num_features = levels.shape[0], table.shape[1]
    into[0], into[1], into[2] = x, y, z
    px = min(max(x, -bound), bound) + bound
    py = min(max(y, -bound), bound) + bound
    pz = min(max(z, -bound), bound) + bound
    for level in range(num_levels):
        resolution, offset, size, dense = levels[level]
        scale = np.float32(resolution) / (np.float32(2) * bound)
        ax, ay, az = px * scale, py * scale, pz * scale
        i = min(int(ax), resolution - 1)
        j = min(int(ay), resolution - 1)
        k = min(int(az), resolution - 1)
        fx, fy, fz = ax - np.float32(i), ay - np.float32(j), az - np.float32(k)
        ex, ey, ez = ONE - fx, ONE - fy, ONE - fz
        factors = factors_of(resolution, dense != 0)
        first = 3 + level * num_features
        for f in range(num_features):
            into[first + f] = ZERO
        p, q = ZERO, ZERO
        for d in range(2):
            wz = fz if d else ez
            for b in range(2):
                across = (fy if b else ey) * wz
                for a in range(2):
                    weight = (fx if a else ex) * across
                    row = row_of(i + a, j + b, k + d, factors, offset, size, dense != 0)
                    if num_features == 2:  # the usual number, in registers
                        p += weight * table[row, 0]
                        q += weight * table[row, 1]
                    else:
                        for f in range(num_features):
                            into[first + f] += weight * table[row, f]
        if num_features == 2:
            into[first], into[first + 1] = p, q
    if last_weight < ONE:
        for f in range(3 + (num_levels - 1) * num_features, 3 + num_levels * num_features):
            into[f] *= last_weight


@_compiled
def _softplus(values: Any, count: int, beta: Any, softplus: Any) -> None:
    """Replaces values by log(1 + exp(beta value)) / beta, from a table."""
    for m in range(count):
        z = values[m] * beta
        place = min(abs(z) * _PARTS, _LAST_PART)
        part = int(place)
        low = softplus[part]
        tail = low + (softplus[part + 1] - low) * (place - np.float32(part))
        values[m] = (max(z, ZERO) + tail) / beta


@_compiled
def _field(x: Any, y: Any, z: Any, net: Any, one: Any, two: Any) -> Any:
    """Returns f at a point; one and two are room for a layer's numbers."""
    widths, weights, beta, softplus = net[4], net[5], net[6], net[7]
    _encode(x, y, z, net, one)
    at = 0
    last = widths.shape[0] - 2
    for layer in range(last):
        num_in, num_out = widths[layer], widths[layer + 1]
        bias = weights[at : at + num_out]
        at += num_out
        for m in range(num_out):
            two[m] = bias[m]
        for n in range(0, num_in, 4):  # num_in is padded to a multiple of four, and so are its weights
            a, b, c, d = one[n], one[n + 1], one[n + 2], one[n + 3]
            column_a = weights[at : at + num_out]
            column_b = weights[at + num_out : at + 2 * num_out]
            column_c = weights[at + 2 * num_out : at + 3 * num_out]
            column_d = weights[at + 3 * num_out : at + 4 * num_out]
            at += 4 * num_out
            for m in range(num_out):
                two[m] += (a * column_a[m] + b * column_b[m]) + (c * column_c[m] + d * column_d[m])
        _softplus(two, num_out, beta, softplus)
        one, two = two, one
    total = weights[at]
    for n in range(widths[last]):
        total += one[n] * weights[at + 1 + n]
    return total


@_compiled
def _refined(
    o: Any, v: Any, low: Any, f_low: Any, high: Any, f_high: Any, rounds: int, threshold: Any, net: Any,
    one: Any, two: Any,
) -> Any:  # fmt: skip
    """Returns the depth of a zero between low, where f is positive, and high: false position, Illinois."""
    t, side = high, 0
    for _ in range(rounds):
        t = low + f_low * (high - low) / (f_low - f_high)
        f = _field(o[0] + t * v[0], o[1] + t * v[1], o[2] + t * v[2], net, one, two)
        if abs(f) <= threshold:
            break
        if f > ZERO:
            low, f_low = t, f
            f_high = f_high / np.float32(2) if side > 0 else f_high
            side = 1
        else:
            high, f_high = t, f
            f_low = f_low / np.float32(2) if side < 0 else f_low
            side = -1
    return t


@_compiled
def _smallest_behind(o: Any, v: Any, t: Any, far: Any, radius: Any, net: Any, one: Any, two: Any) -> Any:
    """Returns the depth of the smallest f seen on the way from a hit at t out of the sphere."""
    least_step = np.float32(LEAST_STEP_INSIDE) * radius
    best, f_best = t, np.float32(np.inf)
    for _ in range(MAX_STEPS):
        f = _field(o[0] + t * v[0], o[1] + t * v[1], o[2] + t * v[2], net, one, two)
        if f < f_best:
            best, f_best = t, f
        t += max(abs(f), least_step)
        if not t < far:
            break
    return best


@_compiled
def _follow(
    o: Any,
    v: Any,
    near: Any,
    far: Any,
    radius: Any,
    threshold: Any,
    rounds: int,
    net: Any,
    one: Any,
    two: Any,
) -> Any:
    """Follows a ray from near to far; returns depth and 1 for a hit, 0 without."""
    least_step, close = np.float32(LEAST_STEP) * radius, np.float32(CLOSE) * radius
    t, t_before, f_before = near, near, ZERO
    best, f_best = near, np.float32(np.inf)
    for step in range(MAX_STEPS):
        f = _field(o[0] + t * v[0], o[1] + t * v[1], o[2] + t * v[2], net, one, two)
        if abs(f) <= threshold or (f < ZERO and step == 0):
            return t, 1
        if f < ZERO:
            return _refined(o, v, t_before, f_before, t, f, rounds, threshold, net, one, two), 1
        if f < f_best:
            best, f_best = t, f
        ahead = f
        if step > 0 and f < close and f < f_before:  # downhill
            slope = (f_before - f) / (t - t_before)
            ahead = min(f / slope, np.float32(LONGEST_STEP) * f)
        t_before, f_before = t, f
        if t >= far:
            break
        t = min(t + max(ahead, least_step), far)
    return best, 0


@_compiled
def _trace(
    origin: Any, direction: Any, near: Any, far: Any, crosses: Any, inside: Any, radius: Any, threshold: Any,
    rounds: int, net: Any, first: int, last: int, depth: Any, hit: Any,
) -> None:  # fmt: skip
    """Traces the rays first, ..., last - 1; see `trace`."""
    widths = net[4]
    widest = widths.max()
    one, two = np.zeros(widest, np.float32), np.zeros(widest, np.float32)
    for r in range(first, last):
        o, v = origin[r], direction[r]
        if not crosses[r]:
            depth[r], hit[r] = -(o[0] * v[0] + o[1] * v[1] + o[2] * v[2]), False
            continue
        t, found = _follow(o, v, near[r], far[r], radius, threshold, rounds, net, one, two)
        if found and not inside[r]:
            t = _smallest_behind(o, v, t, far[r], radius, net, one, two)
        depth[r], hit[r] = t, found != 0


@dataclass(frozen=True)
class CompiledField:
    """f as the loops take it.

    Attributes:
        table: (rows, features of a level) the grid's features.
        levels: The open levels, as tuples.
        bound: Half the cube's side.
        last_weight: Weight of the last open level.
        layers: Weight (out, in) and bias (out,) of each layer, softplus between them; the last gives f alone.
        beta: Sharpness of the softplus.
    """

    table: Tensor
    levels: tuple[Level, ...]
    bound: float
    last_weight: float
    layers: tuple[tuple[Tensor, Tensor], ...]
    beta: float

    def packed(self) -> tuple[Any, ...]:
        """Returns what the loops read: arrays and numbers."""
        levels = np.array([[g.resolution, g.offset, g.size, int(g.dense)] for g in self.levels], np.int64)
        num_encoded = 3 + len(self.levels) * self.table.shape[1]
        widths, flat = [_padded(num_encoded)], list[Tensor]()
        for weight, bias in self.layers:
            columns = weight.detach()[:, :num_encoded] if not flat else weight.detach()
            rows, num_in = columns.shape
            num_out = _padded(rows) if rows > 1 else 1
            columns = functional.pad(columns, (0, widths[-1] - num_in, 0, num_out - rows))
            flat += [functional.pad(bias.detach(), (0, num_out - rows)), columns.T.reshape(-1)]
            widths.append(num_out)
        return (
            self.table.detach().numpy(), levels, np.float32(self.bound), np.float32(self.last_weight),
            np.array(widths, np.int64), torch.cat(flat).numpy(), np.float32(self.beta), _SOFTPLUS,
        )  # fmt: skip


def _padded(width: int) -> int:
    """Returns the next multiple of four."""
    return -(-width // 4) * 4


def trace(
    field: CompiledField,
    rays: tuple[Tensor, Tensor],
    chord: tuple[Tensor, Tensor, Tensor],
    inside: Tensor,
    radius: float,
    threshold: float,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    """Finds first hits, and for the mask loss the smallest f seen on rays that do not hit inside the mask.

    Args:
        field: f.
        rays: Origins (R, 3) and unit directions (R, 3).
        chord: Depths (R,) at which rays enter and leave the bounding sphere, and whether they cross it.
        inside: (R,) the photograph's mask.
        radius: Radius of the sphere.
        threshold: |f| at most this is on the surface.
        rounds: Most refinements of a sign change.

    Returns:
        Depth (R,) and hit flag (R,).
    """
    num_rays = inside.shape[0]
    depth, hit = torch.empty(num_rays), torch.empty(num_rays, dtype=torch.bool)
    arrays: list[Any] = [t.detach().contiguous().numpy() for t in (*rays, *chord, inside)]
    net, into = field.packed(), (depth.numpy(), hit.numpy())
    numbers: list[Any] = [np.float32(radius), np.float32(threshold), rounds, net]
    threads = min(torch.get_num_threads(), num_rays)
    if threads <= 1:
        _trace(*arrays, *numbers, 0, num_rays, *into)
        return depth, hit
    ends = [num_rays * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:  # made anew: threads kept would not survive a fork
        jobs = [
            pool.submit(lambda *part: _trace(*arrays, *numbers, *part, *into), first, last)
            for first, last in zip(ends[:-1], ends[1:], strict=True)
        ]
        for job in jobs:
            job.result()
    return depth, hit
