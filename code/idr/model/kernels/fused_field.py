"""f, features and f's gradient of a network on a hash grid, with their derivatives written out.

Autograd finds the same by differentiating twice: it records the first pass, differentiates it by the point,
records that too, and goes back through both. Written out, each activation, each of its derivatives and each
vertex of the grid is computed once. `ImplicitNetwork` in plain torch is the oracle.

N points, W numbers of the grid a point, F features. With e the encoded point, a layer is h_i = W_i a_(i-1) +
b_i, a_0 = e, a_i = softplus(h_i), s_i = softplus'(h_i); the last one is linear. f is its first row w, and

    v_n = w s_n,    u_i = v_(i+1) W_(i+1),    v_i = u_i s_i,    df/de = v_1 W_1,    df/dx = de/dx^T df/de.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from idr.model.encodings.hashgrid_torch import Level
from idr.model.kernels import hashgrid_loops as grid_loops
from idr.model.kernels.softplus_loops import gradients_of_scaled, value_and_slope


@dataclass(frozen=True)
class GridShape:
    """What of a hash grid is no parameter.

    Attributes:
        levels: The open levels.
        last_weight: Weight of the last of them.
        bound: Half the cube's side.
        beta: Sharpness of the softplus.
    """

    levels: Sequence[Level]
    last_weight: float
    bound: float
    beta: float

    def weighted(self, columns: Tensor, num_features: int) -> Tensor:
        """Weights the last level's columns (N, W, ...), in place."""
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
        # Back to the point: back[i] is v_(i + 1), passed[i] is u_(i + 1).
        passed = [weights[-1][:1]]
        back = [derivatives[-1] * passed[0]]
        for weight, derivative in zip(weights[-2:0:-1], derivatives[-2::-1], strict=True):
            passed.append(back[-1] @ weight)
            back.append(passed[-1] * derivative)
        by_encoded = back[-1] @ weights[0]  # (N, 3 + W)
        gradient = by_encoded[:, :3] + grid_loops.pull(slopes, by_encoded[:, 3:])
        ctx.shape, ctx.num_layers = shape, len(weights)
        ctx.save_for_backward(
            x, table, slopes, by_encoded, *weights, *activations, *derivatives, *passed[::-1], *back[::-1]
        )
        return output, gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_output: Tensor, by_gradient: Tensor) -> Any:
        shape, m = ctx.shape, ctx.num_layers
        x, table, slopes, by_encoded, *rest = ctx.saved_tensors
        weights, activations = rest[:m], rest[m : 2 * m]
        derivatives, passed, back = (rest[m + k * (m - 1) :][m : 2 * m - 1] for k in range(3))
        by_weights: list[Tensor] = []
        # Forwards through the gradient's passes: `up` is what the loss asks of v_i W_i.
        up = torch.cat((by_gradient, grid_loops.push(slopes, by_gradient)), dim=1)  # (N, 3 + W)
        curved = []  # what it asks of the hidden values, by way of their derivatives
        for weight, derivative, u, v in zip(weights[:-1], derivatives, passed, back, strict=True):
            by_weights.append(v.T @ up)
            by_hidden, up = gradients_of_scaled(up @ weight.T, u, derivative, shape.beta)
            curved.append(by_hidden)
        by_weights.append(by_output.T @ activations[-1])
        by_weights[-1][0] += up.sum(dim=0)
        # Backwards through the values.
        by_biases, down = [by_output.sum(dim=0)], by_output
        for i in range(m - 2, -1, -1):
            down = torch.addcmul(curved[i], down @ weights[i + 1], derivatives[i])
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
        full = ctx.needs_input_grad[3:]
        by_weights[0] = functional.pad(by_weights[0], (0, ctx.width - by_weights[0].shape[1]))
        pairs = [t for pair in zip(by_weights, by_biases, strict=True) for t in pair]
        return by_x, by_table, None, *(t if wanted else None for t, wanted in zip(pairs, full, strict=True))


def field_and_gradient(
    x: Tensor, table: Tensor, shape: GridShape, layers: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Evaluates a network on a hash grid and the gradient of its first output.

    Args:
        x: (N, 3) points, float32, on the CPU.
        table: (rows, F) features of the grid.
        shape: The rest of the grid.
        layers: Weight (out, in) and bias (out,) of each layer, softplus between them; two or more.

    Returns:
        output: (N, out of the last layer).
        gradient: (N, 3) of the first output by the point. Both may be differentiated once.
    """
    return _Field.apply(x, table, shape, *(tensor for layer in layers for tensor in layer))
