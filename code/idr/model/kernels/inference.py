"""The implicit network without derivatives w.r.t. its weights, for tracing, grids and images on a CPU.

N points, E width of the encoding. Memory limits such an evaluation as much as arithmetic, above all pages
that the allocator returns to the system and requests again. Points therefore pass through the layers in
chunks that fit the caches, and all chunks share their memory. A point is a column here, so that the
encoding's columns and both operands of a skip are contiguous rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable

import torch
from torch import Tensor
from torch.nn import functional

from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels.activations import SoftplusTwin

CHUNK = 8192
"""Points per chunk when f alone is computed."""

CHUNK_WITH_GRADIENT = 4096
"""Points per chunk when f's gradient is also computed, for which every layer keeps its slopes."""


class _Scratch:
    """Memory that all chunks share.

    Args:
        num_points: Maximum number of points per chunk.
        like: A tensor with the device and dtype to use.
    """

    def __init__(self, num_points: int, like: Tensor) -> None:
        self._num_points, self._like = num_points, like
        self._memory: dict[Hashable, Tensor] = {}

    def tensor(self, name: Hashable, width: int, num_points: int) -> Tensor:
        """Returns an uninitialized (width, num_points) tensor, valid until the name is requested again."""
        memory = self._memory.get(name)
        if memory is None or memory.shape[0] < width * self._num_points:
            memory = self._memory[name] = self._like.new_empty(width * self._num_points)
        return memory[: width * num_points].view(width, num_points)


class FixedNetwork:
    """f(x) -> (signed distance, feature vector) with the weights of the first call.

    Args:
        network: The network.
        activation: The twin of its activation.
    """

    def __init__(self, network: ImplicitNetwork, activation: SoftplusTwin) -> None:
        self._network, self._activation = network, activation
        self._encoding, self._skip_in = network.encoding, network.skip_in
        self._width_in = network.encoding.width  # E

    @functools.cached_property
    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (out, in) and bias (out,) of each layer; a skip layer's weight is divided by sqrt(2)."""
        return [
            (weight / math.sqrt(2) if index in self._skip_in else weight, bias)
            for index, (weight, bias) in enumerate(self._network.weights_and_biases())
        ]

    def sdf(self, x: Tensor) -> Tensor:
        """Returns the signed distance (N,) at points (N, 3)."""
        scratch = _Scratch(min(CHUNK, x.shape[0]), x)
        weight, bias = self._layers[-1]
        value = x.new_empty(1, x.shape[0])
        for chunk, out in zip(x.split(CHUNK), value.split(CHUNK, dim=1), strict=True):
            encoded = self._encoding(_by_axes(chunk)).T
            hidden, _ = self._forward(encoded, scratch, with_slopes=False)
            torch.addmm(bias[:1, None], weight[:1], hidden, out=out)
        return value.squeeze(0)

    def output_and_gradient(self, x: Tensor, num_outputs: int | None) -> tuple[Tensor, Tensor]:
        """Evaluates the network and the gradient of f, see `FieldTwin.output_and_gradient`."""
        scratch = _Scratch(min(CHUNK_WITH_GRADIENT, x.shape[0]), x)
        weight, bias = self._layers[-1]
        outputs, gradients = list[Tensor](), list[Tensor]()
        for chunk in x.split(CHUNK_WITH_GRADIENT):
            with torch.enable_grad():
                points = _by_axes(chunk.detach()).requires_grad_(True)
                encoded = self._encoding(points)
            hidden, slopes = self._forward(encoded.detach().T, scratch, with_slopes=True)
            outputs.append(functional.linear(hidden.T, weight[:num_outputs], bias[:num_outputs]))
            gradients += torch.autograd.grad(encoded, points, self._backward(slopes, scratch).T)
        return torch.cat(outputs), torch.cat(gradients)

    def _forward(self, encoded: Tensor, scratch: _Scratch, with_slopes: bool) -> tuple[Tensor, list[Tensor]]:
        """Returns the last layer's input (width, N) and, if requested, the slopes of all activations."""
        hidden, slopes, num_points = encoded, [], encoded.shape[1]
        for index, (weight, bias) in enumerate(self._layers[:-1]):
            width = weight.shape[0]
            before = scratch.tensor(("before", index) if with_slopes else "before", width, num_points)
            torch.addmm(bias.unsqueeze(1), weight, hidden, out=before)
            if index + 1 in self._skip_in:  # both operands of the skip, one below the other
                joined = scratch.tensor("joined", width + self._width_in, num_points)
                joined[width:] = encoded
                out, hidden = joined[:width], joined
            else:
                out = hidden = scratch.tensor("hidden", width, num_points)
            if with_slopes:
                slopes.append(self._activation.write_with_slope(out, before))
            else:
                self._activation.write(out, before)
        return hidden, slopes

    def _backward(self, slopes: list[Tensor], scratch: _Scratch) -> Tensor:
        """Returns the derivative (E, N) of f w.r.t. the encoded points; overwrites the slopes."""
        num_points, last = slopes[0].shape[1], len(slopes)
        by_input = self._layers[last][0][:1].T.expand(-1, num_points)  # of the last layer
        by_skips = []
        for index in range(last, -1, -1):
            if index < last:
                weight = self._layers[index][0]
                by_before = slopes[index].mul_(by_input)
                # Not for the first layer: an encoding may return that result itself as the gradient.
                name = ("by joined", index) if index in self._skip_in else "by input"
                out = scratch.tensor(name, weight.shape[1], num_points) if index else None
                by_input = torch.mm(weight.T, by_before, out=out)
            if index in self._skip_in:
                by_skips.append(by_input[-self._width_in :])
                by_input = by_input[: -self._width_in]
        return sum(by_skips, by_input)


def _by_axes(x: Tensor) -> Tensor:
    """Returns (N, 3) points whose coordinates are stored axis by axis."""
    return x.T.contiguous().T
