"""The sphere around the object that becomes the network's unit sphere.

B views, N hull points. World frame and unit, unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError
from idr.preprocess.outlines import hull_ious, outline_radii, ray_directions
from idr.preprocess.scene_views import SceneViews
from idr.preprocess.visual_hull import Carver, SceneHull, fewest_views, needed_views

RADIUS_PER_MEAN_DISTANCE = 3.0
"""Radius of the sphere over the mean distance of hull points from their mean: the published rule."""
RADIUS_PER_BALL = 0.75 * RADIUS_PER_MEAN_DISTANCE
"""What that rule gives for a solid ball of radius 1, whose mean distance is 3/4."""
REGION_PER_OUTLINES = 2.5
"""Radius of the ball that is carved, over that of the ball that shows every mask from the outside."""
OUTLINE_MARGIN = 1.01
"""The sphere holds every mask with a percent to spare: a pixel has an extent of its own."""
SMALLEST_ANGLE = 1.0
"""Degrees between two views' directions to the object; with less, its distance is not to be had."""
POOR_IOU = 0.8
"""Overlap of hull and mask below which a view is named as disagreeing."""
CONTRADICTING_IOU = 0.3
"""Mean overlap below which what is left of the hull is chance, not the object; the noisy cameras of
DTU scan 65 reach 0.79."""
ENLARGED_MUCH = 1.25
"""Growth of the radius for the masks' sake beyond which the cause is worth a look."""


@dataclass(frozen=True)
class SphereFit:
    """The bounding sphere and how it was found; lengths in world units.

    Attributes:
        center: (3,) center.
        radius: Radius; every mask lies within the sphere's outline.
        rule_radius: Radius that the published rule gives; `radius` is larger where the masks need it.
        outline_radius: (B,) smallest radius around `center` whose outline holds the view's mask.
        hull: The visual hull.
        hull_iou: (B,) overlap of the hull's outline and the mask, 0 to 1.
        warnings: What a user should look at.
    """

    center: NDArray[np.float64]
    radius: float
    rule_radius: float
    outline_radius: NDArray[np.float64]
    hull: SceneHull
    hull_iou: NDArray[np.float64]
    warnings: tuple[str, ...]


def fit_sphere(views: SceneViews) -> SphereFit:
    """Finds the sphere around the object that the masks show.

    Center: mean of the visual hull. Radius: three times the mean distance from it, as published, and more
    where a mask would stick out. If the views leave the hull open (they look from about one side), the
    center is the point nearest to the rays through the masks' middles and the radius what the rule gives for
    a ball with these outlines. Nothing is random; moving, turning or scaling the world moves, turns or scales
    the result.

    Args:
        views: At least two views.

    Returns:
        The fit.

    Raises:
        InputError: One view only, views from one place, the object behind a camera, a camera within the
            object, or masks and cameras that contradict one another.
    """
    if len(views) < 2:
        raise InputError(
            "1 view: one mask cannot tell how far away and how deep the object is; expected two or more "
            "views from different places (or write a scale_mat_0 by hand)"
        )
    hull = carve_scene(views)
    if hull.is_open:
        center, rule_radius = hull.middle, RADIUS_PER_BALL * hull.outline
    else:
        center = hull.points.mean(axis=0)
        rule_radius = RADIUS_PER_MEAN_DISTANCE * float(np.linalg.norm(hull.points - center, axis=1).mean())
    outline_radius = outline_radii(views, center)
    radius = max(rule_radius, OUTLINE_MARGIN * float(outline_radius.max()))
    iou = hull_ious(views, hull)
    if iou.mean() < CONTRADICTING_IOU:
        raise InputError(
            _contradiction(f"the hull that is left covers {iou.mean():.0%} of the masks on average")
        )
    warnings = _warnings(views, hull, center, radius, rule_radius, outline_radius, iou)
    return SphereFit(center, radius, rule_radius, outline_radius, hull, iou, warnings)


def carve_scene(views: SceneViews) -> SceneHull:
    """Carves the visual hull around the point that the masks' middles show.

    Args:
        views: At least two views.

    Returns:
        The hull in the world.

    Raises:
        InputError: As `fit_sphere`.
    """
    if len(views) < 2:
        raise InputError(
            "1 view: one mask cannot tell how far away and how deep the object is; expected two or more "
            "views from different places (or write a scale_mat_0 by hand)"
        )
    middle = _nearest_to_mask_middles(views)
    outline = float(outline_radii(views, middle).max())
    carver = Carver(views, middle, outline)
    hull = carver.carve(REGION_PER_OUTLINES)
    if len(hull.points) == 0:
        fewest = fewest_views(len(views))
        raise InputError(
            _contradiction(
                f"no point is seen by at least {fewest} of the {len(views)} views and inside the mask in "
                f"nearly all of those that see it ({needed_views(len(views))} of {len(views)})"
            )
        )
    if not hull.is_open:
        _refuse_camera_within(views, carver)
    points = hull.points @ carver.to_world[:3, :3].T + carver.to_world[:3, 3]
    return SceneHull(points, hull.spacing * outline, hull.most_views, hull.is_open, middle, outline)


