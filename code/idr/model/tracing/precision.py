"""Tracing with cheaper arithmetic, TF32 or bfloat16, and what keeps its answers those of float32.

Only evaluations without gradient are made cheaper; values and gradients of training stay in float32. Three
things keep the answers:

- A cheap value near zero is not believed. How far cheap values are off is measured at every call of the
  tracer, at points of its rays; where |f| is within a multiple of that, f is evaluated in float32. So every
  decision on which side of the surface a point lies is float32's.
- Where few points are evaluated at once, as in the last steps towards a surface, float32 is used outright: an
  accelerator gains nothing on them.
- Every hit is evaluated in float32. One that is off the surface is traced again, by the published tracer in
  float32.

R rays, N points.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from idr.errors import InputError
from idr.geometry.spheres import SphereCrossing
from idr.model.tracing.common import (
    Rays,
    Sdf,
    Tracer,
    TracerConfig,
    TraceResult,
    evaluate_where,
    first_set,
    reads_are_free,
)
from idr.model.tracing.published import PublishedTracer

log = logging.getLogger(__name__)

FEW_POINTS = 4096
"""Points at once up to which float32 is used: an accelerator spends such a batch on launching kernels."""

NUM_PROBES = 512
"""Points at which a call measures how far cheap values are off."""

MARGIN = 6.0
"""|f| up to this many times the largest error among the probes is evaluated in float32."""

NEAR_SHARE = 2
"""An accelerator, which must not ask how many points are near zero, has room in float32 for one in this many.
Where that is too few, the rays are traced again in float32."""

ON_SURFACE = 1e-4
"""|f| of a hit, unit-sphere frame, beyond which it is traced again."""

LEAST_TF32 = (8, 0)
"""Capability of the first NVIDIA GPUs with TF32 (Ampere)."""


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses a precision that a device does not have.

    Args:
        precision: ``model.ray_tracer.precision``.
        device: Where tracing would happen.

    Raises:
        InputError: TF32 is asked for elsewhere than on a GPU that has it.
    """
    if precision != "tf32":
        return
    ask = getattr(getattr(torch, device.type, None), "get_device_capability", None)
    capability = None if ask is None else ask(device)
    if not isinstance(capability, tuple) or capability < LEAST_TF32 or torch.version.hip is not None:
        raise InputError(
            f"model.ray_tracer.precision = tf32: {device} has no TF32; expected an NVIDIA GPU of capability "
            f"{LEAST_TF32[0]}.{LEAST_TF32[1]} or newer (Ampere); set model.ray_tracer.precision to float32 "
            "or bf16"
        )


def check_model(model: Any, device: torch.device) -> None:
    """Refuses, before anything is written, a model whose precision a device does not have.

    Args:
        model: `IDRNetwork`, or a user's own, which may have no such setting.
        device: Where it is put.

    Raises:
        InputError: See `check_precision`.
    """
    config = getattr(model, "tracer_config", None)
    check_precision(getattr(config, "precision", "float32"), device)


