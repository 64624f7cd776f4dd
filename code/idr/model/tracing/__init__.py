"""Ray tracers: where rays first meet the zero set of f. One file a strategy."""

from __future__ import annotations

from idr.model.tracing.common import Sdf, TracerConfig, TraceResult
from idr.model.tracing.published import PublishedTracer

__all__ = ["PublishedTracer", "Sdf", "TraceResult", "TracerConfig", "make_tracer"]


def make_tracer(config: TracerConfig) -> PublishedTracer:
    """Returns the tracer that ``model.ray_tracer.strategy`` names."""
    return {"published": PublishedTracer}[config.strategy](config)
