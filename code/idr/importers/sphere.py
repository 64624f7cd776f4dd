"""The unit sphere of an imported scene: from the visual hull, from sparse points, or the source's own.

N points. World frame and unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from idr.errors import InputError
from idr.importers.source import Array
from idr.preprocess.bounding_sphere import OUTLINE_MARGIN, RADIUS_PER_BALL, fit_sphere
from idr.preprocess.outlines import outline_radii
from idr.preprocess.scene_views import SceneViews, radius_of, sphere_matrix
from idr.preprocess.visual_hull import Carver, needed_views

MIN_POINTS_INSIDE = 10


@dataclass(frozen=True)
class Sphere:
    """The sphere that becomes the unit sphere: (4, 4) to world, what it was computed from, warnings."""

    scale_mat: Array
    origin: str
    warnings: tuple[str, ...] = ()

    @property
    def center(self) -> Array:
        """(3,) in the world."""
        return self.scale_mat[:3, 3]

    @property
    def radius(self) -> float:
        """Radius in world units."""
        return radius_of(self.scale_mat)


def choose_sphere(views: SceneViews, points: Array | None, scale_mat: Array | None, choice: str) -> Sphere:
    """Finds the unit sphere.

    Args:
        views: Masks and cameras.
        points: (N, 3) sparse points, None without any.
        scale_mat: (4, 4) the source's own, None without one.
        choice: `hull`, `points`, `source`, or `auto` for the source's own if it has one, else the hull.

    Returns:
        The sphere. Its outline contains every mask, unless it is the source's own.

    Raises:
        InputError: The source lacks what was chosen, masks and cameras contradict each other, or a camera
            lies inside the sphere.
    """
    if choice == "auto":
        choice = "source" if scale_mat is not None else "hull"
    if choice == "source":
        if scale_mat is None:
            raise InputError("--sphere source: the source has no scale_mat; use hull or points")
        reach = outline_radii(views, scale_mat[:3, 3]) / radius_of(scale_mat)
        warning = (
            f"{int((reach > 1).sum())} masks extend beyond the source's sphere (up to {reach.max():.2f} of "
            "its radius); parts outside are not reconstructed: --sphere hull computes a new one"
        )
        sphere = Sphere(scale_mat, "the source's scale_mat", (warning,) if reach.max() > 1.0 else ())
    elif choice == "points":
        sphere = _from_points(views, points)
    else:
        fit = fit_sphere(views)
        sphere = Sphere(sphere_matrix(fit.center, fit.radius), "visual hull of the masks", fit.warnings)
    inside = np.flatnonzero(np.linalg.norm(views.centers - sphere.center, axis=1) <= sphere.radius)
    if len(inside):
        raise InputError(
            f"{len(inside)} of {len(views)} cameras lie inside the unit sphere from {sphere.origin} (first: "
            f"{views.names[inside[0]]}); expected cameras around the object: check the masks, or try another "
            "--sphere"
        )
    return sphere


def points_on_object(views: SceneViews, points: Array) -> Array:
    """Returns the points (N, 3) that lie inside the masks of nearly all views that see them, two or more."""
    carver = Carver(views, np.zeros(3), 1.0)
    seen, inside = carver.count_views(carver.from_world(points))
    return points[(seen >= 2) & (inside >= needed_views(seen))]


def _from_points(views: SceneViews, points: Array | None) -> Sphere:
    """The sphere of those sparse points that lie on the object.

    The points lie on the surface; the radius is the published rule's for a ball with that surface.
    """
    if points is None:
        raise InputError("--sphere points: the source has no sparse points; pass --points, or use hull")
    kept = points_on_object(views, points)
    if len(kept) < MIN_POINTS_INSIDE:
        raise InputError(
            f"--sphere points: {len(kept)} of {len(points)} sparse points lie inside the masks; expected "
            f"{MIN_POINTS_INSIDE} or more: check that they are in the cameras' world frame, or use hull"
        )
    center = kept.mean(axis=0)
    mean = float(np.linalg.norm(kept - center, axis=1).mean())
    outline = OUTLINE_MARGIN * float(outline_radii(views, center).max())
    scale_mat = sphere_matrix(center, max(RADIUS_PER_BALL * mean, outline))
    return Sphere(scale_mat, f"{len(kept)} of {len(points)} sparse points")
