"""Compiled loops for a CPU that sample an SDF grid along rays (`idr.model.tracing.accelerated.marching`).

Tensor code passes the samples of a view through main memory a dozen times; here those of one ray stay in the
L1 cache. Values are float32. The tensor code is the reference: sums and products are in the order of torch's
grid_sample, and results are bit-equal where its build does not fuse them, as on x86.

R rays, S samples along a chord, m nodes per side of the grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from idr.fields.sdf_grid import SdfGrid
from idr.geometry.spheres import SphereCrossing
from idr.model.kernels.numba_support import ONE, ZERO, compiled, has_numba, in_threads
from idr.model.tracing.accelerated.samples import GridSamples
from idr.model.tracing.common import Rays

RAYS_PER_JOB = 512

_HALF, _TWO = np.float32(0.5), np.float32(2)

is_available = has_numba
_compiled = compiled()


@_compiled
def _interpolate(nodes: Any, side: int, places: Any, cells: Any, s: int) -> Any:
    """Returns value and error at a position; nodes (2 m^3,) interleaves value and error of each node."""
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)  # signed indices would cost sign checks
    row, plane = np.uint64(2 * side), np.uint64(2 * side * side)
    i, j, k = cells[0, s], cells[1, s], cells[2, s]
    x, y, z = places[0, s] - np.float32(i), places[1, s] - np.float32(j), places[2, s] - np.float32(k)
    x0 = np.float32(i + np.int32(1)) - places[0, s]
    y0 = np.float32(j + np.int32(1)) - places[1, s]
    z0 = np.float32(k + np.int32(1)) - places[2, s]
    near_near, near_far, far_near, far_far = z0 * y0, z0 * y, z * y0, z * y
    a = np.uint64(i) * plane + np.uint64(j) * row + np.uint64(k) * two
    b, c = a + row, a + plane
    d = c + row
    weight = near_near * x0
    value, error = nodes[a] * weight, nodes[a + one] * weight
    weight = far_near * x0
    value, error = value + nodes[a + two] * weight, error + nodes[a + three] * weight
    weight = near_far * x0
    value, error = value + nodes[b] * weight, error + nodes[b + one] * weight
    weight = far_far * x0
    value, error = value + nodes[b + two] * weight, error + nodes[b + three] * weight
    weight = near_near * x
    value, error = value + nodes[c] * weight, error + nodes[c + one] * weight
    weight = far_near * x
    value, error = value + nodes[c + two] * weight, error + nodes[c + three] * weight
    weight = near_far * x
    value, error = value + nodes[d] * weight, error + nodes[d + one] * weight
    weight = far_far * x
    return value + nodes[d + two] * weight, error + nodes[d + three] * weight


@_compiled
def _sample(
    nodes: Any, side: int, half_side: Any, origin: Any, direction: Any, depths: Any,
    places: Any, cells: Any, values: Any, errors: Any,
) -> None:  # fmt: skip
    """Writes (S,) values and errors at depths (S,) of a ray.

    Also writes (3, S) positions along the axes, in nodes and clamped to the cube, and their cells.
    """
    last, last_cell = np.float32(side - 1), np.int32(side - 2)
    for axis in range(3):
        start, step, into, cell_of = origin[axis], direction[axis], places[axis], cells[axis]
        for s in range(depths.shape[0]):
            place = (((start + depths[s] * step) / half_side + ONE) * _HALF) * last
            place = place if place > ZERO else ZERO  # NaN becomes the first node, as in torch
            place = place if place < last else last
            cell = np.int32(place)
            cell_of[s] = cell if cell < last_cell else last_cell
            into[s] = place
    for s in range(depths.shape[0]):
        values[s], errors[s] = _interpolate(nodes, side, places, cells, s)


@_compiled
def _vertex(values: Any, s: int) -> Any:
    """Returns the vertex of the parabola through a sample and its neighbors, in spacings from the sample."""
    if s == 0 or s == values.shape[0] - 1:
        return ZERO
    before, after = values[s - 1], values[s + 1]
    curvature = before - _TWO * values[s] + after
    if not curvature > ZERO:
        return ZERO
    shift = (before - after) / (_TWO * curvature)
    return max(min(shift, _HALF), -_HALF)


@_compiled
def _error(before: Any, value: Any, after: Any, error: Any, widening: Any, drift_bound: Any) -> Any:
    """Returns the bound on |f - grid| within half a spacing of a sample between two neighbors."""
    drop = max(max(before - value, after - value) * _HALF, ZERO)
    return error * widening + drift_bound + drop


@_compiled
def _widening(lipschitz: Any, chord: Any, num_samples: int, widest_error: Any) -> Any:
    """Returns the factor by which errors grow within half a spacing."""
    return ONE + lipschitz * chord / np.float32(2 * (num_samples - 1)) / widest_error


@_compiled
def _sample_rays(
    nodes: Any, side: int, half_side: Any, lipschitz: Any, widest_error: Any, fractions: Any,
    drift_bound: Any, origin: Any, direction: Any, near: Any, far: Any,
    depths: Any, values: Any, error: Any, possible: Any,
) -> None:  # fmt: skip
    """Writes the results of `sample_grid` for R rays."""
    num_samples, errors = fractions.shape[0], np.empty(fractions.shape[0], np.float32)
    places, cells = np.empty((3, num_samples), np.float32), np.empty((3, num_samples), np.int32)
    for r in range(near.shape[0]):
        chord, t, f = far[r] - near[r], depths[r], values[r]
        for s in range(num_samples):
            t[s] = near[r] + fractions[s] * chord
        _sample(nodes, side, half_side, origin[r], direction[r], t, places, cells, f, errors)
        widening = _widening(lipschitz, chord, num_samples, widest_error)
        visible = chord > ZERO
        for s in range(num_samples):
            before, after = f[max(s - 1, 0)], f[min(s + 1, num_samples - 1)]
            error[r, s] = _error(before, f[s], after, errors[s], widening, drift_bound)
            possible[r, s] = visible and f[s] <= error[r, s]
            visible = visible and not f[s] < -error[r, s]


@_compiled
def _coarse_pass(
    nodes: Any, side: int, half_side: Any, lipschitz: Any, widest_error: Any, fractions: Any,
    origin: Any, direction: Any, near: Any, far: Any,
    depth: Any, value: Any, window_near: Any, window_far: Any, has_window: Any,
) -> None:  # fmt: skip
    """Writes the results of `coarse_pass` for R rays."""
    num_samples, errors = fractions.shape[0], np.empty(fractions.shape[0], np.float32)
    places, cells = np.empty((3, num_samples), np.float32), np.empty((3, num_samples), np.int32)
    depths, values = np.empty(num_samples, np.float32), np.empty(num_samples, np.float32)
    for r in range(near.shape[0]):
        chord = far[r] - near[r]
        depth[r], value[r], has_window[r] = near[r], np.inf, False
        window_near[r], window_far[r] = near[r], far[r]
        if not chord > ZERO:
            continue
        for s in range(num_samples):
            depths[s] = near[r] + fractions[s] * chord
        _sample(nodes, side, half_side, origin[r], direction[r], depths, places, cells, values, errors)
        smallest = np.argmin(values)
        widening = _widening(lipschitz, chord, num_samples, widest_error)
        first, final = -1, -1
        for s in range(num_samples):
            before, after = values[max(s - 1, 0)], values[min(s + 1, num_samples - 1)]
            error = _error(before, values[s], after, errors[s], widening, ZERO)
            if values[s] <= error:
                first, final = (s if first < 0 else first), s
            if values[s] < -error:
                break
        spacing = depths[1] - depths[0]
        depth[r] = depths[smallest] + _vertex(values, smallest) * spacing
        value[r] = values[smallest]
        if first >= 0:
            has_window[r] = True
            window_near[r] = max(depths[first] - spacing * _HALF, depths[0])
            window_far[r] = min(depths[final] + spacing * _HALF, depths[num_samples - 1])


def sample_grid(
    grid: SdfGrid, drift_bound: float, rays: Rays, crossing: SphereCrossing, num_samples: int
) -> GridSamples:
    """Twin of `marching.sample_grid`."""
    depths, values, error = (crossing.near.new_empty(crossing.near.shape[0], num_samples) for _ in range(3))
    results = (depths, values, error, torch.empty_like(depths, dtype=torch.bool))
    _run(_sample_rays, (*_packed(grid, num_samples), np.float32(drift_bound)), rays, crossing, results)
    return GridSamples(*results)


def coarse_pass(
    grid: SdfGrid, rays: Rays, crossing: SphereCrossing, num_samples: int
) -> tuple[Tensor, Tensor, SphereCrossing]:
    """Twin of `marching.coarse_pass`; f is infinite for rays without a chord."""
    depth, value, near, far = (torch.empty_like(crossing.near) for _ in range(4))
    results = (depth, value, near, far, torch.empty_like(crossing.crosses))
    _run(_coarse_pass, _packed(grid, num_samples), rays, crossing, results)
    return depth, value, SphereCrossing(*results[2:])


def _packed(grid: SdfGrid, num_samples: int) -> tuple[Any, ...]:
    """Returns the grid as arrays and numbers, and the samples' positions on a chord."""
    nodes = grid.nodes
    bounds = (grid.half_side, grid.lipschitz, grid.widest_error)
    fractions = torch.linspace(0, 1, num_samples).numpy()
    return nodes.view(-1).numpy(), nodes.shape[0], *(np.float32(bound) for bound in bounds), fractions


def _run(
    loop: Any, settings: tuple[Any, ...], rays: Rays, crossing: SphereCrossing, results: tuple[Tensor, ...]
) -> None:
    """Runs a loop over rays in threads; it writes to the results, its last arguments."""
    inputs = (rays.origin, rays.direction, crossing.near, crossing.far)
    arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
    arrays += [tensor.numpy() for tensor in results]
    jobs = [slice(first, first + RAYS_PER_JOB) for first in range(0, len(arrays[0]), RAYS_PER_JOB)]
    in_threads(lambda some: loop(*settings, *(array[some] for array in arrays)), [(some,) for some in jobs])
