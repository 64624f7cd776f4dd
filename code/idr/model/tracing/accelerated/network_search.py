"""What the network says about rays on which a grid leaves a surface possible.

A rays, S samples of the grid along a ray, M samples of the network. L is the grid's Lipschitz bound. Values
and depths are in the unit-sphere frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idr.fields.sdf_grid import SdfGrid
from idr.model.tracing.accelerated.false_position import CURVATURE, EXTRAPOLATION_ERROR, refine
from idr.model.tracing.accelerated.leap import leap
from idr.model.tracing.accelerated.local_minima import (
    KnownSamples,
    before_inside,
    find_dips,
    find_vertex,
    last_known,
)
from idr.model.tracing.accelerated.marching import March
from idr.model.tracing.common import Rays, Sdf, TracerConfig, evaluate_where, first_set, reads_are_free

MAX_APPROACH_STEPS = 6
"""Most steps of the approach; one to three are usual."""

MIN_SLOPE = 0.1
"""Slower descent than this along a ray counts as grazing: it is searched, not approached."""

LEAP = 0.002
"""Radii that the first step of an approach may go beyond where f itself says that no surface is, when the
grid's slope says that it is there. With 0.005 some of the adversarial sheets and rods are passed."""

SEARCH_STRIDE = 4
"""Every so many of the grid's samples the search's first ones lie: 0.0625 radii of the sphere apart."""

SEARCH_ROUNDS = 2
"""Divisions of intervals in which a surface can hide between two samples. They end at 0.016 radii, below the
0.02 of the published search; what is left is found where f dips towards zero."""

MOST_FIRST, MOST_BETWEEN = 12, 8
"""Samples a ray that an accelerator has room for, in the first round and in each division; five and four are
usual."""

DIP_ROUNDS = 4
"""Samples in dips: one or two find a kink, and each cuts what a smooth dip leaves open to a quarter."""

SEARCHED_SHARE = 0.5
"""Share of the rays that an accelerator searches, rather than have the host read how many need it; a sixth to
a third do."""

POLISH_ROUNDS = 2
"""Samples at the vertex of the parabola through the smallest three."""


