"""Tracing rays against a network on a hash grid, as one compiled loop over rays for a CPU.

A small network costs less than the bookkeeping of tracing with tensors. Here a thread follows a few rays at a
time, each at a stage of its own: f of them all is one matrix product a layer, and a ray that has ended makes
room for the next. Rays share nothing, so that results are the same to the last bit with any number of
threads. Numbers are float32.

L levels of the grid, R rays, W numbers of the grid a point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idr.model.encodings.hashgrid_torch import Level
from idr.model.kernels.hashgrid_loops import factors_of, row_of
from idr.model.kernels.numba_support import ONE, ZERO, compiled, in_threads
from idr.model.kernels.softplus_loops import softplus_in_place

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

LANES = 32
"""Rays that a thread follows at a time: f of them all is one matrix product a layer, too small for BLAS
to start threads of its own. A ray that is done makes room for the next one."""

MARCHING, REFINING, BEHIND = 0, 1, 2
"""What a ray is at: on its way to the surface; at a change of sign; behind a hit outside the mask."""

DEPTH, LOW, F_LOW, HIGH, F_HIGH, BEST, F_BEST = range(7)
"""What is known of a ray, depths and f there: the next sample; the last one before it, or the two ends of a
change of sign; the smallest sample."""

_compiled = compiled(fastmath={"contract"})


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
def _evaluate(encoded: Any, rows: Any, net: Any, into: Any) -> None:
    """Writes f of encoded points (LANES, 3 + W); rows is room for each layer's values, (LANES, out)."""
    matrices, biases, beta, last, last_bias = net[4], net[5], net[6], net[7], net[8]
    for layer in range(len(matrices)):
        source = encoded if layer == 0 else rows[layer - 1]
        target, bias = rows[layer], biases[layer]
        np.dot(source, matrices[layer], target)
        for lane in range(LANES):
            for m in range(bias.shape[0]):
                target[lane, m] += bias[m]
        softplus_in_place(target.reshape(-1), beta)
    hidden = rows[len(matrices) - 1]
    for lane in range(LANES):
        total = last_bias
        for m in range(last.shape[0]):
            total += hidden[lane, m] * last[m]
        into[lane] = total


@_compiled
def _between(known: Any, lane: int) -> Any:
    """Returns the depth at which the line through the two ends of a change of sign is zero."""
    f_low, f_high = known[F_LOW, lane], known[F_HIGH, lane]
    return known[LOW, lane] + f_low * (known[HIGH, lane] - known[LOW, lane]) / (f_low - f_high)


@_compiled
def _march(
    known: Any, phase: Any, step: Any, lane: int, f: Any, far: Any, radius: Any, threshold: Any
) -> bool:
    """Takes f at a ray's depth and chooses the next one; returns whether there is any.

    If not, the ray has ended, with a hit if its phase is `REFINING`.
    """
    t = known[DEPTH, lane]
    if abs(f) <= threshold or (f < ZERO and step[lane] == 0):
        phase[lane] = REFINING
        return False
    if f < ZERO:
        known[HIGH, lane], known[F_HIGH, lane] = t, f
        known[DEPTH, lane] = _between(known, lane)
        phase[lane], step[lane] = REFINING, 0
        return True
    if f < known[F_BEST, lane]:
        known[BEST, lane], known[F_BEST, lane] = t, f
    ahead, before = f, known[F_LOW, lane]
    if step[lane] > 0 and f < np.float32(CLOSE) * radius and f < before:  # downhill
        slope = (before - f) / (t - known[LOW, lane])
        ahead = min(f / slope, np.float32(LONGEST_STEP) * f)
    known[LOW, lane], known[F_LOW, lane] = t, f
    step[lane] += 1
    if t >= far or step[lane] == MAX_STEPS:
        known[DEPTH, lane] = known[BEST, lane]
        return False
    known[DEPTH, lane] = min(t + max(ahead, np.float32(LEAST_STEP) * radius), far)
    return True


@_compiled
def _refine(known: Any, side: Any, step: Any, lane: int, f: Any, rounds: int, threshold: Any) -> bool:
    """The same at a change of sign: false position, an end that stays is halved (the Illinois rule)."""
    step[lane] += 1
    if abs(f) <= threshold or step[lane] >= rounds:
        return False
    if f > ZERO:
        known[LOW, lane], known[F_LOW, lane] = known[DEPTH, lane], f
        if step[lane] > 1 and side[lane]:
            known[F_HIGH, lane] /= np.float32(2)
    else:
        known[HIGH, lane], known[F_HIGH, lane] = known[DEPTH, lane], f
        if step[lane] > 1 and not side[lane]:
            known[F_LOW, lane] /= np.float32(2)
    side[lane] = f > ZERO
    known[DEPTH, lane] = _between(known, lane)
    return True


