"""Samples an SDF grid along rays: where a surface is possible, and where f is smallest.

R rays, S samples along a chord. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idr.fields.sdf_grid import SdfGrid
from idr.geometry.spheres import SphereCrossing
from idr.model.tracing.accelerated.samples import GridSamples, smallest_sample
from idr.model.tracing.common import Rays, is_cpu
from idr.model.twins import find_kernel

NUM_SAMPLES = 129
"""Samples along a chord, at most 0.016 radii of the bounding sphere apart: two per cell of a finest grid."""

NUM_COARSE_SAMPLES = 33
"""Samples along a chord in the coarse pass, and along a window of at most a quarter of the longest chord."""

RAYS_AT_ONCE = 4096
"""Rays per chunk of a coarse pass on a CPU; an (R, S) tensor takes half a megabyte, which fits caches."""


def sample_grid(
    grid: SdfGrid, drift_bound: float | Tensor, rays: Rays, crossing: SphereCrossing,
    num_samples: int = NUM_SAMPLES,
) -> GridSamples:  # fmt: skip
    """Samples a grid along the chords of the bounding sphere.

    Args:
        grid: The grid.
        drift_bound: Bound on |f - grid| at the grid's nodes.
        rays: R rays.
        crossing: Their crossing of the bounding sphere, fields (R,), or parts of it.
        num_samples: S.

    Returns:
        The samples; no surface is possible on rays that miss the sphere or have it behind them.
    """
    loops = _loops(grid, rays)
    if loops is not None:
        return loops.sample_grid(grid, float(drift_bound), rays, crossing, num_samples)
    fractions = torch.linspace(0, 1, num_samples, dtype=rays.origin.dtype, device=rays.origin.device)
    chord = crossing.far - crossing.near  # (R,)
    depths = crossing.near.unsqueeze(1) + fractions * chord.unsqueeze(1)  # (R, S)
    values, errors = grid.along(rays.origin, rays.direction, depths)
    # Within half a spacing, f is known where it is smooth and bounded by L elsewhere.
    half_spacing = grid.lipschitz * chord / (2 * (num_samples - 1))  # (R,)
    error = errors * (1 + half_spacing / grid.widest_error).unsqueeze(1) + drift_bound + _drop(values)
    certainly_inside = (values < -error).to(torch.int32)
    visible = certainly_inside.cumsum(dim=1) == certainly_inside  # up to the first such sample
    possible = (values <= error) & visible & (chord > 0).unsqueeze(1)
    return GridSamples(depths, values, error, possible)


def coarse_pass(grid: SdfGrid, rays: Rays, crossing: SphereCrossing) -> tuple[Tensor, Tensor, SphereCrossing]:
    """Finds with few samples where a grid is smallest along rays and where a surface is possible.

    Args:
        grid: The grid.
        rays: R rays.
        crossing: Their crossing of the bounding sphere, fields (R,).

    Returns:
        depth, value: (R,) as `smallest_sample`; meaningless for rays without a chord.
        windows: The parts of the chords on which a surface is possible, see `windows_of`.
    """
    loops = _loops(grid, rays)
    if loops is not None:
        return loops.coarse_pass(grid, rays, crossing, NUM_COARSE_SAMPLES)
    num_rays = max(1, rays.origin.shape[0])  # one empty chunk if there are no rays
    at_once = RAYS_AT_ONCE if is_cpu(rays.origin) else num_rays
    chunks = []
    for first in range(0, num_rays, at_once):
        chunk = slice(first, first + at_once)
        samples = sample_grid(grid, 0.0, rays.subset(chunk), crossing.subset(chunk), NUM_COARSE_SAMPLES)
        window = windows_of(samples)
        minimum = smallest_sample(samples.depths, samples.values)
        chunks.append((*minimum, window.near, window.far, window.crosses))
    depth, value, *window_fields = (torch.cat(fields) for fields in zip(*chunks, strict=True))
    return depth, value, SphereCrossing(*window_fields)


def _loops(grid: SdfGrid, rays: Rays) -> Any:
    """Returns the compiled loops, `idr.model.kernels.marching_loops`, if they apply; else None."""
    fits = is_cpu(rays.origin) and rays.origin.dtype == grid.values.dtype == torch.float32
    return find_kernel("marching_loops") if fits else None


def windows_of(samples: GridSamples) -> SphereCrossing:
    """Returns the part of R chords from the first to the last sample with a possible surface.

    A window includes half a spacing on either side. Without a possible surface its ends are meaningless.
    """
    last = samples.depths.shape[1] - 1
    possible = samples.possible.to(torch.uint8)
    first = possible.argmax(dim=1, keepdim=True)
    final = last - possible.flip(1).argmax(dim=1, keepdim=True)
    near = samples.depths.gather(1, first).squeeze(1) - samples.spacing / 2
    far = samples.depths.gather(1, final).squeeze(1) + samples.spacing / 2
    near, far = torch.maximum(near, samples.near), torch.minimum(far, samples.far)
    return SphereCrossing(near, far, samples.possible.any(dim=1))


def _drop(values: Tensor) -> Tensor:
    """Bounds by linear extrapolation how far (R, S) samples fall within half a spacing, (R, S).

    The grid is piecewise linear: a thin sheet on a plane of nodes is a kink, and samples on either side show
    only the descent toward it. Where f is smooth, slopes around the smallest sample are small.
    """
    half_step = values.diff(dim=1) / 2  # (R, S - 1)
    flat = torch.zeros_like(values[:, :1])
    before, after = torch.cat((flat, -half_step), dim=1), torch.cat((half_step, flat), dim=1)
    return torch.maximum(before, after).clamp_min(0)
