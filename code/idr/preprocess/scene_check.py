"""Checks a data folder: compares bounding sphere and visual hull with the masks of each view.

B views, H rows, W columns. Lengths are in units of the bounding sphere's radius, unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idr.datasets.camera_files import lacks_intrinsics, read_cameras
from idr.datasets.images import list_images, load_rgb
from idr.errors import InputError
from idr.failures import (
    CONTRADICTION,
    IMAGES_RESIZED,
    MASKS_INVERTED,
    MIRRORED_CAMERAS,
    NO_INTRINSICS,
    WRONG_AXES,
    Finding,
)
from idr.preprocess.bounding_sphere import POOR_IOU
from idr.preprocess.doctor import MAX_REACH, HullFit, diagnose_views, fit_hull, touches_border
from idr.preprocess.outlines import outline_radii
from idr.preprocess.scene_views import Array, Mask, SceneViews, load_views, radius_of
from idr.preprocess.visual_hull import SceneHull

CONVENTIONS = (MASKS_INVERTED, NO_INTRINSICS, WRONG_AXES, MIRRORED_CAMERAS, IMAGES_RESIZED, CONTRADICTION)
"""Findings about masks and cameras alone, whatever the sphere."""


@dataclass(frozen=True)
class ViewCheck:
    """The check of one view.

    Attributes:
        name: The mask's file name.
        distance: Camera center from the sphere's center.
        outline_radius: Radius of the smallest concentric sphere whose outline contains the mask; should be at
            most 1.
        hull_iou: IoU of hull and mask; NaN without a hull.
        warnings: Problems, a few words each.
    """

    name: str
    distance: float
    outline_radius: float
    hull_iou: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SceneCheck:
    """The check of a scene.

    Attributes:
        views: Masks and cameras.
        images: B paths of the photographs.
        center: (3,) sphere's center in the world.
        radius: Sphere's radius in world units.
        hull: The visual hull; None if masks and cameras contradict each other.
        checks: One per view.
        findings: What is wrong with the scene, severe findings first.
    """

    views: SceneViews
    images: tuple[Path, ...]
    center: Array
    radius: float
    hull: SceneHull | None
    checks: tuple[ViewCheck, ...]
    findings: tuple[Finding, ...]


def check_scene(scene_dir: Path, camera_file: str) -> SceneCheck:
    """Compares masks, cameras, photographs and bounding sphere of a data folder.

    The folder has `image/`, `mask/` and an npz of `world_mat_<i>` and `scale_mat_<i>`. Contradictions are
    among the findings.

    Raises:
        MissingInputError: A file is missing.
        InputError: Unreadable data, differing counts, or a camera without the sphere in front of it.
    """
    return _check(load_views(scene_dir, camera_file), scene_dir, camera_file)


def _check(views: SceneViews, scene_dir: Path, camera_file: str) -> SceneCheck:
    images = tuple(list_images(scene_dir / "image"))
    if len(images) != len(views):
        raise InputError(
            f"{scene_dir}: {len(images)} images but {len(views)} masks and cameras; expected one of each per "
            "image"
        )
    scale_mats = read_cameras(scene_dir / camera_file, len(views)).scale_mats
    center, radius = scale_mats[0, :3, 3], radius_of(scale_mats[0])
    no_k = lacks_intrinsics(views.intrinsics)
    fit = HullFit(None, np.full(len(views), np.nan)) if no_k else fit_hull(views)
    sizes = [load_rgb(path).shape[:2] for path in images]
    findings = diagnose_views(views, scale_mats, fit, sizes)
    outline_radius = outline_radii(views, center) / radius
    distances = np.linalg.norm(views.centers - center, axis=1) / radius
    numbers = (distances.tolist(), outline_radius.tolist(), fit.ious.tolist())
    checks = tuple(
        ViewCheck(name, d, r, iou, _view_warnings(d, r, iou, mask))
        for name, d, r, iou, mask in zip(views.names, *numbers, views.masks, strict=True)
    )
    return SceneCheck(views, images, center, radius, fit.hull, checks, findings)


def diagnose_scene(scene_dir: Path, camera_file: str) -> tuple[Finding, ...]:
    """Lists what is wrong with a data folder, see `check_scene`; a sound scene has no findings.

    Raises:
        MissingInputError: A file is missing.
        InputError: A file is unreadable, counts differ, or only the sphere is wrong.
    """
    views = load_views(scene_dir, camera_file)
    try:
        read_cameras(scene_dir / camera_file, len(views))
    except InputError:  # cameras that look away from the sphere may have wrong axes
        findings = diagnose_views(views, np.eye(4))
        wrong = tuple(finding for finding in findings if finding.name in CONVENTIONS)
        if not wrong:
            raise
        return wrong
    return _check(views, scene_dir, camera_file).findings


def _view_warnings(distance: float, outline_radius: float, iou: float, mask: Mask) -> tuple[str, ...]:
    problems = {
        "mask outside the sphere": outline_radius > MAX_REACH,
        "hull and mask disagree": iou < POOR_IOU,
        "camera inside the sphere": distance <= 1.0,
        "mask touches the image's border": touches_border(mask),
    }
    return tuple(problem for problem, found in problems.items() if found)
