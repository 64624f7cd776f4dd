"""The published tracer: sphere tracing from both ends, then a search along what is left.

R rays, S samples along a ray, A rays of a subset. Depths and points are in the unit-sphere frame.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from idr.geometry.spheres import SphereCrossing
from idr.model.tracing.common import (
    Rays,
    Sdf,
    Tracer,
    TracerConfig,
    TraceResult,
    evaluate_in_chunks,
    evaluate_where,
    first_set,
    reads_are_free,
)


@dataclass(frozen=True)
class _Ends:
    """State of sphere tracing from both ends.

    Attributes:
        near: (R,) depth of the near end.
        far: (R,) depth of the far end.
        near_unfinished: (R,) the near end's f is still above the threshold, and the ends have not met.
    """

    near: Tensor
    far: Tensor
    near_unfinished: Tensor


@dataclass(frozen=True)
class _Sampled:
    """Result of the sampler on a subset of A rays.

    Attributes:
        depth: (A,) the sign change, refined where asked for, else the sample of smallest f.
        hit: (A,) there is a sign change.
    """

    depth: Tensor
    hit: Tensor


class PublishedTracer(Tracer):
    """Finds the first intersection of rays with the surface as the published method does.

    Args:
        config: The block ``model.ray_tracer``.
        reads_which: On an accelerator, have the host read, once, how many rays need a search; if not, all
            rays are searched whether they need it or not: for those few that another tracer leaves over.
    """

    def __init__(self, config: TracerConfig, reads_which: bool = True) -> None:
        self.config, self.reads_which = config, reads_which

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
        """Traces rays, see `Tracer.trace`."""
        training = smallest_depths is not None
        ends = self._trace_from_both_ends(sdf, rays, crossing)
        depth, hit = ends.near, ends.near < ends.far
        # Rays that only the mask loss looks at, for which the smallest f along them is searched.
        open_rays = ~ends.near_unfinished & (~object_mask | ~hit)
        wanted = open_rays & crossing.crosses
        sampled, searched = self._chosen(ends.near_unfinished, wanted)  # (A,) each

        if sampled.numel():
            refine = object_mask[sampled] if training else torch.ones_like(object_mask[sampled])
            found = self._sample(sdf, rays.subset(sampled), ends.near[sampled], ends.far[sampled], refine)
            depth = _replaced(depth, sampled, found.depth, ends.near_unfinished)
            hit = _replaced(hit, sampled, found.hit, ends.near_unfinished)
        if smallest_depths is None:
            return TraceResult(depth, hit)

        closest_to_origin = -(rays.direction * rays.origin).sum(dim=1)
        depth = torch.where(open_rays & ~crossing.crosses, closest_to_origin, depth)
        if searched.numel():
            near = torch.where(hit, depth, crossing.near)[searched]
            smallest = self._smallest(
                sdf, rays.subset(searched), near, crossing.far[searched], smallest_depths
            )
            depth = _replaced(depth, searched, smallest, wanted)
        return TraceResult(depth, hit)

    def _chosen(self, *flags: Tensor) -> list[Tensor]:
        """Returns the numbers of the rays of each of some flags (R,), or of all rays where none is read."""
        if reads_are_free(flags[0]):
            return [some.nonzero().squeeze(1) for some in flags]
        if not self.reads_which:
            return [_all(some) for some in flags]
        counts = torch.stack([some.sum() for some in flags]).tolist()
        return [first_set(some, int(count)) for some, count in zip(flags, counts, strict=True)]

    def _trace_from_both_ends(self, sdf: Sdf, rays: Rays, crossing: SphereCrossing) -> _Ends:
        """Steps by f from the near end forwards and from the far end backwards until they stop or meet."""
        near, far = crossing.near.clone(), crossing.far.clone()
        near_active, far_active = crossing.crosses, crossing.crosses
        near_f = evaluate_where(sdf, rays.at(near), near_active)
        far_f = evaluate_where(sdf, rays.at(far), far_active)
        for _ in range(self.config.sphere_tracing_iters):
            near_active = near_active & (near_f > self.config.sdf_threshold)
            far_active = far_active & (far_f > self.config.sdf_threshold)
            near, near_f = self._step(sdf, rays, near, near_f, near_active, forwards=1.0)
            far, far_f = self._step(sdf, rays, far, far_f, far_active, forwards=-1.0)
            apart = near < far
            near_active, far_active = near_active & apart, far_active & apart
        return _Ends(near, far, near_active & (near_f > self.config.sdf_threshold))

    def _step(
        self, sdf: Sdf, rays: Rays, depth: Tensor, value: Tensor, active: Tensor, forwards: float
    ) -> tuple[Tensor, Tensor]:
        """Moves active ends by their f and, where that lands inside, back by shrinking parts of the step.

        Args:
            sdf: The signed distance.
            rays: R rays.
            depth: (R,) depths of this end.
            value: (R,) f there.
            active: (R,) ends that move.
            forwards: 1 for the near end, -1 for the far end.

        Returns:
            New depths and f there, (R,) each; f of ends that did not move is 0.
        """
        length = torch.where(active, value, torch.zeros_like(value)) * forwards
        depth = depth + length
        value = evaluate_where(sdf, rays.at(depth), active)
        for k in range(self.config.line_step_iters):
            inside = value < 0
            back = (1 - self.config.line_search_step) / 2**k * length
            depth = torch.where(inside, depth - back, depth)
            value = torch.where(inside, evaluate_where(sdf, rays.at(depth), inside), value)
        return depth, value

    def _sample(self, sdf: Sdf, rays: Rays, near: Tensor, far: Tensor, refine: Tensor) -> _Sampled:
        """Looks for the first sign change among S equal steps from near to far.

        Args:
            sdf: The signed distance.
            rays: A rays.
            near: (A,) first depth.
            far: (A,) last depth.
            refine: (A,) rays whose sign change is refined; others take the sample of smallest f.

        Returns:
            Depth and flag.
        """
        num_samples = self.config.n_steps
        fractions = torch.linspace(0, 1, num_samples, dtype=near.dtype, device=near.device)  # (S,)
        depths = near.unsqueeze(1) + fractions * (far - near).unsqueeze(1)  # (A, S)
        values = evaluate_in_chunks(sdf, rays.at(depths).reshape(-1, 3)).reshape(depths.shape)  # (A, S)

        negative = values < 0
        hit = negative.any(dim=1)
        first = negative.to(torch.uint8).argmax(dim=1, keepdim=True)  # (A, 1), 0 without a sign change
        depth = depths.gather(1, values.argmin(dim=1, keepdim=True)).squeeze(1)

        # What the samples took makes refining all of them cheap, and asking which need it dear.
        refined = (hit & refine).nonzero().squeeze(1) if reads_are_free(hit) else _all(hit)
        if refined.numel():
            high = first[refined]
            low = (high - 1).clamp_min(0)
            zero = self._regula_falsi(
                sdf,
                rays.subset(refined),
                (depths[refined].gather(1, low).squeeze(1), values[refined].gather(1, low).squeeze(1)),
                (depths[refined].gather(1, high).squeeze(1), values[refined].gather(1, high).squeeze(1)),
            )
            depth = _replaced(depth, refined, zero, hit & refine)
        return _Sampled(depth, hit)

    def _regula_falsi(
        self, sdf: Sdf, rays: Rays, low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Refines a sign change by false position.

        Differs: where the very first sample is already inside there is no bracket (low and high coincide),
        and that sample is returned; the published code wraps around to the last one.

        Args:
            sdf: The signed distance.
            rays: A rays.
            low: Depths (A,) before the change and f there, not negative.
            high: Depths (A,) after the change and f there, negative.

        Returns:
            (A,) depths; f is not evaluated at the last of them.
        """
        (low_z, low_f), (high_z, high_f) = low, high
        bracketed = low_z != high_z

        def false_position() -> Tensor:
            step = low_f * (high_z - low_z) / (high_f - low_f)
            return torch.where(bracketed, low_z - step, high_z)

        z = false_position()
        for _ in range(self.config.n_secant_steps):
            f = evaluate_in_chunks(sdf, rays.at(z))
            low_z, low_f = torch.where(f > 0, z, low_z), torch.where(f > 0, f, low_f)
            high_z, high_f = torch.where(f < 0, z, high_z), torch.where(f < 0, f, high_f)
            z = false_position()
        return z

    def _smallest(self, sdf: Sdf, rays: Rays, near: Tensor, far: Tensor, fractions: Tensor) -> Tensor:
        """Returns the depth (A,) of smallest signed f among S depths between near and far, (A,) each."""
        depths = near.unsqueeze(1) + fractions * (far - near).unsqueeze(1)  # (A, S)
        values = evaluate_in_chunks(sdf, rays.at(depths).reshape(-1, 3)).reshape(depths.shape)
        return depths.gather(1, values.argmin(dim=1, keepdim=True)).squeeze(1)


def _all(flags: Tensor) -> Tensor:
    """Returns the numbers of all rays."""
    return torch.arange(flags.shape[0], device=flags.device)


def _replaced(old: Tensor, index: Tensor, new: Tensor, flags: Tensor) -> Tensor:
    """Returns old (R,) with new (A,) at the rays of an index (A,) that are flagged."""
    return old.index_copy(0, index, torch.where(flags[index], new, old[index]))
