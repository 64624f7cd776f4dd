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
from torch.nn import functional

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


# A result that replaces its argument needs its own loop: compilers do not vectorize where arrays overlap.
@_compiled
def softplus_in_place(values: Any, beta: Any) -> None:
    """Replaces values (N,) by their softplus."""
    scale = ONE / beta
    for n in range(values.shape[0]):
        z = values[n] * beta
        values[n] = (max(z, ZERO) + log_of_one_plus(exp_of_negative(z))) * scale


@_compiled
def _value(values: Any, beta: Any, out: Any) -> None:
    scale = ONE / beta
    for n in range(values.shape[0]):
        z = values[n] * beta
        out[n] = (max(z, ZERO) + log_of_one_plus(exp_of_negative(z))) * scale


@_compiled
def _value_and_slope_in_place(values: Any, beta: Any, out: Any) -> None:
    scale = ONE / beta
    for n in range(values.shape[0]):
        z = values[n] * beta
        w = exp_of_negative(z)
        out[n] = (max(z, ZERO) + log_of_one_plus(w)) * scale
        values[n] = (ONE if z > ZERO else w) / (ONE + w)


@_compiled
def _value_in_place_and_slope(values: Any, bias: Any, beta: Any, slopes: Any) -> None:
    scale = ONE / beta
    for n in range(values.shape[0]):
        for k in range(values.shape[1]):
            z = (values[n, k] + bias[k]) * beta
            w = exp_of_negative(z)
            values[n, k] = (max(z, ZERO) + log_of_one_plus(w)) * scale
            slopes[n, k] = (ONE if z > ZERO else w) / (ONE + w)


@_compiled
def _gradients_of_scaled(by_v: Any, v: Any, slopes: Any, beta: Any, by_hidden: Any) -> None:
    for n in range(by_v.shape[0]):
        for k in range(by_v.shape[1]):
            by_hidden[n, k] = by_v[n, k] * v[n, k] * (ONE - slopes[n, k]) * beta
            by_v[n, k] *= slopes[n, k]


def softplus_(x: Tensor, beta: float) -> Tensor:
    """Replaces values of any shape, contiguous and float32, by their softplus."""
    sharpness = np.float32(beta)
    in_threads(lambda values: softplus_in_place(values, sharpness), _flat_jobs(x))
    return x


def write_softplus(x: Tensor, beta: float, out: Tensor) -> None:
    """Writes softplus of such values to other memory."""
    sharpness = np.float32(beta)
    in_threads(lambda values, to: _value(values, sharpness, to), _flat_jobs(x, out))


def write_softplus_keep_slope(x: Tensor, beta: float, out: Tensor) -> None:
    """Writes softplus of such values to other memory, and replaces them by its derivative."""
    sharpness = np.float32(beta)
    in_threads(lambda values, to: _value_and_slope_in_place(values, sharpness, to), _flat_jobs(x, out))


def softplus_and_slope(hidden: Tensor, bias: Tensor, beta: float) -> Tensor:
    """Replaces values (N, H) by softplus(values + bias) for a bias (H,); returns its derivative there.

    Compiled for float32, torch's operators for float64.
    """
    if hidden.dtype == torch.float64:
        slope = torch.sigmoid(beta * hidden.add_(bias))
        hidden.copy_(functional.softplus(hidden, beta))
        return slope
    slope, offsets, sharpness = torch.empty_like(hidden), bias.detach().numpy(), np.float32(beta)
    jobs = _jobs(hidden, slope)
    in_threads(lambda values, out: _value_in_place_and_slope(values, offsets, sharpness, out), jobs)
    return slope


def gradients_of_scaled(by_v: Tensor, v: Tensor, slope: Tensor, beta: float) -> Tensor:
    """Backpropagates through v = u s, where s is the slope of softplus at hidden values (N, H).

    Replaces the gradient w.r.t. v by that w.r.t. u; returns the gradient w.r.t. the hidden values.
    """
    by_hidden = torch.empty_like(slope)
    if slope.dtype == torch.float64:
        torch.mul(by_v * v, beta * (1 - slope), out=by_hidden)
        by_v *= slope
        return by_hidden
    sharpness = np.float32(beta)
    in_threads(
        lambda b, w, s, out: _gradients_of_scaled(b, w, s, sharpness, out),
        _jobs(by_v, v, slope, by_hidden),
    )
    return by_hidden


def _jobs(*tensors: Tensor) -> list[tuple[Any, ...]]:
    """Splits contiguous (N, H) tensors into jobs of whole rows, about ``JOB_SIZE`` values each."""
    arrays = [tensor.detach().numpy() for tensor in tensors]
    rows = max(1, JOB_SIZE // max(1, arrays[0].shape[1]))
    starts = range(0, arrays[0].shape[0], rows)
    return [tuple(array[first : first + rows] for array in arrays) for first in starts]


def _flat_jobs(*tensors: Tensor) -> list[tuple[Any, ...]]:
    """Splits contiguous tensors of one shape into jobs of ``JOB_SIZE`` values."""
    flat = [tensor.detach().view(-1).numpy() for tensor in tensors]
    return [tuple(t[first : first + JOB_SIZE] for t in flat) for first in range(0, len(flat[0]), JOB_SIZE)]
