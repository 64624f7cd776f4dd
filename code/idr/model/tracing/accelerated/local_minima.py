"""Where samples of f along rays leave a surface possible: minima between samples that may reach zero.

A rays, M samples along a ray. Depths and values are in the unit-sphere frame; L is a Lipschitz constant of f.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EARLY_ZERO = 5e-4
"""Distance in radii by which the extrapolated zero must precede that of the chord to require a sample."""


@dataclass(frozen=True)
class NetworkSamples:
    """f sampled along A rays.

    Attributes:
        depths: (A, M), ascending.
        values: (A, M) f; infinite where it was not evaluated.
        open_after: (A, M) bool, a surface may hide between a sample and the next one.
    """

    depths: Tensor
    values: Tensor
    open_after: Tensor


def find_minima(
    samples: NetworkSamples, lipschitz: float, threshold: float, radius: float
) -> tuple[Tensor, Tensor]:
    """Finds intervals in which f reaches zero when extrapolated linearly from both ends.

    Where f is convex along the ray, as in front of any convex part, it lies above these lines. At an end of
    unknown slope, f is assumed to fall with slope L. An interval that ends inside the object counts if the
    line from its left end reaches zero well before the chord does: another surface may lie in front.

    Args:
        samples: A rays with M samples.
        lipschitz: L.
        threshold: A sample with f above -threshold does not count as inside.
        radius: Radius of the bounding sphere.

    Returns:
        minima: (A, M - 1) bool, such intervals before the first sample inside the object.
        depths: (A, M - 1) depths to evaluate: where the lines from both ends meet, or just beyond zero.
    """
    depths, values, open_after = samples.depths, samples.values, samples.open_after
    length = depths.diff(dim=1)
    slopes = values.diff(dim=1) / length  # (A, M - 1)
    finite = torch.isfinite(slopes)
    steepest = torch.full_like(slopes[:, :1], -lipschitz)
    from_left = torch.cat((steepest, torch.where(finite, slopes, -lipschitz)[:, :-1]), dim=1)
    from_right = torch.cat((torch.where(finite, -slopes, -lipschitz)[:, 1:], steepest), dim=1)
    left_f, right_f = values[:, :-1], values[:, 1:]
    descends = finite & open_after[:, :-1] & (left_f > 0) & before_inside(values) & (from_left < 0)
    to_zero = torch.where(descends, -left_f / from_left, 0)

    valley = descends & (from_right < 0) & (right_f > -threshold)
    total = torch.where(valley, from_left + from_right, -1)
    run = torch.where(valley, right_f - left_f + from_right * length, 0) / total
    minima = valley & (run > to_zero) & (run < length)

    # Before a sample inside the object: the line reaches zero well before the chord.
    crossing = descends & (right_f <= -threshold)
    chord = torch.where(crossing, left_f * length, 0) / torch.where(crossing, left_f - right_f, 1)
    past_zero = to_zero - 2 * threshold / torch.where(crossing, from_left, -1)
    early = crossing & (past_zero < chord - EARLY_ZERO * radius)
    return minima | early, depths[:, :-1] + torch.where(early, past_zero, run)


def before_inside(values: Tensor) -> Tensor:
    """Returns (A, M - 1) bool: intervals of (A, M) samples before the first sample inside the object."""
    return (values < 0).cumsum(dim=1)[:, :-1] == 0


def last_finite(values: Tensor, before: Tensor) -> Tensor:
    """Returns (A, 1): the index of the last finite of (A, M) values before an index (A, 1), or -1."""
    number = torch.arange(values.shape[1], device=values.device).expand_as(values)
    return torch.where(torch.isfinite(values) & (number < before), number, -1).amax(dim=1, keepdim=True)
