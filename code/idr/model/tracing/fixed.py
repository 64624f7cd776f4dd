"""The tracer with fixed shapes: the same operators on tensors of the same sizes for any rays and weights.

The host reads nothing, so that a device can record a training step and repeat it (`idr.training.capture`).

R rays, S samples along a ray, P points. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from idr.geometry.spheres import SphereCrossing
from idr.model.tracing.accelerated.tracer import AcceleratedTracer
from idr.model.tracing.common import (
    Rays,
    Sdf,
    Tracer,
    TraceRequest,
    TraceResult,
    evaluate_in_chunks,
    first_true_indices,
)


@dataclass(frozen=True)
class FixedConstants:
    """Amounts of work; less of it misses thin parts, more costs time in every step.

    Attributes:
        further_steps: Shares of the rays that take further steps, if they need them, and how many.
        points_per_ray: Samples of all rays together, divided by R.
        unfinished_weight: Samples of a ray that may hit, relative to one that only needs the minimum of f.
    """

    further_steps: tuple[tuple[float, int], ...] = ((0.5, 8), (0.25, 16))
    points_per_ray: int = 24
    unfinished_weight: int = 3


FIXED = FixedConstants()
GOLDEN = 0.381966
"""Golden section: where to divide the larger interval beside a minimum."""


@dataclass(frozen=True)
class _Zero:
    """A sign change of f on R rays: depths before and after it, with f > 0 and f <= 0.

    `kept_low` and `kept_high` count the steps since an end was replaced.
    """

    low: Tensor
    high: Tensor
    low_f: Tensor
    high_f: Tensor
    kept_low: Tensor
    kept_high: Tensor

    @classmethod
    def between(cls, low: Tensor, high: Tensor, low_f: Tensor, high_f: Tensor) -> _Zero:
        """Returns the sign change between depths (R,) with values of f (R,)."""
        return cls(low, high, low_f, high_f, torch.zeros_like(low), torch.zeros_like(low))

    def ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the arguments of `between`."""
        return self.low, self.high, self.low_f, self.high_f

    def secant(self) -> Tensor:
        """Returns the zero (R,) of the line through both ends."""
        return self.low + self.low_f / (self.low_f - self.high_f) * (self.high - self.low)

    def next_depth(self) -> Tensor:
        """Returns the depth (R,) of the next evaluation: f is halved at an end that stays (Illinois rule)."""
        low_f = self.low_f * (1 - self.kept_low).clamp_max(0).exp2()
        high_f = self.high_f * (1 - self.kept_high).clamp_max(0).exp2()
        return self.low + low_f / (low_f - high_f) * (self.high - self.low)

    def with_value(self, depth: Tensor, value: Tensor, flags: Tensor) -> _Zero:
        """Replaces one of the ends by a depth (R,) with f there (R,), where flagged (R,)."""
        outside, inside = flags & (value > 0), flags & (value <= 0)
        return _Zero(
            torch.where(outside, depth, self.low),
            torch.where(inside, depth, self.high),
            torch.where(outside, value, self.low_f),
            torch.where(inside, value, self.high_f),
            torch.where(outside, 0, self.kept_low + 1),
            torch.where(inside, 0, self.kept_high + 1),
        )


