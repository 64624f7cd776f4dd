"""Traces training rays through a network on a hash grid in one kernel for a GPU; see `tracing_loops`.

A program traces a block of rays, each in its own phase, until the last of them ends. It evaluates f at their
current depths: one tile (rays, features) for all levels of the grid, and one product per layer.

L levels of the grid, F features per level, R rays, H width of the hidden layers, a power of two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from idr.model.encodings.hashgrid import HashGrid
from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels import tracing_loops as loops
from idr.model.kernels.gpu.hashgrid import level_numbers, place, row_of
from idr.model.kernels.gpu.softplus import softplus
from idr.model.kernels.gpu.support import launch
from idr.model.tracing.common import TracerConfig, TraceRequest

BLOCK = 16
"""Rays per program: with 64 units a layer, a program of four warps then keeps its state in registers."""

MIN_TILE = 16
"""Smallest side of an operand of Triton's matrix product."""

MAX_WIDTH = 64
"""Maximum of units a hidden layer and of features a point; with 128, the registers do not suffice."""

PRECISION = tl.constexpr("tf32x3")
"""Of products: float32 to about 21 bits, on tensor cores where there are any; emulated, it moves hits by 1e-6
and plain TF32 by 3e-3. Triton's exact product ("ieee") needs more registers than there are."""

MARCHING, REFINING, BEHIND, ENDED = (tl.constexpr(phase) for phase in range(4))
"""Phases of a ray, those of `tracing_loops` and a last one."""

MAX_STEPS, RELAXATION = tl.constexpr(loops.MAX_STEPS), tl.constexpr(loops.RELAXATION)
MIN_STEP, MIN_STEP_INSIDE = tl.constexpr(loops.MIN_STEP), tl.constexpr(loops.MIN_STEP_INSIDE)


