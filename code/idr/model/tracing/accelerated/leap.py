"""Where a grid resolves the surface: from its zero to that of the network, in one to three evaluations a ray.

A rays, S samples of the grid along a ray. Values and depths are in the unit-sphere frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from idr.fields.sdf_grid import SdfGrid
from idr.model.tracing.accelerated.false_position import EXTRAPOLATION_ERROR
from idr.model.tracing.accelerated.marching import March
from idr.model.tracing.common import Rays, Sdf, TracerConfig

RESOLVED = 0.006
"""Radii up to which the grid's error counts as that of smooth f. With 0.01 a thin rod is passed that lies a
thousandth of a radius before a ball."""

SECANTS = 2
"""Evaluations after the first; one is usual."""

LEAST_SLOPE = 0.2
"""Slower descent than this along a ray is left to the approach."""

SLOPE_ERROR = 0.15
"""Share by which f's slope along a ray is reckoned to differ from the grid's; a tenth is usual."""


def leap(
    sdf: Sdf, config: TracerConfig, grid: SdfGrid, rays: Rays, samples: March
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds surfaces where the grid has them, on rays along which it descends without a bend back.

    Args:
        sdf: f.
        config: The block ``model.ray_tracer``.
        grid: The grid, of f as it is.
        rays: A rays.
        samples: The grid along them, negative somewhere.

    Returns:
        index: (B,) the rays on which f has its zero there.
        depth: (B,) of the zero.
        others: (A - B,) the rays that are to be approached.
    """
    threshold = config.sdf_threshold
    resolved, zero, slope = _zero_of_grid(config, grid, rays, samples)
    asked = resolved.nonzero().squeeze(1)
    some, t, slope = rays.subset(asked), zero[asked], slope[asked]
    f = sdf(some.at(t))
    found, depth = f.abs() * SLOPE_ERROR <= EXTRAPOLATION_ERROR * threshold, t + f / slope
    left = (~found).nonzero().squeeze(1)
    last_t, last_f, by_grid = t[left], f[left], slope[left]
    for _ in range(SECANTS):
        if left.numel() == 0:
            break
        t = depth[left]
        f = sdf(some.subset(left).at(t))
        between = (last_f - f) / (t - last_t)
        alike = (between / by_grid - 1).abs() <= 2 * SLOPE_ERROR
        found[left], depth[left] = alike & (f.abs() <= threshold), t + f / between
        go_on = (alike & (f.abs() > threshold)).nonzero().squeeze(1)
        left, last_t, last_f, by_grid = left[go_on], t[go_on], f[go_on], by_grid[go_on]
    settled = torch.zeros_like(resolved).index_put((asked,), found)
    return asked[found], depth[found], (~settled).nonzero().squeeze(1)


def _zero_of_grid(
    config: TracerConfig, grid: SdfGrid, rays: Rays, samples: March
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns where the grid resolves its first zero, (A,) bool, its depth, and the descent there, (A,)."""
    last = samples.depths.shape[1] - 1
    inside = (samples.values < 0).to(torch.uint8).argmax(dim=1, keepdim=True)
    before = (inside - 1).clamp_min(0)
    value = samples.values.gather(1, before).squeeze(1)
    slope = (value - samples.values.gather(1, inside).squeeze(1)) / samples.spacing
    zero = samples.depths.gather(1, before).squeeze(1) + value / slope.clamp_min(LEAST_SLOPE)
    at_zero, error = (x.squeeze(1) for x in grid.along(rays.origin, rays.direction, zero.unsqueeze(1)))
    # From where a surface becomes possible on, each sample is below the one before.
    number = torch.arange(last, device=zero.device)
    first = samples.possible.to(torch.uint8).argmax(dim=1, keepdim=True)
    falls = (samples.values.diff(dim=1) < 0) | (number < first) | (number >= inside)
    resolved = (error <= RESOLVED * config.object_bounding_sphere) & (slope >= LEAST_SLOPE)
    resolved &= falls.all(dim=1) & (inside.squeeze(1) > 0)
    return resolved, zero + at_zero / slope.clamp_min(LEAST_SLOPE), slope
