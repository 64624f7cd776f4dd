"""Components, transforms and files of meshes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from trimesh.exchange.ply import export_ply

from idr.files import write_atomic


def _component_of_faces(mesh: trimesh.Trimesh) -> tuple[int, NDArray[np.intp]]:
    """Returns the number of connected components and the component of each face."""
    faces, count = mesh.faces, len(mesh.vertices)
    starts, ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(count, count))
    _, of_vertex = connected_components(links, directed=False)
    used, of_face = np.unique(np.asarray(of_vertex, dtype=np.intp)[faces[:, 0]], return_inverse=True)
    return len(used), of_face.astype(np.intp)


def component_areas(mesh: trimesh.Trimesh) -> NDArray[np.float64]:
    """Returns the areas of a mesh's connected components (faces that share vertices), largest first."""
    count, of_face = _component_of_faces(mesh)
    areas = np.bincount(of_face, weights=mesh.area_faces, minlength=count)
    return np.sort(areas)[::-1].astype(np.float64)


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
    count, of_face = _component_of_faces(mesh)
    areas = np.bincount(of_face, weights=mesh.area_faces, minlength=count)
    keep = areas >= min_fraction * areas.max()
    if min_fraction >= 1.0:
        keep = np.arange(count) == areas.argmax()
    if keep.all():
        return mesh, (count, count)
    used, faces = np.unique(mesh.faces[keep[of_face]], return_inverse=True)
    kept = trimesh.Trimesh(vertices=mesh.vertices[used], faces=faces.reshape(-1, 3), process=False)
    return kept, (count, int(keep.sum()))


def transform_mesh(mesh: trimesh.Trimesh, matrix: NDArray[np.floating]) -> trimesh.Trimesh:
    """Returns a mesh in another frame, its faces still outward.

    Args:
        mesh: The mesh.
        matrix: (4, 4) affine map, such as ``scale_mat`` or a camera alignment. If its determinant is
            negative, the faces are reversed.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    vertices = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    faces = mesh.faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else mesh.faces
    return trimesh.Trimesh(vertices=vertices, faces=faces, process=False)


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Writes a mesh with vertex normals as a binary PLY file atomically; `OutputError` if that fails."""
    write_atomic(path, lambda file: file.write(export_ply(mesh, vertex_normal=True)))
