"""The accelerated tracer: a grid of f bounds where a surface is possible, the network locates it there.

It finds the published tracer's intersections with a thirtieth of its evaluations. The grid excludes a surface
only by an error bound (`idr.fields.sdf_grid`); elsewhere the network is evaluated (`network_search`). If grid
and network contradict each other on a ray, the published tracer traces it.

R rays, A rays of a subset. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.fields.sdf_grid import GRID, SdfGrid, build_sdf_grid, refine_sdf_grid
from idr.model.tracing.accelerated.grid_tracking import GridTracker
from idr.model.tracing.accelerated.marching import NUM_COARSE_SAMPLES, NUM_SAMPLES, coarse_pass, sample_grid
from idr.model.tracing.accelerated.minimum import MinimumSearch
from idr.model.tracing.accelerated.network_search import Found, NetworkSearch
from idr.model.tracing.accelerated.samples import GridSamples, smallest_sample
from idr.model.tracing.common import Tracer, TracerConfig, TraceRequest, TraceResult, first_true_indices
from idr.model.tracing.published import PublishedTracer

FIRST_LEVEL, FINEST_LEVEL = 2, 3
"""Cell halvings of a grid for fixed weights: 64 cells per side at first, 128 after refinement."""

REFINE_AFTER = 150_000
"""Rays traced with the first grid before its cells are halved: one or two views. Halving costs as many
evaluations as it saves on the next two or three times as many rays."""


class AcceleratedTracer(Tracer):
    """Finds the first intersection of rays with the surface with few evaluations of f."""

    def __init__(self, config: TracerConfig) -> None:
        self.config = config
        self._published = PublishedTracer(config, read_counts=False)
        self._tracker = GridTracker(config.object_bounding_sphere)
        self.discard()

    def discard(self) -> None:
        """Discards all grids; called when the weights are replaced."""
        self._tracker.discard()
        self._crosses: Tensor | bool = True  # (R,) of the last training step
        self._fixed: SdfGrid | None = None  # grid of fixed weights
        self._fixed_version: Hashable = None
        self._fixed_served = 0  # rays

    def state(self) -> dict[str, Any] | None:
        """Returns the training grid, see `Tracer.state`."""
        return self._tracker.state()

    def load_state(self, state: Mapping[str, Any], like: Tensor, where: str) -> None:
        """Loads the training grid, see `Tracer.load_state`."""
        self._tracker.load_state(state, like, where)

    @torch.no_grad()
    def trace(self, request: TraceRequest) -> TraceResult:
        """Traces rays, see `Tracer.trace`.

        Differs: rays without a hit end at the minimum of the grid along their chord, or of the network where
        a surface was possible; in training also of the network if the grid is new or f has ripples
        (`MinimumSearch`). Only the published tracer uses the request's `search_fractions`.
        """
        return self._trace_training(request) if request.training else self._trace_evaluation(request)

    def _trace_training(self, request: TraceRequest) -> TraceResult:
        """Traces rays with the grid that tracks the weights."""
        sdf, rays, crossing, inside = request.sdf, request.rays, request.crossing, request.object_mask

        def look_up(grid: SdfGrid, drift_bound: Tensor) -> tuple[_View, Tensor]:
            samples = sample_grid(grid, drift_bound, rays, crossing)
            view = _View(grid, samples, *samples.possible_rays())
            return view, torch.stack((view.possible.sum(), view.expected.sum()))

        view, drift_bound, (num_possible, num_expected) = self._tracker.follow(sdf, rays.origin, look_up)
        samples, possible = view.samples, view.possible
        grid_minimum = depth, _ = smallest_sample(samples.depths, samples.values)
        unknown = torch.full_like(depth, torch.inf)  # f where the grid is smallest
        found = Found(torch.zeros_like(possible), depth, unknown, torch.ones_like(possible))
        if num_possible:
            index = first_true_indices(possible, num_possible)  # (A,)
            search = NetworkSearch(sdf, self.config, view.grid, drift_bound)
            some, end = samples.subset(index), (depth[index], unknown[index])
            traced = search.trace(rays.subset(index), some, end, view.expected[index], num_expected)
            found = found.updated(index, traced)
        counts = torch.stack(((~found.resolved).sum(), (found.hit & inside).sum())).tolist()
        num_unresolved, num_shaded = (int(count) for count in counts)
        if num_unresolved:
            found = self._resolved(request, found, first_true_indices(~found.resolved, num_unresolved))
        self._crosses = crossing.crosses
        depth, hit, missed = found.depth, found.hit, ~found.hit & crossing.crosses
        minimum = MinimumSearch(sdf, self.config, rays, samples)
        if drift_bound == 0:
            depth = minimum.of_misses(found, grid_minimum, missed, new_grid=True)
        elif self._tracker.has_ripples:
            depth = minimum.of_misses(found, grid_minimum, missed & ~possible, new_grid=False)
        depth = minimum.behind_hits(depth, hit & ~inside)
        closest_to_origin = -(rays.direction * rays.origin).sum(dim=1)
        depth = torch.where(crossing.crosses, depth, closest_to_origin)
        return TraceResult(depth, hit, num_shaded=None if num_unresolved else num_shaded)

    def _trace_evaluation(self, request: TraceRequest) -> TraceResult:
        """Traces rays for fixed weights: few samples of the grid first, more where a surface is possible."""
        rays, crossing = request.rays, request.crossing
        grid = self._grid_of_fixed_weights(request)
        search = NetworkSearch(request.sdf, self.config, grid, 0.0, slope_steps=True)
        depth, value, window = coarse_pass(grid, rays, crossing)
        found = Found(torch.zeros_like(window.crosses), depth, value, torch.ones_like(window.crosses))
        longest = 2 * self.config.object_bounding_sphere * (NUM_COARSE_SAMPLES - 1) / (NUM_SAMPLES - 1)
        short = window.far - window.near <= longest
        for members, num_samples in ((short, NUM_COARSE_SAMPLES), (~short, NUM_SAMPLES)):
            index = (members & window.crosses).nonzero().squeeze(1)
            if index.numel() == 0:
                continue
            some = rays.subset(index)
            samples = sample_grid(grid, 0.0, some, window.subset(index), num_samples)
            possible, expected = samples.possible_rays()
            kept = possible.nonzero().squeeze(1)
            if kept.numel() == 0:
                continue
            samples = samples.subset(kept)
            minimum = smallest_sample(samples.depths, samples.values)
            traced = search.trace(some.subset(kept), samples, minimum, expected[kept], int(expected.sum()))
            found = found.updated(index[kept], traced)
        unresolved = (~found.resolved).nonzero().squeeze(1)
        if unresolved.numel():
            found = self._resolved(request, found, unresolved)
        outside = (~crossing.crosses).nonzero().squeeze(1)
        to_sphere = rays.origin[outside].norm(dim=1) - self.config.object_bounding_sphere
        value = found.value.index_copy(0, outside, to_sphere)
        depth = torch.where(crossing.crosses, found.depth, 0)
        return TraceResult(depth, found.hit, value)

    def observe(self, points: Tensor, value: Tensor, hit: Tensor) -> None:
        """Receives f at the points of a training step, see `Tracer.observe`."""
        missed = (value[-hit.shape[0] :] < -self.config.sdf_threshold) & ~hit & self._crosses
        self._tracker.observe(points, value, missed)

    def _grid_of_fixed_weights(self, request: TraceRequest) -> SdfGrid:
        """Returns the grid for the request's version of the weights, built or refined if necessary."""
        grid, like, version = self._fixed, request.rays.origin, request.version
        if (
            grid is None
            or version is None
            or version != self._fixed_version
            or (grid.values.device, grid.values.dtype) != (like.device, like.dtype)
        ):
            radius = self.config.object_bounding_sphere
            grid = build_sdf_grid(request.sdf, radius, FIRST_LEVEL, 0.0, like)
            self._fixed_version, self._fixed_served = version, 0
        elif (
            self._fixed_served > REFINE_AFTER
            and grid.values.shape[0] <= GRID.coarsest_cells * 2**FIRST_LEVEL + 1
        ):
            for _ in range(FINEST_LEVEL - FIRST_LEVEL):
                grid = refine_sdf_grid(request.sdf, grid, 0.0)
        self._fixed = grid
        self._fixed_served += like.shape[0]
        return grid

    def _resolved(self, request: TraceRequest, found: Found, index: Tensor) -> Found:
        """Returns results with the rays of an index (B,) traced by the published tracer."""
        part = request.subset(index)
        traced = self._published.trace(part)
        value = request.sdf(part.rays.at(traced.depth))
        return found.updated(index, Found(traced.hit, traced.depth, value, torch.ones_like(traced.hit)))


@dataclass(frozen=True)
class _View:
    """A grid sampled along R rays.

    Attributes:
        grid: The grid.
        samples: The grid along the rays.
        possible: (R,) bool, a surface is possible.
        expected: (R,) bool, a surface is possible and the grid is negative somewhere.
    """

    grid: SdfGrid
    samples: GridSamples
    possible: Tensor
    expected: Tensor
