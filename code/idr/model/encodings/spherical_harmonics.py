"""An encoding of view directions by real spherical harmonics.

N directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from idr.errors import InputError
from idr.model.encodings.base import ViewEncoding

MAX_DEGREE = 4


@dataclass(frozen=True)
class SphericalHarmonicsConfig:
    """Keys of the block ``encoding_view`` with ``type = spherical_harmonics``.

    Attributes:
        type: Name of the encoding.
        degree: Number of bands, 1 to 4; they have degree^2 values.
        direction: ``view``, the direction to the camera; ``mirrored``, its reflection about the normal, on
            which highlights of fixed lights depend (Verbin et al. 2022, Eq. 4); or ``both``, concatenated in
            this order.
    """

    type: str = "spherical_harmonics"
    degree: int = 4
    direction: Literal["view", "mirrored", "both"] = "view"

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= MAX_DEGREE:
            raise InputError(f"degree = {self.degree}: expected 1 to {MAX_DEGREE} bands")


class SphericalHarmonics(ViewEncoding):
    """`spherical_harmonics` of the view direction, of its mirror image, or of both."""

    def __init__(self, config: SphericalHarmonicsConfig) -> None:
        self.config = config
        self.width = config.degree**2 * (2 if config.direction == "both" else 1)
        self.needs_normals = config.direction != "view"

    def __call__(self, view_dirs: Tensor, normals: Tensor) -> Tensor:
        """Encodes directions, see `ViewEncoding`."""
        directions = [] if self.config.direction == "mirrored" else [view_dirs]
        if self.needs_normals:
            directions.append(mirror(view_dirs, normals))
        return torch.cat([spherical_harmonics(v, self.config.degree) for v in directions], dim=1)


def mirror(direction: Tensor, normal: Tensor) -> Tensor:
    """Reflects directions about normals: 2 (v . n) n - v.

    Args:
        direction: (N, 3) unit vectors v, pointing away from the surface.
        normal: (N, 3) normals of any length; n is their direction. At a zero normal the result is -v.

    Returns:
        (N, 3) unit vectors.
    """
    unit = functional.normalize(normal, dim=1)
    return 2 * (direction * unit).sum(dim=1, keepdim=True) * unit - direction


def spherical_harmonics(direction: Tensor, degree: int) -> Tensor:
    """Evaluates the bands l = 0, ..., degree - 1, each with m = -l, ..., l.

    They are orthonormal on the sphere and include the Condon-Shortley phase, as in the code of Mueller et al.
    2022.

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


VIEW_ENCODING = (SphericalHarmonicsConfig, SphericalHarmonics)
