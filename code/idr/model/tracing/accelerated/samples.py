"""Samples of an SDF grid along rays, and their minima.

R rays, S samples along a chord. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GridSamples:
    """An SDF grid sampled along R rays.

    Attributes:
        depths: (R, S) depths of the samples, ascending and evenly spaced.
        values: (R, S) the grid there.
        error: (R, S) bound on |f - grid| within half a spacing of a sample.
        possible: (R, S) bool, f may be zero within half a spacing of the sample, and no earlier sample is
            certainly inside the object.
    """

    depths: Tensor
    values: Tensor
    error: Tensor
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
        """(R,) distance between neighboring samples."""
        return self.depths[:, 1] - self.depths[:, 0]

    def possible_rays(self) -> tuple[Tensor, Tensor]:
        """Returns (R,) whether a surface is possible, (R,) whether the grid is also negative somewhere."""
        possible = self.possible.any(dim=1)
        return possible, possible & (self.values < 0).any(dim=1)

    def subset(self, index: Tensor | slice) -> GridSamples:
        """Returns the samples of the rays at an index."""
        return GridSamples(self.depths[index], self.values[index], self.error[index], self.possible[index])


def smallest_sample(depths: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the smallest of evenly spaced samples and interpolates its position by a parabola.

    Args:
        depths: (R, S), ascending in each row.
        values: (R, S), infinite where a sample does not count.

    Returns:
        depth: (R,) of the vertex of the parabola through the smallest sample and its neighbors.
        value: (R,) of the smallest sample.
    """
    last = values.shape[1] - 1
    value, index = values.min(dim=1, keepdim=True)
    before = values.gather(1, (index - 1).clamp_min(0))
    after = values.gather(1, (index + 1).clamp_max(last))
    curvature = before - 2 * value + after
    inner = (index > 0) & (index < last) & torch.isfinite(curvature) & (curvature > 0)
    shift = torch.where(inner, (before - after) / (2 * curvature), 0).clamp(-0.5, 0.5)
    depth = depths.gather(1, index) + shift * (depths[:, 1:2] - depths[:, :1])
    return depth.squeeze(1), value.squeeze(1)


def second_minimum(
    depths: Tensor, values: Tensor, first: Tensor, min_distance: float
) -> tuple[Tensor, Tensor]:
    """Finds the lowest local minimum of evenly spaced samples other than a known one.

    Args:
        depths: (R, S), ascending in each row.
        values: (R, S).
        first: (R,) depth of the known minimum.
        min_distance: Minima closer to it than this do not count.

    Returns:
        depth: (R,) of the minimum, interpolated as in `smallest_sample`.
        value: (R,) of its smallest sample; infinite if there is no other minimum.
    """
    ends = torch.full_like(values[:, :1], torch.inf)
    padded = torch.cat((ends, values, ends), dim=1)
    minima = (values <= padded[:, :-2]) & (values <= padded[:, 2:])
    minima &= (depths - first.unsqueeze(1)).abs() > min_distance
    return smallest_sample(depths, torch.where(minima, values, torch.inf))
