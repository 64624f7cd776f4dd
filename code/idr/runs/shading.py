"""Colors of points on a surface, asked for outside of any image.

N points, M of them seen from somewhere. Unit-sphere coordinates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class ShadedPoints:
    """Points of a surface whose features and gradients are computed once, for any number of directions.

    Attributes:
        points: (N, 3).
        gradients: (N, 3) gradient of the signed distance, not normalized, as the rendering network takes it.
    """

    def __init__(self, model: Any, points: Tensor) -> None:
        self._rendering_network = model.rendering_network
        self.points = points
        self._features = model.implicit_network(points)[:, 1:]
        self.gradients = gradient_of(model, points)

    @property
    def normals(self) -> Tensor:
        """(N, 3) unit normals, outward; 0 where the gradient vanishes."""
        return functional.normalize(self.gradients, dim=-1)

    def rgb01(self, directions: Tensor, which: Tensor | None = None) -> Tensor:
        """Returns colors (paper, Eq. 2).

        Args:
            directions: (M, 3) directions from the points to the camera, of any length.
            which: (M,) positions of the points that are looked at, or None for all.

        Returns:
            (M, 3) RGB, [0, 1] up to what the network's tanh leaves.
        """
        chosen = slice(None) if which is None else which
        rgb = self._rendering_network(
            self.points[chosen],
            self.gradients[chosen],
            functional.normalize(directions, dim=-1),
            self._features[chosen],
        )
        return (rgb + 1.0) / 2.0


def gradient_of(model: Any, points: Tensor) -> Tensor:
    """(N, 3) gradient of the signed distance at (N, 3) points, not normalized, without a graph."""
    return model.implicit_network.gradient(points)[:, 0].detach()


class SurfaceShader:
    """A network's surface as an exporter of colored meshes needs it; made of a model of the house's seam.

    Attributes:
        device: Where points are to be put.
    """

    NEWTON_STEPS = 2
    """From within a cell of the surface, each step squares what is left of the distance."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self.device = device

    @torch.no_grad()
    def normals(self, points: Tensor) -> Tensor:
        """(N, 3) unit normals at (N, 3) points."""
        return functional.normalize(gradient_of(self._model, points), dim=-1)

    @torch.no_grad()
    def at(self, points: Tensor, reach: float) -> ShadedPoints:
        """Prepares points for shading.

        The rendering network knows the surface alone, but a mesh, above all a decimated one, only lies
        near it: points are first moved onto the zero set along the gradient (Newton's method).

        Args:
            points: (N, 3) points near the surface.
            reach: How far a point may be moved, unit-sphere units; one that would go further stays.

        Returns:
            The points on the surface.
        """
        moved = points
        for _ in range(self.NEWTON_STEPS):
            gradients = gradient_of(self._model, moved)
            values = self._model.implicit_network(moved)[:, :1]
            squared = (gradients * gradients).sum(dim=-1, keepdim=True).clamp_min(1e-12)
            moved = moved - values * gradients / squared
        near = (moved - points).norm(dim=-1, keepdim=True) <= reach
        return ShadedPoints(self._model, torch.where(near, moved, points))
