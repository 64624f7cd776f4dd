"""Chooses the twins of a signed distance network (`idr.model.twins`).

N points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from idr.model.encodings.hashgrid import HashGrid
from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels.activations import SoftplusTwin, activation_twin
from idr.model.kernels.inference import FixedNetwork
from idr.model.twins import FieldTwin


def field_for(network: ImplicitNetwork, x: Tensor) -> FieldTwin | None:
    """Chooses the twins of a network.

    ====================================  ==========================================================
    softplus, hash grid in compiled       `fused_field` for the gradient, `tracing_loops` for tracing
    loops, no skip layers
    CPU without gradients, evaluation     `FixedNetwork` for the rest
    CPU without gradients, training       the network's own layers with a twin of the activation for f
    ====================================  ==========================================================

    Only device and dtype of the points x (N, 3) matter. None if no function has a twin.
    """
    activation = activation_twin(network.activation)
    sdf: Callable[[Tensor], Tensor] | None = None
    gradient = first_hits = None
    if activation is not None and _without_gradients_on_cpu(x):
        if network.training:  # the same values on all CPUs
            sdf = functools.partial(_sdf_by_layers, network, activation)
        else:
            fixed = FixedNetwork(network, activation)
            sdf, gradient = fixed.sdf, fixed.output_and_gradient
    grid, is_plain = network.encoding, isinstance(network.activation, nn.Softplus) and not network.skip_in
    if is_plain and isinstance(grid, HashGrid) and grid.num_open > 0 and grid.twin(x) is not None:
        from idr.model.kernels import fused_field, tracing_loops  # these import numba

        gradient = functools.partial(fused_field.output_and_gradient, network)
        first_hits = functools.partial(tracing_loops.trace, network)
    if sdf is None and gradient is None:
        return None
    return FieldTwin(sdf, gradient, first_hits)


def _without_gradients_on_cpu(x: Tensor) -> bool:
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    return not torch.is_autocast_enabled("cpu")


def _sdf_by_layers(network: ImplicitNetwork, activation: SoftplusTwin, x: Tensor) -> Tensor:
    return network.output(network.hidden(x, activation), 1).squeeze(1)
