"""Components, transforms and files of meshes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from idr.files import write_atomic

FLOAT32_STEPS = 1e5
"""Steps of float32 along a mesh that are enough for its detail; farther from the origin there are fewer."""


def _components(mesh: trimesh.Trimesh) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Returns the areas of the connected components and the component of each face."""
    faces, count = mesh.faces, len(mesh.vertices)
    starts, ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(count, count))
    _, of_vertex = connected_components(links, directed=False)
    used, of_face = np.unique(of_vertex[faces[:, 0]], return_inverse=True)
    areas = np.bincount(of_face, weights=mesh.area_faces, minlength=len(used))
    return areas.astype(np.float64), of_face


def component_areas(mesh: trimesh.Trimesh) -> NDArray[np.float64]:
    """Returns the areas of a mesh's connected components (faces that share vertices), largest first."""
    areas, _ = _components(mesh)
    return np.sort(areas)[::-1].copy()


def largest_component(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Returns the connected component of largest area; the mesh itself if it is connected."""
    return keep_components(mesh, 1.0)[0]


def keep_components(mesh: trimesh.Trimesh, min_fraction: float) -> tuple[trimesh.Trimesh, tuple[int, int]]:
    """Returns the connected components of at least a certain area, without unused vertices.

    Args:
        mesh: A mesh with at least one face.
        min_fraction: Smallest area as a fraction of the largest component's: 1 keeps only the largest, 0
            keeps all.

    Returns:
        A new mesh (the mesh itself if nothing is removed), and the numbers of components before and after.
    """
    areas, of_face = _components(mesh)
    keep = areas >= min_fraction * areas.max()
    if min_fraction >= 1.0:
        keep = np.arange(len(areas)) == areas.argmax()
    counts = len(areas), int(keep.sum())
    if keep.all():
        return mesh, counts
    used, faces = np.unique(mesh.faces[keep[of_face]], return_inverse=True)
    return trimesh.Trimesh(mesh.vertices[used], faces.reshape(-1, 3), process=False), counts


def transform_mesh(mesh: trimesh.Trimesh, matrix: NDArray[np.floating]) -> trimesh.Trimesh:
    """Returns a mesh in the frame of a (4, 4) affine map, its faces still outward."""
    matrix = np.asarray(matrix, dtype=np.float64)
    vertices = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    faces = mesh.faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else mesh.faces
    return trimesh.Trimesh(vertices=vertices, faces=faces, process=False)


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Writes a mesh with vertex normals as a binary PLY file atomically; `OutputError` if that fails."""
    content = ply_content(mesh.vertices, mesh.faces, mesh.vertex_normals)
    write_atomic(path, lambda file: file.write(content))


def needs_float64(vertices: NDArray[np.floating]) -> bool:
    """Whether vertices (V, 3) are so far from the origin, as in UTM coordinates, that float32 is coarse."""
    steps = np.spacing(np.abs(vertices).max(initial=0.0).astype(np.float32))
    return bool(np.ptp(vertices, axis=0).max(initial=0.0) < FLOAT32_STEPS * steps)


def ply_content(
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    normals: NDArray[np.floating],
    colors: NDArray[np.uint8] | None = None,
) -> bytes:
    """Returns a binary PLY of vertices (V, 3), faces (T, 3), unit normals (V, 3) and RGB colors (V, 3).

    Coordinates are float32, or float64 where needed, which trimesh does not write.
    """
    table = np.zeros(
        len(vertices),
        [(axis, "<f8" if needs_float64(vertices) else "<f4") for axis in "xyz"]
        + [(axis, "<f4") for axis in ("nx", "ny", "nz")]
        + [(channel, "u1") for channel in ("red", "green", "blue") if colors is not None],
    )
    columns = [vertices, normals] + ([] if colors is None else [colors])
    for name, column in zip(table.dtype.names or (), np.hstack(columns).T, strict=True):
        table[name] = column
    corners = np.zeros(len(faces), [("number", "u1"), ("corners", "<i4", 3)])
    corners["number"], corners["corners"] = 3, faces
    types = {"<f8": "double", "<f4": "float", "|u1": "uchar"}
    kinds = (table.dtype.fields or {}).items()
    properties = [f"property {types[kind[0].str]} {name}" for name, kind in kinds]
    lines = [
        "ply", "format binary_little_endian 1.0", f"element vertex {len(table)}", *properties,
        f"element face {len(corners)}", "property list uchar int vertex_indices", "end_header", "",
    ]  # fmt: skip
    return "\n".join(lines).encode() + table.tobytes() + corners.tobytes()
