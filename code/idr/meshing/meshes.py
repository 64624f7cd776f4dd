"""What is done with a mesh once it exists: its components, its frame, its file."""

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
    """Number of connected components (faces that share a vertex) and the component of each face."""
    faces, count = mesh.faces, len(mesh.vertices)
    starts, ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(count, count))
    _, of_vertex = connected_components(links, directed=False)
    used, of_face = np.unique(np.asarray(of_vertex, dtype=np.intp)[faces[:, 0]], return_inverse=True)
    return len(used), of_face.astype(np.intp)


def component_areas(mesh: trimesh.Trimesh) -> NDArray[np.float64]:
    """Returns the areas of a mesh's connected components, largest first.

    Args:
        mesh: Any mesh; faces are connected where they share a vertex.

    Returns:
        (number of components,) areas in the mesh's unit, squared.
    """
    count, of_face = _component_of_faces(mesh)
    areas = np.bincount(of_face, weights=mesh.area_faces, minlength=count)
    return np.sort(areas)[::-1].astype(np.float64)


def largest_component(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Returns the connected component of largest area (not of most faces), without unused vertices.

    Args:
        mesh: Any mesh with at least one face.

    Returns:
        A new mesh, or the mesh itself if it is in one piece.
    """
    return keep_components(mesh, 1.0)[0]


def keep_components(mesh: trimesh.Trimesh, min_share: float) -> tuple[trimesh.Trimesh, tuple[int, int]]:
    """Returns the connected components that are large enough, without unused vertices.

    Args:
        mesh: Any mesh with at least one face.
        min_share: Least area that stays, as a share of the largest component's: 1 keeps the largest alone,
            0 all of them.

    Returns:
        A new mesh (the mesh itself if all of it stays), and the numbers of components before and after.
    """
    count, of_face = _component_of_faces(mesh)
    areas = np.bincount(of_face, weights=mesh.area_faces, minlength=count)
    stays = areas >= min_share * areas.max()
    if min_share >= 1.0:
        stays = np.arange(count) == areas.argmax()
    if stays.all():
        return mesh, (count, count)
    used, faces = np.unique(mesh.faces[stays[of_face]], return_inverse=True)
    kept = trimesh.Trimesh(vertices=mesh.vertices[used], faces=faces.reshape(-1, 3), process=False)
    return kept, (count, int(stays.sum()))


def transform_mesh(mesh: trimesh.Trimesh, matrix: NDArray[np.floating]) -> trimesh.Trimesh:
    """Returns a mesh in another frame, its faces still looking outwards.

    Args:
        mesh: The mesh.
        matrix: (4, 4) affine map, for example a similarity such as ``scale_mat`` or a camera alignment.
            With a negative determinant it mirrors; the faces' order is then turned.

    Returns:
        A new mesh.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    vertices = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    faces = mesh.faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else mesh.faces
    return trimesh.Trimesh(vertices=vertices, faces=faces, process=False)


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Writes a mesh with vertex normals as a binary PLY file, whole or not at all.

    Args:
        mesh: The mesh.
        path: The file; missing folders are made.

    Raises:
        OutputError: The file cannot be written.
    """
    write_atomic(path, lambda file: file.write(export_ply(mesh, vertex_normal=True)))
