"""Colored meshes of a network for the viewer.

V vertices, T faces. Unit-sphere coordinates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from idr.export.mesh_files import Surface, glb_content
from idr.runs import Run

CHUNK_PIXELS = 2048
"""Pixels rendered at once; few, so that a more urgent request waits only briefly."""

CHUNK_POINTS = 16_384
"""Points evaluated at once; few for the same reason."""

COARSEST_GRID = 32
"""Grid samples along the shortest side of the first mesh."""

COARSE_SIDE = 64
"""Pixels along the longer side of the first rendering."""

CLAY = (0.79, 0.72, 0.61)
"""Color of a surface shown without the network's colors."""

PLAIN, COLOR, NORMALS = "shape", "network's color", "normals"
PAINTS = (PLAIN, COLOR, NORMALS)


def coarse_to_fine(coarsest: int, finest: int, factor: int = 2) -> list[int]:
    """Returns ``coarsest``, its products with powers of ``factor``, and last ``finest``.

    A value above ``finest / factor`` other than ``finest`` is left out.
    """
    steps = []
    while coarsest * factor <= finest:
        steps.append(coarsest)
        coarsest *= factor
    return [*steps, finest]


def surface_of(run: Run, resolution: int, paint: str, between: Callable[[], None]) -> tuple[bytes, int]:
    """Returns the content of a GLB file of a run's surface in one of `PAINTS`, empty without one, and T.

    `resolution` is that of `Run.mesh`; `between` is called between two chunks of work.
    """
    mesh = run.mesh(resolution, CHUNK_POINTS)
    if mesh is None or len(mesh.faces) == 0:
        return b"", 0
    between()
    vertices = np.asarray(mesh.vertices, dtype=np.float32)
    normals = _in_chunks(run.normal, between, vertices)
    colors = np.tile(np.array(CLAY), (len(vertices), 1))
    if paint == COLOR:
        colors = _in_chunks(run.color, between, vertices, normals)
    elif paint == NORMALS:
        colors = (normals + 1.0) / 2.0
    surface = Surface(vertices, np.asarray(mesh.faces), normals, colors)
    return glb_content(surface, lit=paint == PLAIN), len(mesh.faces)


def _in_chunks(
    function: Callable[..., NDArray[np.floating]], between: Callable[[], None], *points: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Evaluates (V, 3) points chunk by chunk."""
    chunks = []
    for start in range(0, len(points[0]), CHUNK_POINTS):
        between()
        chunks.append(function(*(p[start : start + CHUNK_POINTS] for p in points)))
    return np.concatenate(chunks)
