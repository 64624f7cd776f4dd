"""The signed distance network f (paper, Eq. 1 and section 4), in plain torch.

N points, F features, E width of the encoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from idr.model.encodings import make_encoding
from idr.model.implicit_network_config import WHERE, ImplicitNetworkConfig
from idr.model.layers import WeightNormLinear, make_linear, set_linear
from idr.model.twins import FieldTwin, find_kernel

__all__ = ["SOFTPLUS_BETA", "ImplicitNetwork", "ImplicitNetworkConfig"]

SOFTPLUS_BETA = 100.0
"""Published sharpness of the activation: nearly a ReLU, but twice differentiable."""


class ImplicitNetwork(nn.Module):
    """f(x) -> (signed distance, feature vector).

    Args:
        feature_vector_size: F, number of features for the rendering network; may be 0.
        config: The block's values.

    Raises:
        InputError: The layers do not fit the encoding.
    """

    def __init__(self, feature_vector_size: int, config: ImplicitNetworkConfig) -> None:
        super().__init__()
        self.encoding = make_encoding(config.encoding_block, f"{WHERE}.encoding")
        self.activation = nn.Softplus(beta=SOFTPLUS_BETA)
        self.skip_in = frozenset(config.skip_in)
        self.by_differences = config.gradient == "numerical"
        self.gradient_step = config.gradient_step
        width_in = self.encoding.width
        config.check_layers(width_in, has_levels=self.encoding.levels > 0)
        dims = (width_in, *config.dims, config.d_out + feature_vector_size)
        self.num_layers = len(dims) - 1
        for index in range(self.num_layers):
            width_out = dims[index + 1] - width_in if index + 1 in self.skip_in else dims[index + 1]
            layer = make_linear(dims[index], width_out, config.weight_norm)
            if config.geometric_init:
                self._start_as_sphere(layer, index, config.bias)
            setattr(self, f"lin{index}", layer)

    def _start_as_sphere(self, layer: WeightNormLinear | nn.Linear, index: int, radius: float) -> None:
        """Initializes layer ``lin<index>`` so that f starts as |x| - radius (Atzmon and Lipman 2020).

        In the first layer and in skip layers, all weights of the encoding except the point's are zero.
        A learned encoding starts near zero and keeps random weights: zero weights would block its gradients.
        """
        width_out, width_in = shape = layer.weight.shape
        learned = self.encoding.starts_near_zero
        if index == self.num_layers - 1:
            weight = torch.empty(shape).normal_(math.sqrt(math.pi) / math.sqrt(width_in), 1e-4)
            bias = torch.full((width_out,), -radius)
            if learned:  # the published features all start as f and would stay alike for thousands of steps
                weight[1:].normal_(0.0, math.sqrt(2) / math.sqrt(width_in))
                bias[1:] = 0.0
            set_linear(layer, weight, bias)
            return
        std = math.sqrt(2) / math.sqrt(width_out)
        num_encoded = 0 if learned else self.encoding.width - 3
        if index == 0 and num_encoded:
            # Drawn into the columns as the published code does: with the same seed, torch fills strided and
            # contiguous tensors differently.
            weight = torch.zeros(shape)
            weight[:, :3].normal_(0.0, std)
        else:
            weight = torch.empty(shape).normal_(0.0, std)
            if num_encoded and index in self.skip_in:
                weight[:, -num_encoded:] = 0.0
        set_linear(layer, weight, torch.zeros(width_out))

    def layer(self, index: int) -> WeightNormLinear | nn.Linear:
        """Returns the linear layer ``lin<index>``."""
        return cast("WeightNormLinear | nn.Linear", self.get_submodule(f"lin{index}"))

    def weights_and_biases(self) -> list[tuple[Tensor, Tensor]]:
        """Returns the (out, in) weight and the (out,) bias of each layer."""
        layers = (self.layer(index) for index in range(self.num_layers))
        return [(layer.weight, layer.bias) for layer in layers]

    def hidden(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns the input (N, width) of the last layer.

        Args:
            x: (N, 3) points.
            activation: `activation` of this network, or a twin of it.
        """
        encoded = self.encoding(x)  # (N, E)
        hidden = encoded
        for index in range(self.num_layers):
            if index in self.skip_in:
                hidden = torch.cat((hidden, encoded), dim=1) / math.sqrt(2)
            if index < self.num_layers - 1:
                hidden = activation(self.layer(index)(hidden))
        return hidden

    def output(self, hidden: Tensor, num_outputs: int | None) -> Tensor:
        """Returns the first outputs (..., num_outputs) of the last layer; None for all of them."""
        last = self.layer(self.num_layers - 1)
        return functional.linear(hidden, last.weight[:num_outputs], last.bias[:num_outputs])

    def forward(self, x: Tensor) -> Tensor:
        """Evaluates the network.

        Args:
            x: (N, 3) points, unit-sphere frame.

        Returns:
            (N, 1 + F): signed distance (negative inside), then features.
        """
        return self.layer(self.num_layers - 1)(self.hidden(x, self.activation))

    def twin(self, x: Tensor) -> FieldTwin | None:
        """Returns faster functions of this network at points like x (N, 3); None if there are none."""
        fields = find_kernel("fields")
        return None if fields is None else fields.field_for(self, x)

    def sdf(self, x: Tensor) -> Tensor:
        """Returns the signed distance (N,) at points (N, 3); ``forward(x)[:, 0]`` up to rounding."""
        return self.sdf_of_fixed_weights(x)(x)

    def sdf_of_fixed_weights(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns `sdf` for many calls with the current weights, at points like these (N, 3)."""
        twin = self.twin(like)
        if twin is not None and twin.sdf is not None:
            return twin.sdf
        return lambda x: self.output(self.hidden(x, self.activation), 1).squeeze(1)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the network and the gradient of the signed distance in one pass.

        Args:
            x: (N, 3) points, unit-sphere frame; differentiated through if they require a gradient.

        Returns:
            output: (N, 1 + F), see `forward`.
            gradient: (N, 3) df/dx, differentiable again unless gradients are disabled outside.
        """
        return self._output_and_gradient(x, None)

    def sdf_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the signed distance (N, 1) and its gradient (N, 3), see `value_and_gradient`."""
        return self._output_and_gradient(x, 1)

    def gradient(self, x: Tensor) -> Tensor:
        """Returns the gradient (N, 1, 3) of the signed distance, not normalized, see `value_and_gradient`."""
        return self.value_and_gradient(x)[1].unsqueeze(1)

    def _output_and_gradient(self, x: Tensor, num_outputs: int | None) -> tuple[Tensor, Tensor]:
        if self.by_differences:
            return self._differences(x, num_outputs)
        twin = self.twin(x)
        if twin is not None and twin.output_and_gradient is not None:
            return twin.output_and_gradient(x, num_outputs)
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = x if x.requires_grad else x.detach().requires_grad_(True)
            output = self.output(self.hidden(points, self.activation), num_outputs)
            distance = output[:, :1]
            ones = torch.ones_like(distance)
            (gradient,) = torch.autograd.grad(distance, points, ones, create_graph, create_graph)
        return (output, gradient) if create_graph else (output.detach(), gradient)

    def _differences(self, x: Tensor, num_outputs: int | None) -> tuple[Tensor, Tensor]:
        """Evaluates the network, and f's gradient by central differences (Li et al. 2023, section 3.1).

        Both are plain functions of the network at 7 N points, so training needs no second derivatives. With a
        step of one cell, a point's gradient depends on neighboring cells, too, and the Eikonal loss makes
        them consistent; the analytic gradient depends on the point's own cell alone.
        """
        spacing = self.encoding.spacing()
        assert spacing is not None
        step = self.gradient_step * spacing
        along = step * torch.eye(3, dtype=x.dtype, device=x.device).unsqueeze(1)  # (3, 1, 3)
        around = torch.cat((x.unsqueeze(0), x + along, x - along))  # (7, N, 3)
        hidden = self.hidden(around.flatten(0, 1), self.activation).unflatten(0, (7, x.shape[0]))
        last = self.layer(self.num_layers - 1)
        change = functional.linear(hidden[1:4] - hidden[4:], last.weight[:1])  # (3, N, 1)
        return self.output(hidden[0], num_outputs), change.squeeze(2).T / (2 * step)
