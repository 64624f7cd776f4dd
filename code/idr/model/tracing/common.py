"""Shared by all tracers: configuration, request, result, and evaluation of f for some of the rays.

R rays, S samples along a ray. Depths and points are in the unit-sphere frame.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from idr.conf.blocks import read_block
from idr.errors import InputError
from idr.fields.sdf_grid import Sdf
from idr.geometry.spheres import SphereCrossing

log = logging.getLogger(__name__)

STRATEGIES = ("accelerated", "compiled", "fixed", "published")
CPU_TYPES = frozenset({"cpu"})
"""Device types on which reading a value does not stall the host."""
MAX_POINTS_AT_ONCE = 100_000
"""Points per network evaluation; bounds its memory."""


@dataclass(frozen=True)
class TracerConfig:
    """Keys of the block ``model.ray_tracer``.

    Attributes:
        object_bounding_sphere: Radius of the sphere around the origin that contains the object.
        sdf_threshold: Points with f at or below this value count as on the surface.
        line_search_step: Fraction of an overshooting step that the first correction keeps.
        line_step_iters: Maximum number of corrections per step.
        sphere_tracing_iters: Maximum number of steps from either end.
        n_steps: Samples along each ray that did not converge, and in each search for the minimum of f.
        n_secant_steps: False-position steps that refine a sign change.
        strategy: ``published`` is the published method; ``accelerated`` finds the same intersections with a
            fraction of its evaluations; ``compiled`` traces training rays of small hash-grid networks in
            compiled loops on a CPU (on a GPU where ``encoding.backend = triton``) and equals ``accelerated``
            otherwise; ``fixed`` traces training rays by work of fixed size, for ``train.capture``, and equals
            ``accelerated`` in evaluation.
    """

    LARGEST: ClassVar[dict[str, int]] = {
        "line_step_iters": 1000, "sphere_tracing_iters": 1000, "n_steps": 10_000, "n_secant_steps": 1000
    }  # fmt: skip

    object_bounding_sphere: float
    sdf_threshold: float = 5.0e-5
    line_search_step: float = 0.5
    line_step_iters: int = 1
    sphere_tracing_iters: int = 10
    n_steps: int = 100
    n_secant_steps: int = 8
    strategy: str = "accelerated"

    REMOVED_KEYS: ClassVar[dict[str, str]] = {"precision": "rays are traced in float32; remove the key"}

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"strategy = {self.strategy}: expected one of {', '.join(STRATEGIES)}")
        radius = self.object_bounding_sphere
        if radius <= 0:
            raise InputError(f"object_bounding_sphere = {radius}: expected a radius above 0")
        if self.n_steps < 2:
            raise InputError(f"n_steps = {self.n_steps}: expected at least 2 samples a ray")
        for name in ("line_step_iters", "sphere_tracing_iters", "n_secant_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} = {getattr(self, name)}: expected 0 or more")


def read_tracer_config(block: Mapping[str, Any]) -> TracerConfig:
    """Reads the block ``model.ray_tracer``.

    Raises:
        InputError: A key is missing, unknown or out of range, or requests the removed reduced precision.
    """
    keys = dict(block)
    if "precision" in keys:
        precision = keys.pop("precision")
        if precision != "float32":
            raise InputError(
                f"model.ray_tracer.precision = {precision}: the key was removed, since no measurement showed "
                "a benefit of tracing in TF32 or bfloat16; expected float32 or no such key; remove the key"
            )
        log.warning(
            "conf: model.ray_tracer.precision was removed: rays are traced in float32; remove the key"
        )
    return read_block(TracerConfig, keys, "model.ray_tracer")


@dataclass(frozen=True)
class Rays:
    """Rays c + t v.

    Attributes:
        origin: (R, 3) c.
        direction: (R, 3) v, unit length.
    """

    origin: Tensor
    direction: Tensor

    def at(self, depth: Tensor) -> Tensor:
        """Returns the points at depths (R,) as (R, 3), or at (R, S) as (R, S, 3)."""
        if depth.dim() == 1:
            return self.origin + depth.unsqueeze(-1) * self.direction
        return self.origin.unsqueeze(1) + depth.unsqueeze(-1) * self.direction.unsqueeze(1)

    def subset(self, index: Tensor | slice) -> Rays:
        """Returns the rays at an index, a mask or a slice."""
        return Rays(self.origin[index], self.direction[index])


@dataclass(frozen=True)
class TraceRequest:
    """Rays to trace. Build one with `for_training` or `for_evaluation`.

    Attributes:
        sdf: f.
        rays: R rays.
        crossing: Their crossing of the bounding sphere, fields (R,).
        object_mask: (R,) bool, the input masks; evaluation ignores them.
        training: Whether rays without a hit inside the mask must end at the minimum of f, for the mask loss.
        search_fractions: (S,) positions in [0, 1] of the minimum search's samples along each chord; empty in
            evaluation.
        version: Equal in two requests only if f is the same function in both; None if that is unknown.
    """

    sdf: Sdf
    rays: Rays
    crossing: SphereCrossing
    object_mask: Tensor
    training: bool
    search_fractions: Tensor
    version: Hashable = None

    @classmethod
    def for_training(
        cls, sdf: Sdf, rays: Rays, crossing: SphereCrossing, object_mask: Tensor, search_fractions: Tensor
    ) -> TraceRequest:
        """Returns the request of a training step."""
        return cls(sdf, rays, crossing, object_mask, True, search_fractions)

    @classmethod
    def for_evaluation(
        cls, sdf: Sdf, rays: Rays, crossing: SphereCrossing, version: Hashable = None
    ) -> TraceRequest:
        """Returns the request of a rendering."""
        everywhere = torch.ones_like(crossing.crosses)
        return cls(sdf, rays, crossing, everywhere, False, rays.origin.new_empty(0), version)

    def subset(self, index: Tensor) -> TraceRequest:
        """Returns the request for the rays at an index."""
        return replace(
            self,
            rays=self.rays.subset(index),
            crossing=self.crossing.subset(index),
            object_mask=self.object_mask[index],
        )


@dataclass(frozen=True)
class TraceResult:
    """Where rays ended, without gradients.

    Attributes:
        depth: (R,) depth t of the point c + t v. For rays without a hit: the point that the mask loss uses
            (training), or where the search ended (evaluation).
        hit: (R,) bool, the ray meets the surface.
        value: (R,) f at the points, a by-product of tracing: exact to the threshold for hits, interpolated
            elsewhere, the camera's distance to the bounding sphere for rays that miss it. None if unknown.
        num_shaded: Number of hits, in training only those inside the mask; None if unknown.
    """

    depth: Tensor
    hit: Tensor
    value: Tensor | None = None
    num_shaded: int | None = None


class Tracer:
    """Base class of all strategies. The defaults are for stateless tracers.

    Attributes:
        fixed_shapes: Whether a training step must shade all rays, so that no shape depends on what they hit.
    """

    fixed_shapes: ClassVar[bool] = False

    def trace(self, request: TraceRequest) -> TraceResult:
        """Returns depth and hit flag of every ray."""
        raise NotImplementedError

    def attach(self, network: Any) -> None:
        """Receives the network whose f will be traced; called once, before the first ray."""

    def discard(self) -> None:
        """Discards everything derived from the weights; called when they are replaced."""

    def observe(self, points: Tensor, value: Tensor, hit: Tensor) -> None:
        """Receives the values of f that a training step computes anyway.

        Args:
            points: (E, 3) points of the Eikonal term: uniform in the cube first, then the R traced points.
            value: (E,) f there.
            hit: (R,) hit flags that `trace` returned.
        """

    def state(self) -> dict[str, Any] | None:
        """Returns the state for the next training step, tensors and plain values; None if stateless."""
        return None

    def load_state(self, state: Mapping[str, Any], like: Tensor, where: str) -> None:
        """Loads the result of `state` onto the device of ``like``; ``where`` is the checkpoint's name.

        Raises:
            InputError: A part is missing or has the wrong type, shape or range.
        """


def evaluate_in_chunks(sdf: Sdf, points: Tensor) -> Tensor:
    """Evaluates f at (N, 3) points with bounded memory; returns (N,)."""
    if points.shape[0] <= MAX_POINTS_AT_ONCE:
        return sdf(points)
    return torch.cat([sdf(chunk) for chunk in points.split(MAX_POINTS_AT_ONCE)])


def is_cpu(like: Tensor) -> bool:
    """Whether a tensor is on a CPU. On an accelerator, reading a value stalls the host."""
    return like.device.type in CPU_TYPES


def sample_at(index: Tensor, depths: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns depth and value (R,) of the samples (R, S) of each ray at an index (R, 1)."""
    return depths.gather(1, index).squeeze(1), values.gather(1, index).squeeze(1)