@dataclass(frozen=True)
class Found:
    """The answer for A rays.

    Attributes:
        hit: (A,) there is a surface.
        depth: (A,) of the surface, or of the smallest f that was seen.
        value: (A,) f there, within the threshold for hits; infinite where it is not known.
        settled: (A,) the answer stands; if not, another method has to find one.
    """

    hit: Tensor
    depth: Tensor
    value: Tensor
    settled: Tensor

    def with_some(self, index: Tensor, others: Found) -> Found:
        """Returns these answers with others (B,) at the rays of an index (B,); A in it stands for no ray."""

        def put(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat((mine, mine[:1])).index_copy(0, index, theirs)[:-1]

        fields = ("hit", "depth", "value", "settled")
        return Found(*(put(getattr(self, name), getattr(others, name)) for name in fields))


class NetworkSearch:
    """Looks for the first zero of f along rays.

    Args:
        sdf: f.
        config: The block ``model.ray_tracer``.
        grid: What the rays' samples are taken from.
        slack: What f may differ from the grid's nodes, because it has moved since.
        leaps: Whether rays leap where the grid resolves a surface, see `leap`; if so, slack is 0.
    """

    def __init__(
        self, sdf: Sdf, config: TracerConfig, grid: SdfGrid, slack: float, leaps: bool = False
    ) -> None:
        self.sdf, self.config, self.slack, self.lipschitz = sdf, config, slack, grid.lipschitz
        self.radius = config.object_bounding_sphere
        self._grid = grid if leaps else None

    def look(
        self, rays: Rays, samples: March, depth: Tensor, value: Tensor, expected: Tensor, num_expected: int
    ) -> Found:
        """Answers for rays on which a surface is possible.

        Args:
            rays: A rays.
            samples: The grid along them.
            depth: (A,) where `smallest` finds the grid smallest; overwritten by what the network finds.
            value: (A,) what the answer says of f there; overwritten likewise.
            expected: (A,) the grid is negative somewhere.
            num_expected: Number of these.

        Returns:
            The answer.
        """
        hit, settled = torch.zeros_like(expected), torch.zeros_like(expected)
        index = first_set(expected, num_expected)
        if num_expected and self._grid is not None:
            of_expected, leapt, others = leap(
                self.sdf, self.config, self._grid, rays.subset(index), samples.subset(index)
            )
            there, index = index[of_expected], index[others]
            depth[there], value[there], hit[there], settled[there] = leapt, 0.0, True, True
        if index.numel():
            found = self.approach(rays.subset(index), samples.subset(index))
            depth[index], value[index] = found.depth, found.value
            hit[index], settled[index] = found.hit, found.settled
        if self.slack > 0:
            samples = self._corrected(rays, samples, depth, ~expected, depth.shape[0] - num_expected)
            settled = settled | (~expected & ~samples.possible.any(dim=1))
        known = Found(hit, depth, value, settled)
        num_rays = depth.shape[0]
        if reads_are_free(depth):
            index = (~settled).nonzero().squeeze(1)
        else:  # what is beyond stays unsettled
            index = first_set(~settled, max(1, int(SEARCHED_SHARE * num_rays)))
        if index.numel() == 0:
            return known
        row = index.clamp_max(num_rays - 1)
        return known.with_some(index, self.search(rays.subset(row), samples.subset(row)))

    def approach(self, rays: Rays, samples: March) -> Found:
        """Walks from where a surface becomes possible to the surface.

        The first step is f itself, as in sphere tracing, or goes to where f is zero by the grid's slope if
        that is hardly further; from then on the descent is extrapolated.

        Args:
            rays: A rays.
            samples: The grid along them, negative somewhere.

        Returns:
            Hits, all settled; rays that descend too slowly, or differently than they began, are not settled.
        """
        threshold = self.config.sdf_threshold
        first = samples.possible.to(torch.uint8).argmax(dim=1, keepdim=True)
        entry = samples.depths.gather(1, first).squeeze(1) - samples.spacing / 2
        t = torch.maximum(entry, samples.near)
        f = self.sdf(rays.at(t))
        done = (f <= threshold) & (t == samples.near)  # the camera, or the sphere, is inside
        active, crossed = f > threshold, torch.zeros_like(done)
        slope = _slope_at_zero(samples).clamp(MIN_SLOPE, 1)
        slope = torch.where(f / slope - f <= LEAP * self.radius, slope, 1)
        low_t, low_f, high_t, high_f, last_step = t, f, t, f, torch.zeros_like(t)
        for _ in range(MAX_APPROACH_STEPS):
            new_t = torch.where(active, t + f / slope, t)
            new_f = torch.where(active, evaluate_where(self.sdf, rays.at(new_t), active), f)
            step = new_t - t
            new_slope = torch.where(active, (f - new_f) / step, slope)
            steep = active & (new_slope > MIN_SLOPE)
            # Extrapolating to zero errs by the change of slope until the middle of what is left.
            bend = (2 * (new_slope - slope).abs() / (last_step + step)).clamp_min(CURVATURE / self.radius)
            left = new_f.abs() / new_slope
            error = bend / new_slope * left * (step + left) / 2
            close = steep & (error <= EXTRAPOLATION_ERROR * threshold)
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

    def _corrected(self, rays: Rays, samples: March, depth: Tensor, asked: Tensor, num_asked: int) -> March:
        """Takes the grid's age into account by one evaluation a ray, where the grid is smallest.

        What f differs from the grid there is what it differs by elsewhere on the ray, but for half the slack.
        """
        f = evaluate_where(self.sdf, rays.at(depth), asked, num_asked)
        lowest = samples.values.amin(dim=1)
        change = torch.where(asked, f - lowest, 0).clamp(-self.slack, self.slack)
        values = samples.values + change.unsqueeze(1)
        reach = samples.reach - self.slack / 2 * asked.to(f.dtype).unsqueeze(1)
        possible = torch.where(asked.unsqueeze(1), values <= reach, samples.possible)
        return replace(samples, values=values, reach=reach, possible=possible)

    def search(self, rays: Rays, samples: March) -> Found:
        """Samples the network where a surface is possible, and ever closer where samples could hide one.

        Between two samples a and b that are d apart, f is at least (f(a) + f(b) - L d) / 2, and that where
        the two cones meet (Piyavskii 1972); there the next sample is taken.

        Args:
            rays: A rays.
            samples: The grid along them.

        Returns:
            Hits and misses, settled unless a surface lies where the grid excluded one, or a dip is left.
        """
        stride = SEARCH_STRIDE
        depths = samples.depths[:, ::stride]  # (A, M)
        chances = _any_in_windows(samples.possible, stride)  # (A, M - 1)
        wanted = torch.zeros_like(depths, dtype=torch.bool)
        wanted[:, :-1] |= chances
        wanted[:, 1:] |= chances
        values, lost = self._evaluate(rays, depths, wanted, MOST_FIRST)
        for _ in range(SEARCH_ROUNDS):
            left_t, right_t, left_f, right_f = depths[:, :-1], depths[:, 1:], values[:, :-1], values[:, 1:]
            # The same two cones bound how far a surface in front of a sample inside can hide.
            hidden = chances & (left_f + right_f.abs() < self.lipschitz * (right_t - left_t))
            hidden = hidden & (left_f > 0) & before_inside(values)
            shift = torch.where(hidden, left_f - right_f.abs(), 0) / (2 * self.lipschitz)
            deepest = (left_t + right_t) / 2 + shift
            between, not_seen = self._evaluate(rays, deepest, hidden, MOST_BETWEEN)
            lost = lost | not_seen
            depths, values = _interleave(depths, deepest), _interleave(values, between)
            chances = hidden.repeat_interleave(2, dim=1)
        open_after = torch.cat((chances, torch.zeros_like(chances[:, :1])), dim=1)  # (A, M), per left end
        known = KnownSamples(depths, values, open_after)
        bounds = (self.lipschitz, self.config.sdf_threshold, self.radius)
        for _ in range(POLISH_ROUNDS):
            known = self._with_one_more(rays, known, *find_vertex(known, self.radius))
        for _ in range(DIP_ROUNDS):
            dips, bottoms = find_dips(known, *bounds)
            first = dips.to(torch.uint8).argmax(dim=1, keepdim=True)
            known = self._with_one_more(rays, known, bottoms.gather(1, first), dips.any(dim=1, keepdim=True))
        dips, _ = find_dips(known, *bounds)
        found = self._first_change(rays, known.depths, known.values)
        return replace(found, settled=found.settled & ~dips.any(dim=1) & ~lost)

    def _with_one_more(
        self, rays: Rays, samples: KnownSamples, depth: Tensor, wanted: Tensor
    ) -> KnownSamples:
        """Adds a sample at a depth (A, 1) where wanted; elsewhere one at the end that says nothing."""
        depth = torch.where(wanted, depth, samples.depths[:, -1:])
        around = torch.searchsorted(samples.depths, depth, right=True).clamp_min(1) - 1
        order = torch.cat((samples.depths, depth), dim=1).sort(dim=1, stable=True)
        columns = (
            (samples.values, self._evaluate(rays, depth, wanted, 1)[0]),
            (samples.open_after, wanted & samples.open_after.gather(1, around)),
        )
        return KnownSamples(
            order.values, *(torch.cat(pair, dim=1).gather(1, order.indices) for pair in columns)
        )

    def _first_change(self, rays: Rays, depths: Tensor, values: Tensor) -> Found:
        """Finds and refines the first sign change among (A, M) samples, infinite where not known."""
        inside = values < 0
        hit = inside.any(dim=1)
        high = inside.to(torch.uint8).argmax(dim=1, keepdim=True)
        low = last_known(values, before=high)
        bracketed = hit & (low.squeeze(1) >= 0)
        low = low.clamp_min(0)
        refined, found = refine(
            self.sdf,
            self.config,
            rays,
            (depths.gather(1, low).squeeze(1), values.gather(1, low).squeeze(1)),
            (depths.gather(1, high).squeeze(1), values.gather(1, high).squeeze(1)),
            bracketed,
        )
        at_start = hit & (high.squeeze(1) == 0)
        lowest_f, lowest = values.min(dim=1, keepdim=True)
        depth = torch.where(hit, refined, depths.gather(1, lowest).squeeze(1))
        settled = ~hit | (bracketed & found) | at_start
        return Found(hit, depth, torch.where(hit, 0, lowest_f.squeeze(1)), settled)

    def _evaluate(self, rays: Rays, depths: Tensor, wanted: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Evaluates f where wanted.

        Args:
            rays: A rays.
            depths: (A, M).
            wanted: (A, M) bool.
            most: Evaluations a ray, on average, that an accelerator has room for.

        Returns:
            (A, M) f, infinity where not wanted; (A,) rays for which there was no room.
        """
        points = rays.at(depths).reshape(-1, 3)
        values = evaluate_where(self.sdf, points, wanted.reshape(-1), most * depths.shape[0])
        values = values.reshape(depths.shape)
        no_room = values.isnan()
        return torch.where(wanted & ~no_room, values, torch.inf), no_room.any(dim=1)


def _any_in_windows(flags: Tensor, stride: int) -> Tensor:
    """Returns (A, M - 1): any of the (A, S) flags within or on the ends of each window of a stride."""
    return flags[:, :-1].reshape(flags.shape[0], -1, stride).any(dim=2) | flags[:, stride::stride]


def _slope_at_zero(samples: March) -> Tensor:
    """Returns (A,) how steeply the grid descends where it first becomes negative; zero at a ray's start."""
    inside = (samples.values < 0).to(torch.uint8).argmax(dim=1, keepdim=True)
    before = samples.values.gather(1, (inside - 1).clamp_min(0))
    return ((before - samples.values.gather(1, inside)).squeeze(1)) / samples.spacing


def _interleave(samples: Tensor, between: Tensor) -> Tensor:
    """Returns (A, M) samples with the (A, M - 1) between them, in order: (A, 2 M - 1)."""
    pairs = torch.stack((samples[:, :-1], between), dim=2).reshape(samples.shape[0], -1)
    return torch.cat((pairs, samples[:, -1:]), dim=1)