@contextmanager
def cheaper(precision: str, device: torch.device) -> Iterator[None]:
    """Computes matrix products inside with fewer digits; puts back what was set before.

    Args:
        precision: ``tf32`` or ``bf16``.
        device: Where the products are computed.
    """
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class CheapSdf:
    """f, in float32 where it is close to zero or asked for at few points, cheaper elsewhere.

    Args:
        sdf: f in float32.
        precision: ``tf32`` or ``bf16``.
        probes: (NUM_PROBES, 3) points at which to measure how far cheap values are off.

    Attributes:
        margin: () |f| up to which values are float32's.
        overflow: () bool, an accelerator met more points near zero than it has room for.
    """

    def __init__(self, sdf: Sdf, precision: str, probes: Tensor) -> None:
        self._sdf, self._precision = sdf, precision
        self.margin = MARGIN * (self._cheap(probes) - sdf(probes)).abs().max()
        self.overflow = torch.zeros((), dtype=torch.bool, device=probes.device)

    def __call__(self, points: Tensor) -> Tensor:
        """Evaluates (N, 3) points: (N,)."""
        num_points = points.shape[0]
        if num_points <= FEW_POINTS:
            return self._sdf(points)
        values = self._cheap(points)
        near = ~(values.abs() > self.margin)  # also where a cheap value is not a number
        exact = evaluate_where(self._sdf, points, near, num_points // NEAR_SHARE)
        if reads_are_free(points):
            return torch.where(near, exact, values)
        self.overflow = self.overflow | (near.sum() > num_points // NEAR_SHARE)
        return torch.where(near & ~exact.isnan(), exact, values)

    def _cheap(self, points: Tensor) -> Tensor:
        with cheaper(self._precision, points.device):
            return self._sdf(points).to(points.dtype)


class CheapTracer(Tracer):
    """A tracer whose evaluations are cheap where they may be; its hits are float32's.

    Args:
        tracer: Finds the hits.
        config: The block ``model.ray_tracer``; its ``precision`` is ``tf32`` or ``bf16``.
    """

    def __init__(self, tracer: Tracer, config: TracerConfig) -> None:
        self.tracer, self.config = tracer, config
        self._published = PublishedTracer(config, reads_which=False)
        self._checked: torch.device | None = None

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

        On an accelerator it reads once more than the tracer inside.

        Raises:
            InputError: The rays' device does not have the precision.
        """
        self._check(rays.origin.device)
        cheap = CheapSdf(sdf, self.config.precision, _probes(rays, crossing))
        found = self.tracer.trace(cheap, rays, crossing, object_mask, smallest_depths, version)
        # In training a hit outside the mask ends where the mask loss looks, behind the surface.
        to_check = found.hit if smallest_depths is None else found.hit & object_mask
        off = evaluate_where(sdf, rays.at(found.depth), to_check).abs() > ON_SURFACE
        wrong = (to_check & off) | cheap.overflow
        num_wrong = int(wrong.sum())  # an accelerator's one more read
        if num_wrong == 0:
            return found
        index = first_set(wrong, num_wrong)
        part = SphereCrossing(crossing.near[index], crossing.far[index], crossing.crosses[index])
        again = self._published.trace(sdf, rays.subset(index), part, object_mask[index], smallest_depths)
        depth, hit = found.depth.index_copy(0, index, again.depth), found.hit.index_copy(0, index, again.hit)
        value = found.value
        if value is not None:
            value = value.index_copy(0, index, sdf(rays.subset(index).at(again.depth)))
        return TraceResult(depth, hit, value)

    def _check(self, device: torch.device) -> None:
        """Checks once a device that it can do what is asked for, and says so where that is slow."""
        if device == self._checked:
            return
        check_precision(self.config.precision, device)
        if device.type == "cpu":
            log.warning(
                "model.ray_tracer.precision = %s on a CPU: same hits, but slower than float32 on most CPUs",
                self.config.precision,
            )
        self._checked = device

    def discard(self) -> None:
        """Forgets what was learned of the weights: they were replaced."""
        self.tracer.discard()

    def report(self, points: Tensor, value: Tensor, hit: Tensor) -> None:
        """Hears f at the points of a training step, see `Tracer.report`."""
        self.tracer.report(points, value, hit)

    def carried(self) -> dict[str, Any] | None:
        """Returns what the next training step depends on, see `Tracer.carried`."""
        return self.tracer.carried()

    def restore(self, carried: Mapping[str, Any], like: Tensor) -> None:
        """Goes on from what `carried` returned; ``like`` gives the device."""
        self.tracer.restore(carried, like)


def _probes(rays: Rays, crossing: SphereCrossing) -> Tensor:
    """Returns (NUM_PROBES, 3) points spread over the chords of rays spread over all R."""
    golden = 0.6180339887498949  # multiples of it leave no large gaps between 0 and 1
    number = torch.arange(NUM_PROBES, device=rays.origin.device, dtype=torch.float64)
    index = (number / NUM_PROBES * rays.origin.shape[0]).long()
    along = (number * golden % 1.0).to(rays.origin.dtype)
    near, far = crossing.near[index], crossing.far[index]
    return rays.subset(index).at(near + along * (far - near))
