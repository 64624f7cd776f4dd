"""Traces training rays through a network on a hash grid, in one compiled loop over rays for a CPU.

A small network costs less than the bookkeeping of tracing with tensors. Here a thread traces a few rays at a
time, each in its own phase. Evaluating f at their current depths takes one matrix product per layer; when a
ray ends, the next one takes its lane. Values are float32.

L levels of the grid, R rays, W grid features per point.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from idr.model.encodings.hashgrid import HashGrid
from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels.hashgrid_loops import factors_of, row_of
from idr.model.kernels.numba_support import ONE, ZERO, compiled, in_threads
from idr.model.kernels.softplus_loops import softplus_in_place
from idr.model.tracing.common import TracerConfig, TraceRequest

MAX_STEPS = 128
"""Maximum number of samples along a ray; eight are typical."""

MIN_STEP = 0.002
"""Minimum step while f is above the threshold, in radii of the bounding sphere; advances grazing rays.
Thinner parts of the object can be missed."""

RELAXATION = 0.5
"""Fraction of the longest relaxed step, see `_relaxed_step`. On DTU scan 65 after 50 epochs, 0.5 needs 9 %
fewer evaluations of f than 0; 1 steps back too often."""

MIN_STEP_INSIDE = 0.02
"""Minimum step inside the object, in radii, in the search for the minimum of f behind a hit."""

LANES = 32
"""Rays that a thread traces at a time; few enough that BLAS starts no threads of its own."""

RAYS_PER_JOB = 512
"""Rays per job of a thread. Some BLAS libraries round a row of a product depending on its position, so a
result depends on its lane. Jobs of a fixed size give the same lanes for any number of threads."""

MARCHING, REFINING, BEHIND = 0, 1, 2
"""Phases of a ray: toward the surface; at a sign change; behind a hit outside the mask."""

DEPTH, LOW, F_LOW, HIGH, F_HIGH, BEST, F_BEST = range(7)
"""State of a ray, depths and f there: the next sample; the previous one, or both ends of a sign change; the
smallest sample."""

_compiled = compiled(fastmath={"contract"})


@_compiled
def _encode(x: Any, y: Any, z: Any, net: Any, out: Any) -> None:
    """Writes a point and its features to out (3 + W,)."""
    table, levels, bound, last_weight = net[0], net[1], net[2], net[3]
    num_levels, num_features = levels.shape[0], table.shape[1]
    out[0], out[1], out[2] = x, y, z
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
            out[first + f] = ZERO
        p, q = ZERO, ZERO
        for d in range(2):
            wz = fz if d else ez
            for b in range(2):
                across = (fy if b else ey) * wz
                for a in range(2):
                    weight = (fx if a else ex) * across
                    row = row_of(i + a, j + b, k + d, factors, offset, size, dense != 0)
                    if num_features == 2:  # the common case, in registers
                        p += weight * table[row, 0]
                        q += weight * table[row, 1]
                    else:
                        for f in range(num_features):
                            out[first + f] += weight * table[row, f]
        if num_features == 2:
            out[first], out[first + 1] = p, q
    if last_weight < ONE:
        for f in range(3 + (num_levels - 1) * num_features, 3 + num_levels * num_features):
            out[f] *= last_weight


@_compiled
def _evaluate(encoded: Any, buffers: Any, net: Any, out: Any) -> None:
    """Writes f of encoded points (LANES, 3 + W); buffers holds the values (LANES, width) of each layer."""
    matrices, biases, beta, last, last_bias = net[4], net[5], net[6], net[7], net[8]
    for layer in range(len(matrices)):
        source = encoded if layer == 0 else buffers[layer - 1]
        target, bias = buffers[layer], biases[layer]
        np.dot(source, matrices[layer], target)
        for lane in range(LANES):
            for m in range(bias.shape[0]):
                target[lane, m] += bias[m]
        softplus_in_place(target.reshape(-1), beta)
    hidden = buffers[len(matrices) - 1]
    for lane in range(LANES):
        total = last_bias
        for m in range(last.shape[0]):
            total += hidden[lane, m] * last[m]
        out[lane] = total


@_compiled
def _false_position(state: Any, lane: int) -> Any:
    """Returns the depth at which the line through both ends of a sign change is zero."""
    f_low, f_high = state[F_LOW, lane], state[F_HIGH, lane]
    return state[LOW, lane] + f_low * (state[HIGH, lane] - state[LOW, lane]) / (f_low - f_high)


@_compiled
def _relaxed_step(f: Any, step: Any, decrease: Any) -> Any:
    """Returns the length of the next step from f and the last step, which decreased f.

    On a plane with n . v = -m, the spheres of radius f around two samples s apart touch if s = 2 f / (1 + m).
    As m is only that of the last step, the length is f plus the fraction `RELAXATION` of the difference
    (over-relaxation: Keinert et al. 2014; from the slope: Balint and Valasek 2018).
    """
    m = min(max(decrease / step, np.float32(-0.5)), ONE)
    return f * (ONE + np.float32(RELAXATION) * min((ONE - m) / (ONE + m), ONE))


@_compiled
def _march(
    state: Any, phase: Any, step: Any, lane: int, f: Any, far: Any, radius: Any, threshold: Any
) -> bool:
    """Uses f at the ray's depth to choose the next depth; returns False if the ray ends.

    A sphere of radius |f| around a sample is assumed to contain no surface. A relaxed step is accepted only
    if the spheres at both its ends overlap; otherwise the ray steps back to the end of a step of f. A ray
    that ends in phase `REFINING` is a hit.
    """
    t, shortest = state[DEPTH, lane], np.float32(MIN_STEP) * radius
    length, before = t - state[LOW, lane], state[F_LOW, lane]
    if step[lane] > 0 and before + abs(f) < length and length > np.float32(1.001) * max(before, shortest):
        state[DEPTH, lane] = state[LOW, lane] + max(before, shortest)
        step[lane] += 1
        return True
    if abs(f) <= threshold or (f < ZERO and step[lane] == 0):
        phase[lane] = REFINING
        return False
    if f < ZERO:
        state[HIGH, lane], state[F_HIGH, lane] = t, f
        state[DEPTH, lane] = _false_position(state, lane)
        phase[lane], step[lane] = REFINING, 0
        return True
    if f < state[F_BEST, lane]:
        state[BEST, lane], state[F_BEST, lane] = t, f
    ahead = _relaxed_step(f, length, before - f) if step[lane] > 0 else f
    state[LOW, lane], state[F_LOW, lane] = t, f
    step[lane] += 1
    if t >= far or step[lane] >= MAX_STEPS:
        state[DEPTH, lane] = state[BEST, lane]
        return False
    state[DEPTH, lane] = min(t + max(ahead, shortest), far)
    return True


@_compiled
def _refine(state: Any, side: Any, step: Any, lane: int, f: Any, rounds: int, threshold: Any) -> bool:
    """Does the same at a sign change by false position; f at an end that stays is halved (Illinois rule)."""
    step[lane] += 1
    if abs(f) <= threshold or step[lane] >= rounds:
        return False
    if f > ZERO:
        state[LOW, lane], state[F_LOW, lane] = state[DEPTH, lane], f
        if step[lane] > 1 and side[lane]:
            state[F_HIGH, lane] /= np.float32(2)
    else:
        state[HIGH, lane], state[F_HIGH, lane] = state[DEPTH, lane], f
        if step[lane] > 1 and not side[lane]:
            state[F_LOW, lane] /= np.float32(2)
    side[lane] = f > ZERO
    state[DEPTH, lane] = _false_position(state, lane)
    return True


@_compiled
def _search_behind(state: Any, step: Any, lane: int, f: Any, far: Any, radius: Any) -> bool:
    """Does the same behind a hit, toward the far end of the chord; the ray ends at the smallest f."""
    if f < state[F_BEST, lane]:
        state[BEST, lane], state[F_BEST, lane] = state[DEPTH, lane], f
    state[DEPTH, lane] += max(abs(f), np.float32(MIN_STEP_INSIDE) * radius)
    step[lane] += 1
    if state[DEPTH, lane] < far and step[lane] < MAX_STEPS:
        return True
    state[DEPTH, lane] = state[BEST, lane]
    return False


@_compiled
def _trace(
    origin: Any, direction: Any, near: Any, far: Any, crosses: Any, inside: Any, radius: Any, threshold: Any,
    rounds: int, net: Any, first: int, last: int, buffers: Any, depth: Any, hit: Any,
) -> None:  # fmt: skip
    """Traces the rays first, ..., last - 1, see `trace`; buffers as in `_evaluate`."""
    state, encoded = np.zeros((7, LANES), np.float32), np.zeros((LANES, net[4][0].shape[0]), np.float32)
    phase, step = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    side, values, ray = np.zeros(LANES, np.bool_), np.zeros(LANES, np.float32), np.full(LANES, -1)
    next_ray, active = first, 0
    while True:
        for lane in range(LANES):
            while ray[lane] < 0 and next_ray < last:
                r, next_ray = next_ray, next_ray + 1
                o, v = origin[r], direction[r]
                if not crosses[r]:
                    depth[r], hit[r] = -(o[0] * v[0] + o[1] * v[1] + o[2] * v[2]), False
                    continue
                ray[lane], phase[lane], step[lane], active = r, MARCHING, 0, active + 1
                state[DEPTH, lane] = state[BEST, lane] = near[r]
                state[F_BEST, lane] = np.inf
        if active == 0:
            return
        for lane in range(LANES):
            if ray[lane] >= 0:
                o, v, t = origin[ray[lane]], direction[ray[lane]], state[DEPTH, lane]
                _encode(o[0] + t * v[0], o[1] + t * v[1], o[2] + t * v[2], net, encoded[lane])
        _evaluate(encoded, buffers, net, values)
        for lane in range(LANES):
            r, f = ray[lane], values[lane]
            if r < 0:
                continue
            if phase[lane] == MARCHING:
                continues = _march(state, phase, step, lane, f, far[r], radius, threshold)
            elif phase[lane] == REFINING:
                continues = _refine(state, side, step, lane, f, rounds, threshold)
            else:
                continues = _search_behind(state, step, lane, f, far[r], radius)
            if not continues and phase[lane] == REFINING and not inside[r]:
                phase[lane], step[lane], continues = BEHIND, 0, True
                state[F_BEST, lane] = np.inf
            if not continues:
                depth[r], hit[r] = state[DEPTH, lane], phase[lane] != MARCHING
                ray[lane], active = -1, active - 1


def _arrays(network: ImplicitNetwork) -> tuple[Any, ...]:
    """Returns the network's weights as the loops read them.

    Returns:
        table (rows, features), levels (L, 4), bound, weight of the last level; hidden weights (in, out),
        hidden biases (out,), beta; weight (in,) and bias of f in the last layer.
    """
    grid = network.encoding
    assert isinstance(grid, HashGrid)
    open_grids = grid.grids[: grid.num_open]
    levels = np.array([[g.resolution, g.offset, g.size, int(g.dense)] for g in open_grids], np.int64)
    num_encoded = 3 + len(open_grids) * grid.config.features
    (first, bias), *others, (last, last_bias) = network.weights_and_biases()
    hidden = ((first[:, :num_encoded], bias), *others)  # closed levels are zeros
    beta, f_weight, f_bias = network.activation.beta, last[0].detach(), last_bias[0].detach()
    return (
        grid.table.detach().numpy(), levels, np.float32(grid.config.bound), np.float32(grid.last_weight),
        tuple(weight.detach().T.contiguous().numpy() for weight, _ in hidden),
        tuple(bias.detach().contiguous().numpy() for _, bias in hidden),
        np.float32(beta), f_weight.contiguous().numpy(), f_bias.numpy()[()],
    )  # fmt: skip


def trace(network: ImplicitNetwork, request: TraceRequest, config: TracerConfig) -> tuple[Tensor, Tensor]:
    """Finds first hits; other rays, and hits outside the mask, end at the smallest sampled f.

    Args:
        network: A softplus network without skip layers, on a hash grid with an open level.
        request: Rays of a training step; the loops evaluate the network, not the request's f.
        config: The block ``model.ray_tracer``.

    Returns:
        Depth (R,) and hit flag (R,).
    """
    rays, crossing, inside = request.rays, request.crossing, request.object_mask
    num_rays = inside.shape[0]
    depth, hit = torch.empty(num_rays), torch.empty(num_rays, dtype=torch.bool)
    inputs = (rays.origin, rays.direction, crossing.near, crossing.far, crossing.crosses, inside)
    arrays: list[Any] = [tensor.detach().contiguous().numpy() for tensor in inputs]
    net, results = _arrays(network), (depth.numpy(), hit.numpy())
    radius, threshold = np.float32(config.object_bounding_sphere), np.float32(config.sdf_threshold)
    numbers: list[Any] = [radius, threshold, config.n_secant_steps, net]

    def trace_some(first: int, last: int) -> None:
        buffers = tuple(np.empty((LANES, bias.shape[0]), np.float32) for bias in net[5])
        _trace(*arrays, *numbers, first, last, buffers, *results)

    starts = range(0, num_rays, RAYS_PER_JOB)
    in_threads(trace_some, [(first, min(first + RAYS_PER_JOB, num_rays)) for first in starts])
    return depth, hit
