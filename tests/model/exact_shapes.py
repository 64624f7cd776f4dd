"""Shapes whose signed distance and whose first intersection with a ray are known in closed form.

N points, R rays. A shape is the union of solids; each solid knows the depths between which a ray is in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from idr.geometry.spheres import SphereCrossing, ray_sphere_intersection
from idr.model.tracing import Rays, TraceRequest

DOUBLE = torch.float64
Interval = tuple[Tensor, Tensor]  # depths (R,) where rays enter and leave; infinity and its negative for none


class Solid(Protocol):
    """What a union is made of."""

    def sdf(self, x: Tensor) -> Tensor:
        """Signed distance (N,) of points (N, 3)."""

    def intervals(self, rays: Rays) -> list[Interval]:
        """Stretches of lines that lie in the solid."""


def _interval(hit: Tensor, enter: Tensor, leave: Tensor) -> Interval:
    return torch.where(hit, enter, torch.inf), torch.where(hit, leave, -torch.inf)


@dataclass(frozen=True)
class Ball:
    center: Sequence[float] = (0.0, 0.0, 0.0)
    radius: float = 0.5

    def sdf(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor(self.center)).norm(dim=1) - self.radius

    def intervals(self, rays: Rays) -> list[Interval]:
        o = rays.origin - rays.origin.new_tensor(self.center)
        along = (o * rays.direction).sum(dim=1)
        beside = (
            (o - along.unsqueeze(1) * rays.direction).square().sum(dim=1)
        )  # no cancellation for thin parts
        half = (self.radius**2 - beside).clamp_min(0).sqrt()
        return [_interval(beside < self.radius**2, -along - half, -along + half)]


@dataclass(frozen=True)
class Shell:
    """A hollow ball: points within half a thickness of a sphere."""

    radius: float
    half_thickness: float

    def sdf(self, x: Tensor) -> Tensor:
        return (x.norm(dim=1) - self.radius).abs() - self.half_thickness

    def intervals(self, rays: Rays) -> list[Interval]:
        ((enter, leave),) = Ball(radius=self.radius + self.half_thickness).intervals(rays)
        ((enter_hollow, leave_hollow),) = Ball(radius=self.radius - self.half_thickness).intervals(rays)
        through = torch.isfinite(enter_hollow)
        return [
            (enter, torch.where(through, enter_hollow, leave)),
            _interval(through, leave_hollow, leave),
        ]


@dataclass(frozen=True)
class Box:
    """A box, turned by a rotation whose rows are its axes."""

    half: Sequence[float]
    center: Sequence[float] = (0.0, 0.0, 0.0)
    rotation: Tensor | None = None

    def _local(self, x: Tensor) -> Tensor:
        return x if self.rotation is None else x @ self.rotation.T.to(x)

    def sdf(self, x: Tensor) -> Tensor:
        q = self._local(x - x.new_tensor(self.center)).abs() - x.new_tensor(self.half)
        return q.clamp_min(0).norm(dim=1) + q.amax(dim=1).clamp_max(0)

    def intervals(self, rays: Rays) -> list[Interval]:
        o = self._local(rays.origin - rays.origin.new_tensor(self.center))
        v = self._local(rays.direction)
        v = torch.where(v == 0, 1e-300, v)
        half = o.new_tensor(self.half)
        a, b = (-half - o) / v, (half - o) / v
        enter, leave = torch.minimum(a, b).amax(dim=1), torch.maximum(a, b).amin(dim=1)
        return [_interval(enter < leave, enter, leave)]


@dataclass(frozen=True)
class Rod:
    """A capsule: points within a radius of a segment."""

    start: Sequence[float]
    end: Sequence[float]
    radius: float

    def sdf(self, x: Tensor) -> Tensor:
        a, axis = x.new_tensor(self.start), x.new_tensor(self.end) - x.new_tensor(self.start)
        h = (((x - a) @ axis) / (axis @ axis)).clamp(0, 1)
        return (x - a - h.unsqueeze(1) * axis).norm(dim=1) - self.radius

    def intervals(self, rays: Rays) -> list[Interval]:
        a, b = rays.origin.new_tensor(self.start), rays.origin.new_tensor(self.end)
        length = (b - a).norm()
        u = (b - a) / length
        o = rays.origin - a
        v_across = rays.direction - (rays.direction @ u).unsqueeze(1) * u
        o_across = o - (o @ u).unsqueeze(1) * u
        square = v_across.square().sum(dim=1)
        middle = -(o_across * v_across).sum(dim=1) / square
        beside = (o_across + middle.unsqueeze(1) * v_across).square().sum(dim=1)
        half = ((self.radius**2 - beside).clamp_min(0) / square).sqrt()
        foot, slope = o @ u, rays.direction @ u
        ends = torch.stack((-foot / slope, (length - foot) / slope))  # depths at the two flat ends
        enter = torch.maximum(middle - half, ends.amin(dim=0))
        leave = torch.minimum(middle + half, ends.amax(dim=0))
        caps = [Ball(end, self.radius).intervals(rays)[0] for end in (self.start, self.end)]
        return [_interval((beside < self.radius**2) & (enter < leave), enter, leave), *caps]


@dataclass(frozen=True)
class Union:
    """A shape."""

    solids: Sequence[Solid]

    def sdf(self, x: Tensor) -> Tensor:
        return torch.stack([solid.sdf(x) for solid in self.solids]).amin(dim=0)

    def first(self, rays: Rays, crossing: SphereCrossing) -> tuple[Tensor, Tensor]:
        """First point of a chord of the bounding sphere that lies in the shape: depth and flag, (R,)."""
        first = torch.full_like(crossing.near, torch.inf)
        for solid in self.solids:
            for enter, leave in solid.intervals(rays):
                depth = torch.maximum(enter, crossing.near)
                met = (depth < leave) & (depth < crossing.far) & crossing.crosses
                first = torch.minimum(first, torch.where(met, depth, torch.inf))
        return first, torch.isfinite(first)


def rotation(seed: int) -> Tensor:
    """A random rotation (3, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=DOUBLE)).Q


