"""Where f is smallest along rays, for the mask loss: a grid says about where, the network where exactly.

The grid is smallest in a dip of f, or in a neighbor of it that is hardly higher: waves of f are a few cells
long, and after some steps of training they are no longer where they were when the grid was built.

R rays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idr.model.tracing.accelerated.marching import March, second_dip, smallest
from idr.model.tracing.accelerated.network_search import Found
from idr.model.tracing.common import Rays, Sdf, TracerConfig, evaluate_where, reads_are_free

SAMPLES_IN_DIP, SAMPLES_BEHIND = 3, 5
"""Samples of f in a dip: on rays without a hit, and behind a hit outside the mask."""

SECOND_DIPS = 1 / 2
"""Share of the rays of which an accelerator has room for a second dip; a sixth to a third have one."""

MOST_BEHIND = 2
"""Samples behind hits a ray, over all rays, that an accelerator has room for: such are two rays in five."""


@dataclass(frozen=True)
class Dips:
    """How far a grid is trusted to know where f is smallest.

    Attributes:
        reach: Radii on either side of the grid's dip within which f is sampled.
        second: Radii of f by which a ray's second lowest dip may lie above its lowest, by the grid, for both
            to be sampled; 0 for the lowest alone.
    """

    reach: float
    second: float


OF_NEW_GRID = Dips(reach=0.04, second=0.01)
"""A fifth of the shortest period that the published encoding of six octaves makes, on either side. On trained
networks the smallest f of 99.9 % of the rays or more is within 0.005 of the published search's; in the lowest
dip alone of 99.3 %."""

OF_AGED_GRID = Dips(reach=0.06, second=0.0)
"""Waves have moved, if not by as much as from one dip to the next. More samples than these are nearer to the
smallest f, and trained no better."""


@dataclass(frozen=True)
class LowestSearch:
    """Samples f about where a grid is smallest.

    Attributes:
        sdf: f.
        config: The block ``model.ray_tracer``.
        rays: R rays.
        samples: The grid along them.
    """

    sdf: Sdf
    config: TracerConfig
    rays: Rays
    samples: March

    def into_dips(self, found: Found, by_grid: tuple[Tensor, Tensor], wanted: Tensor, dips: Dips) -> Tensor:
        """Moves the ends of rays to where f itself is smallest, in one or two of the grid's dips.

        Args:
            found: The answers for the rays, values infinite where f is not known.
            by_grid: (R,) depths where the grid is smallest, and (R,) the grid there, see `smallest`.
            wanted: (R,) rays without a hit.
            dips: Which dips.

        Returns:
            (R,) depths; as they were where the samples show nothing lower.
        """

        def lowest(some: LowestSearch, index: Tensor | slice) -> Tensor:
            known, first = (found.depth[index], found.value[index]), (by_grid[0][index], by_grid[1][index])
            return some._lowest_dip(known, first, wanted[index], dips)

        return self._where(wanted, found.depth, lowest)

    def behind(self, depth: Tensor, wanted: Tensor) -> Tensor:
        """Moves hits outside the mask on to the smallest f behind them.

        The mask loss pushes with its full weight where these rays end, and there are few of them. The grid
        alone, when it has aged, is 0.002 to 0.004 above the smallest f on average: it may name a point that
        lies outside.

        Args:
            depth: (R,) where rays end.
            wanted: (R,) hits outside the mask.

        Returns:
            (R,) depths; by the grid alone where an accelerator has no room for more.
        """

        def lowest(some: LowestSearch, index: Tensor | slice) -> Tensor:
            return some._lowest_behind(depth[index], wanted[index])

        return self._where(wanted, depth, lowest)

    def _where(
        self, wanted: Tensor, depth: Tensor, lowest: Callable[[LowestSearch, Tensor | slice], Tensor]
    ) -> Tensor:
        """Replaces depths (R,) where wanted; looks at all rays where the host cannot know which these are."""
        if not reads_are_free(depth):
            return torch.where(wanted, lowest(self, slice(None)), depth)
        index = wanted.nonzero().squeeze(1)
        if index.numel() == 0:
            return depth
        some = LowestSearch(self.sdf, self.config, self.rays.subset(index), self.samples.subset(index))
        return depth.index_copy(0, index, lowest(some, index))

    def _lowest_dip(
        self, known: tuple[Tensor, Tensor], by_grid: tuple[Tensor, Tensor], wanted: Tensor, dips: Dips
    ) -> Tensor:
        """Returns (R,) depths where f is smallest in the dips, or the known ones where f is lower there."""
        samples, radius = self.samples, self.config.object_bounding_sphere
        (depth, value), (first, lowest) = known, by_grid
        candidates = [(first, wanted, 1.0)]
        if dips.second > 0:
            second, lower = second_dip(samples.depths, samples.values, first, 2 * dips.reach * radius)
            candidates.append((second, wanted & (lower - lowest < dips.second * radius), SECOND_DIPS))
        for dip, asked, share in candidates:
            vertex, values = self._sample(
                samples.near, dip, dips.reach, SAMPLES_IN_DIP, asked, share * SAMPLES_IN_DIP
            )
            seen = values.amin(dim=1)  # NaN, which is not lower, where there was no room
            better = asked & (seen < value)
            depth, value = torch.where(better, vertex, depth), torch.where(better, seen, value)
        return depth

    def _lowest_behind(self, depth: Tensor, wanted: Tensor) -> Tensor:
        """Returns (R,) depths where f is smallest from those given on; see `behind`."""
        samples = self.samples
        beyond = samples.depths >= depth.unsqueeze(1)
        middle, value = smallest(samples.depths, torch.where(beyond, samples.values, torch.inf))
        middle = torch.where(torch.isfinite(value), torch.maximum(middle, depth), depth)
        vertex, values = self._sample(depth, middle, OF_AGED_GRID.reach, SAMPLES_BEHIND, wanted, MOST_BEHIND)
        vertex = torch.where(values.amin(dim=1) > self.config.sdf_threshold, depth, vertex)
        return torch.where(values.isnan().any(dim=1), middle, vertex)

    def _sample(
        self, near: Tensor, middle: Tensor, reach: float, num_samples: int, wanted: Tensor, most: float
    ) -> tuple[Tensor, Tensor]:
        """Samples f about depths, and finds the vertex of a parabola about its smallest.

        Args:
            near: (R,) where samples begin at the earliest; they end within the bounding sphere.
            middle: (R,) their middle, as far as that allows.
            reach: Radii on either side of it.
            num_samples: S, at least three.
            wanted: (R,) rays to sample.
            most: Samples a ray, over all rays, that an accelerator has room for.

        Returns:
            (R,) depths of the vertices, and (R, S) values: zero where not wanted, NaN where there is no room.
        """
        far, radius = self.samples.far, self.config.object_bounding_sphere
        within = ((far - near) / 2).clamp_max(reach * radius)  # (R,)
        middle = torch.minimum(torch.maximum(middle, near + within), far - within)
        part = torch.linspace(-1, 1, num_samples, dtype=middle.dtype, device=middle.device)
        depths = middle.unsqueeze(1) + part * within.unsqueeze(1)  # (R, S)
        points, asked = self.rays.at(depths).reshape(-1, 3), wanted.repeat_interleave(num_samples)
        values = evaluate_where(self.sdf, points, asked, int(most * middle.shape[0])).reshape(depths.shape)
        lowest = values.argmin(dim=1, keepdim=True).clamp(1, num_samples - 2)
        before, here, after = (values.gather(1, lowest + k).squeeze(1) for k in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = torch.where(bend > 0, (before - after) / (2 * bend), (before - after).sign()).clamp(-1, 1)
        return depths.gather(1, lowest).squeeze(1) + shift * within * (part[1] - part[0]), values
