"""Looks at a grid along rays, `marching.march` and `marching.first_look`, as compiled loops for a CPU.

As tensors, what is known of millions of samples a picture goes through memory a dozen times; here a ray's
stays in the nearest cache. Numbers are float32. `marching` is the oracle: sums and products are in the order
of torch's grid_sample, and results equal to the last bit where its build joins no product and sum, as on x86.

R rays, S samples along a chord, m nodes along a side of the grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from idr.fields.sdf_grid import SdfGrid
from idr.geometry.spheres import SphereCrossing
from idr.model.kernels.numba_support import ONE, ZERO, compiled, in_threads
from idr.model.tracing.accelerated.marching import March
from idr.model.tracing.common import Rays

RAYS_OF_A_JOB = 512

_HALF, _TWO = np.float32(0.5), np.float32(2)
_compiled = compiled()  # products and sums stay apart


@_compiled
def _interpolate(nodes: Any, side: int, places: Any, cells: Any, s: int) -> Any:
    """Returns value and error at a place; nodes: (2 m^3,), a node's value and error side by side."""
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)  # signed indices would be asked for their sign
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

    On the way it writes (3, S) places along the axes, counted in nodes and within the cube, and their cells.
    """
    last, last_cell = np.float32(side - 1), np.int32(side - 2)
    for axis in range(3):
        start, step, into, cell_of = origin[axis], direction[axis], places[axis], cells[axis]
        for s in range(depths.shape[0]):
            place = (((start + depths[s] * step) / half_side + ONE) * _HALF) * last
            place = place if place > ZERO else ZERO  # not a number counts as the first node, as in torch
            place = place if place < last else last
            cell = np.int32(place)
            cell_of[s] = cell if cell < last_cell else last_cell
            into[s] = place
    for s in range(depths.shape[0]):
        values[s], errors[s] = _interpolate(nodes, side, places, cells, s)


@_compiled
def _vertex(values: Any, s: int) -> Any:
    """Returns where the parabola through a sample and its neighbors is smallest, in spacings from it."""
    if s == 0 or s == values.shape[0] - 1:
        return ZERO
    before, after = values[s - 1], values[s + 1]
    bend = before - _TWO * values[s] + after
    if not bend > ZERO:
        return ZERO
    shift = (before - after) / (_TWO * bend)
    return max(min(shift, _HALF), -_HALF)


@_compiled
def _reach(before: Any, value: Any, after: Any, error: Any, widening: Any, slack: Any) -> Any:
    """Returns the bound of |f - grid| within half a spacing of a sample between two, see `marching.march`."""
    kink = max(max(before - value, after - value) * _HALF, ZERO)
    return error * widening + slack + kink


@_compiled
def _widening(lipschitz: Any, chord: Any, num_samples: int, widest_error: Any) -> Any:
    """Returns what errors are multiplied by, since f goes on for half a spacing."""
    return ONE + lipschitz * chord / np.float32(2 * (num_samples - 1)) / widest_error


@_compiled
def _march(
    nodes: Any, side: int, half_side: Any, lipschitz: Any, widest_error: Any, fractions: Any, slack: Any,
    origin: Any, direction: Any, near: Any, far: Any,
    depths: Any, values: Any, reach: Any, possible: Any,
) -> None:  # fmt: skip
    """Writes what `march` returns of R rays."""
    num_samples, errors = fractions.shape[0], np.empty(fractions.shape[0], np.float32)
    places, cells = np.empty((3, num_samples), np.float32), np.empty((3, num_samples), np.int32)
    for r in range(near.shape[0]):
        chord, t, f = far[r] - near[r], depths[r], values[r]
        for s in range(num_samples):
            t[s] = near[r] + fractions[s] * chord
        _sample(nodes, side, half_side, origin[r], direction[r], t, places, cells, f, errors)
        widening = _widening(lipschitz, chord, num_samples, widest_error)
        open_yet = chord > ZERO
        for s in range(num_samples):
            before, after = f[max(s - 1, 0)], f[min(s + 1, num_samples - 1)]
            reach[r, s] = _reach(before, f[s], after, errors[s], widening, slack)
            possible[r, s] = open_yet and f[s] <= reach[r, s]
            open_yet = open_yet and not f[s] < -reach[r, s]


@_compiled
def _look(
    nodes: Any, side: int, half_side: Any, lipschitz: Any, widest_error: Any, fractions: Any,
    origin: Any, direction: Any, near: Any, far: Any,
    depth: Any, value: Any, window_near: Any, window_far: Any, seen: Any,
) -> None:  # fmt: skip
    """Writes what `first_look` returns of R rays."""
    num_samples, errors = fractions.shape[0], np.empty(fractions.shape[0], np.float32)
    places, cells = np.empty((3, num_samples), np.float32), np.empty((3, num_samples), np.int32)
    depths, values = np.empty(num_samples, np.float32), np.empty(num_samples, np.float32)
    for r in range(near.shape[0]):
        chord = far[r] - near[r]
        depth[r], value[r], window_near[r], window_far[r], seen[r] = near[r], np.inf, near[r], far[r], False
        if not chord > ZERO:
            continue
        for s in range(num_samples):
            depths[s] = near[r] + fractions[s] * chord
        _sample(nodes, side, half_side, origin[r], direction[r], depths, places, cells, values, errors)
        lowest = np.argmin(values)
        widening = _widening(lipschitz, chord, num_samples, widest_error)
        first, final = -1, -1
        for s in range(num_samples):
            before, after = values[max(s - 1, 0)], values[min(s + 1, num_samples - 1)]
            reach = _reach(before, values[s], after, errors[s], widening, ZERO)
            if values[s] <= reach:
                first, final = (s if first < 0 else first), s
            if values[s] < -reach:
                break
        spacing = depths[1] - depths[0]
        depth[r] = depths[lowest] + _vertex(values, lowest) * spacing
        value[r] = values[lowest]
        if first >= 0:
            seen[r] = True
            window_near[r] = max(depths[first] - spacing * _HALF, depths[0])
            window_far[r] = min(depths[final] + spacing * _HALF, depths[num_samples - 1])


def march(grid: SdfGrid, slack: float, rays: Rays, crossing: SphereCrossing, num_samples: int) -> March:
    """Does what `marching.march` does."""
    depths, values, reach = (crossing.near.new_empty(crossing.near.shape[0], num_samples) for _ in range(3))
    found = March(depths, values, reach, torch.empty_like(depths, dtype=torch.bool))
    into = (found.depths, found.values, found.reach, found.possible)
    _for_rays(_march, (*_packed(grid, num_samples), np.float32(slack)), rays, crossing, into)
    return found


def first_look(
    grid: SdfGrid, rays: Rays, crossing: SphereCrossing, num_samples: int
) -> tuple[Tensor, Tensor, SphereCrossing]:
    """Does what `marching.first_look` does by so many samples; where there is no chord f is infinite."""
    depth, value, near, far = (torch.empty_like(crossing.near) for _ in range(4))
    windows = SphereCrossing(near, far, torch.empty_like(crossing.crosses))
    into = (depth, value, near, far, windows.crosses)
    _for_rays(_look, _packed(grid, num_samples), rays, crossing, into)
    return depth, value, windows


def _packed(grid: SdfGrid, num_samples: int) -> tuple[Any, ...]:
    """Returns what the loops read of a grid, and the samples' places on a chord."""
    nodes = grid.nodes
    bounds = (grid.half_side, grid.lipschitz, grid.widest_error)
    fractions = torch.linspace(0, 1, num_samples).numpy()
    return nodes.view(-1).numpy(), nodes.shape[0], *(np.float32(bound) for bound in bounds), fractions


def _for_rays(
    loop: Any, settings: tuple[Any, ...], rays: Rays, crossing: SphereCrossing, into: tuple[Tensor, ...]
) -> None:
    """Runs a loop over rays in threads; its last arguments are what it writes."""
    given = (rays.origin, rays.direction, crossing.near, crossing.far)
    arrays = [tensor.detach().contiguous().numpy() for tensor in given] + [tensor.numpy() for tensor in into]
    jobs = [slice(first, first + RAYS_OF_A_JOB) for first in range(0, len(arrays[0]), RAYS_OF_A_JOB)]
    in_threads(lambda some: loop(*settings, *(array[some] for array in arrays)), [(some,) for some in jobs])
