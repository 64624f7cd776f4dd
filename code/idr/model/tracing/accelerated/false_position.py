"""Refining sign changes of f along rays by false position.

A rays. Values and depths are in the unit-sphere frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from idr.model.tracing.common import Rays, Sdf, TracerConfig, evaluate_where, reads_are_free

EXTRAPOLATION_ERROR = 0.5
"""Error, in parts of ``sdf_threshold``, at which a line through known values gives the zero without an
evaluation there; the published refinement does not evaluate its last depth either."""

CURVATURE = 30.0
"""Change of slope along a ray, over one radius of the bounding sphere, that is reckoned with at least: slopes
that agree by chance say nothing of what f does further on. With 10, one hit in 70 is beyond the threshold."""

SLOPE_ERROR = 0.25
"""Share of a ray's slope by which it may differ at the end of a refinement from that at the zero."""

AT_ZERO = 0.02
"""Parts of the threshold up to which |f| is at the zero itself. A ray ends further from it only if the secant
is short enough to tell f's slope there: just below zero f may be all but level for a stretch."""

MOST_REFINEMENTS = 24
"""Most steps of false position; a few are usual, but where f bends sharply each may cut little. Accelerators
cannot see that no ray needs another, and take a quarter of them; the published tracer does the rest."""


def refine(
    sdf: Sdf,
    config: TracerConfig,
    rays: Rays,
    low: tuple[Tensor, Tensor],
    high: tuple[Tensor, Tensor],
    active: Tensor,
) -> tuple[Tensor, Tensor]:
    """Refines sign changes by false position with the Illinois rule.

    A ray ends where |f| is below the threshold and f's slope along the ray is near that at the zero. Where a
    ray grazes the surface, |f| is below the threshold down to its lowest point, or along a level stretch.
    There the slope is all but zero, and the derivative of the intersection (paper, Eq. 3) divides by it: one
    such ray outweighs a whole step.

    Args:
        sdf: f.
        config: The block ``model.ray_tracer``.
        rays: A rays.
        low: Depths (A,) before the change and f there, positive.
        high: Depths (A,) after the change and f there, negative.
        active: (A,) rays that have a change.

    Returns:
        (A,) depths; the high end where a ray is not active. (A,) bool, the change is refined.
    """
    (low_t, low_f), (high_t, high_f) = low, high
    threshold, counted = config.sdf_threshold, reads_are_free(low_t)
    curvature = CURVATURE / config.object_bounding_sphere
    t, f, other_t, other_f = high_t, high_f, low_t, low_f
    side, weight = torch.zeros_like(f), torch.ones_like(f)
    wanted = active
    rounds = MOST_REFINEMENTS if counted else MOST_REFINEMENTS // 4
    for k in range(rounds + 1):
        # A secant errs by the bend of f about its ends; where that is little, its zero is not evaluated.
        slope = torch.where(active, f - other_f, 1) / torch.where(active, t - other_t, 1)
        zero = t - f / slope
        error = curvature / 2 * ((zero - other_t) * (zero - t)).abs()
        sure = active & (error <= EXTRAPOLATION_ERROR * threshold) & (low_t <= zero) & (zero <= high_t)
        done = sure
        if k:  # at first f is that of the high end, which may be the bottom of a dip
            near = (f.abs() <= threshold) & (curvature * f.abs() <= SLOPE_ERROR * slope**2)
            known = curvature / 2 * (t - other_t).abs() <= SLOPE_ERROR * slope.abs()
            done = done | (near & (known | (f.abs() <= AT_ZERO * threshold)))
        t, active = torch.where(sure, zero, t), active & ~done
        if k == rounds or (counted and not active.any()):
            break
        nearer = low_f < -high_f
        other_t, other_f = torch.where(nearer, low_t, high_t), torch.where(nearer, low_f, high_f)
        before = torch.where(side < 0, weight, 1) * low_f
        after = torch.where(side > 0, weight, 1) * high_f
        t = torch.where(active, low_t + before * (high_t - low_t) / (before - after), t)
        f = torch.where(active, evaluate_where(sdf, rays.at(t), active), f)
        outside, inside = active & (f > 0), active & (f <= 0)
        # Illinois: an end that stays for a second time counts half, or it would hold the other one back.
        new_side = outside.to(f.dtype) - inside.to(f.dtype)
        side, weight = new_side, torch.where(side * new_side > 0, weight / 2, 1)
        low_t, high_t = torch.where(outside, t, low_t), torch.where(inside, t, high_t)
        low_f, high_f = torch.where(outside, f, low_f), torch.where(inside, f, high_f)
    return t, wanted & ~active
