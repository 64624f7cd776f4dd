"""Twins of activations on a CPU, without gradients. Add one for a new activation here if it pays off."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from idr.model.kernels.numba_support import has_numba


class SoftplusTwin:
    """softplus(x) = log(1 + exp(beta x)) / beta.

    In float32 with numba, compiled loops compute it in one pass over memory, to a few roundings. Otherwise a
    separate exponential and logarithm give torch's values up to the rounding of 1 divided by beta: 1.2e-9 in
    float32 for beta = 100. They are faster than torch's operator on a CPU without AVX-512.

    Args:
        beta: Sharpness.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def __call__(self, x: Tensor) -> Tensor:
        """Returns softplus(x), the same values on all CPUs; overwrites x."""
        loops = _loops(x)
        if loops is not None:
            return loops.softplus_(x, self.beta)
        out = torch.empty_like(x)
        self._by_parts(out, x)
        return out

    def write(self, out: Tensor, x: Tensor) -> None:
        """Writes softplus(x) to ``out`` in the fastest way on this CPU; may overwrite x."""
        loops = _loops(x)
        has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
        if loops is not None:
            loops.write_softplus(x, self.beta, out)
        elif has_avx512 or x.dtype not in (torch.float32, torch.float64):
            torch.ops.aten.softplus.out(x, self.beta, out=out)
        else:
            self._by_parts(out, x)

    def write_with_slope(self, out: Tensor, x: Tensor) -> Tensor:
        """Writes softplus(x) to ``out``; returns its derivative sigmoid(beta x) in the memory of x."""
        loops = _loops(x)
        if loops is not None:
            loops.write_softplus_keep_slope(x, self.beta, out)
            return x
        torch.ops.aten.softplus.out(x, self.beta, out=out)
        return x.mul_(self.beta).sigmoid_()

    def _by_parts(self, out: Tensor, x: Tensor) -> None:
        # Below -40, exp adds nothing to 1; below -87, its denormal values would be slow.
        log = torch.abs(x, out=out).mul_(-self.beta).clamp_min_(-40).exp_().add_(1).log_()
        torch.add(x.clamp_min_(0), log, alpha=1 / self.beta, out=out)


def _loops(x: Tensor) -> ModuleType | None:
    """Returns the compiled loops if they can compute the softplus of x, which must be contiguous."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not has_numba():
        return None
    from idr.model.kernels import softplus_loops  # compiles at import

    return softplus_loops


def activation_twin(activation: nn.Module) -> SoftplusTwin | None:
    """Returns the twin of an activation; None if it has none."""
    return SoftplusTwin(activation.beta) if type(activation) is nn.Softplus else None
