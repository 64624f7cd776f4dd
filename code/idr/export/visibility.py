"""Visibility of mesh points in cameras.

B cameras, N points, all in one frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.export.mesh_files import import_mesh_package
from idr.export.surface import Array
from idr.geometry.cameras import project_points

LIFT = 2e-3
"""Distance above the surface at which rays start, unit-sphere units, so that rounding does not hide a point
behind its own face. Parts of the object closer together than this do not occlude one another."""

GRAZING = 0.1
"""Smallest cosine between normal and viewing direction, 84 degrees; beyond, a photograph shows too little."""


@dataclass(frozen=True)
class ViewPoint:
    """A camera: its projection to pixels, (3, 4), its center, (3,), and height and width of its image."""

    projection: NDArray[np.float64]
    center: NDArray[np.float64]
    img_res: tuple[int, int]


def view_points(intrinsics: Array, poses: Array, img_res: tuple[int, int]) -> list[ViewPoint]:
    """Returns the view points of cameras with K, (B, 3, 3) or (B, 4, 4), and poses, (B, 4, 4)."""
    poses = np.asarray(poses, dtype=np.float64)
    projections = np.asarray(intrinsics, dtype=np.float64)[:, :3, :3] @ np.linalg.inv(poses)[:, :3]
    return [ViewPoint(p, pose[:3, 3], img_res) for p, pose in zip(projections, poses, strict=True)]


def require_rays() -> None:
    """Raises `MissingInputError` without ``embreex``."""
    import_mesh_package("embreex", "coloring from the training views (or choose --colors normal)")


class Sight:
    """Visibility of the points of a mesh in its views; raises `MissingInputError` without ``embreex``."""

    def __init__(self, mesh: trimesh.Trimesh, views: list[ViewPoint]) -> None:
        require_rays()
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        self._rays = RayMeshIntersector(mesh)
        self.views = views

    def cosines(self, points: Array, normals: Array, view: int) -> NDArray[np.float64]:
        """Returns the (N,) cosines between the unit normals of mesh points and the directions to a camera.

        They are 0 for a point outside the image, at a grazing angle, facing away, or occluded.
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