@triton.jit
def _features(
    x, y, z, table, numbers, scales, bound, last_weight, num_levels,
    F: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Returns the features (rays, COLUMNS) of points; the columns after L F are zeros."""
    column = tl.arange(0, COLUMNS)
    level, used = column // F, column < num_levels * F
    at = numbers + 6 * level
    resolution, offset = tl.load(at, used, 1)[None, :], tl.load(at + 1, used, 0)[None, :]
    mask, dense = tl.load(at + 2, used, 0)[None, :], tl.load(at + 3, used, 0)[None, :]
    factor_y, factor_z = tl.load(at + 4, used, 0)[None, :], tl.load(at + 5, used, 0)[None, :]
    scale = tl.load(scales + level, used, 0.0)[None, :]
    i, fx, _ = place(x[:, None], scale, resolution, bound)
    j, fy, _ = place(y[:, None], scale, resolution, bound)
    k, fz, _ = place(z[:, None], scale, resolution, bound)
    total = 0.0 * fx
    for d in tl.static_range(2):
        wz = fz if d else 1.0 - fz
        for b in tl.static_range(2):
            across = (fy if b else 1.0 - fy) * wz
            for a in tl.static_range(2):
                row = row_of(i + a, j + b, k + d, offset, mask, dense, factor_y, factor_z)
                corner = tl.load(table + row * F + (column % F)[None, :], used[None, :], 0.0)
                total += (fx if a else 1.0 - fx) * across * corner
    return total * tl.where(level == num_levels - 1, last_weight, 1.0)[None, :]


@triton.jit
def _evaluate(
    x, y, z, features, weights, beta, COLUMNS: tl.constexpr, H: tl.constexpr,
    NUM_HIDDEN: tl.constexpr,
):  # fmt: skip
    """Returns f of points with these features; weights are laid out as `_packed` says."""
    m = tl.arange(0, H)
    first = tl.load(weights + (3 + tl.arange(0, COLUMNS))[:, None] * H + m[None, :])
    hidden = tl.dot(features, first, input_precision=PRECISION)
    hidden += x[:, None] * tl.load(weights + m)[None, :]
    hidden += y[:, None] * tl.load(weights + H + m)[None, :]
    hidden += z[:, None] * tl.load(weights + 2 * H + m)[None, :]
    at = weights + (3 + COLUMNS) * H
    for layer in tl.static_range(NUM_HIDDEN):
        if layer > 0:
            weight = tl.load(at + m[:, None] * H + m[None, :])
            hidden = tl.dot(hidden, weight, input_precision=PRECISION)
            at += H * H
        scaled = (hidden + tl.load(at + m)[None, :]) * beta
        hidden = softplus(scaled, tl.exp(-tl.abs(scaled)), beta)
        at += H
    return tl.sum(hidden * tl.load(at + m)[None, :], axis=1) + tl.load(at + H)


@triton.jit
def _trace(
    origin, direction, near, far, crosses, inside, depth, hit,
    table, numbers, scales, weights, bound, last_weight, beta,
    radius, threshold, num_rays, rounds, num_levels, F: tl.constexpr, COLUMNS: tl.constexpr,
    H: tl.constexpr, NUM_HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = r < num_rays
    ox, oy, oz = (tl.load(origin + 3 * r, here, 0.0), tl.load(origin + 3 * r + 1, here, 0.0),
                  tl.load(origin + 3 * r + 2, here, 0.0))  # fmt: skip
    vx, vy, vz = (tl.load(direction + 3 * r, here, 0.0), tl.load(direction + 3 * r + 1, here, 0.0),
                  tl.load(direction + 3 * r + 2, here, 0.0))  # fmt: skip
    end, in_mask = tl.load(far + r, here, 0.0), tl.load(inside + r, here, 1) != 0
    through = tl.load(crosses + r, here, 0) != 0
    t = tl.where(through, tl.load(near + r, here, 0.0), -(ox * vx + oy * vy + oz * vz))
    phase = tl.where(through, MARCHING, ENDED)
    step, is_hit, side = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32), r < 0
    low, f_low, high, f_high, best = t, 0.0 * t, t, 0.0 * t, t
    f_best = tl.full((BLOCK,), float("inf"), tl.float32)
    shortest, shortest_inside = MIN_STEP * radius, MIN_STEP_INSIDE * radius
    while tl.min(phase, axis=0) < ENDED:
        x, y, z = ox + t * vx, oy + t * vy, oz + t * vz
        features = _features(
            x, y, z, table, numbers, scales, bound, last_weight, num_levels, F, COLUMNS
        )
        f = _evaluate(x, y, z, features, weights, beta, COLUMNS, H, NUM_HIDDEN)
        size = tl.abs(f)

        # `tracing_loops._march`
        marching, length = phase == MARCHING, t - low
        safe = tl.maximum(f_low, shortest)
        back = marching & (step > 0) & (f_low + size < length) & (length > 1.001 * safe)
        forward = marching & ~back
        found = forward & ((size <= threshold) | ((f < 0) & (step == 0)))
        crossed = forward & ~found & (f < 0)
        onward = forward & ~found & ~crossed
        # `tracing_loops._refine`
        refining = phase == REFINING
        round_number = tl.where(refining, step + 1, 0)
        refined = refining & ((size <= threshold) | (round_number >= rounds))
        halving = refining & ~refined
        f_high = tl.where(halving & (f > 0) & side & (round_number > 1), f_high / 2, f_high)
        f_low = tl.where(halving & (f <= 0) & ~side & (round_number > 1), f_low / 2, f_low)
        side = tl.where(halving, f > 0, side)
        # `tracing_loops._search_behind`, and samples on the way
        behind = phase == BEHIND
        better = (behind | onward) & (f < f_best)
        best, f_best = tl.where(better, t, best), tl.where(better, f, f_best)

        m = tl.minimum(tl.maximum((f_low - f) / length, -0.5), 1.0)
        relaxed = f * (1.0 + RELAXATION * tl.minimum((1.0 - m) / (1.0 + m), 1.0))
        ahead = tl.maximum(tl.where(step > 0, relaxed, f), shortest)
        as_low, as_high = onward | (halving & (f > 0)), crossed | (halving & (f <= 0))
        low, f_low = tl.where(as_low, t, low), tl.where(as_low, f, f_low)
        high, f_high = tl.where(as_high, t, high), tl.where(as_high, f, f_high)
        step = tl.where(halving, round_number, tl.where(crossed, 0, step + 1))

        last = onward & ((t >= end) | (step >= MAX_STEPS))
        onto = t + tl.maximum(size, shortest_inside)
        stops = behind & (~(onto < end) | (step >= MAX_STEPS))
        between = low + f_low * (high - low) / (f_low - f_high)
        at = tl.where(back, low + safe, t)
        at = tl.where(crossed | halving, between, at)
        at = tl.where(onward, tl.minimum(t + ahead, end), at)
        at = tl.where(behind, onto, at)
        t = tl.where(last | stops, best, tl.where(phase == ENDED, t, at))

        hits = found | refined
        passes = hits & ~in_mask  # continues behind the surface
        is_hit = tl.where(hits, 1, is_hit)
        step = tl.where(passes, 0, step)
        f_best = tl.where(passes, float("inf"), f_best)
        phase = tl.where(crossed, REFINING, phase)
        phase = tl.where(passes, BEHIND, phase)
        phase = tl.where(last | stops | (hits & in_mask), ENDED, phase)
    tl.store(depth + r, t, here)
    tl.store(hit + r, is_hit, here)


def _packed(network: ImplicitNetwork, num_features: int, columns: int, width: int) -> Tensor:
    """Returns the weights in one tensor, padded with zeros to ``columns`` features and H = ``width``.

    The first layer's weight (3 + columns, H) and bias (H,); those of each other hidden layer, (H, H) and
    (H,); the last layer's weight (H,) and bias (1,) of f.
    """
    (first, bias), *others, (last, last_bias) = network.weights_and_biases()
    hidden = [(first[:, : 3 + num_features], bias), *others]  # closed levels are zeros
    heights = [3 + columns] + [width] * len(others)
    parts = []
    for (weight, offset), height in zip(hidden, heights, strict=True):
        rows, missing = height - weight.shape[1], width - weight.shape[0]
        parts += [functional.pad(weight.T, (0, missing, 0, rows)), functional.pad(offset, (0, missing))]
    parts += [functional.pad(last[0], (0, width - last.shape[1])), last_bias[:1]]
    return torch.cat([part.detach().flatten() for part in parts])


def trace(network: ImplicitNetwork, request: TraceRequest, config: TracerConfig) -> tuple[Tensor, Tensor]:
    """Finds first hits, see `tracing_loops.trace`, with networks up to `MAX_WIDTH`."""
    grid, rays, crossing = network.encoding, request.rays, request.crossing
    assert isinstance(grid, HashGrid)
    num_rays = request.object_mask.shape[0]
    depth = torch.empty_like(crossing.near, memory_format=torch.contiguous_format)
    hit = torch.empty(num_rays, dtype=torch.bool, device=depth.device)
    levels, features = grid.grids[: grid.num_open], grid.config.features
    columns = max(MIN_TILE, triton.next_power_of_2(len(levels) * features))
    widest = max(network.layer(index).bias.shape[0] for index in range(network.num_layers - 1))
    width = max(MIN_TILE, triton.next_power_of_2(widest))
    inputs = (rays.origin, rays.direction, crossing.near, crossing.far, crossing.crosses, request.object_mask)
    launch(
        _trace,
        (triton.cdiv(num_rays, BLOCK),),
        *(tensor.detach().contiguous() for tensor in inputs),
        *(depth, hit, grid.table.detach(), *level_numbers(levels, grid.config.bound, depth.device)),
        _packed(network, len(levels) * features, columns, width),
        *(grid.config.bound, grid.last_weight, network.activation.beta),
        *(config.object_bounding_sphere, config.sdf_threshold, num_rays, config.n_secant_steps),
        len(levels), F=features, COLUMNS=columns, H=width, NUM_HIDDEN=network.num_layers - 1, BLOCK=BLOCK,
    )  # fmt: skip
    return depth, hit
