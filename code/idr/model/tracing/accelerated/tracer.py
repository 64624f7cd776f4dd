"""The accelerated tracer: a grid of f says where a surface is possible, the network says what is there.

It finds the published tracer's intersections with a thirtieth of its evaluations. What a grid excludes, it
excludes by a bound (`idr.fields.sdf_grid`); what it does not exclude is asked of the network
(`network_search`); where the two contradict one another, the published tracer decides.

R rays, A rays of a subset. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.fields.sdf_grid import COARSEST_CELLS, SdfGrid, build_sdf_grid, refine_sdf_grid
from idr.geometry.spheres import SphereCrossing
from idr.model.tracing.accelerated.grid_tracking import GridUpkeep
from idr.model.tracing.accelerated.marching import (
    COARSE_SAMPLES,
    MARCH_SAMPLES,
    March,
    first_look,
    march,
    smallest,
)
from idr.model.tracing.accelerated.minimum import OF_AGED_GRID, OF_NEW_GRID, LowestSearch
from idr.model.tracing.accelerated.network_search import Found, NetworkSearch
from idr.model.tracing.common import (
    Rays,
    Sdf,
    Tracer,
    TracerConfig,
    TraceResult,
    first_set,
)
from idr.model.tracing.published import PublishedTracer

FIRST_LEVEL, FINEST_LEVEL = 2, 3
"""Halvings of the cells of a grid for weights that do not change: 64 along a side, at last 128."""

FINER_AFTER = 150_000
"""Rays that the first grid serves before its cells are halved: a view or two. The halving costs as many
evaluations as it saves on the next two or three times as many rays."""


class AcceleratedTracer(Tracer):
    """Finds the first intersection of rays with the surface, with few evaluations of f.

    Args:
        config: The block ``model.ray_tracer``.
    """

    def __init__(self, config: TracerConfig) -> None:
        self.config = config
        self._published = PublishedTracer(config, reads_which=False)
        self._upkeep = GridUpkeep(config.object_bounding_sphere)
        self.discard()

    def discard(self) -> None:
        """Forgets all grids: weights were replaced."""
        self._upkeep.discard()
        self._crosses: Tensor | bool = True  # (R,) of the last step's rays
        self._fixed: SdfGrid | None = None  # of weights that do not change
        self._fixed_version: Hashable = None
        self._fixed_served = 0  # rays

    def carried(self) -> dict[str, Any] | None:
        """Returns what the next training step depends on, for a checkpoint; None if on nothing."""
        return self._upkeep.carried()

    def restore(self, carried: Mapping[str, Any], like: Tensor) -> None:
        """Goes on from what `carried` returned; ``like`` gives the device."""
        self._upkeep.restore(carried, like)

    @torch.no_grad()
    def trace(
        self,
        sdf: Sdf,
        rays: Rays,
        crossing: SphereCrossing,
        object_mask: Tensor,
        smallest_depths: Tensor | None = None,
        version: Hashable = None,
    ) -> TraceResult:
        """Traces rays, see `Tracer.trace`.

        Differs: rays without a hit end where f is smallest on their chord by the grid, or by the network
        where a surface was possible, and in training (`LowestSearch`) by the network where the grid is new or
        f has waves. `smallest_depths` only tells that it is training.
        """
        if smallest_depths is None:
            return self._evaluate(sdf, rays, crossing, object_mask, version)
        view, slack, (num_possible, num_expected) = self._upkeep.follow(
            sdf, rays.origin, lambda grid, slack: _view(grid, slack, rays, crossing)
        )
        samples = view.samples
        by_grid = depth, _ = smallest(samples.depths, samples.values)
        unknown = torch.full_like(depth, torch.inf)  # f where the grid is smallest
        found = Found(torch.zeros_like(view.possible), depth, unknown, torch.ones_like(view.possible))
        if num_possible:
            possible = first_set(view.possible, num_possible)  # (A,)
            looked = NetworkSearch(sdf, self.config, view.grid, slack).look(
                rays.subset(possible), samples.subset(possible), depth[possible], unknown[possible],
                view.expected[possible], num_expected,
            )  # fmt: skip
            found = found.with_some(possible, looked)
        shaded = found.hit & object_mask
        counts = torch.stack(((~found.settled).sum(), shaded.sum())).tolist()
        num_doubtful, num_shaded = (int(count) for count in counts)
        if num_doubtful:
            doubtful = first_set(~found.settled, num_doubtful)
            found = self._as_published(sdf, rays, crossing, object_mask, smallest_depths, found, doubtful)
        self._crosses = crossing.crosses  # beyond the bounding sphere no surface is looked for, or missed
        depth, hit, missed = found.depth, found.hit, ~found.hit & crossing.crosses
        lowest = LowestSearch(sdf, self.config, rays, samples)
        if slack == 0:
            depth = lowest.into_dips(found, by_grid, missed, OF_NEW_GRID)
        elif self._upkeep.wavy:
            depth = lowest.into_dips(found, by_grid, missed & ~view.possible, OF_AGED_GRID)
        depth = lowest.behind(depth, hit & ~object_mask)
        closest_to_origin = -(rays.direction * rays.origin).sum(dim=1)
        depth = torch.where(crossing.crosses, depth, closest_to_origin)
        return TraceResult(depth, hit, num_shaded=None if num_doubtful else num_shaded)

    def _evaluate(
        self, sdf: Sdf, rays: Rays, crossing: SphereCrossing, object_mask: Tensor, version: Hashable
    ) -> TraceResult:
        """Traces rays by fixed weights: few samples of the grid first, more where these leave a surface."""
        grid = self._grid_of_fixed_weights(sdf, version, rays.origin)
        search = NetworkSearch(sdf, self.config, grid, 0.0, leaps=True)
        depth, value, window = first_look(grid, rays, crossing)
        found = Found(torch.zeros_like(window.crosses), depth, value, torch.ones_like(window.crosses))
        longest = 2 * self.config.object_bounding_sphere * (COARSE_SAMPLES - 1) / (MARCH_SAMPLES - 1)
        short = window.far - window.near <= longest
        for members, num_samples in ((short, COARSE_SAMPLES), (~short, MARCH_SAMPLES)):
            index = (members & window.crosses).nonzero().squeeze(1)
            if index.numel() == 0:
                continue
            some = rays.subset(index)
            part = SphereCrossing(window.near[index], window.far[index], window.crosses[index])
            samples = march(grid, 0.0, some, part, num_samples)
            possible = samples.possible.any(dim=1)
            expected = possible & (samples.values < 0).any(dim=1)
            kept = possible.nonzero().squeeze(1)
            if kept.numel() == 0:
                continue
            samples = samples.subset(kept)
            lowest = smallest(samples.depths, samples.values)
            looked = search.look(some.subset(kept), samples, *lowest, expected[kept], int(expected.sum()))
            found = found.with_some(index[kept], looked)
        doubtful = (~found.settled).nonzero().squeeze(1)
        if doubtful.numel():
            found = self._as_published(sdf, rays, crossing, object_mask, None, found, doubtful)
        beside = (~crossing.crosses).nonzero().squeeze(1)
        to_sphere = rays.origin[beside].norm(dim=1) - self.config.object_bounding_sphere
        value = found.value.index_copy(0, beside, to_sphere)
        depth = torch.where(crossing.crosses, found.depth, 0)
        return TraceResult(depth, found.hit, value)

    def report(self, points: Tensor, value: Tensor, hit: Tensor) -> None:
        """Hears f at the points of a training step, see `Tracer.report`."""
        missed = (value[-hit.shape[0] :] < -self.config.sdf_threshold) & ~hit & self._crosses
        self._upkeep.report(points, value, missed)

    def _grid_of_fixed_weights(self, sdf: Sdf, version: Hashable, like: Tensor) -> SdfGrid:
        """Returns the grid of weights that do not change for rays from origins (R, 3): one for a version."""
        known = self._fixed
        if (
            known is None
            or version is None
            or version != self._fixed_version
            or (known.values.device, known.values.dtype) != (like.device, like.dtype)
        ):
            known = build_sdf_grid(sdf, self.config.object_bounding_sphere, FIRST_LEVEL, 0.0, like)
            self._fixed_version, self._fixed_served = version, 0
        elif (
            self._fixed_served > FINER_AFTER and known.values.shape[0] <= COARSEST_CELLS * 2**FIRST_LEVEL + 1
        ):
            for _ in range(FINEST_LEVEL - FIRST_LEVEL):
                known = refine_sdf_grid(sdf, known, 0.0)
        self._fixed = known
        self._fixed_served += like.shape[0]
        return known

    def _as_published(
        self,
        sdf: Sdf,
        rays: Rays,
        crossing: SphereCrossing,
        object_mask: Tensor,
        smallest_depths: Tensor | None,
        found: Found,
        index: Tensor,
    ) -> Found:
        """Returns the answers for R rays with some (B,) as the published tracer finds them."""
        part = SphereCrossing(crossing.near[index], crossing.far[index], crossing.crosses[index])
        some = rays.subset(index)
        traced = self._published.trace(sdf, some, part, object_mask[index], smallest_depths)
        value = sdf(some.at(traced.depth))
        return found.with_some(index, Found(traced.hit, traced.depth, value, torch.ones_like(traced.hit)))


@dataclass(frozen=True)
class _View:
    """What a grid shows of R rays.

    Attributes:
        grid: The grid.
        samples: The grid along the rays.
        possible: (R,) a surface is possible.
        expected: (R,) it is possible, and the grid is negative somewhere.
    """

    grid: SdfGrid
    samples: March
    possible: Tensor
    expected: Tensor


def _view(grid: SdfGrid, slack: float | Tensor, rays: Rays, crossing: SphereCrossing) -> tuple[_View, Tensor]:
    """Marches through a grid; returns what it shows, and how many rays are possible and expected (2,)."""
    samples = march(grid, slack, rays, crossing)
    possible = samples.possible.any(dim=1)
    expected = possible & (samples.values < 0).any(dim=1)
    return _View(grid, samples, possible, expected), torch.stack((possible.sum(), expected.sum()))
