"""Colored meshes of a network for the viewer.

V vertices, T faces. Unit-sphere coordinates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from idr.evaluation.report.surface import upright_world
from idr.export.mesh_files import glb_content
from idr.export.surface import Surface
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

COLOR, PLAIN, NORMALS = "network's color", "shape", "normals"
PAINTS = (COLOR, PLAIN, NORMALS)


def coarse_to_fine(coarsest: int, finest: int, factor: int = 2) -> list[int]:
    """Returns ``coarsest``, its products with powers of ``factor``, and last ``finest``.

    A value above ``finest / factor`` other than ``finest`` is left out.
    """
    steps = []
    while coarsest * factor <= finest:
        steps.append(coarsest)
        coarsest *= factor
    return [*steps, finest]


def surface_of(run: Run, resolution: int, paint: str, between: Callable[[], None]) -> Surface | None:
    """Returns a run's surface in one of `PAINTS`, None if it has none.

    `resolution` is that of `Run.mesh`; `between` is called between two chunks of work.
    """
    mesh = run.mesh(resolution, CHUNK_POINTS)
    if mesh is None or len(mesh.faces) == 0:
        return None
    between()
    vertices = np.asarray(mesh.vertices, dtype=np.float32)
    normals = _in_chunks(run.normal, between, vertices)
    colors = np.tile(np.array(CLAY), (len(vertices), 1))
    if paint == COLOR:
        colors = _in_chunks(run.color, between, vertices, normals)
    elif paint == NORMALS:
        colors = (normals + 1.0) / 2.0
    return Surface(vertices, np.asarray(mesh.faces, dtype=np.int32), normals, colors)


def num_bytes(surface: Surface | None) -> int:
    """Returns the memory that a surface of `surface_of` takes."""
    if surface is None:
        return 0
    arrays = (surface.vertices, surface.faces, surface.normals, surface.colors)
    return sum(array.nbytes for array in arrays if array is not None)


def glb_of(surface: Surface, paint: str, run: Run | None = None) -> bytes:
    """Returns the content of a GLB file of a surface: to show, or, with a run, in world units and upright."""
    if run is None:
        return glb_content(surface, lit=paint == PLAIN)
    return glb_content(surface.moved(run.world_from_unit), paint == PLAIN, upright_world(run))


def _in_chunks(
    function: Callable[..., NDArray[np.floating]], between: Callable[[], None], *points: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Evaluates (V, 3) points chunk by chunk."""
    chunks = []
    for start in range(0, len(points[0]), CHUNK_POINTS):
        between()
        chunks.append(function(*(p[start : start + CHUNK_POINTS] for p in points)))
    return np.concatenate(chunks)
