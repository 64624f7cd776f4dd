"""The tracer for small networks on a hash grid: in training, compiled loops on a CPU (`compiled_loops`).

R rays. Depths are in the unit-sphere frame.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from idr.model.encodings.hashgrid import HashGrid
from idr.model.implicit_network import SOFTPLUS_BETA, ImplicitNetwork
from idr.model.tracing.accelerated.tracer import AcceleratedTracer
from idr.model.tracing.common import TracerConfig, TraceRequest, TraceResult

log = logging.getLogger(__name__)


@functools.cache
def _announce(text: str) -> None:
    """Says once how rays are traced in training."""
    log.info("strategy = compiled: training rays are traced by %s", text)


class CompiledTracer(AcceleratedTracer):
    """In training, sphere tracing by compiled loops; in evaluation, and not on a CPU, `accelerated`.

    Differs: f is trusted to be a signed distance, as its Eikonal loss makes it. A part of the object that is
    thinner than f's slope beyond one allows for may be stepped over, in training alone. Rays without a hit
    inside the mask end where f is smallest among the points that were visited.

    Args:
        config: The block ``model.ray_tracer``.
    """

    def __init__(self, config: TracerConfig) -> None:
        super().__init__(config)
        self._network: ImplicitNetwork | None = None
        self._by_loops = False

    def attach(self, network: Any) -> None:
        """Learns which network f is; see `Tracer.attach`."""
        self._network = network

    @torch.no_grad()
    def trace(self, request: TraceRequest) -> TraceResult:
        """Traces rays, see `Tracer.trace`."""
        rays, crossing, object_mask = request.rays, request.crossing, request.object_mask
        self._by_loops = request.training and self._can_serve(rays.origin)
        if not self._by_loops:
            return super().trace(request)
        from idr.model.tracing.compiled import loops as compiled_loops

        assert self._network is not None
        depth, hit = compiled_loops.trace(
            compiled_field(self._network),
            (rays.origin, rays.direction),
            (crossing.near, crossing.far, crossing.crosses),
            object_mask,
            self.config.object_bounding_sphere,
            self.config.sdf_threshold,
            self.config.n_secant_steps,
        )
        return TraceResult(depth, hit, num_shaded=int((hit & object_mask).sum()))

    def observe(self, points: Tensor, value: Tensor, hit: Tensor) -> None:
        """Receives f at the points of a step, see `Tracer.observe`; the loops have no grid to correct."""
        if not self._by_loops:
            super().observe(points, value, hit)

    def _can_serve(self, points: Tensor) -> bool:
        """Whether the loops can take the network; says once if not."""
        network = self._network
        if network is None or not isinstance(network.encoding, HashGrid) or network.skip_in:
            _announce("strategy accelerated: the loops take hash grids, without skip layers")
            return False
        if network.encoding.compiled_levels(points) is None:
            if network.encoding.open_levels > 0:
                _announce("strategy accelerated: the loops need numba, a CPU and float32")
            return False
        _announce("compiled loops")
        return True


def compiled_field(network: ImplicitNetwork) -> Any:
    """Returns a network's f as the loops take it (`compiled_loops.CompiledField`)."""
    from idr.model.tracing.compiled.loops import CompiledField

    grid = network.encoding
    assert isinstance(grid, HashGrid)
    compiled = grid.compiled_levels(grid.table)
    assert compiled is not None
    layers = [(network.layer(i).weight, network.layer(i).bias) for i in range(network.num_layers)]
    weight, bias = layers[-1]
    hidden = tuple((w.detach(), b.detach()) for w, b in layers[:-1])
    levels, last_weight = compiled
    return CompiledField(
        table=grid.table.detach(),
        levels=tuple(levels),
        bound=grid.config.bound,
        last_weight=last_weight,
        layers=(*hidden, (weight[:1].detach(), bias[:1].detach())),
        beta=SOFTPLUS_BETA,
    )
