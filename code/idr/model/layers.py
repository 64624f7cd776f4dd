"""Linear layers with weight normalization, under the published parameter names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


class WeightNormLinear(nn.Module):
    """A linear layer whose weight rows are g v / |v| (Salimans and Kingma 2016).

    Parameters are registered as ``bias``, ``weight_g`` (out, 1) and ``weight_v`` (out, in), in this order:
    published checkpoints name them so, and Adam's saved state goes by position. torch's own successor of
    ``weight_norm`` saves other names.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        plain = nn.Linear(in_features, out_features)  # torch's default initialization
        self.bias = nn.Parameter(plain.bias.detach())
        self.weight_g = nn.Parameter(plain.weight.detach().norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(plain.weight.detach())
        self._folded: Tensor | None = None  # the weight while it is known not to change, see `folded_weights`

    @property
    def weight(self) -> Tensor:
        """The (out, in) weight that is applied, differentiable with respect to g and v unless folded."""
        if self._folded is not None:
            return self._folded
        # The operator behind torch.nn.utils.weight_norm: the published numbers to the last bit. Take only its
        # first derivative by g and v, as training does (f is differentiated by points, then once by
        # parameters): torch 2.14's second derivative by v fails gradgradcheck.
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in) to (N, out)."""
        return functional.linear(x, self.weight, self.bias)


@contextmanager
def folded_weights(network: nn.Module) -> Iterator[None]:
    """Computes normalized weights once for all evaluations inside, which must not need their gradient.

    Args:
        network: Its layers are folded; values stay the same to the last bit.
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


def softplus_into(out: Tensor, x: Tensor, beta: float) -> None:
    """Computes softplus, log(1 + exp(beta x)) / beta, without a gradient.

    torch's own is quick with AVX-512. With less, the exponential and the logarithm of which it consists take
    40 % of its time on an AMD EPYC, and as long as it on a Xeon. They are torch's to the rounding of one
    divided by beta: 1.2e-9 in float32 for beta = 100.

    Args:
        out: Where the values go, as x.
        x: Any shape, on a CPU; may be overwritten.
        beta: Sharpness.
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX512" or x.dtype not in (torch.float32, torch.float64):
        torch.ops.aten.softplus.out(x, beta, out=out)
    else:
        softplus_by_parts(out, x, beta)


def softplus_by_parts(out: Tensor, x: Tensor, beta: float) -> None:
    """Computes softplus by an exponential and a logarithm, alike on all CPUs; see `softplus_into`."""
    # Beyond -40 exp adds nothing to one, and from -87 on its denormal numbers would be slow.
    bend = torch.abs(x, out=out).mul_(-beta).clamp_min_(-40).exp_().add_(1).log_()
    torch.add(x.clamp_min_(0), bend, alpha=1 / beta, out=out)


def make_linear(in_features: int, out_features: int, weight_norm: bool) -> nn.Module:
    """Returns a linear layer in torch's default initialization, with or without weight normalization."""
    kind = WeightNormLinear if weight_norm else nn.Linear
    return kind(in_features, out_features)


@torch.no_grad()
def set_linear(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Sets a layer's applied weight and bias; with weight normalization, g becomes the rows' norm.

    Args:
        layer: What `make_linear` returned.
        weight: (out, in).
        bias: (out,).
    """
    if isinstance(layer, WeightNormLinear):
        layer.weight_v.copy_(weight)
        layer.weight_g.copy_(weight.norm(dim=1, keepdim=True))
        layer.bias.copy_(bias)
    elif isinstance(layer, nn.Linear):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    else:
        raise TypeError(f"{type(layer).__name__} is not a layer of make_linear")
