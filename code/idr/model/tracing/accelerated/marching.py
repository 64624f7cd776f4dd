"""A grid of f along rays: where a surface is possible, and where f is smallest.

R rays, S samples along a chord. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idr.fields.sdf_grid import SdfGrid
from idr.geometry.spheres import SphereCrossing
from idr.model.kernels.numba_support import has_numba
from idr.model.tracing.common import Rays, reads_are_free

MARCH_SAMPLES = 129
"""Samples along a chord: 0.016 radii of the bounding sphere apart at most, two in a finest cell."""

COARSE_SAMPLES = 33
"""Samples along a chord that find the part of it on which a surface is possible at all; also samples of such
a part, where it is at most a quarter of the longest chord."""

RAYS_AT_ONCE = 4096
"""Rays of a first look on a CPU, whose caches hold half a megabyte for a number a sample."""


@dataclass(frozen=True)
class March:
    """The grid along R rays.

    Attributes:
        depths: (R, S) depths of the samples, ascending.
        values: (R, S) the grid there.
        reach: (R, S) bound of |f - grid| within half a spacing of a sample.
        possible: (R, S) f may be zero within half a spacing of the sample, and no earlier sample is surely
            inside the object.
    """

    depths: Tensor
    values: Tensor
    reach: Tensor
    possible: Tensor

    @property
    def near(self) -> Tensor:
        """(R,) depth of the first sample."""
        return self.depths[:, 0]

    @property
    def far(self) -> Tensor:
        """(R,) depth of the last sample."""
        return self.depths[:, -1]

    @property
    def spacing(self) -> Tensor:
        """(R,) distance of neighboring samples."""
        return self.depths[:, 1] - self.depths[:, 0]

    def subset(self, index: Tensor) -> March:
        """Returns the samples of some of the rays."""
        fields = (self.depths, self.values, self.reach, self.possible)
        return March(*(field[index] for field in fields))


def march(
    grid: SdfGrid,
    slack: float | Tensor,
    rays: Rays,
    crossing: SphereCrossing,
    num_samples: int = MARCH_SAMPLES,
) -> March:
    """Samples a grid along the chords of the bounding sphere.

    Args:
        grid: The grid.
        slack: What f may differ from the grid's nodes.
        rays: R rays.
        crossing: Their crossing of the bounding sphere, fields (R,); or parts of it.
        num_samples: S.

    Returns:
        The samples; nothing is possible on rays that miss the sphere or have it behind them.
    """
    if _have_loops(grid, rays):
        from idr.model.tracing.accelerated import marching_loops

        return marching_loops.march(grid, float(slack), rays, crossing, num_samples)
    fractions = torch.linspace(0, 1, num_samples, dtype=rays.origin.dtype, device=rays.origin.device)
    chord = crossing.far - crossing.near  # (R,)
    depths = crossing.near.unsqueeze(1) + fractions * chord.unsqueeze(1)  # (R, S)
    values, errors = grid.along(rays.origin, rays.direction, depths)
    # What f does within half a spacing is known where it is smooth, and bounded by L where it is not.
    half_spacing = grid.lipschitz * chord / (2 * (num_samples - 1))  # (R,)
    reach = errors * (1 + half_spacing / grid.widest_error).unsqueeze(1) + slack + _kink(values)
    surely_inside = (values < -reach).to(torch.int32)
    open_yet = surely_inside.cumsum(dim=1) == surely_inside  # up to the first such sample
    possible = (values <= reach) & open_yet & (chord > 0).unsqueeze(1)
    return March(depths, values, reach, possible)


def first_look(grid: SdfGrid, rays: Rays, crossing: SphereCrossing) -> tuple[Tensor, Tensor, SphereCrossing]:
    """Finds by few samples where a grid is smallest along rays, and where a surface is possible.

    Args:
        grid: The grid.
        rays: R rays.
        crossing: Their crossing of the bounding sphere, fields (R,).

    Returns:
        depth, value: (R,) as `smallest`, of no meaning where there is no chord.
        windows: The parts of the chords, see `windows`.
    """
    if _have_loops(grid, rays):
        from idr.model.tracing.accelerated import marching_loops

        return marching_loops.first_look(grid, rays, crossing, COARSE_SAMPLES)
    num_rays = max(1, rays.origin.shape[0])  # without rays one piece is empty
    at_once = RAYS_AT_ONCE if reads_are_free(rays.origin) else num_rays
    seen = []
    for first in range(0, num_rays, at_once):
        piece = slice(first, first + at_once)
        part = SphereCrossing(crossing.near[piece], crossing.far[piece], crossing.crosses[piece])
        samples = march(grid, 0.0, rays.subset(piece), part, COARSE_SAMPLES)
        window = windows(samples)
        seen.append((*smallest(samples.depths, samples.values), window.near, window.far, window.crosses))
    depth, value, *window_fields = (torch.cat(fields) for fields in zip(*seen, strict=True))
    return depth, value, SphereCrossing(*window_fields)


def _have_loops(grid: SdfGrid, rays: Rays) -> bool:
    """Whether compiled loops can serve: on a CPU, where the slack is read for nothing."""
    fits = reads_are_free(rays.origin) and rays.origin.dtype == grid.values.dtype == torch.float32
    return fits and has_numba()


def windows(samples: March) -> SphereCrossing:
    """Returns the parts of R chords on which a surface is possible: half a spacing beyond their samples.

    Rays on which nothing is possible have a window, too, which means nothing.
    """
    last = samples.depths.shape[1] - 1
    possible = samples.possible.to(torch.uint8)
    first = possible.argmax(dim=1, keepdim=True)
    final = last - possible.flip(1).argmax(dim=1, keepdim=True)
    near = samples.depths.gather(1, first).squeeze(1) - samples.spacing / 2
    far = samples.depths.gather(1, final).squeeze(1) + samples.spacing / 2
    near, far = torch.maximum(near, samples.near), torch.minimum(far, samples.far)
    return SphereCrossing(near, far, samples.possible.any(dim=1))


def _kink(values: Tensor) -> Tensor:
    """Bounds how far (R, S) samples drop within half a spacing of each, by going on as they came, (R, S).

    The grid is piecewise linear: a sheet on a plane of nodes is a kink in it, of which samples on either side
    see nothing but their descent. Where f is smooth, the slopes around its smallest sample are small.
    """
    drop = values.diff(dim=1) / 2  # (R, S - 1)
    flat = torch.zeros_like(values[:, :1])
    before, after = torch.cat((flat, -drop), dim=1), torch.cat((drop, flat), dim=1)
    return torch.maximum(before, after).clamp_min(0)


def smallest(depths: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Finds where evenly spaced samples are smallest, between samples by a parabola.

    Args:
        depths: (R, S), evenly spaced and ascending in each row.
        values: (R, S), infinite where a sample does not count.

    Returns:
        depth: (R,) the smallest sample's, moved to the vertex of the parabola through it and its neighbors.
        value: (R,) the smallest sample.
    """
    last = values.shape[1] - 1
    value, index = values.min(dim=1, keepdim=True)
    before = values.gather(1, (index - 1).clamp_min(0))
    after = values.gather(1, (index + 1).clamp_max(last))
    bend = before - 2 * value + after
    inner = (index > 0) & (index < last) & torch.isfinite(bend) & (bend > 0)
    shift = torch.where(inner, (before - after) / (2 * bend), 0).clamp(-0.5, 0.5)
    depth = depths.gather(1, index) + shift * (depths[:, 1:2] - depths[:, :1])
    return depth.squeeze(1), value.squeeze(1)


def second_dip(depths: Tensor, values: Tensor, first: Tensor, apart: float) -> tuple[Tensor, Tensor]:
    """Finds the lowest dip of evenly spaced samples but for the one at a known depth.

    Args:
        depths: (R, S), evenly spaced and ascending in each row.
        values: (R, S).
        first: (R,) depth of the dip that does not count.
        apart: Least distance from it.

    Returns:
        depth: (R,) of its smallest sample.
        value: (R,) that sample; infinite where there is no such dip.
    """
    ends = torch.full_like(values[:, :1], torch.inf)
    around = torch.cat((ends, values, ends), dim=1)
    dips = (values <= around[:, :-2]) & (values <= around[:, 2:])
    dips &= (depths - first.unsqueeze(1)).abs() > apart
    return smallest(depths, torch.where(dips, values, torch.inf))
