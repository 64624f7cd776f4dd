"""What the viewer computes of a network: colored surfaces, and what a browser's camera sees.

V vertices, T faces, H, W image height and width. Unit-sphere coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from idr.export.mesh_files import Surface, glb_content
from idr.geometry.quaternions import quaternion_to_rotation
from idr.runs.api import Camera, LoadedRun

CHUNK_PIXELS = 2048
"""Pixels rendered at once: few, so that the worker is let in soon."""

CHUNK_POINTS = 16_384
"""Points evaluated at once for a mesh, likewise."""

COARSEST_GRID = 32
"""Grid samples along the shortest side of the first, coarse mesh."""

COARSE_SIDE = 64
"""Pixels along the longer side of the first, coarse picture."""

CLAY = (0.79, 0.72, 0.61)
"""Color of a surface shown for its shape."""

PLAIN, COLOR, NORMALS = "shape", "network's color", "normals"
PAINTS = (PLAIN, COLOR, NORMALS)


@dataclass(frozen=True)
class ShownSurface:
    """A surface for the browser.

    Attributes:
        glb: Content of a GLB file.
        resolution: Grid samples along the shortest side.
        num_faces: T.
    """

    glb: bytes
    resolution: int
    num_faces: int


def coarse_to_fine(coarsest: int, finest: int, factor: int = 2) -> list[int]:
    """Returns ``coarsest``, each ``factor`` times the last, and at the end ``finest``.

    Args:
        coarsest: Left out where it is ``finest`` or more.
        finest: The last one.
        factor: At least 2.
    """
    steps = []
    while coarsest * factor <= finest:
        steps.append(coarsest)
        coarsest *= factor
    return [*steps, finest]


def surface_of(
    run: LoadedRun, resolution: int, paint: str, between: Callable[[], None]
) -> ShownSurface | None:
    """Meshes and paints a run's surface.

    Args:
        run: The run.
        resolution: Grid samples along the shortest side.
        paint: One of `PAINTS`.
        between: Called between two steps.

    Returns:
        The surface; None where there is none yet.
    """
    mesh = run.mesh(resolution, CHUNK_POINTS)
    if mesh is None or len(mesh.faces) == 0:
        return None
    between()
    vertices = np.asarray(mesh.vertices, dtype=np.float32)
    normals = _in_pieces(run.normal, between, vertices)
    colors = np.tile(np.array(CLAY), (len(vertices), 1))
    if paint == COLOR:
        colors = _in_pieces(run.color, between, vertices, normals)
    elif paint == NORMALS:
        colors = (normals + 1.0) / 2.0
    surface = Surface(vertices, np.asarray(mesh.faces), normals, colors)
    return ShownSurface(glb_content(surface, lit=paint == PLAIN), resolution, len(mesh.faces))


def _in_pieces(
    function: Callable[..., NDArray[np.floating]], between: Callable[[], None], *points: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Evaluates (V, 3) points piece by piece."""
    pieces = []
    for start in range(0, len(points[0]), CHUNK_POINTS):
        between()
        pieces.append(function(*(p[start : start + CHUNK_POINTS] for p in points)))
    return np.concatenate(pieces)


def browser_camera(quaternion: ArrayLike, center: ArrayLike, fov: float, aspect: float, side: int) -> Camera:
    """Returns the camera through which a browser looks.

    Args:
        quaternion: (w, x, y, z), camera-to-world, axes x right, y down, z forward.
        center: Where it stands.
        fov: Angle from the lower edge of the picture to the upper, radians.
        aspect: Width over height.
        side: Pixels along the longer side.
    """
    width, height = (side, side / aspect) if aspect >= 1 else (side * aspect, side)
    height, width = max(1, round(height)), max(1, round(width))
    focal = 0.5 * height / math.tan(0.5 * fov)
    # Pixel (0, 0) is the center of the first one, so that the picture begins at -0.5.
    intrinsics = np.array(
        [[focal, 0, 0.5 * (width - 1)], [0, focal, 0.5 * (height - 1)], [0, 0, 1]], dtype=np.float64
    )
    pose = np.eye(4)
    pose[:3, :3] = quaternion_to_rotation(torch.as_tensor(np.asarray(quaternion, dtype=np.float64))).numpy()
    pose[:3, 3] = center
    return Camera(intrinsics, pose, (height, width))


def field_of_view(intrinsics: NDArray[np.floating], img_res: tuple[int, int]) -> tuple[float, float]:
    """Returns the vertical field of view, radians, and width over height, as a browser takes them.

    A browser's pictures are centered on the optical axis; where the principal point lies off the center, the
    frustum drawn is that of the centered camera with the same focal lengths.

    Args:
        intrinsics: (4, 4) or (3, 3) K.
        img_res: Height and width.
    """
    height, width = img_res
    fov = 2 * math.atan(0.5 * height / float(intrinsics[1, 1]))
    return fov, (width / float(intrinsics[0, 0])) / (height / float(intrinsics[1, 1]))
