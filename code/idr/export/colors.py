"""Colors for points of a mesh, from the network that learned the surface's appearance.

N points, B views. Unit-sphere coordinates. A point has one color in a mesh, but the network gives one for
each direction: either that seen along the normal is taken, or the mean over the training views.
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

REACH = 0.02
"""Furthest way from a mesh to the surface it stands for, unit-sphere units."""


class Shaded(Protocol):
    """Points on the surface, ready to be looked at."""

    points: Tensor

    @property
    def normals(self) -> Tensor:
        """(N, 3) unit normals."""

    def rgb01(self, directions: Tensor, which: Tensor | None = None) -> Tensor:
        """(M, 3) colors of the points ``which`` (M,) seen from directions (M, 3)."""


class Shader(Protocol):
    """A surface that can be asked for its colors."""

    device: torch.device

    def at(self, points: Tensor, reach: float) -> Shaded:
        """Moves (N, 3) points onto the surface, by at most ``reach``, and prepares them."""


@dataclass(frozen=True)
class Colors:
    """Colors of points.

    Attributes:
        rgb: (N, 3) in [0, 1], as a photograph has them (sRGB).
        num_unseen: Points that no view saw and that got the color seen along their normal.
    """

    rgb: NDArray[np.float32]
    num_unseen: int


Coloring = Callable[[NDArray[np.floating], NDArray[np.floating]], Colors]
"""(N, 3) points of a mesh and their (N, 3) unit normals -> their colors."""


def along_normals(shader: Shader, chunk_points: int) -> Coloring:
    """Returns a coloring by what is seen along each point's normal.

    Args:
        shader: The surface.
        chunk_points: Points handed to the network at once.
    """

    def color(points: NDArray[np.floating], normals: NDArray[np.floating]) -> Colors:
        pieces = []
        for chunk in _chunks(len(points), chunk_points):
            with torch.no_grad():
                shaded = shader.at(_tensor(points[chunk], shader.device), REACH)
                pieces.append(shaded.rgb01(shaded.normals).float().cpu().numpy())
        return _colors(pieces, 0)

    return color


def over_views(shader: Shader, sight: Sight, chunk_points: int) -> Coloring:
    """Returns a coloring by the mean over the views that see a point, weighted by how squarely they do.

    The weight is the cosine between normal and direction, the share of the point's area in the image. A
    point that no view sees gets the color along its normal, and is counted.

    Args:
        shader: The surface.
        sight: Which view sees what of the mesh.
        chunk_points: Points handed to the network at once.
    """

    def color(points: NDArray[np.floating], normals: NDArray[np.floating]) -> Colors:
        pieces, num_unseen = [], 0
        for chunk in _chunks(len(points), chunk_points):
            with torch.no_grad():
                shaded = shader.at(_tensor(points[chunk], shader.device), REACH)
                rgb, unseen = _mean_over_views(shaded, sight, points[chunk], normals[chunk])
            pieces.append(rgb)
            num_unseen += unseen
        return _colors(pieces, num_unseen)

    return color


def _mean_over_views(
    shaded: Shaded, sight: Sight, points: NDArray[np.floating], normals: NDArray[np.floating]
) -> tuple[NDArray[np.float32], int]:
    """(N, 3) colors of one chunk, and how many points no view saw."""
    total = torch.zeros_like(shaded.points)
    weights = torch.zeros_like(shaded.points[:, :1])
    for number, view in enumerate(sight.views):
        cosines = sight.cosines(points, normals, number)
        which = _index(np.flatnonzero(cosines), total.device)
        if len(which) == 0:
            continue
        towards = _tensor(view.center, total.device) - shaded.points[which]
        weight = _tensor(cosines[cosines > 0], total.device)[:, None]
        total[which] += weight * shaded.rgb01(towards, which)
        weights[which] += weight
    unseen = (weights[:, 0] == 0).nonzero()[:, 0]
    if len(unseen):
        total[unseen] = shaded.rgb01(shaded.normals[unseen], unseen)
        weights[unseen] = 1.0
    return (total / weights).float().cpu().numpy(), len(unseen)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _tensor(values: NDArray[np.floating], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)


def _index(values: NDArray[np.integer], device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(device)


def _colors(pieces: list[NDArray[np.float32]], num_unseen: int) -> Colors:
    rgb = np.concatenate(pieces) if pieces else np.zeros((0, 3), np.float32)
    return Colors(rgb.clip(0.0, 1.0), num_unseen)
