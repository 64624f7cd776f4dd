"""f, features and f's gradient for a network on a hash grid, with explicit derivatives.

Autograd computes the same by double backward: it records the forward pass, differentiates it w.r.t. the
point, records that pass, too, and backpropagates through both. Here each activation, each of its derivatives
and each vertex of the grid is computed once. `ImplicitNetwork` in plain torch is the reference.

N points, W grid features per point, F features. With the encoded point e, layer i is h_i = W_i a_(i-1) + b_i,
a_0 = e, a_i = softplus(h_i), s_i = softplus'(h_i); the last layer is linear. Its first row w gives f, and

    v_n = w s_n,    u_i = v_(i+1) W_(i+1),    v_i = u_i s_i,    df/de = v_1 W_1,    df/dx = de/dx^T df/de.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from idr.model.encodings.hashgrid import HashGrid
from idr.model.encodings.hashgrid_torch import Level
from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels import hashgrid_loops as grid_loops
from idr.model.kernels.softplus_loops import gradients_of_scaled, value_and_slope


@dataclass(frozen=True)
class GridShape:
    """Constants of a network on a hash grid.

    Attributes:
        levels: The open levels.
        last_weight: Weight of the last of them.
        bound: Half the side of the cube.
        beta: Sharpness of the softplus.
    """

    levels: tuple[Level, ...]
    last_weight: float
    bound: float
    beta: float

    def weighted(self, columns: Tensor, num_features: int) -> Tensor:
        """Multiplies the last level's columns of (N, W, ...) by its weight, in place."""
        if self.last_weight < 1:
            columns[:, -num_features:] *= self.last_weight
        return columns


class _Field(torch.autograd.Function):
    """(x, table, shape, W_1, b_1, ..., W_m, b_m) -> output (N, 1 + F), df/dx (N, 3)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, shape: GridShape, *layers: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights, biases = list(layers[::2]), layers[1::2]
        value, slopes = grid_loops.value_and_slopes(x, table, shape.levels, shape.bound)
        encoded = torch.cat((x, shape.weighted(value, table.shape[1])), dim=1)  # (N, 3 + W)
        shape.weighted(slopes, table.shape[1])
        ctx.width = weights[0].shape[1]
        weights[0] = weights[0][:, : encoded.shape[1]]  # closed levels are zeros
        activations, derivatives = [encoded], list[Tensor]()
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            hidden = torch.addmm(bias, activations[-1], weight.T)
            activation, derivative = value_and_slope(hidden, shape.beta)
            activations.append(activation)
            derivatives.append(derivative)
        output = torch.addmm(biases[-1], activations[-1], weights[-1].T)
        # Backward to the point: v[i] is v_(i + 1), u[i] is u_(i + 1) in the notation above.
        u = [weights[-1][:1]]
        v = [derivatives[-1] * u[0]]
        for weight, derivative in zip(weights[-2:0:-1], derivatives[-2::-1], strict=True):
            u.append(v[-1] @ weight)
            v.append(u[-1] * derivative)
        by_encoded = v[-1] @ weights[0]  # (N, 3 + W)
        gradient = by_encoded[:, :3] + grid_loops.pull(slopes, by_encoded[:, 3:])
        ctx.shape, ctx.num_layers = shape, len(weights)
        ctx.save_for_backward(
            x, table, slopes, by_encoded, *weights, *activations, *derivatives, *u[::-1], *v[::-1]
        )
        return output, gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_output: Tensor, by_gradient: Tensor) -> Any:
        shape, m = ctx.shape, ctx.num_layers
        x, table, slopes, by_encoded, *rest = ctx.saved_tensors
        weights, activations = rest[:m], rest[m : 2 * m]
        derivatives, us, vs = (rest[m + k * (m - 1) :][m : 2 * m - 1] for k in range(3))
        by_weights: list[Tensor] = []
        # Forward through the gradient's pass: `up` is the derivative of the loss w.r.t. v_i W_i.
        up = torch.cat((by_gradient, grid_loops.push(slopes, by_gradient)), dim=1)  # (N, 3 + W)
        by_hidden_values = []  # derivatives of the loss w.r.t. h_i through s_i
        for weight, derivative, u, v in zip(weights[:-1], derivatives, us, vs, strict=True):
            by_weights.append(v.T @ up)
            by_hidden, up = gradients_of_scaled(up @ weight.T, u, derivative, shape.beta)
            by_hidden_values.append(by_hidden)
        by_weights.append(by_output.T @ activations[-1])
        by_weights[-1][0] += up.sum(dim=0)
        # Backward through the values' pass.
        by_biases, down = [by_output.sum(dim=0)], by_output
        for i in range(m - 2, -1, -1):
            down = torch.addcmul(by_hidden_values[i], down @ weights[i + 1], derivatives[i])
            by_weights[i].addmm_(down.T, activations[i])
            by_biases.insert(0, down.sum(dim=0))
        by_point = down @ weights[0]  # (N, 3 + W)
        num_features = table.shape[1]
        by_value, by_slope = (
            shape.weighted(t[:, 3:].contiguous(), num_features) for t in (by_point, by_encoded)
        )
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = by_point[:, :3] + grid_loops.pull(slopes, by_point[:, 3:])
            by_x = by_x + grid_loops.bend(x, table, by_slope, by_gradient, shape.levels, shape.bound)
        by_table = None
        if ctx.needs_input_grad[1]:
            by_table = grid_loops.table_gradient(
                x, by_value, by_slope, by_gradient, table, shape.levels, shape.bound
            )
        by_weights[0] = functional.pad(by_weights[0], (0, ctx.width - by_weights[0].shape[1]))
        by_layers = (t for pair in zip(by_weights, by_biases, strict=True) for t in pair)
        return by_x, by_table, None, *by_layers


def output_and_gradient(
    network: ImplicitNetwork, x: Tensor, num_outputs: int | None
) -> tuple[Tensor, Tensor]:
    """Evaluates `FieldTwin.output_and_gradient`; both results are differentiable once.

    Args:
        network: A softplus network without skip layers, on a hash grid with an open level.
        x: (N, 3) points, float32, on the CPU.
        num_outputs: Number of outputs; None for all.
    """
    grid = network.encoding
    assert isinstance(grid, HashGrid)
    levels, beta = grid.grids[: grid.num_open], network.activation.beta
    shape = GridShape(levels, grid.last_weight, grid.config.bound, beta)
    layers = network.weights_and_biases()
    weight, bias = layers.pop()
    layers.append((weight[:num_outputs], bias[:num_outputs]))
    return _Field.apply(x, grid.table, shape, *(tensor for layer in layers for tensor in layer))
