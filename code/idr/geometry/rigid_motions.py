"""Rigid motions by their twists: the exponential map of SE(3).

A twist is (rho, omega): a translation and a rotation vector (axis times angle in radians). Exp is the matrix
exponential of [[omega]_x, rho; 0, 0]: Exp(rho, 0) is a translation and Exp(0, omega) a rotation about the
origin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SERIES_BELOW = 1.0
"""Squared angle below which the coefficients come from their power series: the closed forms are 0 / 0 without
rotation and lose digits near it."""

SERIES_TERMS = 10
"""Terms of the power series; the first omitted one is below 1 / 20!."""


def se3_exp(twist: Tensor) -> Tensor:
    """Returns the rigid motions, (..., 4, 4), of twists, (..., 6): Rodrigues' formula.

    They are differentiable with respect to the twist, also at zero.
    """
    rho, omega = twist[..., :3], twist[..., 3:]
    first, second, third = _coefficients((omega * omega).sum(dim=-1)[..., None, None])
    cross = cross_matrix(omega)  # (..., 3, 3)
    squared = cross @ cross
    unit = torch.eye(3, dtype=twist.dtype, device=twist.device)
    rotation = unit + first * cross + second * squared
    shift = (unit + second * cross + third * squared) @ rho.unsqueeze(-1)  # (..., 3, 1)
    last_row = twist.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*twist.shape[:-1], 1, 4)
    return torch.cat((torch.cat((rotation, shift), dim=-1), last_row), dim=-2)


def cross_matrix(vector: Tensor) -> Tensor:
    """Returns [v]_x, (..., 3, 3), for vectors (..., 3): [v]_x w = v x w."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))


def _coefficients(squared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns sin a / a, (1 - cos a) / a^2 and (a - sin a) / a^3 of squared angles a^2."""
    is_small = squared < SERIES_BELOW
    near = torch.where(is_small, squared, torch.zeros_like(squared))
    far = torch.where(is_small, torch.ones_like(squared), squared)  # sqrt has no gradient at 0
    angle = far.sqrt()
    half = torch.sin(0.5 * angle)
    first = torch.where(is_small, _series(near, 1), angle.sin() / angle)
    second = torch.where(is_small, _series(near, 2), 2.0 * half * half / far)
    third = torch.where(is_small, _series(near, 3), (angle - angle.sin()) / (far * angle))
    return first, second, third


def _series(squared: Tensor, offset: int) -> Tensor:
    """Sum over k of (-a^2)^k / (2 k + offset)!, by Horner's rule."""
    total = torch.zeros_like(squared)
    for k in reversed(range(SERIES_TERMS)):
        total = 1.0 / math.factorial(2 * k + offset) - squared * total
    return total
