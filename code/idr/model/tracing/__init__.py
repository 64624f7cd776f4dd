"""Ray tracers, which find where rays first meet the zero set of f. One file or folder per strategy."""

from __future__ import annotations

from idr.model.tracing.accelerated.tracer import AcceleratedTracer
from idr.model.tracing.common import Rays, Tracer, TracerConfig, TraceRequest, TraceResult, read_tracer_config
from idr.model.tracing.compiled import CompiledTracer
from idr.model.tracing.fixed import FixedTracer
from idr.model.tracing.published import PublishedTracer

__all__ = [
    "AcceleratedTracer",
    "CompiledTracer",
    "FixedTracer",
    "PublishedTracer",
    "Rays",
    "TraceRequest",
    "TraceResult",
    "Tracer",
    "TracerConfig",
    "make_tracer",
    "read_tracer_config",
]

_TRACERS: dict[str, type[AcceleratedTracer] | type[PublishedTracer]] = {
    "accelerated": AcceleratedTracer,
    "compiled": CompiledTracer,
    "fixed": FixedTracer,
    "published": PublishedTracer,
}


def make_tracer(config: TracerConfig) -> Tracer:
    """Returns the tracer that ``model.ray_tracer.strategy`` names."""
    return _TRACERS[config.strategy](config)
