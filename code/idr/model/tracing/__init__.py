"""Ray tracers: where rays first meet the zero set of f. One file a strategy."""

from __future__ import annotations

from idr.model.tracing.accelerated.tracer import AcceleratedTracer
from idr.model.tracing.common import Rays, Tracer, TracerConfig, TraceResult
from idr.model.tracing.compiled import CompiledTracer
from idr.model.tracing.precision import CheapTracer
from idr.model.tracing.published import PublishedTracer

__all__ = [
    "AcceleratedTracer",
    "CheapTracer",
    "CompiledTracer",
    "PublishedTracer",
    "Rays",
    "TraceResult",
    "Tracer",
    "TracerConfig",
    "make_tracer",
]

_TRACERS: dict[str, type[AcceleratedTracer] | type[PublishedTracer]] = {
    "accelerated": AcceleratedTracer,
    "compiled": CompiledTracer,
    "published": PublishedTracer,
}


def make_tracer(config: TracerConfig) -> Tracer:
    """Returns the tracer that ``model.ray_tracer`` asks for by ``strategy`` and ``precision``."""
    tracer = _TRACERS[config.strategy](config)
    return tracer if config.precision == "float32" else CheapTracer(tracer, config)
