"""The only access to `idr.model.kernels`: optional, faster twins of parts of the method.

The method computes everything in plain torch. Where a twin is available, it returns the same values up to
rounding in less time. The method imports kernels only through this module.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

PACKAGE = "idr.model.kernels"


@functools.cache
def find_kernel(name: str) -> ModuleType | None:
    """Returns the module ``idr.model.kernels.<name>`` if it exists and can run here.

    A kernel that needs a library defines a function ``is_available() -> bool``.

    Args:
        name: The module's name.

    Returns:
        The module; None if the kernels' folder is missing or ``is_available`` returns False.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    module = importlib.import_module(f"{PACKAGE}.{name}")
    return module if getattr(module, "is_available", lambda: True)() else None


class _LoopThreads:
    """The number of threads of compiled loops; None for torch's."""

    count: int | None = None


def set_loop_threads(count: int | None) -> None:
    """Sets the number of threads of compiled loops in this process; None, as at first, for torch's."""
    _LoopThreads.count = count


def loop_threads() -> int:
    """Returns the number of threads of compiled loops."""
    return _LoopThreads.count or torch.get_num_threads()


@dataclass(frozen=True)
class FieldTwin:
    """Faster functions of one `ImplicitNetwork` with its current weights, from `idr.model.kernels.fields`.

    None stands for a function without a twin, which plain torch computes. N points, R rays.

    Attributes:
        sdf: (N, 3) points -> (N,) signed distance.
        output_and_gradient: (N, 3) points and the number of outputs, None for all -> (N, outputs) and (N, 3)
            df/dx.
        first_hits: A training step's `TraceRequest` and the `TracerConfig` -> depth (R,) and hit flag (R,).
    """

    sdf: Callable[[Tensor], Tensor] | None = None
    output_and_gradient: Callable[[Tensor, int | None], tuple[Tensor, Tensor]] | None = None
    first_hits: Callable[..., tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class GridTwin:
    """Kernels of a `HashGrid`, and of softplus networks on it, that one library runs on its devices.

    Attributes:
        interpolate: As `hashgrid_torch.interpolate`, but for `Level`s; differentiable twice.
        grid: The functions of `kernels.hashgrid_loops`.
        softplus: ``softplus_and_slope`` and ``gradients_of_scaled`` of `kernels.softplus_loops`.
        trace: As `kernels.tracing_loops.trace`.
        max_traced_width: Maximum of units a hidden layer and of features a point for ``trace``.
    """

    interpolate: Callable[..., Tensor]
    grid: Any
    softplus: Any
    trace: Callable[..., tuple[Tensor, Tensor]]
    max_traced_width: float = math.inf