@_compiled
def _look_behind(known: Any, step: Any, lane: int, f: Any, far: Any, radius: Any) -> bool:
    """The same behind a hit, on the way out of the sphere; the ray ends at the smallest f."""
    if f < known[F_BEST, lane]:
        known[BEST, lane], known[F_BEST, lane] = known[DEPTH, lane], f
    known[DEPTH, lane] += max(abs(f), np.float32(LEAST_STEP_INSIDE) * radius)
    step[lane] += 1
    if known[DEPTH, lane] < far and step[lane] < MAX_STEPS:
        return True
    known[DEPTH, lane] = known[BEST, lane]
    return False


@_compiled
def _trace(
    origin: Any, direction: Any, near: Any, far: Any, crosses: Any, inside: Any, radius: Any, threshold: Any,
    rounds: int, net: Any, first: int, last: int, rows: Any, depth: Any, hit: Any,
) -> None:  # fmt: skip
    """Traces the rays first, ..., last - 1; see `trace`. Rows: room for each layer's values, (LANES, out)."""
    known, encoded = np.zeros((7, LANES), np.float32), np.zeros((LANES, net[4][0].shape[0]), np.float32)
    phase, step = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    side, values, ray = np.zeros(LANES, np.bool_), np.zeros(LANES, np.float32), np.full(LANES, -1)
    coming, active = first, 0
    while True:
        for lane in range(LANES):
            while ray[lane] < 0 and coming < last:
                r, coming = coming, coming + 1
                o, v = origin[r], direction[r]
                if not crosses[r]:
                    depth[r], hit[r] = -(o[0] * v[0] + o[1] * v[1] + o[2] * v[2]), False
                    continue
                ray[lane], phase[lane], step[lane], active = r, MARCHING, 0, active + 1
                known[DEPTH, lane] = known[BEST, lane] = near[r]
                known[F_BEST, lane] = np.inf
        if active == 0:
            return
        for lane in range(LANES):
            if ray[lane] >= 0:
                o, v, t = origin[ray[lane]], direction[ray[lane]], known[DEPTH, lane]
                _encode(o[0] + t * v[0], o[1] + t * v[1], o[2] + t * v[2], net, encoded[lane])
        _evaluate(encoded, rows, net, values)
        for lane in range(LANES):
            r, f = ray[lane], values[lane]
            if r < 0:
                continue
            if phase[lane] == MARCHING:
                goes_on = _march(known, phase, step, lane, f, far[r], radius, threshold)
            elif phase[lane] == REFINING:
                goes_on = _refine(known, side, step, lane, f, rounds, threshold)
            else:
                goes_on = _look_behind(known, step, lane, f, far[r], radius)
            if not goes_on and phase[lane] == REFINING and not inside[r]:
                phase[lane], step[lane], goes_on = BEHIND, 0, True
                known[F_BEST, lane] = np.inf
            if not goes_on:
                depth[r], hit[r] = known[DEPTH, lane], phase[lane] != MARCHING
                ray[lane], active = -1, active - 1


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
        (first, bias), *others = self.layers[:-1]
        hidden = ((first[:, :num_encoded], bias), *others)  # levels that are not open are zeros
        last, last_bias = (t.detach().reshape(-1).contiguous().numpy() for t in self.layers[-1])
        return (
            self.table.detach().numpy(), levels, np.float32(self.bound), np.float32(self.last_weight),
            tuple(weight.detach().T.contiguous().numpy() for weight, _ in hidden),
            tuple(b.detach().contiguous().numpy() for _, b in hidden),
            np.float32(self.beta), last, last_bias[0],
        )  # fmt: skip


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

    def trace_some(first: int, last: int) -> None:
        rows = tuple(np.empty((LANES, bias.shape[0]), np.float32) for bias in net[5])
        _trace(*arrays, *numbers, first, last, rows, *into)

    threads = min(torch.get_num_threads(), max(num_rays, 1))
    ends = [num_rays * k // threads for k in range(threads + 1)]
    in_threads(trace_some, list(zip(ends[:-1], ends[1:], strict=True)))
    return depth, hit
