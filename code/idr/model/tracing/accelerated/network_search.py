"""Searches rays with the network where the grid leaves a surface possible.

A rays, S samples of the grid along a ray, M samples of the network. L is the grid's Lipschitz constant.
Values and depths are in the unit-sphere frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idr.fields.sdf_grid import Sdf, SdfGrid
from idr.model.tracing.accelerated.false_position import FALSE_POSITION, refine
from idr.model.tracing.accelerated.local_minima import NetworkSamples, before_inside, find_minima, last_finite
from idr.model.tracing.accelerated.samples import GridSamples
from idr.model.tracing.accelerated.slope_step import step_to_zero
from idr.model.tracing.common import Rays, TracerConfig, evaluate_where, first_true_indices, is_cpu, sample_at


@dataclass(frozen=True)
class SearchConstants:
    """Tuned on trained networks and on the shapes of ``tests/model/tracing``.

    Attributes:
        max_approach_steps: Maximum number of steps of the approach; one to three are typical.
        min_slope: Descent along a ray below which it counts as grazing and is searched, not approached.
        max_overshoot: Largest overshoot beyond the safe step |f|, in radii, when the first step of the
            approach follows the grid's slope. With 0.005 some of the adversarial sheets and rods are missed.
        stride: The search first evaluates f at every stride-th sample of the grid, 0.0625 radii apart.
        division_rounds: Subdivisions of intervals in which a surface may hide. Two reach a spacing of 0.016
            radii, below the 0.02 of the published search; finer surfaces are found where f falls toward zero.
        room_first, room_division: An accelerator's budget of samples per ray, on average, in the first round
            and in each subdivision; five and four are typical.
        minimum_rounds: Samples at minima: two find a kink; each reduces the open part of a smooth minimum to
            a quarter. More save less than 3 % of a step's evaluations.
        searched_share: Fraction of the rays that an accelerator searches without counting those that need
            it; a sixth to a third do.
    """

    max_approach_steps: int = 6
    min_slope: float = 0.1
    max_overshoot: float = 0.002
    stride: int = 4
    division_rounds: int = 2
    room_first: int = 12
    room_division: int = 8
    minimum_rounds: int = 2
    searched_share: float = 0.5


SEARCH = SearchConstants()


@dataclass(frozen=True)
class Found:
    """Result for A rays.

    Attributes:
        hit: (A,) bool, there is a surface.
        depth: (A,) of the surface, or of the smallest f that was evaluated.
        value: (A,) f there, within the threshold for hits; infinite where unknown.
        resolved: (A,) bool, the result is final; other rays need another method.
    """

    hit: Tensor
    depth: Tensor
    value: Tensor
    resolved: Tensor

    def updated(self, index: Tensor, others: Found) -> Found:
        """Returns these results with others (B,) at the rays of an index (B,), padded with A."""

        def put(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat((mine, mine[:1])).index_copy(0, index, theirs)[:-1]

        return Found(**{name: put(getattr(self, name), theirs) for name, theirs in vars(others).items()})


class NetworkSearch:
    """Finds the first zero of f along rays.

    Args:
        sdf: f.
        config: The block ``model.ray_tracer``.
        grid: The grid that was sampled along the rays.
        drift_bound: Bound on |f - grid| at the nodes, due to weight updates since the build.
        slope_steps: Whether the grid's own zero is tried first, see `step_to_zero`; needs a grid without
            drift.
    """

    def __init__(
        self, sdf: Sdf, config: TracerConfig, grid: SdfGrid, drift_bound: float, slope_steps: bool = False
    ) -> None:
        self.sdf, self.config, self.drift_bound, self.lipschitz = sdf, config, drift_bound, grid.lipschitz
        self.radius = config.object_bounding_sphere
        self._grid = grid if slope_steps else None

    def trace(
        self,
        rays: Rays,
        samples: GridSamples,
        end: tuple[Tensor, Tensor],
        expected: Tensor,
        num_expected: int,
    ) -> Found:
        """Traces rays on which a surface is possible.

        Args:
            rays: A rays.
            samples: The grid along them.
            end: (A,) depths where `smallest_sample` finds the grid smallest, and (A,) f there as far as
                known; overwritten with the result.
            expected: (A,) bool, the grid is negative somewhere.
            num_expected: Number of expected rays.
        """
        depth, value = end
        hit, resolved = torch.zeros_like(expected), torch.zeros_like(expected)
        index = first_true_indices(expected, num_expected)
        if num_expected and self._grid is not None:
            confirmed, zero, others = step_to_zero(
                self.sdf, self.config, self._grid, rays.subset(index), samples.subset(index)
            )
            done, index = index[confirmed], index[others]
            depth[done], value[done], hit[done], resolved[done] = zero, 0.0, True, True
        if index.numel():
            found = self.approach(rays.subset(index), samples.subset(index))
            depth[index], value[index] = found.depth, found.value
            hit[index], resolved[index] = found.hit, found.resolved
        if self.drift_bound > 0:
            samples = self._corrected(rays, samples, depth, ~expected, depth.shape[0] - num_expected)
            resolved = resolved | (~expected & ~samples.possible.any(dim=1))
        result = Found(hit, depth, value, resolved)
        num_rays = depth.shape[0]
        if is_cpu(depth):
            index = (~resolved).nonzero().squeeze(1)
        else:  # rays beyond the share stay unresolved
            index = first_true_indices(~resolved, max(1, int(SEARCH.searched_share * num_rays)))
        if index.numel() == 0:
            return result
        row = index.clamp_max(num_rays - 1)
        return result.updated(index, self.search(rays.subset(row), samples.subset(row)))

    def approach(self, rays: Rays, samples: GridSamples) -> Found:
        """Steps to the surface from the first depth at which one is possible.

        The first step is f, as in sphere tracing, or extrapolates f to zero with the grid's slope if that is
        hardly longer. Later steps extrapolate the descent of f.

        Args:
            rays: A rays.
            samples: The grid along them, negative somewhere.

        Returns:
            Hits, all resolved; rays whose descent is too slow or changes too much are unresolved.
        """
        threshold = self.config.sdf_threshold
        first = samples.possible.to(torch.uint8).argmax(dim=1, keepdim=True)
        entry = samples.depths.gather(1, first).squeeze(1) - samples.spacing / 2
        t = torch.maximum(entry, samples.near)
        f = self.sdf(rays.at(t))
        done = (f <= threshold) & (t == samples.near)  # the first point is inside the object
        active, crossed = f > threshold, torch.zeros_like(done)
        slope = _slope_at_zero(samples).clamp(SEARCH.min_slope, 1)
        slope = torch.where(f / slope - f <= SEARCH.max_overshoot * self.radius, slope, 1)
        low_t, low_f, high_t, high_f, last_step = t, f, t, f, torch.zeros_like(t)
        for _ in range(SEARCH.max_approach_steps):
            new_t = torch.where(active, t + f / slope, t)
            new_f = torch.where(active, evaluate_where(self.sdf, rays.at(new_t), active), f)
            step = new_t - t
            new_slope = torch.where(active, (f - new_f) / step, slope)
            steep = active & (new_slope > SEARCH.min_slope)
            # Error of the extrapolated zero: change of slope up to the middle of the remaining distance.
            bend = 2 * (new_slope - slope).abs() / (last_step + step)
            bend = bend.clamp_min(FALSE_POSITION.min_curvature / self.radius)
            left = new_f.abs() / new_slope
            error = bend / new_slope * left * (step + left) / 2
            close = steep & (error <= FALSE_POSITION.extrapolation_error * threshold)
            over = active & (new_f < -threshold) & ~close
            low_t, low_f = torch.where(over, t, low_t), torch.where(over, f, low_f)
            high_t, high_f = torch.where(over, new_t, high_t), torch.where(over, new_f, high_f)
            done, crossed = done | close | (steep & (new_f.abs() <= threshold)), crossed | over
            t, f = torch.where(close, new_t + new_f / new_slope, new_t), new_f
            slope, last_step = new_slope, step
            active = steep & ~done & ~crossed & (t < samples.far)
        refined, found = refine(self.sdf, self.config, rays, (low_t, low_f), (high_t, high_f), crossed)
        hit = done | (crossed & found)
        return Found(hit, torch.where(crossed, refined, t), torch.zeros_like(t), hit)

    def _corrected(
        self, rays: Rays, samples: GridSamples, depth: Tensor, tried: Tensor, num_tried: int
    ) -> GridSamples:
        """Corrects grid samples for drift with one evaluation per ray, where the grid is smallest.

        The drift there is assumed for the whole ray, to within half the drift bound.
        """
        f = evaluate_where(self.sdf, rays.at(depth), tried, num_tried)
        minimum = samples.values.amin(dim=1)
        drift = torch.where(tried, f - minimum, 0).clamp(-self.drift_bound, self.drift_bound)
        values = samples.values + drift.unsqueeze(1)
        error = samples.error - self.drift_bound / 2 * tried.to(f.dtype).unsqueeze(1)
        possible = torch.where(tried.unsqueeze(1), values <= error, samples.possible)
        return replace(samples, values=values, error=error, possible=possible)

    def search(self, rays: Rays, samples: GridSamples) -> Found:
        """Samples the network where a surface is possible, and more densely where one may hide.

        Between two samples a and b at distance d, f is at least (f(a) + f(b) - L d) / 2. The next sample is
        taken where this bound is attained (Piyavskii 1972).

        Args:
            rays: A rays.
            samples: The grid along them.

        Returns:
            Hits and misses; unresolved if a surface lies where the grid excluded one, or a minimum is left.
        """
        known, no_room = self._divided(rays, samples)
        bounds = (self.lipschitz, self.config.sdf_threshold, self.radius)
        for _ in range(SEARCH.minimum_rounds):
            minima, depths = find_minima(known, *bounds)
            first = minima.to(torch.uint8).argmax(dim=1, keepdim=True)
            known = self._with_sample(rays, known, depths.gather(1, first), minima.any(dim=1, keepdim=True))
        minima, _ = find_minima(known, *bounds)
        found = self._first_change(rays, known.depths, known.values)
        return replace(found, resolved=found.resolved & ~minima.any(dim=1) & ~no_room)

    def _divided(self, rays: Rays, samples: GridSamples) -> tuple[NetworkSamples, Tensor]:
        """Returns samples of f after all subdivisions, and (A,) bool, rays that exceed the budget."""
        depths = samples.depths[:, :: SEARCH.stride]  # (A, M)
        open_intervals = _any_in_windows(samples.possible, SEARCH.stride)  # (A, M - 1)
        needed = torch.zeros_like(depths, dtype=torch.bool)
        needed[:, :-1] |= open_intervals
        needed[:, 1:] |= open_intervals
        values, no_room = self._evaluate(rays, depths, needed, SEARCH.room_first)
        for _ in range(SEARCH.division_rounds):
            left_t, right_t, left_f, right_f = depths[:, :-1], depths[:, 1:], values[:, :-1], values[:, 1:]
            # The same two cones bound f before a sample inside the object.
            hidden = open_intervals & (left_f + right_f.abs() < self.lipschitz * (right_t - left_t))
            hidden = hidden & (left_f > 0) & before_inside(values)
            shift = torch.where(hidden, left_f - right_f.abs(), 0) / (2 * self.lipschitz)
            deepest = (left_t + right_t) / 2 + shift
            between, no_room_now = self._evaluate(rays, deepest, hidden, SEARCH.room_division)
            no_room = no_room | no_room_now
            depths, values = _interleave(depths, deepest), _interleave(values, between)
            open_intervals = hidden.repeat_interleave(2, dim=1)
        open_after = torch.cat((open_intervals, torch.zeros_like(open_intervals[:, :1])), dim=1)  # (A, M)
        return NetworkSamples(depths, values, open_after), no_room

    def _with_sample(
        self, rays: Rays, samples: NetworkSamples, depth: Tensor, needed: Tensor
    ) -> NetworkSamples:
        """Adds a sample at a depth (A, 1) where needed, elsewhere an empty one at the end."""
        depth = torch.where(needed, depth, samples.depths[:, -1:])
        around = torch.searchsorted(samples.depths, depth, right=True).clamp_min(1) - 1
        order = torch.cat((samples.depths, depth), dim=1).sort(dim=1, stable=True)
        columns = (
            (samples.values, self._evaluate(rays, depth, needed, 1)[0]),
            (samples.open_after, needed & samples.open_after.gather(1, around)),
        )
        return NetworkSamples(
            order.values, *(torch.cat(pair, dim=1).gather(1, order.indices) for pair in columns)
        )

    def _first_change(self, rays: Rays, depths: Tensor, values: Tensor) -> Found:
        """Finds and refines the first sign change among (A, M) samples, infinite where not evaluated."""
        inside = values < 0
        hit = inside.any(dim=1)
        high = inside.to(torch.uint8).argmax(dim=1, keepdim=True)
        low = last_finite(values, before=high)
        bracketed = hit & (low.squeeze(1) >= 0)
        low = low.clamp_min(0)
        ends = sample_at(low, depths, values), sample_at(high, depths, values)
        refined, found = refine(self.sdf, self.config, rays, *ends, bracketed)
        at_start = hit & (high.squeeze(1) == 0)
        smallest_f, smallest = values.min(dim=1, keepdim=True)
        depth = torch.where(hit, refined, depths.gather(1, smallest).squeeze(1))
        resolved = ~hit | (bracketed & found) | at_start
        return Found(hit, depth, torch.where(hit, 0, smallest_f.squeeze(1)), resolved)

    def _evaluate(self, rays: Rays, depths: Tensor, needed: Tensor, room: int) -> tuple[Tensor, Tensor]:
        """Evaluates f at depths (A, M) where needed (A, M), at most `room` samples a ray on an accelerator.

        Returns:
            (A, M) f, infinite where not evaluated; (A,) bool, rays that exceed the budget.
        """
        points = rays.at(depths).reshape(-1, 3)
        values = evaluate_where(self.sdf, points, needed.reshape(-1), room * depths.shape[0])
        values = values.reshape(depths.shape)
        no_room = values.isnan()
        return torch.where(needed & ~no_room, values, torch.inf), no_room.any(dim=1)


def _any_in_windows(flags: Tensor, stride: int) -> Tensor:
    """Returns (A, M - 1): any of the (A, S) flags within or at the ends of each window of a stride."""
    return flags[:, :-1].reshape(flags.shape[0], -1, stride).any(dim=2) | flags[:, stride::stride]


def _slope_at_zero(samples: GridSamples) -> Tensor:
    """Returns (A,) the grid's descent where it first becomes negative; zero at a ray's start."""
    inside = (samples.values < 0).to(torch.uint8).argmax(dim=1, keepdim=True)
    before = samples.values.gather(1, (inside - 1).clamp_min(0))
    return ((before - samples.values.gather(1, inside)).squeeze(1)) / samples.spacing


def _interleave(samples: Tensor, between: Tensor) -> Tensor:
    """Returns (A, M) samples with the (A, M - 1) between them, in order: (A, 2 M - 1)."""
    pairs = torch.stack((samples[:, :-1], between), dim=2).reshape(samples.shape[0], -1)
    return torch.cat((pairs, samples[:, -1:]), dim=1)
