"""The signed distance network f (paper, Eq. 1 and section 4).

N points, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from idr.errors import InputError
from idr.model.encodings import Encoding, make_encoding
from idr.model.encodings.hashgrid import HashGrid
from idr.model.kernels.inference import FixedNetwork, without_gradients_on_cpu
from idr.model.layers import WeightNormLinear, make_linear, set_linear, softplus_by_parts

SOFTPLUS_BETA = 100.0  # the published sharpness: nearly a ReLU, but twice differentiable


@dataclass(frozen=True)
class ImplicitNetworkConfig:
    """Keys of the block ``model.implicit_network``.

    Attributes:
        d_in: Dimensions of a point.
        d_out: Values before the features: the signed distance.
        dims: Widths of the hidden layers.
        geometric_init: Start as the distance to a sphere.
        bias: Radius of that sphere, unit-sphere frame.
        skip_in: Layers, counted from 0, that get the encoded point once more.
        weight_norm: Normalize weight rows.
        multires: Octaves of the positional encoding; 0 for none.
        encoding: Block of another encoding of points (`idr.model.encodings`), in place of ``multires``.
        gradient: How f's gradient is found: ``analytic``, or ``numerical``, by central differences (Li et al.
            2023, section 3.1), in training and in evaluation.
        gradient_step: Of ``numerical``: how far f is asked to either side, in sides of the encoding's finest
            open cells.
    """

    d_in: int
    d_out: int
    dims: tuple[int, ...]
    geometric_init: bool = True
    bias: float = 1.0
    skip_in: tuple[int, ...] = ()
    weight_norm: bool = True
    multires: int = 0
    encoding: Mapping[str, Any] | None = None
    gradient: Literal["analytic", "numerical"] = "analytic"
    gradient_step: float = 1.0

    def __post_init__(self) -> None:
        where = "model.implicit_network"
        if self.d_in != 3 or self.d_out != 1:
            raise InputError(
                f"{where}.d_in = {self.d_in}, {where}.d_out = {self.d_out}: "
                "expected 3 coordinates and 1 distance"
            )
        if self.multires < 0:
            raise InputError(f"{where}.multires = {self.multires}: expected 0 or more octaves")
        if self.encoding is not None and self.multires:
            raise InputError(
                f"{where}.multires = {self.multires}: the block {where}.encoding takes its place; "
                "leave one of them out"
            )
        if self.gradient_step <= 0:
            raise InputError(
                f"{where}.gradient_step = {self.gradient_step}: expected a step above 0, in sides of a cell"
            )
        if self.gradient != "numerical" and self.gradient_step != 1:
            raise InputError(
                f"{where}.gradient_step: belongs to gradient = numerical, got gradient = {self.gradient}; "
                "set gradient = numerical, or leave the key out"
            )


class ImplicitNetwork(nn.Module):
    """f(x) -> (signed distance, feature vector).

    Args:
        feature_vector_size: F, numbers handed on to the rendering network; may be 0.
        config: The block's values.

    Raises:
        InputError: The layers do not fit together.
    """

    def __init__(self, feature_vector_size: int, config: ImplicitNetworkConfig) -> None:
        super().__init__()
        self.encoding = _encoding(config)
        self.skip_in = frozenset(config.skip_in)
        self.by_differences = config.gradient == "numerical"
        self.gradient_step = config.gradient_step
        width_in = self.encoding.width
        dims = (width_in, *config.dims, config.d_out + feature_vector_size)
        self.num_layers = len(dims) - 1
        _check_layers(config, width_in, self.num_layers)

        for index in range(self.num_layers):
            width_out = dims[index + 1] - width_in if index + 1 in self.skip_in else dims[index + 1]
            layer = make_linear(dims[index], width_out, config.weight_norm)
            if config.geometric_init:
                self._start_as_sphere(layer, index, (dims[index], width_out), config)
            setattr(self, f"lin{index}", layer)

    def _start_as_sphere(
        self, layer: nn.Module, index: int, shape: tuple[int, int], config: ImplicitNetworkConfig
    ) -> None:
        """Initializes one layer so that f starts as |x| - bias (Atzmon and Lipman 2020)."""
        width_in, width_out = shape
        learns = self.encoding.starts_near_zero
        if index == self.num_layers - 1:
            mean = math.sqrt(math.pi) / math.sqrt(width_in)
            weight = torch.empty(width_out, width_in).normal_(mean, 1e-4)
            bias = torch.full((width_out,), -config.bias)
            if learns:  # as published, all features start as f; in thousands of steps they would not part
                weight[1:].normal_(0.0, math.sqrt(2) / math.sqrt(width_in))
                bias[1:] = 0.0
            set_linear(layer, weight, bias)
            return
        std = math.sqrt(2) / math.sqrt(width_out)
        num_encoded = self.encoding.width - config.d_in
        if num_encoded and index == 0 and not learns:
            # Only the point itself counts at the start, not its encoding. Drawn into the columns, as the
            # published code does: of one seed, torch fills strided and contiguous tensors differently. An
            # encoding that is learnt starts near zero itself: behind columns of zeros it would not learn.
            weight = torch.zeros(width_out, width_in)
            weight[:, : config.d_in].normal_(0.0, std)
        else:
            weight = torch.empty(width_out, width_in).normal_(0.0, std)
            if num_encoded and index in self.skip_in and not learns:
                weight[:, -num_encoded:] = 0.0
        set_linear(layer, weight, torch.zeros(width_out))

    def _hidden(self, x: Tensor, by_parts: bool = False) -> Tensor:
        """Returns the input of the last layer, (N, width); perhaps by `softplus_by_parts`."""
        encoded = self.encoding(x)
        hidden = encoded
        for index in range(self.num_layers):
            if index in self.skip_in:
                hidden = torch.cat((hidden, encoded), dim=1) / math.sqrt(2)
            if index < self.num_layers - 1:
                hidden = self.layer(index)(hidden)
                if by_parts:
                    before, hidden = hidden, torch.empty_like(hidden)
                    softplus_by_parts(hidden, before, SOFTPLUS_BETA)
                else:
                    hidden = functional.softplus(hidden, beta=SOFTPLUS_BETA)
        return hidden

    def layer(self, index: int) -> WeightNormLinear | nn.Linear:
        """Returns the linear layer ``lin<index>``."""
        return cast("WeightNormLinear | nn.Linear", self.get_submodule(f"lin{index}"))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluates the network.

        Args:
            x: (N, 3) points, unit-sphere frame.

        Returns:
            (N, 1 + F): signed distance (negative inside), then features.
        """
        return self.layer(self.num_layers - 1)(self._hidden(x))

    def sdf(self, x: Tensor) -> Tensor:
        """Evaluates the signed distance alone, without computing features.

        Equal to ``forward(x)[:, 0]`` up to rounding: the product of another shape may sum in another order,
        and where gradients are switched off on a CPU, layers are computed in quicker ways, in training in
        another one than in evaluation.

        Args:
            x: (N, 3) points, unit-sphere frame.

        Returns:
            (N,) signed distance.
        """
        fixed = self._fixed(x)
        if fixed is not None:
            return fixed.distance(x)
        last = self.layer(self.num_layers - 1)
        hidden = self._hidden(x, by_parts=without_gradients_on_cpu(x))
        return functional.linear(hidden, last.weight[:1], last.bias[:1]).squeeze(1)

    def sdf_of_fixed_weights(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns `sdf`, for many calls before weights change, by points like these: prepared only once."""
        fixed = self._fixed(like)
        return self.sdf if fixed is None else fixed.distance

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the network and the gradient of the signed distance in one pass.

        Args:
            x: (N, 3) points, unit-sphere frame; differentiated through if they require a gradient.

        Returns:
            output: (N, 1 + F) as `forward` returns.
            gradient: (N, 3) df/dx, differentiable again unless gradients are switched off outside.
        """
        if self.by_differences:
            return self._differences(x, None)
        return self._written_out(x, None) or self._with_gradient(x, self.forward)

    def sdf_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the signed distance, without features, and its gradient in one pass.

        Args:
            x: (N, 3) points, unit-sphere frame; differentiated through if they require a gradient.

        Returns:
            distance: (N, 1).
            gradient: (N, 3) df/dx, differentiable again unless gradients are switched off outside.
        """
        if self.by_differences:
            return self._differences(x, 1)
        return self._written_out(x, 1) or self._with_gradient(x, lambda points: self.sdf(points).unsqueeze(1))

    def _fixed(self, like: Tensor) -> FixedNetwork | None:
        """Returns the network by its present weights where that can serve, in evaluation."""
        if self.training or not without_gradients_on_cpu(like):
            return None
        return FixedNetwork(self.encoding, self._weights_and_biases(), self.skip_in, SOFTPLUS_BETA)

    def _weights_and_biases(self) -> list[tuple[Tensor, Tensor]]:
        """Returns the (out, in) weight and the (out,) bias of each layer."""
        layers = (self.layer(index) for index in range(self.num_layers))
        return [(layer.weight, layer.bias) for layer in layers]

    def _written_out(self, x: Tensor, num_outputs: int | None) -> tuple[Tensor, Tensor] | None:
        """Evaluates by the written-out passes of `fused_field` or `FixedNetwork` where they can serve.

        Args:
            x: (N, 3) points.
            num_outputs: Outputs wanted; None for all.

        Returns:
            As `value_and_gradient`, or None: plain torch has to.
        """
        grid = self.encoding
        if self.skip_in or not isinstance(grid, HashGrid) or (compiled := grid.compiled_levels(x)) is None:
            fixed = self._fixed(x)
            return None if fixed is None else fixed.output_and_gradient(x, num_outputs)
        from idr.model.kernels.fused_field import GridShape, field_and_gradient

        layers = self._weights_and_biases()
        weight, bias = layers.pop()
        layers.append((weight[:num_outputs], bias[:num_outputs]))
        shape = GridShape(*compiled, beta=SOFTPLUS_BETA, bound=grid.config.bound)
        return field_and_gradient(x, grid.table, shape, layers)

    def _with_gradient(self, x: Tensor, evaluate: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Evaluates something whose first column is f, and f's gradient."""
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = x if x.requires_grad else x.detach().requires_grad_(True)
            output = evaluate(points)
            distance = output[:, :1]
            (gradient,) = torch.autograd.grad(
                distance,
                points,
                torch.ones_like(distance),
                create_graph=create_graph,
                retain_graph=create_graph,
            )
        return (output, gradient) if create_graph else (output.detach(), gradient)

    def _differences(self, x: Tensor, num_outputs: int | None) -> tuple[Tensor, Tensor]:
        """Evaluates the network, and f's gradient by central differences (Li et al. 2023, section 3.1).

        Both are plain functions of the network's values at 7 N points, so that training differentiates once.
        With a step of a cell, the cells beside a point's have a part in its gradient, and the Eikonal loss
        makes them agree; the analytic one knows a point's own cell alone.

        Args:
            x: (N, 3) points.
            num_outputs: Outputs wanted; None for all.

        Returns:
            As `value_and_gradient`.
        """
        spacing = self.encoding.spacing()
        assert spacing is not None
        step = self.gradient_step * spacing
        along = step * torch.eye(3, dtype=x.dtype, device=x.device).unsqueeze(1)  # (3, 1, 3)
        around = torch.cat((x.unsqueeze(0), x + along, x - along))  # (7, N, 3)
        hidden = self._hidden(around.flatten(0, 1)).unflatten(0, (7, x.shape[0]))  # (7, N, width)
        last = self.layer(self.num_layers - 1)
        output = functional.linear(hidden[0], last.weight[:num_outputs], last.bias[:num_outputs])
        change = functional.linear(hidden[1:4] - hidden[4:], last.weight[:1])  # (3, N, 1)
        return output, change.squeeze(2).T / (2 * step)

    def gradient(self, x: Tensor) -> Tensor:
        """Returns the gradient of the signed distance, not normalized.

        Args:
            x: (N, 3) points, unit-sphere frame.

        Returns:
            (N, 1, 3), differentiable again unless gradients are switched off outside.
        """
        return self.value_and_gradient(x)[1].unsqueeze(1)


def _encoding(config: ImplicitNetworkConfig) -> Encoding:
    """Makes the encoding of points: the published one, or that of the block ``encoding``."""
    where = "model.implicit_network"
    block = config.encoding
    if block is None:
        block = {"type": "sinusoids", "multires": config.multires}
    encoding = make_encoding(block, f"{where}.encoding")
    if config.gradient == "numerical" and not encoding.levels:
        raise InputError(
            f"{where}.gradient = numerical: its step follows an encoding's levels, and {block['type']} has "
            f"none; take an {where}.encoding with levels (hashgrid), or gradient = analytic"
        )
    return encoding


def _check_layers(config: ImplicitNetworkConfig, width_in: int, num_layers: int) -> None:
    """Refuses layer lists that cannot be built."""
    where = "model.implicit_network"
    if not config.dims or min(config.dims) < 1:
        raise InputError(f"{where}.dims = {list(config.dims)}: expected one or more positive widths")
    for index in config.skip_in:
        if not 1 <= index < num_layers:
            raise InputError(
                f"{where}.skip_in = {list(config.skip_in)}: layer {index} cannot be a skip layer; "
                f"with {len(config.dims)} hidden layers choose from 1 to {num_layers - 1}"
            )
        if config.dims[index - 1] <= width_in:
            raise InputError(
                f"{where}.skip_in = {list(config.skip_in)}: layer {index - 1} has width "
                f"{config.dims[index - 1]}, of which the encoded point takes {width_in}; "
                + (
                    f"make it wider or lower multires ({config.multires})"
                    if config.encoding is None
                    else "make it wider or the encoding narrower"
                )
            )
