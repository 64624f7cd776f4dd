"""Rays and the bounding sphere around the origin.

B images, P pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SphereCrossing:
    """Where rays cross a sphere around the origin.

    Attributes:
        near: (B, P) depth of the first crossing, at least 0; 0 where the sphere is missed.
        far: (B, P) depth of the second crossing, at least 0; 0 where the sphere is missed.
        crosses: (B, P) bool, True where the line crosses the sphere. A sphere wholly behind the
            camera counts as crossing, with near = far = 0.
    """

    near: Tensor
    far: Tensor
    crosses: Tensor

    def subset(self, index: Tensor | slice) -> SphereCrossing:
        """Returns the crossings of the rays at an index, a mask or a slice of the first dimension."""
        return SphereCrossing(self.near[index], self.far[index], self.crosses[index])


def ray_sphere_intersection(centers: Tensor, directions: Tensor, radius: float) -> SphereCrossing:
    """Intersects rays with the sphere of a given radius around the origin.

    Args:
        centers: (B, 3) ray origins, one an image.
        directions: (B, P, 3) unit ray directions.
        radius: Radius of the sphere, in the rays' unit.
    """
    towards_center = (directions @ centers.unsqueeze(-1)).squeeze(-1)  # (B, P)
    discriminant = towards_center**2 - (centers.norm(dim=1, keepdim=True) ** 2 - radius**2)  # (B, P)
    crosses = discriminant > 0
    zero = torch.zeros_like(discriminant)
    half_chord = torch.where(crosses, discriminant, zero).sqrt()
    near = torch.where(crosses, (-half_chord - towards_center).clamp_min(0.0), zero)
    far = torch.where(crosses, (half_chord - towards_center).clamp_min(0.0), zero)
    return SphereCrossing(near, far, crosses)
