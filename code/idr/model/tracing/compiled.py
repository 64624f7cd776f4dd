"""The tracer for small hash-grid networks: compiled loops for training, where available.

They run on a CPU, or with the grid's ``backend = triton`` as one kernel on a GPU.

R rays. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from idr.model.implicit_network import ImplicitNetwork
from idr.model.tracing.accelerated.tracer import AcceleratedTracer
from idr.model.tracing.common import TracerConfig, TraceRequest, TraceResult

log = logging.getLogger(__name__)


@functools.cache
def _log_once(level: int, text: str) -> None:
    log.log(level, "strategy = compiled: training rays are traced by %s", text)


class CompiledTracer(AcceleratedTracer):
    """Sphere tracing in compiled loops in training; `AcceleratedTracer` in evaluation and without loops.

    Differs: the loops assume that f is a signed distance, as the Eikonal loss promotes: a step of |f| is safe
    where f's slope is at most one. Rays without a hit inside the mask end at the smallest sampled f.
    """

    def __init__(self, config: TracerConfig) -> None:
        super().__init__(config)
        self._network: ImplicitNetwork | None = None
        self._used_loops = False

    def attach(self, network: ImplicitNetwork) -> None:
        """Sets the network, see `Tracer.attach`."""
        self._network = network

    @torch.no_grad()
    def trace(self, request: TraceRequest) -> TraceResult:
        """Traces rays, see `Tracer.trace`."""
        network = self._network if request.training else None
        twin = None if network is None else network.twin(request.rays.origin)
        first_hits = None if twin is None else twin.first_hits
        self._used_loops = first_hits is not None
        if first_hits is None:
            if request.training:
                self._log_reason()
            return super().trace(request)
        _log_once(logging.DEBUG, "compiled loops")
        depth, hit = first_hits(request, self.config)
        return TraceResult(depth, hit, num_shaded=int((hit & request.object_mask).sum()))

    def observe(self, points: Tensor, value: Tensor, hit: Tensor) -> None:
        """Receives f at the points of a step, see `Tracer.observe`; the loops have no grid to correct."""
        if not self._used_loops:
            super().observe(points, value, hit)

    def _log_reason(self) -> None:
        """Logs why the loops are not used, unless they only wait for the first level to open."""
        encoding = None if self._network is None else self._network.encoding
        if encoding is None or encoding.levels == 0 or encoding.open_levels > 0:
            _log_once(
                logging.INFO,
                "strategy accelerated: the loops need an encoding of type hashgrid, no skip layers, numba, "
                "a CPU and float32; on a GPU encoding.backend = triton and at most 64 units "
                "a layer and features a point",
            )
