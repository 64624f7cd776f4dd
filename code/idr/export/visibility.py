"""Which cameras see which points of a mesh.

B cameras, N points. Any one frame for mesh, points and cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.export.extras import import_mesh_package
from idr.geometry.cameras import project_points

LIFT = 2e-3
"""Rays start so far above the surface, unit-sphere units, that rounding does not hide a point by its own
face; parts of the object closer together than this hide nothing of each other."""

GRAZING = 0.1
"""Least cosine between normal and direction: beyond 84 degrees a photograph shows next to nothing."""


@dataclass(frozen=True)
class ViewPoint:
    """A camera that may see points.

    Attributes:
        projection: (3, 4) to pixels.
        center: (3,) the camera's center.
        img_res: Height and width.
    """

    projection: NDArray[np.float64]
    center: NDArray[np.float64]
    img_res: tuple[int, int]


def view_points(
    intrinsics: NDArray[np.floating], poses: NDArray[np.floating], img_res: tuple[int, int]
) -> list[ViewPoint]:
    """Makes view points of cameras.

    Args:
        intrinsics: (B, 3, 3) or (B, 4, 4) K.
        poses: (B, 4, 4) camera-to-world.
        img_res: Height and width of all views.
    """
    return [
        ViewPoint(
            np.asarray(k[:3, :3], dtype=np.float64) @ np.linalg.inv(np.asarray(pose, dtype=np.float64))[:3],
            np.asarray(pose[:3, 3], dtype=np.float64),
            img_res,
        )
        for k, pose in zip(intrinsics, poses, strict=True)
    ]


class Sight:
    """Answers which cameras see points of a mesh."""

    def __init__(self, mesh: trimesh.Trimesh, views: list[ViewPoint]) -> None:
        """Prepares the mesh for rays.

        Raises:
            MissingInputError: ``embreex`` is not installed.
        """
        import_mesh_package("embreex", "coloring from the training views (or choose --colors normal)")
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        self._rays = RayMeshIntersector(mesh)
        self.views = views

    def cosines(
        self, points: NDArray[np.floating], normals: NDArray[np.floating], view: int
    ) -> NDArray[np.float64]:
        """Tells how squarely a camera sees points.

        Args:
            points: (N, 3) points on the mesh.
            normals: (N, 3) unit normals, outward.
            view: Position of the camera.

        Returns:
            (N,) cosine between normal and direction to the camera; 0 for a point that lies outside the
            image, faces away or nearly so, or is hidden.
        """
        camera = self.views[view]
        towards = camera.center - points
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        cosines = (towards * normals).sum(axis=1)
        uv, depth = project_points(points, camera.projection)
        height, width = camera.img_res
        with np.errstate(invalid="ignore"):  # NaN where the depth is 0
            framed = ((uv >= -0.5) & (uv < np.array([width, height]) - 0.5)).all(axis=1) & (depth > 0)
        candidates = np.flatnonzero(framed & (cosines > GRAZING))
        seen = np.zeros(len(points), dtype=bool)
        if len(candidates):
            origins = points[candidates] + LIFT * normals[candidates]
            seen[candidates] = ~self._rays.intersects_any(origins, towards[candidates])
        return np.where(seen, cosines, 0.0)