def first_true_indices(flags: Tensor, count: int) -> Tensor:
    """Returns the indices of the first true flags without synchronizing.

    Args:
        flags: (N,) bool.
        count: Number of indices to return.

    Returns:
        (count,) indices, ascending, padded with N.
    """
    num_flags = flags.shape[0]
    rank = flags.cumsum(0) - 1
    slot = torch.where(flags & (rank < count), rank, count)  # the extra slot collects the rest
    indices = torch.full((count + 1,), num_flags, dtype=torch.long, device=flags.device)
    return indices.scatter(0, slot, torch.arange(num_flags, device=flags.device))[:count]


def evaluate_where(sdf: Sdf, points: Tensor, active: Tensor, max_points: int | None = None) -> Tensor:
    """Evaluates f where a ray is active; other rays get zero.

    A CPU evaluates only the active points. An accelerator would have to synchronize to know their number, so
    it evaluates a fixed number of points.

    Args:
        sdf: f.
        points: (R, 3).
        active: (R,) bool.
        max_points: Points that an accelerator evaluates; None for all R.

    Returns:
        (R,) values; NaN at active points beyond ``max_points``.
    """
    num_points = points.shape[0]
    if is_cpu(points):
        values = points.new_zeros(num_points)
        index = active.nonzero().squeeze(1)
        if index.numel():
            values[index] = evaluate_in_chunks(sdf, points[index])
        return values
    if max_points is None or max_points >= num_points:
        return torch.where(active, evaluate_in_chunks(sdf, points), torch.zeros_like(points[:, 0]))
    index = first_true_indices(active, max_points)
    found = evaluate_in_chunks(sdf, points[index.clamp_max(num_points - 1)])
    values = torch.where(active, torch.nan, torch.zeros_like(points[:, 0]))
    return torch.cat((values, values.new_zeros(1))).scatter(0, index, found)[:num_points]
