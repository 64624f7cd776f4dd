"""The block ``loss.normals``: smoothness of the surface early in training.

N points of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from idr.errors import InputError
from idr.training.terms.step import Cameras, StepRays


@dataclass(frozen=True)
class NormalsConfig:
    """Keys of the block ``loss.normals``.

    Attributes:
        weight: Weight of the term at the start.
        end: Time of the schedule, 0 to 1, until which the weight falls linearly to 0. Kept to the end, the
            term smooths detail away; compare the curvature term of Neuralangelo (Li et al. 2023), which fades
            out likewise.
        rays: Shaded rays of a step at which normals are compared.
        radius: Largest distance to the neighboring point, in unit-sphere units.
    """

    LARGEST: ClassVar[dict[str, int]] = {"rays": 1_000_000}

    weight: float
    end: float = 0.67
    rays: int = 256
    radius: float = 0.04

    def __post_init__(self) -> None:
        for name in ("weight", "radius", "rays"):
            if getattr(self, name) <= 0:
                raise InputError(f"loss.normals.{name} = {getattr(self, name)}: expected a number above 0")
        if not 0 < self.end <= 1:
            raise InputError(
                f"loss.normals.end = {self.end}: expected a fraction of the schedule above 0, up to 1"
            )


class NormalsTerm:
    """1 - cos of the angle between the normal at a hit and at a point beside it in the tangent plane.

    The model is the seam of `IDRNetwork`, with ``implicit_network.sdf_and_gradient``.
    """

    name = "normals_loss"

    def __init__(self, config: NormalsConfig, model: Any) -> None:
        self.config, self.model = config, model

    def __call__(self, rays: StepRays, cameras: Cameras, time: float, generator: torch.Generator) -> Tensor:
        """Returns the weighted loss of a step, see `idr.training.terms.build.Term`."""
        weight = self.config.weight * (1 - time / self.config.end)
        if weight <= 0:
            return rays.points.new_zeros(())
        chosen = rays.choose_shaded(self.config.rays, generator)
        if len(chosen) == 0:
            return rays.points.new_zeros(())
        normal = functional.normalize(rays.normals[chosen], dim=1)
        beside = beside_in_tangent_plane(rays.points[chosen], normal, self.config.radius, generator)
        gradient = self.model.implicit_network.sdf_and_gradient(beside)[1]
        return weight * (1 - functional.cosine_similarity(normal, gradient, dim=1)).mean()


@torch.no_grad()
def beside_in_tangent_plane(
    points: Tensor, normals: Tensor, radius: float, generator: torch.Generator
) -> Tensor:
    """Returns a point beside each point, (N, 3), in a random direction of its tangent plane.

    The distance is at most the radius; normals are unit vectors, (N, 3); the generator is on the host.
    """
    draws = torch.randn(points.shape, generator=generator).to(points)
    along = functional.normalize(torch.linalg.cross(normals, draws), dim=1)
    distance = radius * torch.rand(len(points), 1, generator=generator).to(points)
    return points + distance * along
