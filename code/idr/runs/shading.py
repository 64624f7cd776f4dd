"""Colors of surface points, outside of any image.

N points, M of them with a viewing direction. Unit-sphere coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional


class ShadedPoints:
    """Surface points, (N, 3), with features and gradients computed once for any number of directions."""

    def __init__(self, model: Any, points: Tensor) -> None:
        self._rendering_network = model.rendering_network
        self.points = points
        self._features = model.implicit_network(points)[:, 1:]
        self._gradients = gradient_of(model, points)

    @property
    def normals(self) -> Tensor:
        """(N, 3) unit normals, outward; 0 where the gradient vanishes."""
        return functional.normalize(self._gradients, dim=-1)

    def rgb01(self, directions: Tensor, indices: Tensor | None = None) -> Tensor:
        """Returns colors (paper, Eq. 2), RGB in [0, 1] up to the rounding of the network's tanh.

        `directions`, (M, 3) of any length, lead from the points to the camera; `indices`, (M,), are those of
        the points, None for all.
        """
        chosen = slice(None) if indices is None else indices
        points, gradients, features = (v[chosen] for v in (self.points, self._gradients, self._features))
        rgb = self._rendering_network(points, gradients, functional.normalize(directions, dim=-1), features)
        return (rgb + 1.0) / 2.0


def gradient_of(model: Any, points: Tensor) -> Tensor:
    """(N, 3) gradient of the signed distance at (N, 3) points, not normalized, detached."""
    return model.implicit_network.gradient(points)[:, 0].detach()


@dataclass
class SurfaceShader:
    """Normals and colors near the surface of a model, for the exporters; points are on its device."""

    NEWTON_STEPS: ClassVar[int] = 2
    """Starting within a grid cell of the surface, each step squares the remaining distance."""

    model: Any
    device: torch.device

    @torch.no_grad()
    def normals(self, points: Tensor) -> Tensor:
        """(N, 3) unit normals at (N, 3) points."""
        return functional.normalize(gradient_of(self.model, points), dim=-1)

    @torch.no_grad()
    def at(self, points: Tensor, max_distance: float) -> ShadedPoints:
        """Moves points onto the surface and prepares them for shading.

        The rendering network is trained on the surface only, but the vertices of a mesh, above all of a
        decimated one, only lie near it. Newton's method along the gradient moves them onto the zero set.
        A point that would move farther than `max_distance`, unit-sphere units, stays.
        """
        moved = points
        for _ in range(self.NEWTON_STEPS):
            gradients = gradient_of(self.model, moved)
            values = self.model.implicit_network(moved)[:, :1]
            squared = (gradients * gradients).sum(dim=-1, keepdim=True).clamp_min(1e-12)
            moved = moved - values * gradients / squared
        near = (moved - points).norm(dim=-1, keepdim=True) <= max_distance
        return ShadedPoints(self.model, torch.where(near, moved, points))
