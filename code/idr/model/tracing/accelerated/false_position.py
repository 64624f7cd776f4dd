"""Refines sign changes of f along rays by false position.

A rays. Values and depths are in the unit-sphere frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idr.model.tracing.common import Rays, Sdf, TracerConfig, evaluate_where, is_cpu


@dataclass(frozen=True)
class FalsePositionConstants:
    """Tuned on trained networks and on the shapes of ``tests/model/tracing``.

    Attributes:
        extrapolation_error: Error of a secant's zero, in units of ``sdf_threshold``, up to which f is not
            evaluated there. The published refinement does not evaluate its last depth either.
        min_curvature: Smallest assumed change of slope along a ray, per radius of the bounding sphere, since
            two slopes may agree by chance. With 10, one hit in 70 exceeds the threshold.
        slope_error: Relative difference allowed between the slope where a refinement ends and at the zero.
        at_zero: |f|, in units of ``sdf_threshold``, that counts as the zero itself. Above it, a ray ends only
            if the secant is short enough to determine the slope: f may be almost flat just below zero.
        max_steps: Maximum number of steps; a few are typical, sharp bends need more. Accelerators do not read
            whether all rays are done: they make a quarter of the steps; the published tracer does the rest.
    """

    extrapolation_error: float = 0.5
    min_curvature: float = 30.0
    slope_error: float = 0.25
    at_zero: float = 0.02
    max_steps: int = 24


FALSE_POSITION = FalsePositionConstants()


def refine(
    sdf: Sdf, config: TracerConfig, rays: Rays, low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor],
    active: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Refines sign changes by false position with the Illinois rule.

    A ray ends where |f| is below the threshold and the slope of f along the ray is close to that at the zero.
    On grazing rays |f| is below the threshold down to its minimum, or along a flat stretch, where the slope
    almost vanishes. The derivative of the intersection (paper, Eq. 3) divides by the slope: one such ray
    would dominate the gradient of a whole step.

    Args:
        sdf: f.
        config: The block ``model.ray_tracer``.
        rays: A rays.
        low: Depths (A,) before the sign change and f there, positive.
        high: Depths (A,) after the sign change and f there, negative.
        active: (A,) bool, rays with a sign change.

    Returns:
        (A,) depths, the high end for inactive rays; (A,) bool, the sign change was refined.
    """
    (low_t, low_f), (high_t, high_f) = low, high
    threshold, on_cpu, limits = config.sdf_threshold, is_cpu(low_t), FALSE_POSITION
    curvature = limits.min_curvature / config.object_bounding_sphere
    t, f, other_t, other_f = high_t, high_f, low_t, low_f
    side, weight = torch.zeros_like(f), torch.ones_like(f)
    to_refine = active
    max_steps = limits.max_steps if on_cpu else limits.max_steps // 4
    for k in range(max_steps + 1):
        # The error of a secant's zero grows with f's curvature; if the error is small, f is not evaluated.
        slope = torch.where(active, f - other_f, 1) / torch.where(active, t - other_t, 1)
        zero = t - f / slope
        error = curvature / 2 * ((zero - other_t) * (zero - t)).abs()
        accurate = error <= limits.extrapolation_error * threshold
        extrapolated = active & accurate & (low_t <= zero) & (zero <= high_t)
        done = extrapolated
        if k:  # at k = 0, f belongs to the high end, which may be the bottom of a minimum
            near = (f.abs() <= threshold) & (curvature * f.abs() <= limits.slope_error * slope**2)
            short = curvature / 2 * (t - other_t).abs() <= limits.slope_error * slope.abs()
            done = done | (near & (short | (f.abs() <= limits.at_zero * threshold)))
        t, active = torch.where(extrapolated, zero, t), active & ~done
        if k == max_steps or (on_cpu and not active.any()):
            break
        low_is_nearer = low_f < -high_f
        other_t = torch.where(low_is_nearer, low_t, high_t)
        other_f = torch.where(low_is_nearer, low_f, high_f)
        before = torch.where(side < 0, weight, 1) * low_f
        after = torch.where(side > 0, weight, 1) * high_f
        t = torch.where(active, low_t + before * (high_t - low_t) / (before - after), t)
        f = torch.where(active, evaluate_where(sdf, rays.at(t), active), f)
        outside, inside = active & (f > 0), active & (f <= 0)
        # Illinois: f is halved at an end that stays twice, which would otherwise slow down the other.
        new_side = outside.to(f.dtype) - inside.to(f.dtype)
        side, weight = new_side, torch.where(side * new_side > 0, weight / 2, 1)
        low_t, high_t = torch.where(outside, t, low_t), torch.where(inside, t, high_t)
        low_f, high_f = torch.where(outside, f, low_f), torch.where(inside, f, high_f)
    return t, to_refine & ~active
