"""What all tracers share: their configuration, their result, evaluating f at some of the rays.

R rays.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.errors import InputError
from idr.fields.sdf_grid import Sdf
from idr.geometry.spheres import SphereCrossing

STRATEGIES = ("accelerated", "compiled", "published")
PRECISIONS = ("float32", "tf32", "bf16")
FREE_READS = frozenset({"cpu"})  # types of devices whose values the host need not wait for
MAX_POINTS_AT_ONCE = 100_000  # bounds the memory of one network evaluation


@dataclass(frozen=True)
class TracerConfig:
    """Keys of the block ``model.ray_tracer``.

    Attributes:
        object_bounding_sphere: Radius of the sphere around the origin that holds the object.
        sdf_threshold: f at most this counts as on the surface.
        line_search_step: Fraction of an overshooting step that is kept at the first correction.
        line_step_iters: Most corrections of one step.
        sphere_tracing_iters: Most steps from either end.
        n_steps: Samples of the search along rays that did not converge, and of the smallest-f search.
        n_secant_steps: Refinements of a sign change.
        strategy: Which tracer: ``accelerated`` finds the same intersections as ``published``, the published
            method, with a fraction of the evaluations; ``compiled`` trains small networks on a hash grid by
            compiled loops on a CPU, and is ``accelerated`` in all else.
        precision: Of the evaluations: ``float32``, or ``tf32`` or ``bf16``, which GPUs compute faster. Hits
            are checked, and where need be found, in float32 in any case.
    """

    object_bounding_sphere: float
    sdf_threshold: float = 5.0e-5
    line_search_step: float = 0.5
    line_step_iters: int = 1
    sphere_tracing_iters: int = 10
    n_steps: int = 100
    n_secant_steps: int = 8
    strategy: str = "accelerated"
    precision: str = "float32"

    def __post_init__(self) -> None:
        where = "model.ray_tracer"
        if self.strategy not in STRATEGIES:
            raise InputError(f"{where}.strategy = {self.strategy}: expected one of {', '.join(STRATEGIES)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"{where}.precision = {self.precision}: expected one of {', '.join(PRECISIONS)}")
        if self.object_bounding_sphere <= 0:
            raise InputError(
                f"{where}.object_bounding_sphere = {self.object_bounding_sphere}: expected a radius above 0"
            )
        if self.n_steps < 2:
            raise InputError(f"{where}.n_steps = {self.n_steps}: expected at least 2 samples a ray")
        for name in ("line_step_iters", "sphere_tracing_iters", "n_secant_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"{where}.{name} = {getattr(self, name)}: expected 0 or more")


@dataclass(frozen=True)
class Rays:
    """Rays c + t v.

    Attributes:
        origin: (R, 3) c.
        direction: (R, 3) v, of length one.
    """

    origin: Tensor
    direction: Tensor

    def at(self, depth: Tensor) -> Tensor:
        """Returns the points at depths (R,) as (R, 3), or at (R, S) as (R, S, 3)."""
        if depth.dim() == 1:
            return self.origin + depth.unsqueeze(-1) * self.direction
        return self.origin.unsqueeze(1) + depth.unsqueeze(-1) * self.direction.unsqueeze(1)

    def subset(self, index: Tensor | slice) -> Rays:
        """Returns the rays of an index, a mask or a slice."""
        return Rays(self.origin[index], self.direction[index])


@dataclass(frozen=True)
class TraceResult:
    """Where rays ended. No gradient.

    Attributes:
        depth: (R,) depth t, unit-sphere frame; the ray's point is c + t v. For rays without a hit, the
            point that the mask loss looks at (training) or where the search ended (evaluation).
        hit: (R,) bool, the ray meets the surface.
        value: (R,) f at the points, as well as it is known without another evaluation: exact to the
            threshold for hits, interpolated elsewhere, the camera's distance to the bounding sphere on rays
            that miss it; None where nothing is known.
        num_shaded: Number of hits, in training of those inside the mask, if it is known.
    """

    depth: Tensor
    hit: Tensor
    value: Tensor | None = None
    num_shaded: int | None = None


class Tracer:
    """What all strategies offer; those that carry nothing from step to step leave the rest as it is."""

    def trace(
        self,
        sdf: Sdf,
        rays: Rays,
        crossing: SphereCrossing,
        object_mask: Tensor,
        smallest_depths: Tensor | None = None,
        version: Hashable = None,
    ) -> TraceResult:
        """Traces rays.

        Args:
            sdf: The signed distance.
            rays: R rays.
            crossing: Their crossing of the bounding sphere, fields (R,).
            object_mask: (R,) the photographs' mask; plays no part in evaluation.
            smallest_depths: (S,) numbers in [0, 1] that place the samples of the smallest-f search along
                each chord: given in training, None in evaluation, which has no such search.
            version: Equal for calls with the same weights; None if that is not known.

        Returns:
            Depth and hit flag of every ray.
        """
        raise NotImplementedError

    def attach(self, network: Any) -> None:
        """Learns which network f is, before the first ray."""

    def discard(self) -> None:
        """Forgets what was learned of the weights: they were replaced."""

    def report(self, points: Tensor, value: Tensor, hit: Tensor) -> None:
        """Hears f at the points of a training step, when it is known anyway.

        Args:
            points: (E, 3) points of the Eikonal term: in the cube, then R traced ones.
            value: (E,) f there.
            hit: (R,) hit flags that were returned.
        """

    def carried(self) -> dict[str, Any] | None:
        """Returns what the next training step depends on, tensors and plain values; None if on nothing."""
        return None

    def restore(self, carried: Mapping[str, Any], like: Tensor) -> None:
        """Goes on from what `carried` returned; ``like`` gives the device."""


def evaluate_in_chunks(sdf: Sdf, points: Tensor) -> Tensor:
    """Evaluates f at (N, 3) points, a bounded number at once; returns (N,)."""
    if points.shape[0] <= MAX_POINTS_AT_ONCE:
        return sdf(points)
    return torch.cat([sdf(chunk) for chunk in points.split(MAX_POINTS_AT_ONCE)])


def reads_are_free(like: Tensor) -> bool:
    """Whether the host can look at values without waiting: on a CPU. An accelerator would have to stop."""
    return like.device.type in FREE_READS


def first_set(flags: Tensor, count: int) -> Tensor:
    """Lists set flags without reading how many there are.

    Args:
        flags: (N,) bool.
        count: How many to list.

    Returns:
        (count,) numbers of the first set flags, ascending; N where fewer are set.
    """
    num_flags = flags.shape[0]
    rank = flags.cumsum(0) - 1
    slot = torch.where(flags & (rank < count), rank, count)  # the last slot takes what is not listed
    listed = torch.full((count + 1,), num_flags, dtype=torch.long, device=flags.device)
    return listed.scatter(0, slot, torch.arange(num_flags, device=flags.device))[:count]


def evaluate_where(sdf: Sdf, points: Tensor, active: Tensor, at_most: int | None = None) -> Tensor:
    """Evaluates f where a ray is active, zero elsewhere.

    On a CPU only the active points are computed. An accelerator would have to stop and tell the host how
    many there are, so there a number that is known beforehand is computed.

    Args:
        sdf: The signed distance.
        points: (R, 3).
        active: (R,) bool.
        at_most: Most points that an accelerator computes; None for all R.

    Returns:
        (R,) values; NaN at active points beyond ``at_most``.
    """
    num_points = points.shape[0]
    if reads_are_free(points):
        values = points.new_zeros(num_points)
        index = active.nonzero().squeeze(1)
        if index.numel():
            values[index] = evaluate_in_chunks(sdf, points[index])
        return values
    if at_most is None or at_most >= num_points:
        return torch.where(active, evaluate_in_chunks(sdf, points), torch.zeros_like(points[:, 0]))
    index = first_set(active, at_most)
    found = evaluate_in_chunks(sdf, points[index.clamp_max(num_points - 1)])
    values = torch.where(active, torch.nan, torch.zeros_like(points[:, 0]))
    return torch.cat((values, values.new_zeros(1))).scatter(0, index, found)[:num_points]
