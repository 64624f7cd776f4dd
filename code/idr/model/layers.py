"""Linear layers with weight normalization, under the published parameter names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


class WeightNormLinear(nn.Module):
    """A linear layer whose weight rows are g v / |v| (Salimans and Kingma 2016).

    Parameters are ``bias``, ``weight_g`` (out, 1) and ``weight_v`` (out, in), in this order: published
    checkpoints use these names, and Adam's saved state is indexed by position. torch's successor of
    ``weight_norm`` uses other names.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        plain = nn.Linear(in_features, out_features)  # torch's default initialization
        self.bias = nn.Parameter(plain.bias.detach())
        self.weight_g = nn.Parameter(plain.weight.detach().norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(plain.weight.detach())
        self._folded: Tensor | None = None  # the weight within `folded_weights`

    @property
    def weight(self) -> Tensor:
        """The effective (out, in) weight, differentiable with respect to g and v unless folded."""
        if self._folded is not None:
            return self._folded
        # The operator of torch.nn.utils.weight_norm reproduces the published values bit for bit. Use only its
        # first derivative w.r.t. g and v, as training does (f is differentiated w.r.t. points, then once
        # w.r.t. parameters): in torch 2.14 the second derivative w.r.t. v fails gradgradcheck.
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in) to (N, out)."""
        return functional.linear(x, self.weight, self.bias)


@contextmanager
def folded_weights(network: nn.Module) -> Iterator[None]:
    """Computes normalized weights once for all evaluations inside, which must not need their gradients.

    Args:
        network: Module whose layers are folded; its outputs stay bit-equal.
    """
    layers = [module for module in network.modules() if isinstance(module, WeightNormLinear)]
    try:
        with torch.no_grad():
            for layer in layers:
                layer._folded = layer.weight
        yield
    finally:
        for layer in layers:
            layer._folded = None


def make_linear(in_features: int, out_features: int, weight_norm: bool) -> WeightNormLinear | nn.Linear:
    """Returns a linear layer with torch's default initialization, with or without weight normalization."""
    return (WeightNormLinear if weight_norm else nn.Linear)(in_features, out_features)


@torch.no_grad()
def set_linear(layer: WeightNormLinear | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Sets a layer's effective weight and bias; with weight normalization, g becomes the row norms.

    Args:
        layer: A result of `make_linear`.
        weight: (out, in).
        bias: (out,).
    """
    if isinstance(layer, WeightNormLinear):
        layer.weight_v.copy_(weight)
        layer.weight_g.copy_(weight.norm(dim=1, keepdim=True))
    else:
        layer.weight.copy_(weight)
    layer.bias.copy_(bias)