@dataclass(frozen=True)
class _Minimum:
    """A minimum of f on R rays: three depths, ascending, and f at the middle one."""

    low: Tensor
    depth: Tensor
    high: Tensor
    value: Tensor

    def next_depth(self) -> Tensor:
        """Returns the depth (R,) that divides the larger interval."""
        return self.depth + GOLDEN * (torch.where(self._is_right(), self.high, self.low) - self.depth)

    def with_value(self, depth: Tensor, value: Tensor) -> _Minimum:
        """Returns the minimum after f was evaluated at `next_depth`."""
        right, better = self._is_right(), value < self.value
        return _Minimum(
            torch.where(better == right, torch.where(right, self.depth, depth), self.low),
            torch.where(better, depth, self.depth),
            torch.where(better != right, torch.where(right, depth, self.depth), self.high),
            torch.where(better, value, self.value),
        )

    def where(self, flags: Tensor, other: _Minimum) -> _Minimum:
        """Returns this minimum where flagged (R,), elsewhere another one."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Minimum(*(torch.where(flags, own, others) for own, others in pairs))

    def _is_right(self) -> Tensor:
        return self.high - self.depth > self.depth - self.low


@dataclass(frozen=True)
class _Front:
    """How far R rays have come.

    Attributes:
        depth: Depths of the last evaluations.
        value: f there.
        converged: f is within the threshold there, or at most the threshold at the near end.
        zero: The first sign change; none where `high_f` > 0.
        closest: The smallest f within the bounding sphere.
    """

    depth: Tensor
    value: Tensor
    converged: Tensor
    zero: _Zero
    closest: _Minimum

    @classmethod
    def at_near_end(cls, sdf: Sdf, rays: Rays, crossing: SphereCrossing, threshold: float) -> _Front:
        """Evaluates f where rays enter the bounding sphere."""
        near = crossing.near
        value = evaluate_in_chunks(sdf, rays.at(near))
        zero = _Zero.between(near, near, value, torch.ones_like(value))
        closest = _Minimum(near, near, torch.minimum(near + value, crossing.far), value)
        return cls(near, value, value <= threshold, zero, closest)

    def step(self, sdf: Sdf, rays: Rays, far: Tensor, threshold: float) -> _Front:
        """Steps by f, or by false position after a sign change; converged rays and those past `far` stay."""
        active = ~self.converged & (self.depth < far)
        step = torch.where(self.zero.high_f <= 0, self.zero.next_depth(), self.depth + self.value)
        depth = torch.where(active, step, self.depth)
        value = torch.where(active, evaluate_in_chunks(sdf, rays.at(depth)), self.value)
        here = _Minimum(self.depth, depth, torch.minimum(depth + value, far), value)
        is_closest = active & (depth < far) & (value < self.closest.value)
        return _Front(
            depth,
            value,
            self.converged | (value.abs() <= threshold),
            self.zero.with_value(depth, value, active),
            here.where(is_closest, self.closest),
        )

    def subset(self, index: Tensor) -> _Front:
        """Returns the rays at an index (A,)."""
        return self._of([x[index] for x in self._tensors()])

    def replaced(self, index: Tensor, new: _Front) -> _Front:
        """Replaces the rays at an index (A,); R stands for none."""
        pairs = zip(self._tensors(), new._tensors(), strict=True)
        return self._of([torch.cat((x, x[:1])).index_copy(0, index, y)[: x.shape[0]] for x, y in pairs])

    def _tensors(self) -> list[Tensor]:
        own = (self.depth, self.value, self.converged)
        return [*own, *vars(self.zero).values(), *vars(self.closest).values()]

    @classmethod
    def _of(cls, tensors: list[Tensor]) -> _Front:
        return cls(tensors[0], tensors[1], tensors[2], _Zero(*tensors[3:9]), _Minimum(*tensors[9:]))


class FixedTracer(AcceleratedTracer):
    """Sphere tracing, samples and refinements of fixed number in training; `AcceleratedTracer` in evaluation.

    Each ray takes ``sphere_tracing_iters`` steps of f from the near end; once a step lands inside, further
    ones are of false position. Rays that may still hit, and those that need the minimum of f for the mask
    loss, share a fixed number of samples, up to ``n_steps`` each. With ``n_secant_steps`` evaluations each,
    false position refines sign changes, and golden sections the smallest samples.

    Differs from the published tracer: rays start from the near end alone. A step that lands inside is not
    taken back. A miss ends at a refined minimum.
    """

    fixed_shapes = True
    observe, state, load_state = Tracer.observe, Tracer.state, Tracer.load_state  # training has no grid

    @torch.no_grad()
    def trace(self, request: TraceRequest) -> TraceResult:
        """Traces rays, see `Tracer.trace`."""
        if not request.training:
            return super().trace(request)
        sdf, rays, crossing, inside = request.sdf, request.rays, request.crossing, request.object_mask
        front = self._march(request)
        depth, zero, closest, converged = front.depth, front.zero, front.closest, front.converged
        in_sphere = crossing.crosses & (depth < crossing.far)
        bracketed = in_sphere & ~converged & (zero.high_f <= 0)
        hit = in_sphere & converged | bracketed
        unfinished = in_sphere & ~hit
        # Rays that only the mask loss uses end at the minimum of f: of hits, behind the surface.
        mask_only = crossing.crosses & ~unfinished & (~inside | ~hit)

        near = torch.where(unfinished | hit, depth, crossing.near)
        weights = FIXED.unfinished_weight * unfinished.long() + mask_only.long()
        depths, values = self._sample(sdf, rays, near, crossing.far, weights)  # (R, S)
        minimum = _smallest(depths, values)
        minimum = closest.where(~hit & (closest.value < minimum.value), minimum)
        change, has_change = _first_change(depths, values)
        found = has_change & crossing.crosses & ~hit
        ends = zip(change, zero.ends(), strict=True)
        zero = _Zero.between(*(torch.where(found, new, old) for new, old in ends))
        hit, refined = hit | found, (bracketed | found) & inside
        for _ in range(self.config.n_secant_steps):
            at = torch.where(refined, zero.next_depth(), minimum.next_depth())
            value = evaluate_in_chunks(sdf, rays.at(at))
            zero, minimum = zero.with_value(at, value, refined), minimum.with_value(at, value)
        depth = torch.where(refined, zero.secant(), depth)
        depth = torch.where(hit & inside, depth, minimum.depth)
        closest_to_origin = -(rays.direction * rays.origin).sum(dim=1)
        return TraceResult(torch.where(crossing.crosses, depth, closest_to_origin), hit)

    def _march(self, request: TraceRequest) -> _Front:
        """Steps from the near end; a share of the rays, of those that need it, takes further steps."""
        sdf, rays, far = request.sdf, request.rays, request.crossing.far
        front = _Front.at_near_end(sdf, rays, request.crossing, self.config.sdf_threshold)
        num_rays = far.shape[0]
        for _ in range(self.config.sphere_tracing_iters):
            front = front.step(sdf, rays, far, self.config.sdf_threshold)
        for share, num_steps in FIXED.further_steps:
            wanted = request.crossing.crosses & ~front.converged & (front.depth < far)
            index = first_true_indices(wanted, math.ceil(share * num_rays))
            some = index.clamp_max(num_rays - 1)  # absent ones repeat the last ray
            further = front.subset(some)
            for _ in range(num_steps):
                further = further.step(sdf, rays.subset(some), far[some], self.config.sdf_threshold)
            front = front.replaced(index, further)
        return front

    def _sample(
        self, sdf: Sdf, rays: Rays, near: Tensor, far: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluates f at equidistant samples from near to far, in numbers in proportion to weights (R,).

        Returns:
            Depths (R, S) and f there. Beyond a ray's samples f is infinite, and the depth that of the last.
        """
        num_rays, num_points = near.shape[0], FIXED.points_per_ray * near.shape[0]
        share = torch.div(num_points, weights.sum().clamp_min(1), rounding_mode="floor")
        counts = (weights * share).clamp_max(self.config.n_steps)  # (R,)
        ends = counts.cumsum(0)
        point = torch.arange(num_points, device=near.device)
        owner = torch.searchsorted(ends, point, right=True).clamp_max(num_rays - 1)  # (P,)
        first, last = ends - counts, (counts - 1).clamp_min(1)
        spacing = (far - near) / last
        depths = near[owner] + (point - first[owner]).clamp_max(last[owner]) * spacing[owner]
        values = evaluate_in_chunks(sdf, rays.subset(owner).at(depths))

        sample = torch.arange(self.config.n_steps, device=near.device)  # (S,)
        at = (first.unsqueeze(1) + sample).clamp_max(num_points - 1)  # (R, S)
        table = torch.where(sample < counts.unsqueeze(1), values[at], torch.inf)
        return near.unsqueeze(1) + torch.minimum(sample, last.unsqueeze(1)) * spacing.unsqueeze(1), table


def _smallest(depths: Tensor, values: Tensor) -> _Minimum:
    """Returns the smallest of samples (R, S) between its neighbors."""
    index, last = values.argmin(dim=1, keepdim=True), values.shape[1] - 1
    around = torch.cat(((index - 1).clamp_min(0), index, (index + 1).clamp_max(last)), dim=1)
    low, depth, high = depths.gather(1, around).unbind(1)
    return _Minimum(low, depth, high, values.gather(1, index).squeeze(1))


def _first_change(depths: Tensor, values: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Returns the first sign change of samples (R, S), see `_Zero.ends`, and whether there is one."""
    negative = values <= 0
    after = negative.to(torch.uint8).argmax(dim=1, keepdim=True)
    pair = torch.cat(((after - 1).clamp_min(0), after), dim=1)
    low_f, high_f = values.gather(1, pair).unbind(1)
    return (*depths.gather(1, pair).unbind(1), low_f, high_f), (low_f > 0) & (high_f <= 0)