def tilted(degrees: float) -> Tensor:
    """A rotation about a skew axis in the x-y plane: the normal of a z-sheet leaves the z axis."""
    angle = math.radians(degrees)
    axis = torch.tensor([0.8, 0.6, 0.0], dtype=DOUBLE)
    cross = torch.tensor([[0, 0, 0.6], [0, 0, -0.8], [-0.6, 0.8, 0]], dtype=DOUBLE)
    return (
        math.cos(angle) * torch.eye(3, dtype=DOUBLE)
        + math.sin(angle) * cross
        + (1 - math.cos(angle)) * torch.outer(axis, axis)
    )


def crossing_of(rays: Rays, radius: float) -> SphereCrossing:
    crossing = ray_sphere_intersection(rays.origin, rays.direction.unsqueeze(1), radius)
    return SphereCrossing(crossing.near[:, 0], crossing.far[:, 0], crossing.crosses[:, 0])


def rays_at(num: int, seed: int, distance: float = 2.2, spread: float = 0.8, target=(0.0, 0.0, 0.0)) -> Rays:
    """Rays from random places at a distance, aimed at random points of a cube around a target."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.randn(num, 3, generator=generator, dtype=DOUBLE)
    origin = origin / origin.norm(dim=1, keepdim=True) * distance
    cube = 2 * torch.rand(num, 3, generator=generator, dtype=DOUBLE) - 1
    direction = torch.tensor(target, dtype=DOUBLE) + spread * cube - origin
    return Rays(origin, direction / direction.norm(dim=1, keepdim=True))


def trace_request(
    sdf, rays: Rays, crossing: SphereCrossing, object_mask: Tensor, fractions: Tensor | None, version=None
) -> TraceRequest:
    """A request of training with the fractions of the minimum search, or of evaluation without."""
    if fractions is None:
        return TraceRequest.for_evaluation(sdf, rays, crossing, version)
    return TraceRequest.for_training(sdf, rays, crossing, object_mask, fractions)
