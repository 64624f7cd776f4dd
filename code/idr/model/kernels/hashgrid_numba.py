"""The hash grid's twin on a CPU: loops that numba compiles."""

from __future__ import annotations

import functools

from idr.model.kernels import hashgrid_loops, softplus_loops, tracing_loops
from idr.model.kernels.hashgrid_autograd import interpolate
from idr.model.kernels.numba_support import has_numba
from idr.model.twins import GridTwin

is_available = has_numba

TWIN = GridTwin(
    functools.partial(interpolate, hashgrid_loops), hashgrid_loops, softplus_loops, tracing_loops.trace
)
