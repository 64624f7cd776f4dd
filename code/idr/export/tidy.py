"""Tidies a mesh: keeps components, closes holes, decimates.

V vertices, T faces, K vertices around a hole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.errors import InputError
from idr.export.mesh_files import import_mesh_package
from idr.meshing import component_areas, keep_components

GLB_BYTES_PER_VERTEX, GLB_BYTES_PER_FACE, GLB_HEADER = 36, 12, 2000
"""Sizes in a GLB: float32 position, normal and color, three uint32 indices, and at most its JSON."""
VERTICES_PER_FACE = 0.52
"""Of a surface without boundary: a half (Euler), and some more for handles and open rims."""


@dataclass(frozen=True)
class Tidied:
    """A mesh; components before and after, holes found and closed, faces before and after decimation."""

    mesh: trimesh.Trimesh
    components: tuple[int, int]
    holes: tuple[int, int]
    faces: tuple[int, int]


def tidy(
    mesh: trimesh.Trimesh, min_component: float = 1.0, max_hole_edges: float = 0, num_faces: float = math.inf
) -> Tidied:
    """Keeps components, closes holes and decimates a mesh with at least one face, in this order.

    Args:
        mesh: The mesh.
        min_component: See `keep_components`.
        max_hole_edges: Largest number of edges of a hole that is closed; 0 closes none.
        num_faces: Target number of faces; infinity keeps all.

    Raises:
        MissingInputError: Decimation needs ``fast_simplification``, which is not installed.
        InputError: Decimation leaves no face.
    """
    kept, components = keep_components(mesh, min_component)
    closed, holes = close_holes(kept, max_hole_edges)
    before = len(closed.faces)
    if num_faces < before:
        closed = decimate(closed, int(num_faces))
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
    package = import_mesh_package("fast_simplification", "reducing the faces")
    vertices, faces = package.simplify(
        np.ascontiguousarray(mesh.vertices, dtype=np.float64),
        np.ascontiguousarray(mesh.faces, dtype=np.int32),
        target_count=num_faces,
    )
    if len(faces) == 0:
        raise InputError(f"--faces {num_faces}: nothing is left of {len(mesh.faces)} faces; ask for more")
    used, renumbered = np.unique(faces, return_inverse=True)
    return trimesh.Trimesh(vertices=vertices[used], faces=renumbered.reshape(-1, 3), process=False)


def faces_of_glb(max_bytes: float) -> float:
    """Returns the number of faces of a GLB with colors at its vertices that has at most `max_bytes`."""
    return (max_bytes - GLB_HEADER) // (GLB_BYTES_PER_FACE + VERTICES_PER_FACE * GLB_BYTES_PER_VERTEX)


def wholeness(mesh: trimesh.Trimesh) -> str:
    """Says whether a mesh encloses a volume, and of how many components it is.

    Watertight: each edge borders two faces of opposite sense.
    """
    count = len(component_areas(mesh))
    components = f"{count} component" + "s" * (count != 1)
    if mesh.is_watertight and mesh.is_winding_consistent:
        return f"yes, {components}"
    _, faces_at = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    causes = {"open edges": (faces_at == 1).sum(), "edges of more than two faces": (faces_at > 2).sum()}
    found = [f"{number} {name}" for name, number in causes.items() if number]
    remedy = "; export_mesh.py --holes fill closes the holes" if causes["open edges"] else ""
    return f"no, {', '.join(found) or 'faces of opposite sense'}, {components}{remedy}"
