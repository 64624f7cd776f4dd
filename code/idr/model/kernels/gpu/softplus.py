"""Softplus, its slope and the gradient of its slope on a GPU, in one pass over memory; see `softplus_loops`.

N points, H values per point.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from idr.model.kernels.gpu.support import launch

BLOCK = 1024
"""Values per program."""


@triton.jit
def softplus(z, w, beta):
    """Returns log(1 + exp(z)) / beta for w = exp(-|z|)."""
    return (tl.maximum(z, 0.0) + tl.log(1.0 + w)) / beta


@triton.jit
def _value_and_slope(
    hidden, bias, slopes, beta, num_values, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < num_values
    z = (tl.load(hidden + at, here, 0.0) + tl.load(bias + at % WIDTH, here, 0.0)) * beta
    w = tl.exp(-tl.abs(z))
    tl.store(hidden + at, softplus(z, w, beta), here)
    tl.store(slopes + at, tl.where(z > 0, 1.0, w) / (1.0 + w), here)


@triton.jit
def _gradients_of_scaled(
    by_v, v, slopes, by_hidden, beta, num_values, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < num_values
    gradient, slope = tl.load(by_v + at, here, 0.0), tl.load(slopes + at, here, 0.0)
    tl.store(by_hidden + at, gradient * tl.load(v + at, here, 0.0) * (1.0 - slope) * beta, here)
    tl.store(by_v + at, gradient * slope, here)


def softplus_and_slope(hidden: Tensor, bias: Tensor, beta: float) -> Tensor:
    """Replaces values (N, H) by softplus(values + bias), see `softplus_loops.softplus_and_slope`."""
    slopes, count = torch.empty_like(hidden), hidden.numel()
    arguments = (hidden, bias.detach().contiguous(), slopes, beta, count)
    programs = (triton.cdiv(count, BLOCK),)
    launch(_value_and_slope, programs, *arguments, WIDTH=hidden.shape[1], BLOCK=BLOCK)
    return slopes


def gradients_of_scaled(by_v: Tensor, v: Tensor, slope: Tensor, beta: float) -> Tensor:
    """Backpropagates through v = u s, see `softplus_loops.gradients_of_scaled`."""
    by_hidden, count = torch.empty_like(slope), slope.numel()
    arguments = (by_v, v, slope, by_hidden, beta, count)
    launch(_gradients_of_scaled, (triton.cdiv(count, BLOCK),), *arguments, BLOCK=BLOCK)
    return by_hidden
