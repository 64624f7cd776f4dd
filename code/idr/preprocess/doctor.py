"""Diagnoses a scene: undoes each common mistake in turn and checks whether the visual hull improves.

B views, H rows, W columns. With a wrong convention, masks and cameras have no common hull; the correction
that restores it is the diagnosis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from idr.datasets.camera_files import lacks_intrinsics, read_cameras
from idr.errors import InputError
from idr.failures import (
    CONTRADICTION,
    IMAGES_RESIZED,
    MASKS_INVERTED,
    MIRRORED_CAMERAS,
    NO_INTRINSICS,
    OBJECT_OUTSIDE_SPHERE,
    WRONG_AXES,
    Finding,
)
from idr.preprocess.bounding_sphere import carve_scene
from idr.preprocess.outlines import hull_ious, outline_radii
from idr.preprocess.scene_views import Array, SceneViews, load_views, make_views, radius_of

GOOD_IOU = 0.93
"""IoU of hull and masks from which nothing is tried; wrong cameras around round objects reach about 0.85."""
CUT_GOOD_IOU = 0.98
"""The same if most masks touch the image's border: the middle of a round object reaches 0.95 with any axes."""
TOLERABLE_IOU = 0.6
"""IoU from which a scene passes, to allow rough cameras; the noisy ones of DTU scan 65 reach 0.79."""
EXPLAINED_IOU = 0.9
"""IoU that a correction must reach in a scene that passes: it must explain nearly all masks. Sound masks reach
0.9 also where the image cuts the object off; a wrong flip that merely suits them better stays below."""
MAX_REMAINING = 0.5
"""Largest share of the disagreement, 1 - IoU, that a correction may leave; wrong ones leave more."""
MIN_IMPROVEMENT = 0.05
"""Increase in IoU by which a correction counts as the diagnosis; symmetric objects differ by less."""
MAX_REACH = 1.02
"""Radii up to which a mask may extend beyond the sphere, about the width of its border pixels."""
COMMON_FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Resize factors to try if the principal points do not indicate any."""

FLIPS = {
    "y and z (OpenGL or Blender axes, or images mirrored left to right)": (1, -1, -1),
    "x and z (or images mirrored top to bottom)": (-1, 1, -1),
    "x and y (or images turned by 180 degrees)": (-1, -1, 1),
}


def diagnose_scene(scene_dir: Path, camera_file: str) -> tuple[Finding, ...]:
    """Diagnoses a folder with `mask/` and an npz of `world_mat_<i>` and `scale_mat_<i>` before training.

    A sound scene has no findings.

    Raises:
        MissingInputError: A file is missing.
        InputError: A file is unreadable, counts differ, or only the sphere is wrong.
    """
    views = load_views(scene_dir, camera_file)
    try:
        scale_mat = read_cameras(scene_dir / camera_file, len(views)).scale_mats[0]
    except InputError:  # cameras that look away from the sphere may have wrong axes
        finding = _compare(views, None)
        if finding is None:
            raise
        return (finding,)
    return diagnose_views(views, scale_mat)


def diagnose_views(views: SceneViews, scale_mat: Array, overlap: float | None = None) -> tuple[Finding, ...]:
    """Diagnoses masks, cameras and sphere, (4, 4) to the world; see `diagnose_scene`.

    `overlap` is a precomputed `hull_overlap`; None to compute it.
    """
    finding = _compare(views, overlap)
    if finding is not None:
        return (finding,)
    reach = outline_radii(views, scale_mat[:3, 3]) / radius_of(scale_mat)
    if reach.max() > MAX_REACH:
        text = (
            f"{int((reach > MAX_REACH).sum())} of {len(views)} masks extend beyond the unit sphere, up to "
            f"{reach.max():.2f} of its radius; run preprocess_cameras.py"
        )
        return (Finding(OBJECT_OUTSIDE_SPHERE, text),)
    return ()


def _compare(views: SceneViews, overlap: float | None) -> Finding | None:
    """Diagnoses masks and cameras alone."""
    borders = [np.mean(np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]])) for m in views.masks]
    if np.median(borders) > 0.5 and _are_inverted(views, float(np.median(borders))):
        text = (
            f"in most views the image border is marked as object (median {np.median(borders):.0%} of it); "
            "expected the object white on black: invert the masks"
        )
        return Finding(MASKS_INVERTED, text)
    if lacks_intrinsics(views.intrinsics):
        text = (
            "world_mat_i holds no intrinsics (K is about the identity); expected K [R | t] with K in pixels: "
            "multiply by K, or import the folder with import_scene.py if the file also has camera_mat_i "
            "(DVR, UNISURF)"
        )
        return Finding(NO_INTRINSICS, text)
    overlap = hull_overlap(views) if overlap is None else overlap
    # Cameras that see only the middle of an object contradict its masks little, whatever their axes.
    sound = overlap >= (CUT_GOOD_IOU if np.mean(np.array(borders) > 0) > 0.5 else GOOD_IOU)
    return None if sound else _best_trial(views, overlap)


def _are_inverted(views: SceneViews, border: float) -> bool:
    """Whether inverted masks fit the cameras better; if none fit, whether the object covers the `border`."""
    given = hull_overlap(views)
    inverted = hull_overlap(replace(views, masks=tuple(~mask for mask in views.masks)))
    return inverted > given or (given < TOLERABLE_IOU and border > 0.9)


def hull_overlap(views: SceneViews) -> float:
    """Mean IoU of hull and masks; 0 without a hull."""
    try:
        return float(hull_ious(views, carve_scene(views)).mean())
    except InputError:
        return 0.0


def _overlap_of(views: SceneViews, projections: Array) -> float:
    """`hull_overlap` with other projections, (B, 3, 4); 0 if these are no cameras."""
    try:
        return hull_overlap(make_views(views.names, views.masks, projections))
    except InputError:
        return 0.0


def _best_trial(views: SceneViews, overlap: float) -> Finding | None:
    """The mistake whose correction helps most; None if the scene is tolerable as it is."""
    trials = (t for t in _trials(views) if overlap < GOOD_IOU or t[1] != IMAGES_RESIZED)  # a size is seen
    candidates = [(_overlap_of(views, trial), name, text) for trial, name, text in trials]
    best, name, text = max(candidates, key=lambda candidate: candidate[0])
    explains = best >= (EXPLAINED_IOU if overlap >= TOLERABLE_IOU else TOLERABLE_IOU)
    improves = best > overlap + MIN_IMPROVEMENT and 1 - best <= MAX_REMAINING * (1 - overlap)
    if explains and improves:
        return Finding(name, f"{text} (IoU of hull and masks {overlap:.2f}, corrected {best:.2f})")
    if overlap >= TOLERABLE_IOU:
        return None
    return Finding(
        CONTRADICTION,
        f"the IoU of hull and masks is only {overlap:.2f}, and no flip of axes or change of size improves "
        "it; check that mask i belongs to world_mat_i, and inspect the images that check_scene.py draws",
    )


def _trials(views: SceneViews) -> Iterator[tuple[Array, str, str]]:
    """Yields projections (B, 3, 4) with one mistake corrected, its name, and its description."""
    world_to_camera = np.linalg.inv(views.poses)[:, :3]
    for which, signs in FLIPS.items():
        text = f"the cameras fit the masks only with flipped camera axes {which}; expected OpenCV axes: "
        flipped = views.intrinsics @ (np.diag(signs).astype(float) @ world_to_camera)
        yield flipped, WRONG_AXES, text + "x right, y down, z forward"
    text = (
        "the cameras fit the masks only in a mirrored world: its axes are left-handed; expected a "
        "right-handed world: negate one world axis (third column of every world_mat)"
    )
    yield views.projections @ np.diag([1.0, 1.0, -1.0, 1.0]), MIRRORED_CAMERAS, text
    height, width = views.masks[0].shape
    for x, y in _size_factors(views):
        text = (
            f"the cameras are for images of about {width / x:.0f} x {height / y:.0f} pixels, these have "
            f"{width} x {height}; multiply the first row of every world_mat by {x:.4g} and the second by "
            f"{y:.4g}, or use images of the calibrated size"
        )
        yield np.diag([x, y, 1.0]) @ views.projections, IMAGES_RESIZED, text


def _size_factors(views: SceneViews) -> list[tuple[float, float]]:
    """(x, y) factors from calibrated to current size: from the principal points, then common ones."""
    sizes = np.array([mask.shape[::-1] for mask in views.masks])
    middles = np.median(views.intrinsics[:, :2, 2], axis=0)
    x, y = np.median(sizes, axis=0) / 2 / np.maximum(middles, 1.0)  # a principal point may be anywhere
    indicated = [(float(x), float(y))] if middles.min() > 1 and max(abs(x - 1), abs(y - 1)) > 0.1 else []
    return indicated + [(factor, factor) for factor in COMMON_FACTORS]
