"""Tidies a mesh: keeps components, closes holes, decimates.

V vertices, T faces, K vertices around a hole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.errors import InputError
from idr.export.mesh_files import import_mesh_package
from idr.meshing import keep_components


@dataclass(frozen=True)
class Tidied:
    """A mesh; components before and after, holes found and closed, faces before and after decimation."""

    mesh: trimesh.Trimesh
    components: tuple[int, int]
    holes: tuple[int, int]
    faces: tuple[int, int]


def tidy(
    mesh: trimesh.Trimesh, min_component: float = 1.0, max_hole_edges: float = 0, num_faces: int | None = None
) -> Tidied:
    """Keeps components, closes holes and decimates a mesh with at least one face, in this order.

    Args:
        mesh: The mesh.
        min_component: See `keep_components`.
        max_hole_edges: Largest number of edges of a hole that is closed; 0 closes none.
        num_faces: Target number of faces; None keeps all.

    Raises:
        MissingInputError: Decimation needs ``fast_simplification``, which is not installed.
        InputError: Decimation leaves no face.
    """
    kept, components = keep_components(mesh, min_component)
    closed, holes = close_holes(kept, max_hole_edges)
    before = len(closed.faces)
    if num_faces is not None and num_faces < before:
        closed = decimate(closed, num_faces)
    return Tidied(closed, components, holes, (before, len(closed.faces)))


def boundary_loops(faces: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Returns the vertices, (K,), of each hole between consistently oriented faces, along their edges.

    Holes that share a vertex are separated by following any remaining edge there.
    """
    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])).astype(np.int64)
    size = int(faces.max()) + 1
    single = ~np.isin(edges[:, 0] * size + edges[:, 1], edges[:, 1] * size + edges[:, 0])
    onward: dict[int, list[int]] = {}
    for start, end in edges[single].tolist():
        onward.setdefault(start, []).append(end)
    loops = []
    while onward:
        first = next(iter(onward))
        loop, here = [], first
        while here in onward:
            loop.append(here)
            following = onward[here].pop()
            if not onward[here]:
                del onward[here]
            here = following
            if here == first:
                break
        if here == first and len(loop) >= 3:
            loops.append(np.array(loop, dtype=np.int64))
    return loops


def close_holes(mesh: trimesh.Trimesh, max_edges: float) -> tuple[trimesh.Trimesh, tuple[int, int]]:
    """Closes holes of at most `max_edges` edges by a fan around the mean of their border.

    Such a lid is flat: right where the surface leaves the sampled box and for small holes, arbitrary over
    large curved holes.

    Returns:
        The mesh (the same object if nothing was closed), and the numbers of holes found and closed.
    """
    loops = boundary_loops(mesh.faces)
    chosen = [loop for loop in loops if len(loop) <= max_edges]
    if not chosen:
        return mesh, (len(loops), 0)
    centers = [mesh.vertices[loop].mean(axis=0) for loop in chosen]
    numbered = enumerate(chosen, start=len(mesh.vertices))
    # The border follows the bordering faces, so the lid's faces go against it.
    lids = [np.column_stack((np.roll(loop, -1), loop, np.full(len(loop), k))) for k, loop in numbered]
    vertices = np.concatenate((mesh.vertices, centers))
    faces = np.concatenate((mesh.faces, *lids))
    return trimesh.Trimesh(vertices=vertices, faces=faces, process=False), (len(loops), len(chosen))


def decimate(mesh: trimesh.Trimesh, num_faces: int) -> trimesh.Trimesh:
    """Returns a mesh of about `num_faces` faces by quadric edge collapse, without unused vertices.

    Raises:
        MissingInputError: ``fast_simplification`` is not installed.
        InputError: No face is left.
    """
    package = import_mesh_package("fast_simplification", "--faces")
    vertices, faces = package.simplify(
        np.ascontiguousarray(mesh.vertices, dtype=np.float64),
        np.ascontiguousarray(mesh.faces, dtype=np.int32),
        target_count=num_faces,
    )
    if len(faces) == 0:
        raise InputError(f"--faces {num_faces}: nothing is left of {len(mesh.faces)} faces; ask for more")
    used, renumbered = np.unique(faces, return_inverse=True)
    return trimesh.Trimesh(vertices=vertices[used], faces=renumbered.reshape(-1, 3), process=False)
