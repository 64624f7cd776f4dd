"""Colors of mesh points from the appearance network.

N points, M of them seen by a view, B views. Unit-sphere coordinates. A mesh point has one color, but the
network's color depends on the direction: it is evaluated along the normal, or averaged over the training
views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.export.surface import Array
from idr.export.visibility import Sight
from idr.progress_bar import with_progress

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
    """Colors of points, (N, 3) sRGB in [0, 1], ``num_unseen`` of them along the normal for lack of a view."""

    rgb: NDArray[np.float32]
    num_unseen: int


Coloring = Callable[[Array, Array], Colors]
"""(N, 3) points of a mesh and their (N, 3) unit normals -> their colors."""


def along_normals(shader: Shader, chunk_points: int) -> Coloring:
    """Returns a coloring by the color seen along each point's normal, `chunk_points` at once."""
    return _coloring(shader, chunk_points, lambda shaded, *_: (shaded.rgb01(shaded.normals), 0))


def over_views(shader: Shader, sight: Sight, chunk_points: int) -> Coloring:
    """Returns a coloring by the weighted mean over the views that see a point, `chunk_points` at once.

    The weight is the cosine between normal and viewing direction, which is proportional to the point's area
    in the image. A point that no view sees gets the color along its normal.
    """
    return _coloring(shader, chunk_points, partial(_mean_over_views, sight))


def _coloring(shader: Shader, chunk_points: int, color_of: Callable[..., tuple[Tensor, int]]) -> Coloring:
    """Colors chunks of points by a function of shaded points, mesh points and normals."""

    def color(points: Array, normals: Array) -> Colors:
        chunks, num_unseen = [np.zeros((0, 3), np.float32)], 0
        for start in with_progress(range(0, len(points), chunk_points), "colors"):
            chunk = slice(start, start + chunk_points)
            with torch.no_grad():
                shaded = shader.at(_tensor(points[chunk], shader.device), MAX_DISTANCE)
                rgb, unseen = color_of(shaded, points[chunk], normals[chunk])
            chunks.append(rgb.float().cpu().numpy())
            num_unseen += unseen
        return Colors(np.concatenate(chunks).clip(0.0, 1.0), num_unseen)

    return color


def _mean_over_views(sight: Sight, shaded: Shaded, points: Array, normals: Array) -> tuple[Tensor, int]:
    """Returns (N, 3) colors and the number of points that no view sees."""
    total = torch.zeros_like(shaded.points)
    weights = torch.zeros_like(shaded.points[:, :1])
    for number, view in enumerate(sight.views):
        cosines = sight.cosines(points, normals, number)
        seen = torch.from_numpy(np.flatnonzero(cosines)).to(total.device)
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
    return total / weights, len(unseen)


def _tensor(values: Array, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
