"""f, features and f's gradient of a softplus network, with explicit derivatives.

Autograd computes the same by double backward: it records the forward pass, differentiates it w.r.t. the
point, records that pass, too, and backpropagates through both. Here each activation and each of its
derivatives is computed once, in one pass over memory. `ImplicitNetwork` in plain torch is the reference.

N points, E width of the encoding's open part, F features. With the encoded point e, layer i computes h_i =
W_i c_i + b_i from c_1 = e and c_i = a_(i-1), or (a_(i-1), e) / sqrt(2) in a skip layer; a_i = softplus(h_i),
s_i = softplus'(h_i); the last layer m is linear. Its first row gives f, and backward from this row r_m,

    v_i = u_i s_i,    r_i = v_i W_i,    where u_i is the part of r_(i+1) that belongs to a_i;

the parts that belong to e add up to df/de, and df/dx = (de/dx)^T df/de.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels.point_codes import PointCode, code_of


class _Shape(NamedTuple):
    """Constants of a network; ``width`` is E, ``beta`` the sharpness of its softplus.

    ``softplus`` has the functions of `softplus_loops` for the device of the points.
    """

    code: PointCode
    softplus: Any
    skip_in: frozenset[int]
    width: int
    beta: float

    def split(self, weights: tuple[Tensor, ...]) -> list[tuple[Tensor | None, Tensor | None]]:
        """Splits each weight into its columns for a_(i-1) and for e; those of skips include 1 / sqrt(2)."""
        width_in = weights[0].shape[1]
        parts: list[tuple[Tensor | None, Tensor | None]] = [(None, weights[0][:, : self.width])]
        for index, weight in enumerate(weights[1:], start=1):
            if index in self.skip_in:
                hidden, encoded = (weight / math.sqrt(2)).split((weight.shape[1] - width_in, width_in), dim=1)
                parts.append((hidden, encoded[:, : self.width]))
            else:
                parts.append((weight, None))
        return parts

    def joined(self, index: int, parts: tuple[Tensor | None, Tensor | None], like: Tensor) -> Tensor:
        """Returns the gradient of a weight from those of its parts; closed levels get zeros."""
        found = torch.cat([part for part in parts if part is not None], dim=1)
        if index in self.skip_in:
            found /= math.sqrt(2)
        return functional.pad(found, (0, like.shape[1] - found.shape[1]))


def _product(
    left: tuple[Tensor | None, Tensor | None], right: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """Returns the sum of left @ right^T over the parts that a layer has."""
    (one, two), (first, second) = left, right
    if first is None or one is None:
        assert two is not None and second is not None
        return two @ second.T
    product = one @ first.T
    return product if second is None or two is None else product.addmm_(two, second.T)


class _Field(torch.autograd.Function):
    """(x, table, shape, W_1, b_1, ..., W_m, b_m) -> output (N, 1 + F), df/dx (N, 3)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor | None, shape: _Shape, *layers: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights, biases = layers[::2], layers[1::2]
        parts = shape.split(weights)
        encoded, slopes = shape.code.encode(x, table)
        activations, derivatives = list[Tensor](), list[Tensor]()
        for part, bias in zip(parts[:-1], biases[:-1], strict=True):
            hidden = _product((activations[-1] if activations else None, encoded), part)
            derivatives.append(shape.softplus.softplus_and_slope(hidden, bias, shape.beta))
            activations.append(hidden)
        output = _product((activations[-1], encoded), parts[-1]).add_(biases[-1])
        by_encoded = x.new_zeros(x.shape[0], shape.width)
        by_hidden, skipped = (None if part is None else part[:1] for part in parts[-1])
        if skipped is not None:
            by_encoded += skipped
        vs = list[Tensor]()
        for (of_hidden, of_encoded), derivative in zip(parts[-2::-1], derivatives[::-1], strict=True):
            assert by_hidden is not None
            out = by_hidden if vs else None  # at first it is a row of the last weight
            vs.insert(0, torch.mul(by_hidden, derivative, out=out))
            if of_encoded is not None:
                by_encoded.addmm_(vs[0], of_encoded)
            if of_hidden is not None:
                by_hidden = vs[0] @ of_hidden
        ctx.shape, ctx.num_layers = shape, len(weights)
        ctx.save_for_backward(
            x, table, slopes, encoded, by_encoded, *weights, *activations, *derivatives, *vs
        )
        return output, shape.code.pull(slopes, by_encoded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_output: Tensor, by_gradient: Tensor) -> Any:
        shape, m = ctx.shape, ctx.num_layers
        x, table, slopes, encoded, by_encoded, *rest = ctx.saved_tensors
        weights = rest[:m]
        activations, derivatives, vs = (rest[k : k + m - 1] for k in range(m, len(rest), m - 1))
        parts = shape.split(tuple(weights))
        code = shape.code
        # Forward through the gradient's pass: the loss's derivatives w.r.t. df/de (`push`) and u_i (`up`).
        push, up = code.push(slopes, by_gradient), None
        by_parts, through_slopes = list[tuple[Tensor | None, Tensor | None]](), list[Tensor]()
        for part, derivative, v in zip(parts[:-1], derivatives, vs, strict=True):
            by_parts.append(
                (None if part[0] is None else v.T @ up, None if part[1] is None else v.T @ push)
            )
            up = _product((up, push), part)
            through_slopes.append(shape.softplus.gradients_of_scaled(up, v, derivative, shape.beta))
        # Backward through the values' pass; `down` is the derivative of the loss w.r.t. h_i.
        down, by_biases, by_code = by_output, list[Tensor](), torch.zeros_like(encoded)
        last = [by_output.T @ activations[-1], None if parts[-1][1] is None else by_output.T @ encoded]
        for by_part, by_row in zip(last, (up, push), strict=True):
            if by_part is not None:
                by_part[0] += by_row.sum(dim=0)
        by_parts.append((last[0], last[1]))
        needs_code = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        for index in range(m - 1, -1, -1):
            of_hidden, of_encoded = parts[index]
            if index < m - 1:
                for by_part, inputs in zip(by_parts[index], (activations[index - 1], encoded), strict=True):
                    if by_part is not None:
                        by_part.addmm_(down.T, inputs)
            by_biases.insert(0, down.sum(dim=0))
            if of_encoded is not None and needs_code:
                by_code.addmm_(down, of_encoded)
            if of_hidden is not None:
                product = down @ of_hidden
                down = torch.addcmul(through_slopes[index - 1], product, derivatives[index - 1], out=product)
        by_x = by_table = None
        if ctx.needs_input_grad[0]:
            by_x = code.pull(slopes, by_code) + code.bend(x, table, encoded, by_encoded, by_gradient)
        if ctx.needs_input_grad[1]:
            by_table = code.by_table(x, table, by_code, by_encoded, by_gradient)
        by_weights = [shape.joined(i, part, weights[i]) for i, part in enumerate(by_parts)]
        by_layers = (t for pair in zip(by_weights, by_biases, strict=True) for t in pair)
        return by_x, by_table, None, *by_layers


def output_and_gradient(
    network: ImplicitNetwork, x: Tensor, num_outputs: int | None
) -> tuple[Tensor, Tensor]:
    """Evaluates `FieldTwin.output_and_gradient`; both results are differentiable once.

    Args:
        network: A softplus network on an encoding of `point_codes.code_of`.
        x: (N, 3) points, float32, on a device of the encoding's kernels; float64 without a hash grid.
        num_outputs: Number of outputs; None for all.
    """
    code, table, softplus = code_of(network.encoding, x)
    shape = _Shape(code, softplus, network.skip_in, code.width, network.activation.beta)
    layers = network.weights_and_biases()
    weight, bias = layers.pop()
    layers.append((weight[:num_outputs], bias[:num_outputs]))
    return _Field.apply(x, table, shape, *(tensor for layer in layers for tensor in layer))
