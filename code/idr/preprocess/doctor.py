"""What is wrong with a scene, by name: each usual mistake is undone on trial, and the hull says which it was.

B views, H rows, W columns. A wrong convention leaves masks and cameras without a common hull; the one whose
undoing brings the hull back is the diagnosis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.datasets.camera_files import read_cameras
from idr.errors import InputError
from idr.failures import (
    CONTRADICTION,
    IMAGES_RESIZED,
    MASKS_INVERTED,
    MIRRORED_CAMERAS,
    OBJECT_OUTSIDE_SPHERE,
    WRONG_AXES,
    Finding,
)
from idr.preprocess.bounding_sphere import carve_scene
from idr.preprocess.outlines import hull_ious, outline_radii
from idr.preprocess.scene_views import SceneViews, load_views, make_views

GOOD_IOU = 0.93
"""With more overlap nothing is tried: round objects agree with wrong cameras to some 0.85."""
TOLERABLE_IOU = 0.6
"""Rough cameras to be trained have such hulls: the noisy ones of DTU scan 65 reach 0.79."""
CLEARLY_BETTER = 0.08
"""A trial must bring this much more overlap of hull and masks than the scene as it is."""
STICKS_OUT = 1.02
"""Radii; below, a mask's rim is within its own pixels of the sphere."""
USUAL_FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Factors that images are resized by when the principal point does not tell."""

FLIPS = {
    "y and z (OpenGL's and Blender's axes; the same as images mirrored left to right)": (1, -1, -1),
    "x and z (the same as images mirrored top to bottom)": (-1, 1, -1),
    "x and y (images turned by 180 degrees)": (-1, -1, 1),
}


def diagnose_scene(scene_dir: Path, camera_file: str) -> tuple[Finding, ...]:
    """Examines a data folder before anyone trains on it.

    Args:
        scene_dir: Folder with `mask/` and the camera file.
        camera_file: Name of the npz with `world_mat_<i>` and `scale_mat_<i>`.

    Returns:
        What was found; nothing for a healthy scene.

    Raises:
        MissingInputError: A part of the data is not there.
        InputError: A part of the data is unreadable, or counts differ.
    """
    views = load_views(scene_dir, camera_file)
    scale_mat = read_cameras(scene_dir / camera_file, len(views)).scale_mats[0]
    return diagnose_views(views, scale_mat)


def diagnose_views(
    views: SceneViews, scale_mat: NDArray[np.float64], overlap: float | None = None
) -> tuple[Finding, ...]:
    """Examines masks, cameras and sphere; see `diagnose_scene`.

    Args:
        views: Masks and cameras.
        scale_mat: (4, 4) unit sphere to world.
        overlap: Their `hull_overlap` where it is known already; None to compute it.
    """
    rims = [np.mean(np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]])) for m in views.masks]
    if np.median(rims) > 0.5:
        return (
            Finding(
                MASKS_INVERTED,
                f"in most views the image's border is marked as object (median {np.median(rims):.0%} of it); "
                "expected the object white on black: invert the masks",
            ),
        )
    overlap = hull_overlap(views) if overlap is None else overlap
    if overlap < GOOD_IOU:
        finding = _best_trial(views, overlap)
        if finding is not None:
            return (finding,)
    center = scale_mat[:3, 3]
    radius = float(np.cbrt(np.abs(np.linalg.det(scale_mat[:3, :3]))))
    reach = outline_radii(views, center) / radius
    if reach.max() > STICKS_OUT:
        return (
            Finding(
                OBJECT_OUTSIDE_SPHERE,
                f"{int((reach > STICKS_OUT).sum())} of {len(views)} masks reach outside the unit sphere, "
                f"up to {reach.max():.2f} of its radius; run preprocess_cameras.py",
            ),
        )
    return ()


def hull_overlap(views: SceneViews) -> float:
    """Returns the mean overlap (IoU) of hull and masks; 0 where there is no hull."""
    try:
        return float(hull_ious(views, carve_scene(views)).mean())
    except InputError:
        return 0.0


def _best_trial(views: SceneViews, overlap: float) -> Finding | None:
    """Undoes each usual mistake and names the one that helps most; None where all is tolerable as it is."""
    found = [(hull_overlap(trial), finding) for trial, finding in _trials(views)]
    best, finding = max(found, key=lambda pair: pair[0])
    if best > overlap + CLEARLY_BETTER and best > 0.5:
        return replace(
            finding, text=f"{finding.text} (overlap of hull and masks {overlap:.2f}, so mended {best:.2f})"
        )
    if overlap >= TOLERABLE_IOU:
        return None
    return Finding(
        CONTRADICTION,
        f"the hull of all masks covers them by {overlap:.2f} only, and no flip of axes or change of size "
        "mends it; check that mask i belongs to world_mat_i, and look at check_scene.py's pictures",
    )


def _trials(views: SceneViews) -> Iterator[tuple[SceneViews, Finding]]:
    """Yields the scene with one mistake undone, and the name of that mistake."""

    def with_cameras(projections: NDArray[np.float64]) -> SceneViews:
        return make_views(views.names, views.masks, projections)

    world_to_camera = np.linalg.inv(views.poses)[:, :3]
    for which, signs in FLIPS.items():
        text = f"the cameras fit the masks once the signs of camera axes {which} are flipped; "
        text += "expected OpenCV's axes: x right, y down, z forward"
        flipped = views.intrinsics @ (np.diag(signs).astype(float) @ world_to_camera)
        yield with_cameras(flipped), Finding(WRONG_AXES, text)
    mirrored = views.projections @ np.diag([1.0, 1.0, -1.0, 1.0])
    yield (
        with_cameras(mirrored),
        Finding(
            MIRRORED_CAMERAS,
            "the cameras fit the masks once the world is mirrored: its axes are left-handed; expected a "
            "right-handed world: negate one world axis (third column of every world_mat)",
        ),
    )
    for x, y in _size_factors(views):
        resized = np.diag([x, y, 1.0]) @ views.projections
        height, width = views.masks[0].shape
        yield (
            with_cameras(resized),
            Finding(
                IMAGES_RESIZED,
                f"the cameras are for images of about {width / x:.0f} x {height / y:.0f} pixels, these have "
                f"{width} x {height}; multiply the first row of every world_mat by {x:.4g} and the second by "
                f"{y:.4g}, or use images of the size that was calibrated",
            ),
        )


def _size_factors(views: SceneViews) -> list[tuple[float, float]]:
    """(x, y) factors from calibrated to present size: as principal points say, then the usual ones."""
    sizes = np.array([mask.shape[::-1] for mask in views.masks])
    x, y = np.median(sizes / 2 / views.intrinsics[:, :2, 2], axis=0)
    told = [(float(x), float(y))] if x > 0 and y > 0 and max(abs(x - 1), abs(y - 1)) > 0.1 else []
    return told + [(factor, factor) for factor in USUAL_FACTORS]
