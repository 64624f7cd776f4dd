"""The published tracer: sphere tracing from both ends, then sampling between them where it did not converge.

R rays, S samples along a ray, A rays of a subset. Depths and points are in the unit-sphere frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idr.geometry.spheres import SphereCrossing
from idr.model.tracing.common import (
    Rays,
    Sdf,
    Tracer,
    TracerConfig,
    TraceRequest,
    TraceResult,
    evaluate_in_chunks,
    evaluate_where,
    first_true_indices,
    is_cpu,
    sample_at,
)


@dataclass(frozen=True)
class _Ends:
    """Depths (R,) of sphere tracing from both ends."""

    near: Tensor
    far: Tensor
    near_unfinished: Tensor  # (R,) bool, f at the near end is above the threshold and the ends have not met


class PublishedTracer(Tracer):
    """Finds the first intersection of rays with the surface by the published method.

    Args:
        config: The block ``model.ray_tracer``.
        read_counts: Accelerators only. If True, the host synchronizes once to count the rays that need
            sampling; if False, it samples all rays, which suits the few that another tracer left unresolved.
    """

    def __init__(self, config: TracerConfig, read_counts: bool = True) -> None:
        self.config, self.read_counts = config, read_counts

    @torch.no_grad()
    def trace(self, request: TraceRequest) -> TraceResult:
        """Traces rays, see `Tracer.trace`."""
        sdf, rays, crossing, inside = request.sdf, request.rays, request.crossing, request.object_mask
        ends = self._trace_from_both_ends(sdf, rays, crossing)
        depth, hit = ends.near, ends.near < ends.far
        # Rays that only the mask loss uses end at the minimum of f.
        mask_only = ~ends.near_unfinished & (~inside | ~hit)
        to_search = mask_only & crossing.crosses
        sampled, searched = self._indices(ends.near_unfinished, to_search)  # (A,) each

        if sampled.numel():
            near, far, some = ends.near[sampled], ends.far[sampled], rays.subset(sampled)
            found, has_hit = self._sample(sdf, some, near, far, refine=inside[sampled])
            depth = _replace(depth, sampled, found, ends.near_unfinished)
            hit = _replace(hit, sampled, has_hit, ends.near_unfinished)
        if not request.training:
            return TraceResult(depth, hit)

        closest_to_origin = -(rays.direction * rays.origin).sum(dim=1)
        depth = torch.where(mask_only & ~crossing.crosses, closest_to_origin, depth)
        if searched.numel():
            near, far = torch.where(hit, depth, crossing.near)[searched], crossing.far[searched]
            minimum = self._minimum(sdf, rays.subset(searched), near, far, request.search_fractions)
            depth = _replace(depth, searched, minimum, to_search)
        return TraceResult(depth, hit)

    def _indices(self, *flags: Tensor) -> list[Tensor]:
        """Returns the indices of true flags, for each argument (R,); all R without ``read_counts``."""
        if is_cpu(flags[0]):
            return [some.nonzero().squeeze(1) for some in flags]
        if not self.read_counts:
            return [_all_indices(some) for some in flags]
        counts = torch.stack([some.sum() for some in flags]).tolist()
        return [first_true_indices(some, int(count)) for some, count in zip(flags, counts, strict=True)]

    def _trace_from_both_ends(self, sdf: Sdf, rays: Rays, crossing: SphereCrossing) -> _Ends:
        """Steps by f forward from the near end and backward from the far end until they stop or meet."""
        near, far = crossing.near.clone(), crossing.far.clone()
        near_active, far_active = crossing.crosses, crossing.crosses
        near_f = evaluate_where(sdf, rays.at(near), near_active)
        far_f = evaluate_where(sdf, rays.at(far), far_active)
        for _ in range(self.config.sphere_tracing_iters):
            near_active = near_active & (near_f > self.config.sdf_threshold)
            far_active = far_active & (far_f > self.config.sdf_threshold)
            near, near_f = self._step(sdf, rays, near, near_f, near_active, sign=1.0)
            far, far_f = self._step(sdf, rays, far, far_f, far_active, sign=-1.0)
            apart = near < far
            near_active, far_active = near_active & apart, far_active & apart
        return _Ends(near, far, near_active & (near_f > self.config.sdf_threshold))

    def _step(
        self, sdf: Sdf, rays: Rays, depth: Tensor, value: Tensor, active: Tensor, sign: float
    ) -> tuple[Tensor, Tensor]:
        """Moves active ends by f; a step that lands inside moves back by ever smaller fractions.

        Returns the new depths and f there; f is 0 for ends that did not move.
        """
        length = torch.where(active, value, torch.zeros_like(value)) * sign
        depth = depth + length
        value = evaluate_where(sdf, rays.at(depth), active)
        for k in range(self.config.line_step_iters):
            inside = value < 0
            back = (1 - self.config.line_search_step) / 2**k * length
            depth = torch.where(inside, depth - back, depth)
            value = torch.where(inside, evaluate_where(sdf, rays.at(depth), inside), value)
        return depth, value

    def _sample(
        self, sdf: Sdf, rays: Rays, near: Tensor, far: Tensor, refine: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Finds the first sign change among S equidistant samples from near to far, (A,) each.

        Returns:
            depth: (A,) the refined sign change for rays in `refine` (A,) that have one, else the smallest
                sample's.
            hit: (A,) bool, there is a sign change.
        """
        num_samples = self.config.n_steps
        fractions = torch.linspace(0, 1, num_samples, dtype=near.dtype, device=near.device)  # (S,)
        depths = near.unsqueeze(1) + fractions * (far - near).unsqueeze(1)  # (A, S)
        values = evaluate_in_chunks(sdf, rays.at(depths).reshape(-1, 3)).reshape(depths.shape)  # (A, S)

        negative = values < 0
        hit = negative.any(dim=1)
        first = negative.to(torch.uint8).argmax(dim=1, keepdim=True)  # (A, 1), 0 without a sign change
        depth = depths.gather(1, values.argmin(dim=1, keepdim=True)).squeeze(1)

        # After S samples per ray, refining all rays costs an accelerator less than synchronizing.
        refined = (hit & refine).nonzero().squeeze(1) if is_cpu(hit) else _all_indices(hit)
        if refined.numel():
            samples, high = (depths[refined], values[refined]), first[refined]
            low = sample_at((high - 1).clamp_min(0), *samples)
            zero = self._regula_falsi(sdf, rays.subset(refined), low, sample_at(high, *samples))
            depth = _replace(depth, refined, zero, hit & refine)
        return depth, hit

    def _regula_falsi(
        self, sdf: Sdf, rays: Rays, low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Refines a sign change by false position.

        `low` and `high` are depths (A,) before and after it, and f there. At the returned depths (A,) f is
        not evaluated.

        Differs: if the very first sample is inside there is no bracket (low and high coincide), and that
        sample is returned; the published code wraps around to the last one.
        """
        (low_t, low_f), (high_t, high_f) = low, high
        bracketed = low_t != high_t

        def false_position() -> Tensor:
            step = low_f * (high_t - low_t) / (high_f - low_f)
            return torch.where(bracketed, low_t - step, high_t)

        t = false_position()
        for _ in range(self.config.n_secant_steps):
            f = evaluate_in_chunks(sdf, rays.at(t))
            low_t, low_f = torch.where(f > 0, t, low_t), torch.where(f > 0, f, low_f)
            high_t, high_f = torch.where(f < 0, t, high_t), torch.where(f < 0, f, high_f)
            t = false_position()
        return t

    def _minimum(self, sdf: Sdf, rays: Rays, near: Tensor, far: Tensor, fractions: Tensor) -> Tensor:
        """Returns the depth (A,) of the smallest of S samples between near and far, (A,) each."""
        depths = near.unsqueeze(1) + fractions * (far - near).unsqueeze(1)  # (A, S)
        values = evaluate_in_chunks(sdf, rays.at(depths).reshape(-1, 3)).reshape(depths.shape)
        return depths.gather(1, values.argmin(dim=1, keepdim=True)).squeeze(1)


def _all_indices(flags: Tensor) -> Tensor:
    return torch.arange(flags.shape[0], device=flags.device)


def _replace(old: Tensor, index: Tensor, new: Tensor, flags: Tensor) -> Tensor:
    """Returns old (R,) with new (A,) at those rays of an index (A,) that are flagged (R,)."""
    return old.index_copy(0, index, torch.where(flags[index], new, old[index]))
