"""The tracer for small networks on a hash grid: compiled loops on a CPU in training, if there are any.

R rays. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable

import torch
from torch import Tensor

from idr.errors import InputError
from idr.geometry.spheres import SphereCrossing
from idr.model.implicit_network import ImplicitNetwork
from idr.model.tracing.accelerated.tracer import AcceleratedTracer
from idr.model.tracing.common import Rays, Sdf, TracerConfig, TraceResult

log = logging.getLogger(__name__)


@functools.cache
def _log_once(text: str) -> None:
    log.info("strategy = compiled: training rays are traced by %s", text)


class CompiledTracer(AcceleratedTracer):
    """Sphere tracing in compiled loops in training; `AcceleratedTracer` in evaluation and without loops.

    Differs: the loops trust f to be a signed distance, as the Eikonal loss makes it. In training they may
    step over a part of the object that is thinner than the excess of f's slope over one allows for. Rays
    without a hit inside the mask end at the smallest f that was sampled.

    Args:
        config: The block ``model.ray_tracer``.

    Raises:
        InputError: The loops do not compute in this precision.
    """

    def __init__(self, config: TracerConfig) -> None:
        if config.precision != "float32":
            raise InputError(
                f"model.ray_tracer.precision = {config.precision}: strategy = compiled computes in float32; "
                "leave precision out, or take strategy = accelerated"
            )
        super().__init__(config)
        self._network: ImplicitNetwork | None = None
        self._used_loops = False

    def attach(self, network: ImplicitNetwork) -> None:
        """Sets the network, see `Tracer.attach`."""
        self._network = network

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
        twin = self._network.twin(rays.origin) if self._network and smallest_depths is not None else None
        first_hits = twin.first_hits if twin else None
        self._used_loops = first_hits is not None
        if first_hits is None:
            if smallest_depths is not None:
                self._explain()
            return super().trace(sdf, rays, crossing, object_mask, smallest_depths, version)
        _log_once("compiled loops")
        depth, hit = first_hits(
            (rays.origin, rays.direction),
            (crossing.near, crossing.far, crossing.crosses),
            object_mask,
            self.config.object_bounding_sphere,
            self.config.sdf_threshold,
            self.config.n_secant_steps,
        )
        return TraceResult(depth, hit, num_shaded=int((hit & object_mask).sum()))

    def report(self, *seen: Tensor) -> None:
        """Receives f at the points of a step, see `Tracer.observe`; the loops have no grid to correct."""
        if not self._used_loops:
            super().report(*seen)

    def _explain(self) -> None:
        """Logs why there are no loops, unless they only wait for the first level to open."""
        encoding = self._network.encoding if self._network else None
        if encoding is None or encoding.levels == 0 or encoding.open_levels > 0:
            _log_once(
                "strategy accelerated: the loops need an encoding of type hashgrid, no skip layers, numba, "
                "a CPU and float32"
            )
