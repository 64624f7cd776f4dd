"""Checks a data folder: compares bounding sphere and visual hull with the masks of each view.

B views, H rows, W columns. Lengths are in units of the bounding sphere's radius, unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idr.datasets.camera_files import check_intrinsics, read_cameras
from idr.datasets.images import list_images, load_rgb
from idr.errors import InputError
from idr.preprocess.bounding_sphere import POOR_IOU, carve_scene, listed
from idr.preprocess.outlines import hull_ious, outline_radii
from idr.preprocess.scene_views import Array, Mask, SceneViews, load_views, radius_of
from idr.preprocess.visual_hull import SceneHull

SMALL_IN_SPHERE = 0.25
"""Share of the sphere's radius below which the object wastes the network's resolution."""
MIN_VIEWS = 8
"""Views below which the reconstruction is often no better than the visual hull."""


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
        warnings: Warnings about the scene as a whole.
    """

    views: SceneViews
    images: tuple[Path, ...]
    center: Array
    radius: float
    hull: SceneHull | None
    checks: tuple[ViewCheck, ...]
    warnings: tuple[str, ...]


def check_scene(scene_dir: Path, camera_file: str) -> SceneCheck:
    """Compares masks, cameras, photographs and bounding sphere of a data folder.

    The folder has `image/`, `mask/` and an npz of `world_mat_<i>` and `scale_mat_<i>`. Contradictions are
    among the warnings.

    Raises:
        MissingInputError: A file is missing.
        InputError: Unreadable data, differing counts, or a camera without the sphere in front of it.
    """
    views = load_views(scene_dir, camera_file)
    images = tuple(list_images(scene_dir / "image"))
    if len(images) != len(views):
        raise InputError(
            f"{scene_dir}: {len(images)} images but {len(views)} masks and cameras; expected one of each per "
            "image"
        )
    scale_mats = read_cameras(scene_dir / camera_file, len(views)).scale_mats
    center, radius = scale_mats[0, :3, 3], radius_of(scale_mats[0])
    warnings = []
    if not np.allclose(scale_mats, scale_mats[0], rtol=1e-6, atol=1e-6 * radius):
        warnings.append(
            "the scale_mats differ between views, so the poses have no common frame; run "
            "preprocess_cameras.py"
        )
    try:
        check_intrinsics(scene_dir / camera_file, views.intrinsics)
        hull = carve_scene(views)
        ious = hull_ious(views, hull)
    except InputError as error:
        hull, ious = None, np.full(len(views), np.nan)
        warnings.append(str(error))
    outline_radius = outline_radii(views, center) / radius
    distances = np.linalg.norm(views.centers - center, axis=1) / radius
    numbers = (distances.tolist(), outline_radius.tolist(), ious.tolist())
    checks = tuple(
        ViewCheck(name, d, r, iou, _view_warnings(d, r, iou, mask))
        for name, d, r, iou, mask in zip(views.names, *numbers, views.masks, strict=True)
    )
    warnings += _scene_warnings(hull, center, radius, outline_radius)
    wrong_size = [k for k, path in enumerate(images) if load_rgb(path).shape[:2] != views.masks[k].shape]
    if wrong_size:
        names = tuple(path.name for path in images)
        warnings.append(f"image and mask differ in size in view {listed(np.array(wrong_size), names)}")
    return SceneCheck(views, images, center, radius, hull, checks, tuple(warnings))


def _view_warnings(distance: float, outline_radius: float, iou: float, mask: Mask) -> tuple[str, ...]:
    problems = {
        "mask outside the sphere": outline_radius > 1.0,
        "hull and mask disagree": iou < POOR_IOU,
        "camera inside the sphere": distance <= 1.0,
        "mask touches the image's border": mask[[0, -1]].any() or mask[:, [0, -1]].any(),
    }
    return tuple(problem for problem, found in problems.items() if found)


def _scene_warnings(hull: SceneHull | None, center: Array, radius: float, outline_radius: Array) -> list[str]:
    warnings = []
    count, largest = len(outline_radius), float(outline_radius.max())
    if count < MIN_VIEWS:
        warnings.append(
            f"{count} views: fewer than {MIN_VIEWS} leave much of the shape undetermined; photograph the "
            "object from more sides"
        )
    if largest > 1.0:
        warnings.append(
            f"{int((outline_radius > 1.0).sum())} masks extend beyond the sphere, up to {largest:.2f} times "
            "its radius; run preprocess_cameras.py, or look for stray white pixels"
        )
    if largest < SMALL_IN_SPHERE:
        warnings.append(
            f"the sphere is far too large: the masks fill {largest:.2f} of its radius; run "
            "preprocess_cameras.py"
        )
    if hull is not None and hull.is_open:
        warnings.append(
            "all views are from about one side: the object's hull is open in depth and was cut off"
        )
    elif hull is not None:
        beyond = float((np.linalg.norm(hull.points - center, axis=1) > radius).mean())
        if beyond > 0.0:
            warnings.append(f"{beyond:.1%} of the visual hull lies outside the sphere")
    return warnings
