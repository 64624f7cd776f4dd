"""One step to the grid's own zero, where the grid resolves the surface: one to three evaluations per ray.

A rays, S samples of the grid along a ray. Values and depths are in the unit-sphere frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idr.fields.sdf_grid import SdfGrid
from idr.model.tracing.accelerated.false_position import FALSE_POSITION
from idr.model.tracing.accelerated.samples import GridSamples
from idr.model.tracing.common import Rays, Sdf, TracerConfig


@dataclass(frozen=True)
class SlopeStepConstants:
    """Tuned on trained networks and on the shapes of ``tests/model/tracing``.

    Attributes:
        resolved_error: Largest grid error, in radii, at which f counts as smooth. With 0.01, a thin rod a
            thousandth of a radius in front of a ball is missed.
        max_secants: Maximum number of evaluations after the first; one is typical.
        min_slope: Minimum descent of the grid along a ray; slower rays are left to `NetworkSearch.approach`.
        slope_error: Assumed relative difference between the slopes of f and of the grid; 0.1 is typical.
    """

    resolved_error: float = 0.006
    max_secants: int = 2
    min_slope: float = 0.2
    slope_error: float = 0.15


SLOPE_STEP = SlopeStepConstants()


def step_to_zero(
    sdf: Sdf, config: TracerConfig, grid: SdfGrid, rays: Rays, samples: GridSamples
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the surface at the grid's zero, on rays along which the grid descends monotonically.

    Args:
        sdf: f.
        config: The block ``model.ray_tracer``.
        grid: The grid, without drift.
        rays: A rays.
        samples: The grid along them, negative somewhere.

    Returns:
        index: (B,) the rays on which f confirms the zero.
        depth: (B,) of the zero.
        others: (A - B,) the remaining rays.
    """
    threshold, slope_error = config.sdf_threshold, SLOPE_STEP.slope_error
    eligible, zero, slope = _zero_of_grid(config, grid, rays, samples)
    tried = eligible.nonzero().squeeze(1)
    some, t, slope = rays.subset(tried), zero[tried], slope[tried]
    f = sdf(some.at(t))
    found = f.abs() * slope_error <= FALSE_POSITION.extrapolation_error * threshold
    depth = t + f / slope
    left = (~found).nonzero().squeeze(1)
    last_t, last_f, grid_slope = t[left], f[left], slope[left]
    for _ in range(SLOPE_STEP.max_secants):
        if left.numel() == 0:
            break
        t = depth[left]
        f = sdf(some.subset(left).at(t))
        secant = (last_f - f) / (t - last_t)
        agrees = (secant / grid_slope - 1).abs() <= 2 * slope_error
        found[left], depth[left] = agrees & (f.abs() <= threshold), t + f / secant
        active = (agrees & (f.abs() > threshold)).nonzero().squeeze(1)
        left, last_t, last_f, grid_slope = left[active], t[active], f[active], grid_slope[active]
    confirmed = torch.zeros_like(eligible).index_put((tried,), found)
    return tried[found], depth[found], (~confirmed).nonzero().squeeze(1)


def _zero_of_grid(
    config: TracerConfig, grid: SdfGrid, rays: Rays, samples: GridSamples
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (A,) bool, the grid resolves its first zero; (A,) depth of the zero; (A,) descent there."""
    min_slope, last = SLOPE_STEP.min_slope, samples.depths.shape[1] - 1
    inside = (samples.values < 0).to(torch.uint8).argmax(dim=1, keepdim=True)
    before = (inside - 1).clamp_min(0)
    value = samples.values.gather(1, before).squeeze(1)
    slope = (value - samples.values.gather(1, inside).squeeze(1)) / samples.spacing
    zero = samples.depths.gather(1, before).squeeze(1) + value / slope.clamp_min(min_slope)
    at_zero, error = (x.squeeze(1) for x in grid.along(rays.origin, rays.direction, zero.unsqueeze(1)))
    # Monotonic: from the first possible sample on, each is below the one before.
    number = torch.arange(last, device=zero.device)
    first = samples.possible.to(torch.uint8).argmax(dim=1, keepdim=True)
    falls = (samples.values.diff(dim=1) < 0) | (number < first) | (number >= inside)
    resolved = (error <= SLOPE_STEP.resolved_error * config.object_bounding_sphere) & (slope >= min_slope)
    resolved &= falls.all(dim=1) & (inside.squeeze(1) > 0)
    return resolved, zero + at_zero / slope.clamp_min(min_slope), slope
