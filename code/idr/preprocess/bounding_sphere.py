"""The sphere around the object that becomes the network's unit sphere.

B views, N hull points. World frame and unit, unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError
from idr.preprocess.outlines import hull_ious, outline_radii, ray_directions
from idr.preprocess.scene_views import Array, SceneViews
from idr.preprocess.visual_hull import Carver, SceneHull, fewest_views, needed_views

RADIUS_PER_MEAN_DISTANCE = 3.0
"""Radius of the sphere over the mean distance of hull points from their mean; the published rule."""
RADIUS_PER_BALL = 0.75 * RADIUS_PER_MEAN_DISTANCE
"""The same rule for a solid ball of radius 1, whose mean distance is 3/4."""
REGION_PER_OUTLINES = 2.5
"""Radius of the ball to carve, over that of the ball whose outlines contain all masks."""
OUTLINE_MARGIN = 1.01
"""Radius of the sphere over the outlines' radius, because pixels have an extent."""
MIN_ANGLE = 1.0
"""Degrees between two views' directions to the object, below which its distance is undetermined."""
POOR_IOU = 0.8
"""IoU of hull and mask below which a view is reported."""
CONTRADICTING_IOU = 0.3
"""Mean IoU below which the remaining hull is not the object; noisy cameras of DTU scan 65 reach 0.79."""
MAX_ENLARGEMENT = 1.25
"""Enlargement of the radius for the masks beyond which a warning is given."""


@dataclass(frozen=True)
class SphereFit:
    """The bounding sphere and its derivation; lengths in world units.

    Attributes:
        center: (3,) center.
        radius: Radius; every mask lies within the sphere's outline.
        rule_radius: Radius by the published rule; `radius` is larger if the masks require it.
        outline_radius: (B,) radius of the smallest sphere around `center` whose outline contains the mask.
        hull: The visual hull.
        hull_iou: (B,) IoU of the hull's silhouette and the mask.
        warnings: Warnings for the user.
    """

    center: Array
    radius: float
    rule_radius: float
    outline_radius: Array
    hull: SceneHull
    hull_iou: Array
    warnings: tuple[str, ...] = ()


def fit_sphere(views: SceneViews) -> SphereFit:
    """Finds the sphere around the object in the masks.

    Its center is the mean of the visual hull, its radius three times the mean distance from it, as published,
    or more if a mask would extend beyond it. If the views leave the hull open (all from about one side), the
    center is the point nearest to the rays through the masks' centroids, and the radius that of the rule for
    a ball with these outlines. The result is deterministic and equivariant to similarities of the world.

    Raises:
        InputError: A single view or viewpoint, the object behind a camera, a camera inside the object, or
            masks and cameras that contradict each other.
    """
    hull = carve_scene(views)
    if hull.is_open:
        center, rule_radius = hull.center, RADIUS_PER_BALL * hull.outline
    else:
        center = hull.points.mean(axis=0)
        rule_radius = RADIUS_PER_MEAN_DISTANCE * float(np.linalg.norm(hull.points - center, axis=1).mean())
    outline_radius = outline_radii(views, center)
    radius = max(rule_radius, OUTLINE_MARGIN * float(outline_radius.max()))
    iou = hull_ious(views, hull)
    if iou.mean() < CONTRADICTING_IOU:
        raise _contradiction(f"the remaining hull covers {iou.mean():.0%} of the masks on average")
    fit = SphereFit(center, radius, rule_radius, outline_radius, hull, iou)
    return replace(fit, warnings=_warnings(views, fit))


def carve_scene(views: SceneViews, rarest: int | None = None) -> SceneHull:
    """Carves the visual hull around the point nearest to the rays through the masks' centroids.

    `rarest` is that of `Carver.carve`. It raises `InputError` as `fit_sphere` does.
    """
    if len(views) < 2:
        raise InputError(
            "1 view: a single mask determines neither distance nor depth of the object; expected two or more "
            "viewpoints (or write a scale_mat_0 by hand)"
        )
    center = _nearest_to_mask_centroids(views)
    carver = Carver(views, center, float(outline_radii(views, center).max()))
    hull = carver.carve(REGION_PER_OUTLINES, rarest)
    if len(hull.points) == 0:
        raise _contradiction(
            f"no point is seen by at least {fewest_views(len(views))} of the {len(views)} views and inside "
            f"the mask in nearly all of those that see it ({needed_views(len(views))} of {len(views)})"
        )
    if not hull.is_open:
        _refuse_camera_inside(views, carver)
    return hull


