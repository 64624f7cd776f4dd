"""The hash grid's twins on a GPU: Triton's kernels, see `gpu`."""

from __future__ import annotations

import functools

from idr.model.kernels.gpu.support import has_triton, runs_on
from idr.model.kernels.hashgrid_autograd import interpolate
from idr.model.twins import GridTwin

__all__ = ["is_available", "runs_on", "twin"]

is_available = has_triton


@functools.cache
def twin(atomic: bool) -> GridTwin:
    """Returns the twin whose table gradient is, or is not, summed by atomic additions (`GpuGrid`)."""
    from idr.model.kernels.gpu import hashgrid, softplus, tracing  # these import Triton

    grid = hashgrid.GpuGrid(atomic)
    interpolation = functools.partial(interpolate, grid)
    return GridTwin(interpolation, grid, softplus, tracing.trace, tracing.MAX_WIDTH)
