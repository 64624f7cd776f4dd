"""The implicit network where nothing is differentiated by its weights: searches along rays, grids, pictures.

N points, E numbers of a point's encoding. On a CPU such an evaluation waits for memory as much as it
computes, above all for pages that the allocator gives back to the system and asks for again. So points go
through the layers in parts that fit the caches, and each part uses the memory of the one before. A column is
a point here, so that what an encoding consists of and what a skip joins are whole rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import torch
from torch import Tensor
from torch.nn import functional

from idr.model.layers import softplus_into

POINTS_AT_ONCE = 8192
"""Points of a part where f alone is wanted."""

POINTS_WITH_GRADIENT = 4096
"""Points of a part where its gradient is, too: what all layers hand on is kept."""


def without_gradients_on_cpu(x: Tensor) -> bool:
    """Whether quicker ways than torch's layers serve: for a CPU, without a gradient, unknown to autocast."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    return not torch.is_autocast_enabled("cpu")


class _Scratch:
    """Memory that one part of the points takes over from another.

    Args:
        points: Most points of a part.
        like: A tensor that gives device and dtype.
    """

    def __init__(self, points: int, like: Tensor) -> None:
        self._points, self._like = points, like
        self._memory: dict[Hashable, Tensor] = {}

    def take(self, name: Hashable, width: int, points: int) -> Tensor:
        """Returns a (width, points) tensor of any values, which is valid until the name is taken again."""
        memory = self._memory.get(name)
        if memory is None or memory.shape[0] < width * self._points:
            memory = self._memory[name] = self._like.new_empty(width * self._points)
        return memory[: width * points].view(width, points)


class FixedNetwork:
    """f(x) -> (signed distance, feature vector) by weights that stay as they are.

    Args:
        encoding: Maps (N, 3) points to (N, E).
        layers: Weight (out, in) and bias (out,) of each linear layer.
        skip_in: Layers that get the encoded point once more, see `ImplicitNetwork`.
        beta: Sharpness of the softplus between layers.
    """

    def __init__(
        self,
        encoding: Callable[[Tensor], Tensor],
        layers: list[tuple[Tensor, Tensor]],
        skip_in: frozenset[int],
        beta: float,
    ) -> None:
        self._encoding, self._skip_in, self._beta = encoding, skip_in, beta
        self._weights = [
            weight / math.sqrt(2) if index in skip_in else weight for index, (weight, _) in enumerate(layers)
        ]
        self._biases = [bias for _, bias in layers]
        self._width_in = self._weights[0].shape[1]  # E

    def distance(self, x: Tensor) -> Tensor:
        """Returns the signed distance (N,) at points (N, 3)."""
        scratch = _Scratch(min(POINTS_AT_ONCE, x.shape[0]), x)
        weight, bias = self._weights[-1][:1], self._biases[-1][:1, None]
        value = x.new_empty(1, x.shape[0])
        for part, into in zip(x.split(POINTS_AT_ONCE), value.split(POINTS_AT_ONCE, dim=1), strict=True):
            encoded = self._encoding(_by_axes(part)).T
            hidden, _ = self._forward(encoded, scratch, keep=False)
            torch.addmm(bias, weight, hidden, out=into)
        return value.squeeze(0)

    def output_and_gradient(self, x: Tensor, num_outputs: int | None) -> tuple[Tensor, Tensor]:
        """Evaluates the network and the gradient of the signed distance.

        Args:
            x: (N, 3) points.
            num_outputs: Outputs wanted; None for all.

        Returns:
            (N, num_outputs) the network, and (N, 3) df/dx.
        """
        scratch = _Scratch(min(POINTS_WITH_GRADIENT, x.shape[0]), x)
        weight, bias = self._weights[-1], self._biases[-1]
        outputs: list[Tensor] = []
        gradients: list[Tensor] = []
        for part in x.split(POINTS_WITH_GRADIENT):
            with torch.enable_grad():
                points = _by_axes(part.detach()).requires_grad_(True)
                encoded = self._encoding(points)
            hidden, slopes = self._forward(encoded.detach().T, scratch, keep=True)
            outputs.append(functional.linear(hidden.T, weight[:num_outputs], bias[:num_outputs]))
            gradients += torch.autograd.grad(encoded, points, self._backward(slopes, scratch).T)
        return torch.cat(outputs), torch.cat(gradients)

    def _forward(self, encoded: Tensor, scratch: _Scratch, keep: bool) -> tuple[Tensor, list[Tensor]]:
        """Returns the last layer's input and, where they are to be kept, the slopes of all others' softplus.

        For h = log(1 + exp(beta z)) / beta the slope dh/dz is sigmoid(beta z).

        Args:
            encoded: (E, N).
            scratch: Memory.
            keep: Whether slopes are wanted.
        """
        hidden, slopes, num_points = encoded, [], encoded.shape[1]
        for index, weight in enumerate(self._weights[:-1]):
            width = weight.shape[0]
            before = scratch.take(("before", index) if keep else "before", width, num_points)
            torch.addmm(self._biases[index].unsqueeze(1), weight, hidden, out=before)
            if index + 1 in self._skip_in:  # what a skip joins lies behind one another
                joined = scratch.take("joined", width + self._width_in, num_points)
                joined[width:] = encoded
                into, hidden = joined[:width], joined
            else:
                into = hidden = scratch.take("hidden", width, num_points)
            if keep:  # the values before are needed once more
                torch.ops.aten.softplus.out(before, self._beta, out=into)
                slopes.append(before.mul_(self._beta).sigmoid_())
            else:
                softplus_into(into, before, self._beta)
        return hidden, slopes

    def _backward(self, slopes: list[Tensor], scratch: _Scratch) -> Tensor:
        """Returns the derivative (E, N) of the signed distance by the encoded points.

        Args:
            slopes: Those that `_forward` kept; overwritten.
            scratch: Memory.
        """
        num_points, last = slopes[0].shape[1], len(slopes)
        by_input = self._weights[last][:1].T.expand(-1, num_points)  # of the last layer
        by_copies = []
        for index in range(last, -1, -1):
            if index < last:
                weight = self._weights[index]
                by_before = slopes[index].mul_(by_input)
                # The first layer's leaves the scratch: an encoding may hand it on as the gradient itself.
                name = ("by joined", index) if index in self._skip_in else "by input"
                into = scratch.take(name, weight.shape[1], num_points) if index else None
                by_input = torch.mm(weight.T, by_before, out=into)
            if index in self._skip_in:
                by_copies.append(by_input[-self._width_in :])
                by_input = by_input[: -self._width_in]
        return sum(by_copies, by_input)


def _by_axes(x: Tensor) -> Tensor:
    """Returns (N, 3) points whose coordinates lie axis by axis in memory."""
    return x.T.contiguous().T