def _nearest_to_mask_centroids(views: SceneViews) -> Array:
    """The point with the least sum of squared distances from the rays through the masks' centroids."""
    centroids = [np.argwhere(mask).mean(axis=0)[None, ::-1] for mask in views.masks]
    directions = np.concatenate([ray_directions(views, k, uv) for k, uv in enumerate(centroids)])
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]  # (B, 3, 3)
    # Relative to the cameras' mean, for precision if the world's origin is far away.
    origin = views.centers.mean(axis=0)
    offsets = np.einsum("bij,bj->i", across, views.centers - origin)
    point = origin + np.linalg.lstsq(across.sum(axis=0), offsets, rcond=None)[0]

    widest = np.degrees(np.arccos(np.clip((directions @ directions.T).min(), -1.0, 1.0)))
    apart = np.linalg.norm(views.centers - origin, axis=1).max()
    if widest < MIN_ANGLE or apart <= 1e-6 * np.linalg.norm(point - views.centers, axis=1).max():
        raise InputError(
            f"the {len(views)} views see the object from one place or one direction (largest angle between "
            f"their rays: {widest:.2f} degrees), so its distance is undetermined; add views from other sides"
        )
    depth = np.einsum("bi,bi->b", point - views.centers, views.poses[:, :3, 2])
    behind = np.flatnonzero(depth <= 0)
    if len(behind):
        raise InputError(
            f"the object lies behind camera {listed(behind, views.names)}: these matrices are mirrored or "
            "use other axes; expected OpenCV axes (x right, y down, z forward; OpenGL's y and z have the "
            "opposite sign), and world_mat = K [R | t] with R, t from world to camera"
        )
    return point


def _contradiction(finding: str) -> InputError:
    return InputError(
        f"masks and cameras contradict each other: {finding}. Check that mask i and world_mat_<i> belong "
        "together in natural name order, and that the matrices map world to pixels of this image size with "
        "OpenCV axes (x right, y down, z forward)"
    )


def _refuse_camera_inside(views: SceneViews, carver: Carver) -> None:
    """A camera is inside if it lies where nearly all other views see the object."""
    forward = views.poses[:, :3, 2] @ views.poses[0, :3, :3]
    just_behind = carver.centers - 1e-6 * forward  # so that no camera sees itself
    seen, inside = carver.count_views(just_behind)
    others = max(2, int(needed_views(len(views) - 1)))
    cameras = np.flatnonzero((seen >= others) & (inside >= needed_views(seen)))
    if len(cameras):
        raise InputError(
            f"camera {listed(cameras, views.names)} lies inside the object according to the other views' "
            "masks; expected cameras outside, looking at it: check the matrices and masks"
        )


def _warnings(views: SceneViews, fit: SphereFit) -> tuple[str, ...]:
    warnings = []
    if fit.hull.is_open:
        warnings.append(
            "all views are from about one side, which leaves the object's depth open; the sphere is based on "
            "the masks' outlines instead of the hull (views from other sides would bound it)"
        )
    if fit.radius > MAX_ENLARGEMENT * fit.rule_radius:
        worst = int(fit.outline_radius.argmax())
        warnings.append(
            f"mask {worst} ({views.names[worst]}) requires a radius of {fit.outline_radius[worst]:.6g}, the "
            f"hull only {fit.rule_radius:.6g}: check it for stray white pixels, and its camera"
        )
    poor = np.flatnonzero(fit.hull_iou < POOR_IOU)
    if len(poor):
        warnings.append(f"hull and mask disagree (IoU below {POOR_IOU}) in view {listed(poor, views.names)}")
    near = np.flatnonzero(np.linalg.norm(views.centers - fit.center, axis=1) <= fit.radius)
    if len(near):
        warnings.append(f"camera {listed(near, views.names)} is inside the sphere")
    return tuple(warnings)


def listed(indices: NDArray[np.integer], names: tuple[str, ...], max_listed: int = 6) -> str:
    """Lists views in a message: '3 (003.png), 4 (004.png)' and so on, up to `max_listed`."""
    shown = ", ".join(f"{k} ({names[k]})" for k in indices[:max_listed])
    return shown + (f" and {len(indices) - max_listed} more" if len(indices) > max_listed else "")
