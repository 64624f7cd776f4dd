"""Colors of mesh points from the appearance network.

N points, M of them seen by a view, B views. Unit-sphere coordinates. A mesh point has one color, but the
network's color depends on the direction: it is evaluated along the normal, or averaged over the training
views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.export.visibility import Sight

MAX_DISTANCE = 0.02
"""Largest distance from a mesh point to the surface, unit-sphere units."""


class Shaded(Protocol):
    """Points on the surface, prepared for shading."""

    points: Tensor

    @property
    def normals(self) -> Tensor:
        """(N, 3) unit normals."""

    def rgb01(self, directions: Tensor, indices: Tensor | None = None) -> Tensor:
        """(M, 3) colors of the points at (M,) indices seen from (M, 3) directions."""


class Shader(Protocol):
    """A surface with colors."""

    device: torch.device

    def at(self, points: Tensor, max_distance: float) -> Shaded:
        """Moves (N, 3) points onto the surface, by at most ``max_distance``, and prepares them."""


@dataclass(frozen=True)
class Colors:
    """Colors of points.

    Attributes:
        rgb: (N, 3) sRGB in [0, 1].
        num_unseen: Points that no view sees, colored along their normal.
    """

    rgb: NDArray[np.float32]
    num_unseen: int


Coloring = Callable[[NDArray[np.floating], NDArray[np.floating]], Colors]
"""(N, 3) points of a mesh and their (N, 3) unit normals -> their colors."""


def along_normals(shader: Shader, chunk_points: int) -> Coloring:
    """Returns a coloring by the color seen along each point's normal.

    Args:
        shader: The surface.
        chunk_points: Points evaluated at once.
    """

    def color(points: NDArray[np.floating], normals: NDArray[np.floating]) -> Colors:
        chunks = []
        for chunk in _slices(len(points), chunk_points):
            with torch.no_grad():
                shaded = shader.at(_tensor(points[chunk], shader.device), MAX_DISTANCE)
                chunks.append(shaded.rgb01(shaded.normals).float().cpu().numpy())
        return _colors(chunks, 0)

    return color


def over_views(shader: Shader, sight: Sight, chunk_points: int) -> Coloring:
    """Returns a coloring by the weighted mean over the views that see a point.

    The weight is the cosine between normal and viewing direction, which is proportional to the point's area
    in the image. A point that no view sees gets the color along its normal.

    Args:
        shader: The surface.
        sight: Visibility of mesh points in the views.
        chunk_points: Points evaluated at once.
    """

    def color(points: NDArray[np.floating], normals: NDArray[np.floating]) -> Colors:
        chunks, num_unseen = [], 0
        for chunk in _slices(len(points), chunk_points):
            with torch.no_grad():
                shaded = shader.at(_tensor(points[chunk], shader.device), MAX_DISTANCE)
                rgb, unseen = _mean_over_views(shaded, sight, points[chunk], normals[chunk])
            chunks.append(rgb)
            num_unseen += unseen
        return _colors(chunks, num_unseen)

    return color


def _mean_over_views(
    shaded: Shaded, sight: Sight, points: NDArray[np.floating], normals: NDArray[np.floating]
) -> tuple[NDArray[np.float32], int]:
    """Returns (N, 3) colors and the number of points that no view sees."""
    total = torch.zeros_like(shaded.points)
    weights = torch.zeros_like(shaded.points[:, :1])
    for number, view in enumerate(sight.views):
        cosines = sight.cosines(points, normals, number)
        seen = _index(np.flatnonzero(cosines), total.device)
        if len(seen) == 0:
            continue
        towards = _tensor(view.center, total.device) - shaded.points[seen]
        weight = _tensor(cosines[cosines > 0], total.device)[:, None]
        total[seen] += weight * shaded.rgb01(towards, seen)
        weights[seen] += weight
    unseen = (weights[:, 0] == 0).nonzero()[:, 0]
    if len(unseen):
        total[unseen] = shaded.rgb01(shaded.normals[unseen], unseen)
        weights[unseen] = 1.0
    return (total / weights).float().cpu().numpy(), len(unseen)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _tensor(values: NDArray[np.floating], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)


def _index(values: NDArray[np.integer], device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(device)


def _colors(chunks: list[NDArray[np.float32]], num_unseen: int) -> Colors:
    rgb = np.concatenate(chunks) if chunks else np.zeros((0, 3), np.float32)
    return Colors(rgb.clip(0.0, 1.0), num_unseen)