def _nearest_to_mask_middles(views: SceneViews) -> NDArray[np.float64]:
    """Finds the point with the least sum of squared distances from the rays through the masks' centroids."""
    middles = [np.argwhere(mask).mean(axis=0)[None, ::-1] for mask in views.masks]
    directions = np.concatenate([ray_directions(views, k, middle) for k, middle in enumerate(middles)])
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]  # (B, 3, 3)
    # Measured from the cameras' mean, so that a far-off origin costs no digits.
    origin = views.centers.mean(axis=0)
    offsets = np.einsum("bij,bj->i", across, views.centers - origin)
    point = origin + np.linalg.lstsq(across.sum(axis=0), offsets, rcond=None)[0]

    widest = np.degrees(np.arccos(np.clip((directions @ directions.T).min(), -1.0, 1.0)))
    apart = np.linalg.norm(views.centers - origin, axis=1).max()
    if widest < SMALLEST_ANGLE or apart <= 1e-6 * np.linalg.norm(point - views.centers, axis=1).max():
        raise InputError(
            f"the {len(views)} views see the object from one place or one direction (largest angle between "
            f"their rays through it: {widest:.2f} degrees): its distance cannot be told; add views from "
            "other sides"
        )
    depth = np.einsum("bi,bi->b", point - views.centers, views.poses[:, :3, 2])
    behind = np.flatnonzero(depth <= 0)
    if len(behind):
        raise InputError(
            f"the object lies behind camera {listed(behind, views.names)}: these matrices are mirrored or "
            "follow other axes; expected OpenCV's, x right, y down, z forward (OpenGL's y and z have the "
            "other sign), and world_mat = K [R | t] with R, t from world to camera"
        )
    return point


def _contradiction(finding: str) -> str:
    return (
        f"masks and cameras contradict one another: {finding}. Check that the i-th mask and world_mat_<i> "
        "belong together in natural name order, that the matrices are for this image size, map world to "
        "pixels, and use OpenCV's axes (x right, y down, z forward)"
    )


def _refuse_camera_within(views: SceneViews, carver: Carver) -> None:
    """Raises if a camera stands where nearly all others see the object."""
    forward = views.poses[:, :3, 2] @ views.poses[0, :3, :3]
    just_behind = carver.centers - 1e-6 * forward  # so that no camera sees itself, whatever the rounding
    seen, inside = carver.count_views(just_behind)
    others = max(2, int(needed_views(len(views) - 1)))
    within = np.flatnonzero((seen >= others) & (inside >= needed_views(seen)))
    if len(within):
        raise InputError(
            f"camera {listed(within, views.names)} stands inside the object as the other views' masks show "
            "it; expected cameras outside, looking at it: check the matrices and masks"
        )


def _warnings(
    views: SceneViews,
    hull: SceneHull,
    center: NDArray[np.float64],
    radius: float,
    rule_radius: float,
    outline_radius: NDArray[np.float64],
    iou: NDArray[np.float64],
) -> tuple[str, ...]:
    """What a user should look at, one sentence each."""
    found = []
    if hull.is_open:
        found.append(
            "the views see the object from about one side and leave its depth open; the sphere was made "
            "from the masks' outlines instead of the hull (views from other sides would bound it)"
        )
    if radius > ENLARGED_MUCH * rule_radius:
        worst = int(outline_radius.argmax())
        found.append(
            f"mask {worst} ({views.names[worst]}) alone needs a radius of {outline_radius[worst]:.6g} where "
            f"the hull suggests {rule_radius:.6g}: look for stray white pixels in it, or a wrong camera"
        )
    poor = np.flatnonzero(iou < POOR_IOU)
    if len(poor):
        found.append(f"hull and mask disagree (IoU below {POOR_IOU}) in view {listed(poor, views.names)}")
    near = np.flatnonzero(np.linalg.norm(views.centers - center, axis=1) <= radius)
    if len(near):
        found.append(f"camera {listed(near, views.names)} is inside the sphere")
    return tuple(found)


def listed(indices: NDArray[np.integer], names: tuple[str, ...], most: int = 6) -> str:
    """Names views for a message: '3 (003.png), 4 (004.png)', the first few of many.

    Args:
        indices: Which views.
        names: The names of all views.
        most: How many to name.

    Returns:
        The text.
    """
    shown = ", ".join(f"{k} ({names[k]})" for k in indices[:most])
    return shown + (f" and {len(indices) - most} more" if len(indices) > most else "")
