"""The implicit network where nothing is differentiated by its weights: searches along rays, grids, pictures.

N points. On a CPU such an evaluation waits for memory as much as it computes, above all for pages that the
allocator gives back to the system and asks for again. So points go through the layers in parts that fit the
caches, and each part uses the memory of the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from idr.model.layers import softplus_into

POINTS_AT_ONCE = 8192
"""Points of a part where f alone is wanted."""

POINTS_WITH_GRADIENT = 4096
"""Points of a part where its gradient is, too: what all layers hand on is kept."""


class _Scratch:
    """Memory that one part of the points takes over from another.

    Args:
        rows: Most points of a part.
        like: A tensor that gives device and dtype.
    """

    def __init__(self, rows: int, like: Tensor) -> None:
        self._rows, self._like = rows, like
        self._memory: dict[Hashable, Tensor] = {}

    def take(self, name: Hashable, rows: int, width: int) -> Tensor:
        """Returns a (rows, width) tensor of any values, which is valid until the name is taken again."""
        memory = self._memory.get(name)
        if memory is None or memory.shape[0] < self._rows * width:
            memory = self._memory[name] = self._like.new_empty(self._rows * width)
        return memory[: rows * width].view(rows, width)


@dataclass(frozen=True)
class FixedNetwork:
    """f(x) -> (signed distance, feature vector) by weights that stay as they are.

    Attributes:
        encoding: Maps (N, 3) points to (N, E).
        layers: Weight (out, in) and bias (out,) of each linear layer.
        skip_in: Layers that get the encoded point once more, see `ImplicitNetwork`.
        beta: Sharpness of the softplus between layers.
    """

    encoding: Callable[[Tensor], Tensor]
    layers: list[tuple[Tensor, Tensor]]
    skip_in: frozenset[int]
    beta: float

    def distance(self, x: Tensor) -> Tensor:
        """Returns the signed distance (N,) at points (N, 3)."""
        scratch = _Scratch(min(POINTS_AT_ONCE, x.shape[0]), x)
        weight, bias = self.layers[-1]
        value = x.new_empty(x.shape[0], 1)
        for part, into in zip(x.split(POINTS_AT_ONCE), value.split(POINTS_AT_ONCE), strict=True):
            hidden, _ = self._forward(self.encoding(part), scratch, keep=False)
            torch.addmm(bias[:1], hidden, weight[:1].T, out=into)
        return value.squeeze(1)

    def output_and_gradient(self, x: Tensor, num_outputs: int | None) -> tuple[Tensor, Tensor]:
        """Evaluates the network and the gradient of the signed distance.

        Args:
            x: (N, 3) points.
            num_outputs: Outputs wanted; None for all.

        Returns:
            (N, num_outputs) the network, and (N, 3) df/dx.
        """
        scratch = _Scratch(min(POINTS_WITH_GRADIENT, x.shape[0]), x)
        weight, bias = self.layers[-1]
        outputs, gradients = [], []
        for part in x.split(POINTS_WITH_GRADIENT):
            with torch.enable_grad():
                points = part.detach().requires_grad_(True)
                encoded = self.encoding(points)
            hidden, slopes = self._forward(encoded.detach(), scratch, keep=True)
            outputs.append(functional.linear(hidden, weight[:num_outputs], bias[:num_outputs]))
            gradients += torch.autograd.grad(encoded, points, self._backward(slopes, scratch))
        return torch.cat(outputs), torch.cat(gradients)

    def _forward(self, encoded: Tensor, scratch: _Scratch, keep: bool) -> tuple[Tensor, list[Tensor]]:
        """Returns the last layer's input and, where they are to be kept, the slopes of all others' softplus.

        For h = log(1 + exp(beta z)) / beta the slope dh/dz is sigmoid(beta z).
        """
        hidden, slopes, num_points = encoded, [], encoded.shape[0]
        for index, (weight, bias) in enumerate(self.layers):
            if index in self.skip_in:
                width = hidden.shape[1] + encoded.shape[1]
                joined = torch.cat((hidden, encoded), dim=1, out=scratch.take("joined", num_points, width))
                hidden = joined.mul_(1 / math.sqrt(2))
            if index == len(self.layers) - 1:
                break
            before = scratch.take(("before", index) if keep else "before", num_points, weight.shape[0])
            torch.addmm(bias, hidden, weight.T, out=before)
            hidden = scratch.take("hidden", num_points, weight.shape[0])
            if keep:  # the values before are needed once more
                torch.ops.aten.softplus.out(before, self.beta, out=hidden)
                slopes.append(before.mul_(self.beta).sigmoid_())
            else:
                softplus_into(hidden, before, self.beta)
        return hidden, slopes

    def _backward(self, slopes: list[Tensor], scratch: _Scratch) -> Tensor:
        """Returns the derivative (N, E) of the signed distance by the encoded points.

        Args:
            slopes: Those that `_forward` kept; overwritten.
            scratch: Memory.
        """
        num_points, last = slopes[0].shape[0], len(slopes)
        by_hidden = self.layers[-1][0][:1].expand(num_points, -1)  # (N, width)
        by_copies = []
        for index in range(last, -1, -1):
            if index < last:
                weight = self.layers[index][0]
                by_before = slopes[index].mul_(by_hidden)
                # The last product leaves the scratch: an encoding may hand it on as the gradient itself.
                into = scratch.take("by hidden", num_points, weight.shape[1]) if index else None
                by_hidden = torch.mm(by_before, weight, out=into)
            if index in self.skip_in:
                by_hidden = by_hidden.mul(1 / math.sqrt(2))
                by_copies.append(by_hidden[:, -self._width_in :])
                by_hidden = by_hidden[:, : -self._width_in]
        return sum(by_copies, by_hidden)

    @property
    def _width_in(self) -> int:
        """E: the first layer's inputs."""
        return self.layers[0][0].shape[1]
