"""Where samples of f along rays leave a surface possible: dips towards zero between them.

A rays, M samples along a ray. Depths and values are in the unit-sphere frame; L is a Lipschitz bound of f.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EARLY = 5e-4
"""Radii between the zero of a descent and that of a chord that call for a sample."""

POLISH_BELOW = 0.005
"""Smallest f, in radii of the bounding sphere, that is polished: from beyond, no bend reaches zero within the
search's spacing unless its radius is below a hundredth of the sphere's."""


@dataclass(frozen=True)
class KnownSamples:
    """What a search knows along A rays.

    Attributes:
        depths: (A, M), ascending.
        values: (A, M) f, infinite where not known.
        open_after: (A, M) a surface may hide between a sample and the next one.
    """

    depths: Tensor
    values: Tensor
    open_after: Tensor


def find_dips(
    samples: KnownSamples, lipschitz: float, threshold: float, radius: float
) -> tuple[Tensor, Tensor]:
    """Finds intervals in which f would fall to zero, if from both ends it went on as it came.

    Where f is convex along the ray, as in front of any convex part, f is above that everywhere. An end
    that f is not known beyond falls by L. An interval that ends inside the object counts if f would fall
    to zero well before the chord does: there may be another surface in front.

    Args:
        samples: A rays with M samples.
        lipschitz: L.
        threshold: f up to this far below zero is no sample inside.
        radius: Of the bounding sphere.

    Returns:
        dips: (A, M - 1) such intervals before the first sample inside the object.
        bottoms: (A, M - 1) depths at which the lines from both ends meet, or just beyond zero.
    """
    depths, values, open_after = samples.depths, samples.values, samples.open_after
    length = depths.diff(dim=1)
    slopes = values.diff(dim=1) / length  # (A, M - 1)
    known = torch.isfinite(slopes)
    steepest = torch.full_like(slopes[:, :1], -lipschitz)
    from_left = torch.cat((steepest, torch.where(known, slopes, -lipschitz)[:, :-1]), dim=1)
    from_right = torch.cat((torch.where(known, -slopes, -lipschitz)[:, 1:], steepest), dim=1)
    left_f, right_f = values[:, :-1], values[:, 1:]
    open_yet = known & open_after[:, :-1] & (left_f > 0) & before_inside(values) & (from_left < 0)
    to_zero = torch.where(open_yet, -left_f / from_left, 0)

    downhill = open_yet & (from_right < 0) & (right_f > -threshold)
    total = torch.where(downhill, from_left + from_right, -1)
    run = torch.where(downhill, right_f - left_f + from_right * length, 0) / total
    dips = downhill & (run > to_zero) & (run < length)

    # In front of a sample inside: where the descent passes zero well before the chord does.
    across = open_yet & (right_f <= -threshold)
    chord = torch.where(across, left_f * length, 0) / torch.where(across, left_f - right_f, 1)
    past_zero = to_zero - 2 * threshold / torch.where(across, from_left, -1)
    early = across & (past_zero < chord - EARLY * radius)
    return dips | early, depths[:, :-1] + torch.where(early, past_zero, run)


def find_vertex(samples: KnownSamples, radius: float) -> tuple[Tensor, Tensor]:
    """Returns the vertex (A, 1) of the parabola through the smallest known three, and whether to look."""
    depths, values = samples.depths, samples.values
    value, index = values.min(dim=1, keepdim=True)
    before = last_known(values, before=index)
    after = values.shape[1] - 1 - last_known(values.flip(1), before=values.shape[1] - 1 - index)
    inner = (before >= 0) & (after < values.shape[1]) & (value > 0) & (value < POLISH_BELOW * radius)
    before, after = before.clamp_min(0), after.clamp_max(values.shape[1] - 1)
    t = depths.gather(1, index)
    left, right = depths.gather(1, before) - t, depths.gather(1, after) - t  # below 0, above 0
    slope_left = (values.gather(1, before) - value) / left
    slope_right = (values.gather(1, after) - value) / right
    bend = (slope_right - slope_left) / (right - left)
    inner = inner & (bend > 0)
    return t + torch.where(inner, (bend * left - slope_left) / (2 * bend), 0), inner


def before_inside(values: Tensor) -> Tensor:
    """Returns (A, M - 1): intervals of (A, M) samples before the first sample inside the object."""
    return (values < 0).cumsum(dim=1)[:, :-1] == 0


def last_known(values: Tensor, before: Tensor) -> Tensor:
    """Returns (A, 1): the last finite of (A, M) values before an index (A, 1), or -1."""
    number = torch.arange(values.shape[1], device=values.device).expand_as(values)
    return torch.where(torch.isfinite(values) & (number < before), number, -1).amax(dim=1, keepdim=True)
