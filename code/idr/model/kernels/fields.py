"""Chooses the twins of a signed distance network (`idr.model.twins`).

N points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from idr.model.encodings.hashgrid import HashGrid
from idr.model.encodings.sinusoids import Sinusoids
from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels.activations import SoftplusTwin, activation_twin
from idr.model.kernels.inference import FixedNetwork
from idr.model.kernels.numba_support import has_numba
from idr.model.twins import FieldTwin


def field_for(network: ImplicitNetwork, x: Tensor) -> FieldTwin | None:
    """Chooses the twins of a network.

    =====================================  =============================================================
    softplus, hash grid with a twin        `fused_field` for the gradient
    the same, no skip layers               the twin's tracer, `tracing_loops` or `gpu.tracing`
    softplus, sinusoids, CPU, float32,     `fused_field` for the gradient, but in evaluation without
    numba                                  gradients
    CPU without gradients, evaluation      `FixedNetwork` for the rest
    CPU without gradients, training        the network's own layers with a twin of the activation for f
    =====================================  =============================================================

    Only device and dtype of the points x (N, 3) matter. None if no function has a twin.
    """
    activation = activation_twin(network.activation)
    sdf: Callable[[Tensor], Tensor] | None = None
    gradient = first_hits = None
    on_cpu = activation is not None and _on_cpu(x)
    if activation is not None and on_cpu and not torch.is_grad_enabled():
        if network.training:  # the same values on all CPUs
            sdf = functools.partial(_sdf_by_layers, network, activation)
        else:
            fixed = FixedNetwork(network, activation)
            sdf, gradient = fixed.sdf, fixed.output_and_gradient
    grid = network.encoding
    twin = grid.twin(x) if isinstance(grid, HashGrid) and grid.num_open > 0 else None
    has_sinusoids = isinstance(grid, Sinusoids) and on_cpu and x.dtype == torch.float32 and has_numba()
    if activation is not None and (twin is not None or (has_sinusoids and gradient is None)):
        from idr.model.kernels import fused_field  # imports numba

        gradient = functools.partial(fused_field.output_and_gradient, network)
        if twin is not None and not network.skip_in and _widest(network) <= twin.max_traced_width:
            first_hits = functools.partial(twin.trace, network)
    if sdf is None and gradient is None:
        return None
    return FieldTwin(sdf, gradient, first_hits)


def _widest(network: ImplicitNetwork) -> int:
    """Returns the maximum width of the hidden layers and of the encoding without the point."""
    widths = (network.layer(index).bias.shape[0] for index in range(network.num_layers - 1))
    return max(network.encoding.width - 3, *widths)


def _on_cpu(x: Tensor) -> bool:
    """Whether the points are on a CPU in a dtype of the twins, without autocast."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    return not torch.is_autocast_enabled("cpu")


def _sdf_by_layers(network: ImplicitNetwork, activation: SoftplusTwin, x: Tensor) -> Tensor:
    return network.output(network.hidden(x, activation), 1).squeeze(1)
