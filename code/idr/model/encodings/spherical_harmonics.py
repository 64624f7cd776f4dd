"""Real spherical harmonics of a direction, as an encoding of view directions.

N directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from idr.errors import InputError

MAX_DEGREE = 4


@dataclass(frozen=True)
class SphericalHarmonicsConfig:
    """Keys of the block ``encoding_view`` with ``type = spherical_harmonics``.

    Attributes:
        type: The encoding's name.
        degree: Number of bands, 1 to 4; they are degree^2 numbers.
        mirrored: Take the view direction mirrored at the normal, which highlights of fixed lights follow
            (Verbin et al. 2022, Eq. 4).
    """

    type: str = "spherical_harmonics"
    degree: int = 4
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= MAX_DEGREE:
            raise InputError(f"degree = {self.degree}: expected 1 to {MAX_DEGREE} bands")


def mirror(direction: Tensor, normal: Tensor) -> Tensor:
    """Mirrors directions at normals: 2 (v . n) n - v.

    Args:
        direction: (N, 3) unit vectors v away from the surface.
        normal: (N, 3) normals of any length; n is their direction. Where one is zero, the result is -v.

    Returns:
        (N, 3) unit vectors.
    """
    unit = functional.normalize(normal, dim=1)
    return 2 * (direction * unit).sum(dim=1, keepdim=True) * unit - direction


def spherical_harmonics(direction: Tensor, degree: int) -> Tensor:
    """Evaluates the bands l = 0, ..., degree - 1, each with m = -l, ..., l.

    Orthonormal on the sphere; with the Condon-Shortley phase, as in Mueller et al. 2022's implementation.

    Args:
        direction: (N, 3) unit vectors.
        degree: Number of bands, 1 to 4.

    Returns:
        (N, degree^2).
    """
    x, y, z = direction.unbind(dim=1)
    xx, yy, zz = x * x, y * y, z * z

    def constant(numerator: float, denominator: float) -> float:
        return math.sqrt(numerator / (denominator * math.pi))

    first, second, zonal = constant(3, 4), constant(15, 4), constant(5, 16)
    bands = [
        [torch.full_like(x, constant(1, 4))],
        [-first * y, first * z, -first * x],
        [second * x * y, -second * y * z, zonal * (3 * zz - 1), -second * x * z, second / 2 * (xx - yy)],
        [
            -constant(35, 32) * y * (3 * xx - yy),
            constant(105, 4) * x * y * z,
            -constant(21, 32) * y * (5 * zz - 1),
            constant(7, 16) * z * (5 * zz - 3),
            -constant(21, 32) * x * (5 * zz - 1),
            constant(105, 16) * z * (xx - yy),
            -constant(35, 32) * x * (xx - 3 * yy),
        ],
    ]
    return torch.stack([value for band in bands[:degree] for value in band], dim=1)
