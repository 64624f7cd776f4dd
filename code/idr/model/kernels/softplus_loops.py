"""Softplus, its slope and the gradient of its slope as compiled loops for a CPU, in one pass over memory.

With w = exp(-|beta z|), softplus(z) is max(z, 0) + log(1 + w) / beta, and its slope is 1 / (1 + w), or w / (1
+ w) for negative z. Here w and log(1 + w) are polynomials without branches or tables, which compilers
vectorize; their error is a few float32 roundings. N values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

from idr.model.kernels.numba_support import ONE, ZERO, compiled, in_threads

MAX_EXPONENT = np.float32(18)
"""|beta z| is clamped here: exp(-18) is below float32's resolution at 1."""

SQUARINGS = 5
"""exp(-u) is exp(-u / 32) by six terms of its series, squared five times: relative error 4e-5 at u = 10."""

JOB_SIZE = 65_536
"""Values per job of a thread."""

_compiled = compiled(fastmath={"contract"})


def _log1p_coefficients() -> tuple[Any, ...]:
    """Returns those of log(1 + w) / w on [0, 1], constant term first; the error of log(1 + w) is 8e-7."""
    approximation = Chebyshev.interpolate(lambda w: np.log1p(w) / w, deg=6, domain=[0, 1])  # no node is at 0
    return tuple(np.float32(c) for c in approximation.convert(kind=Polynomial).coef)


_L0, _L1, _L2, _L3, _L4, _L5, _L6 = _log1p_coefficients()
_HALF, _THIRD, _QUARTER, _FIFTH = (np.float32(1 / n) for n in (2, 3, 4, 5))
_FRACTION = np.float32(2**-SQUARINGS)


@_compiled
def exp_of_negative(z: Any) -> Any:
    """Returns exp(-|z|)."""
    u = min(abs(z), MAX_EXPONENT) * _FRACTION
    w = ONE - u * (ONE - _HALF * u * (ONE - _THIRD * u * (ONE - _QUARTER * u * (ONE - _FIFTH * u))))
    w *= w
    w *= w
    w *= w
    w *= w
    return w * w


@_compiled
def log_of_one_plus(w: Any) -> Any:
    """Returns log(1 + w) for w in [0, 1]."""
    return w * (_L0 + w * (_L1 + w * (_L2 + w * (_L3 + w * (_L4 + w * (_L5 + w * _L6))))))


@_compiled
def softplus_in_place(values: Any, beta: Any) -> None:
    """Replaces values (N,) by their softplus."""
    scale = ONE / beta
    for n in range(values.shape[0]):
        z = values[n] * beta
        values[n] = (max(z, ZERO) + log_of_one_plus(exp_of_negative(z))) * scale


@_compiled
def _value_and_slope(values: Any, beta: Any, out: Any, slopes: Any) -> None:
    scale = ONE / beta
    for n in range(values.shape[0]):
        z = values[n] * beta
        w = exp_of_negative(z)
        out[n] = (max(z, ZERO) + log_of_one_plus(w)) * scale
        slopes[n] = (ONE if z > ZERO else w) / (ONE + w)


@_compiled
def _gradients_of_scaled(by_v: Any, u: Any, slopes: Any, beta: Any, by_hidden: Any, by_u: Any) -> None:
    for n in range(by_v.shape[0]):
        through = by_v[n] * slopes[n]
        by_u[n] = through
        by_hidden[n] = through * u[n] * (ONE - slopes[n]) * beta


def value_and_slope(hidden: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Returns softplus of values of any shape, float32 on the CPU, and its slope there."""
    value, slope = torch.empty_like(hidden), torch.empty_like(hidden)
    sharpness = np.float32(beta)
    in_threads(lambda z, *out: _value_and_slope(z, sharpness, *out), _jobs(hidden, value, slope))
    return value, slope


def gradients_of_scaled(by_v: Tensor, u: Tensor, slope: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Backpropagates through v = u s, where s is the slope of softplus at hidden values; any shape.

    Returns the gradients w.r.t. the hidden values and w.r.t. u, not summed if u is one row for all.
    """
    by_hidden, by_u = torch.empty_like(slope), torch.empty_like(slope)
    sharpness = np.float32(beta)
    in_threads(
        lambda v, w, s, *out: _gradients_of_scaled(v, w, s, sharpness, *out),
        _jobs(by_v, u.expand_as(slope), slope, by_hidden, by_u),
    )
    return by_hidden, by_u


def _jobs(*tensors: Tensor) -> list[tuple[Any, ...]]:
    """Splits tensors of equal size into jobs of ``JOB_SIZE`` values."""
    flat = [tensor.detach().contiguous().view(-1).numpy() for tensor in tensors]
    return [tuple(t[first : first + JOB_SIZE] for t in flat) for first in range(0, len(flat[0]), JOB_SIZE)]
