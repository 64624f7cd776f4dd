"""Diagnoses a scene: undoes each common mistake in turn and checks whether the visual hull improves.

B views, H rows, W columns. With a wrong convention, masks and cameras have no common hull; the correction
that restores it is the diagnosis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from idr.datasets.camera_files import lacks_intrinsics
from idr.errors import InputError
from idr.failures import (
    CAMERA_INSIDE_SPHERE,
    CONTRADICTION,
    FEW_VIEWS,
    IMAGES_RESIZED,
    MASKS_INVERTED,
    MASKS_TOUCH_BORDER,
    MIRRORED_CAMERAS,
    NO_INTRINSICS,
    OBJECT_OUTSIDE_SPHERE,
    ONE_SIDED_VIEWS,
    SIZES_DIFFER,
    SPHERE_TOO_LARGE,
    SPHERES_DIFFER,
    VIEWS_DISAGREE,
    WRONG_AXES,
    Finding,
)
from idr.preprocess.bounding_sphere import POOR_IOU, carve_scene, listed
from idr.preprocess.outlines import hull_ious, outline_radii
from idr.preprocess.scene_views import Array, Mask, SceneViews, make_views, radius_of
from idr.preprocess.visual_hull import SceneHull

GOOD_IOU = 0.93
"""IoU of hull and masks from which nothing is tried; wrong cameras around round objects reach about 0.85."""
CUT_GOOD_IOU = 0.98
"""The same if most masks touch the image's border: the middle of a round object reaches 0.95 even so."""
TOLERABLE_IOU = 0.6
"""IoU from which a scene passes, to allow rough cameras; the noisy ones of DTU scan 65 reach 0.79."""
EXPLAINED_IOU = 0.9
"""IoU that a correction must reach in a scene that passes: it must explain nearly all masks. Right cameras do
so also where the image cuts the object off; a wrong flip that suits poor masks a little better does not."""
MAX_REMAINING = 0.7
"""Largest share of the disagreement, 1 - IoU, that a correction may leave."""
BETTER_VIEWS = 0.9
"""Share of views whose IoU a correction must improve: right cameras fit better in nearly every view, flips
around a symmetric object only in about half of them."""
MAX_REACH = 1.02
"""Radii up to which a mask may extend beyond the sphere, about the width of its border pixels."""
SMALL_IN_SPHERE = 0.25
"""Share of the sphere's radius below which the object wastes the network's resolution."""
MIN_VIEWS = 8
"""Views below which the reconstruction is often no better than the visual hull."""
COMMON_FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Resize factors to try if the principal points do not indicate any."""

FLIPS = {
    "y and z (OpenGL or Blender axes, or images mirrored left to right)": (1, -1, -1),
    "x and z (or images mirrored top to bottom)": (-1, 1, -1),
    "x and y (or images turned by 180 degrees)": (-1, -1, 1),
}


@dataclass(frozen=True)
class HullFit:
    """The visual hull of masks and cameras.

    Attributes:
        hull: The hull; None if masks and cameras contradict each other.
        ious: (B,) IoU of hull and mask; NaN without a hull.
        problem: Why there is no hull.
    """

    hull: SceneHull | None
    ious: Array
    problem: str = ""

    @property
    def overlap(self) -> float:
        """Mean IoU of hull and masks; 0 without a hull."""
        return float(self.ious.mean()) if self.hull is not None else 0.0


def fit_hull(views: SceneViews) -> HullFit:
    """Carves the hull and compares it with the masks.

    Photographs of parts of an object share few of its points. If most cut it off and the fit is poor, also
    what fewer views see counts as unknown.
    """
    fit = _fit(views, None)
    if fit.overlap >= GOOD_IOU or not is_cut(views):
        return fit
    return max(fit, _fit(views, max(2, -(-len(views) // 3))), key=lambda fit: fit.overlap)


def _fit(views: SceneViews, rarest: int | None) -> HullFit:
    try:
        hull = carve_scene(views, rarest)
    except InputError as error:
        return HullFit(None, np.full(len(views), np.nan), str(error))
    return HullFit(hull, hull_ious(views, hull))


def diagnose_views(
    views: SceneViews, scale_mats: Array, fit: HullFit | None = None, images: Sequence[tuple[int, ...]] = ()
) -> tuple[Finding, ...]:
    """Lists what is wrong with a scene before training, severe findings first; a sound scene has none.

    Args:
        views: Masks and cameras.
        scale_mats: (4, 4) or (B, 4, 4) similarities, unit sphere to world.
        fit: The visual hull if it is known.
        images: (H, W) of each photograph; empty if not known.
    """
    spheres = np.reshape(scale_mats, (-1, 4, 4))
    findings = [*_file_findings(views, spheres, images)]
    fit = fit or fit_hull(views)
    wrong = _compare(views, fit)
    if wrong is not None:  # the hull and the sphere then say nothing
        findings.insert(0, wrong)
    else:
        findings += [*_sphere_findings(views, spheres[0]), *_mask_findings(views, fit)]
    return tuple(sorted(findings, key=lambda finding: not finding.is_severe))


def _file_findings(
    views: SceneViews, scale_mats: Array, images: Sequence[tuple[int, ...]]
) -> Iterator[Finding]:
    if not np.allclose(scale_mats, scale_mats[0], rtol=1e-6, atol=1e-6 * radius_of(scale_mats[0])):
        text = "the scale_mats differ between views, so the poses have no common frame"
        yield Finding(SPHERES_DIFFER, text, "run preprocess_cameras.py")
    differ = [k for k, size in enumerate(images) if tuple(size[:2]) != views.masks[k].shape]
    if differ:
        text = f"image and mask differ in size in view {listed(np.array(differ), views.names)}"
        yield Finding(SIZES_DIFFER, text, "export images and masks at one size, that of the cameras")
    if len(views) < MIN_VIEWS:
        text = f"{len(views)} views: fewer than {MIN_VIEWS} leave much of the shape undetermined"
        yield Finding(FEW_VIEWS, text, "photograph the object from more sides")


def _sphere_findings(views: SceneViews, scale_mat: Array) -> Iterator[Finding]:
    center, radius = scale_mat[:3, 3], radius_of(scale_mat)
    reach = outline_radii(views, center) / radius
    if reach.max() > MAX_REACH:
        text = (
            f"{int((reach > MAX_REACH).sum())} of {len(views)} masks extend beyond the unit sphere, up to "
            f"{reach.max():.2f} of its radius"
        )
        remedy = "run preprocess_cameras.py, or look for stray white pixels"
        yield Finding(OBJECT_OUTSIDE_SPHERE, text, remedy)
    near = np.flatnonzero(np.linalg.norm(views.centers - center, axis=1) <= radius)
    if len(near):
        text = f"camera {listed(near, views.names)} lies inside the unit sphere"
        yield Finding(CAMERA_INSIDE_SPHERE, text, "run preprocess_cameras.py")
    if reach.max() < SMALL_IN_SPHERE:
        text = f"the sphere is far too large: the masks fill {reach.max():.2f} of its radius"
        yield Finding(SPHERE_TOO_LARGE, text, "run preprocess_cameras.py")


def _mask_findings(views: SceneViews, fit: HullFit) -> Iterator[Finding]:
    cut = np.flatnonzero([touches_border(mask) for mask in views.masks])
    if len(cut):
        text = (
            f"{len(cut)} of {len(views)} masks touch the image's border: {listed(cut, views.names)}; parts "
            "that few photographs show are reconstructed poorly"
        )
        remedy = "if the object is cut off there, photograph it from farther away; if not, correct the masks"
        yield Finding(MASKS_TOUCH_BORDER, text, remedy)
    poor = np.flatnonzero(fit.ious < POOR_IOU)
    if len(poor):
        text = f"hull and mask disagree (IoU below {POOR_IOU}) in view {listed(poor, views.names)}"
        yield Finding(VIEWS_DISAGREE, text, "correct these masks, or leave the views out")
    if fit.hull is not None and fit.hull.is_open:
        text = "all views are from about one side, which leaves the object's depth open"
        yield Finding(ONE_SIDED_VIEWS, text, "add views from other sides, or expect an arbitrary back side")


def touches_border(mask: Mask) -> bool:
    """Whether a mask, (H, W), reaches the image's border."""
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def is_cut(views: SceneViews) -> bool:
    """Whether most masks touch the image's border."""
    return bool(np.mean([touches_border(mask) for mask in views.masks]) > 0.5)


def _compare(views: SceneViews, fit: HullFit) -> Finding | None:
    """Diagnoses masks and cameras alone."""
    borders = [np.mean(np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]])) for m in views.masks]
    border = float(np.median(borders))
    if border > 0.5 and _are_inverted(views, fit.overlap, border):
        text = (
            f"in most views the image border is marked as object (median {border:.0%} of it); expected the "
            "object white on black"
        )
        return Finding(MASKS_INVERTED, text, "invert the masks")
    if lacks_intrinsics(views.intrinsics):
        text = "world_mat_i holds no intrinsics (K is about the identity); expected K [R | t], K in pixels"
        remedy = (
            "multiply by K, or import the folder with import_scene.py if the file also has camera_mat_i "
            "(DVR, UNISURF)"
        )
        return Finding(NO_INTRINSICS, text, remedy)
    # Cameras that see only the middle of an object contradict its masks little, whatever their axes.
    good = CUT_GOOD_IOU if is_cut(views) else GOOD_IOU
    return None if fit.overlap >= good else _best_trial(views, fit)


def _are_inverted(views: SceneViews, overlap: float, border: float) -> bool:
    """Whether inverted masks fit the cameras better; if none fit, whether the object covers the `border`."""
    inverted = fit_hull(replace(views, masks=tuple(~mask for mask in views.masks))).overlap
    return inverted > overlap or (overlap < TOLERABLE_IOU and border > 0.9)


def _fit_with(views: SceneViews, projections: Array) -> HullFit:
    """The hull with other projections, (B, 3, 4); none if these are no cameras."""
    try:
        return fit_hull(make_views(views.names, views.masks, projections))
    except InputError as error:
        return HullFit(None, np.full(len(views), np.nan), str(error))


def _best_trial(views: SceneViews, fit: HullFit) -> Finding | None:
    """The mistake whose correction helps most; None if the scene is tolerable as it is."""
    overlap = fit.overlap
    trials = _trials(views)
    if overlap >= GOOD_IOU:  # in images of another size, the hull would be poor
        trials = (trial for trial in trials if trial[1].name != IMAGES_RESIZED)
    candidates = [(_fit_with(views, trial), finding) for trial, finding in trials]
    trial, finding = max(candidates, key=lambda candidate: candidate[0].overlap)
    best = trial.overlap
    passes = overlap >= TOLERABLE_IOU or finding.name == IMAGES_RESIZED  # a size is exact
    explains = best >= (EXPLAINED_IOU if passes else TOLERABLE_IOU)
    better = np.mean(np.nan_to_num(trial.ious) > np.nan_to_num(fit.ious)) >= BETTER_VIEWS
    if explains and better and 1 - best <= MAX_REMAINING * (1 - overlap):
        ious = f" (IoU of hull and masks {overlap:.2f}, corrected {best:.2f})"
        return replace(finding, text=finding.text + ious)
    if overlap >= TOLERABLE_IOU:
        return None
    remedy = "inspect the images that check_scene.py draws"
    if fit.problem:  # has the first half of the remedy
        return Finding(CONTRADICTION, fit.problem, remedy)
    text = f"the IoU of hull and masks is only {overlap:.2f}; no flip of axes or change of size improves it"
    return Finding(CONTRADICTION, text, f"check that mask i belongs to world_mat_i, and {remedy}")


def _trials(views: SceneViews) -> Iterator[tuple[Array, Finding]]:
    """Yields projections (B, 3, 4) with one mistake corrected, and the finding that this mistake is."""
    world_to_camera = np.linalg.inv(views.poses)[:, :3]
    for which, signs in FLIPS.items():
        text = (
            f"the cameras fit the masks only with flipped camera axes {which}; expected OpenCV axes: x "
            "right, y down, z forward"
        )
        remedy = "import the original source with import_scene.py, or negate these rows of R and t"
        flipped = views.intrinsics @ (np.diag(signs).astype(float) @ world_to_camera)
        yield flipped, Finding(WRONG_AXES, text, remedy)
    text = (
        "the cameras fit the masks only in a mirrored world: its axes are left-handed; expected a "
        "right-handed world"
    )
    remedy = "negate one world axis (third column of every world_mat), then run preprocess_cameras.py"
    mirrored = views.projections @ np.diag([1.0, 1.0, -1.0, 1.0])
    yield mirrored, Finding(MIRRORED_CAMERAS, text, remedy)
    height, width = views.masks[0].shape
    for x, y in _size_factors(views):
        text = (
            f"the cameras are for images of about {width / x:.0f} x {height / y:.0f} pixels, these have "
            f"{width} x {height}"
        )
        remedy = (
            f"multiply the first row of every world_mat by {x:.4g} and the second by {y:.4g}, or use images "
            "of the calibrated size"
        )
        yield np.diag([x, y, 1.0]) @ views.projections, Finding(IMAGES_RESIZED, text, remedy)


def _size_factors(views: SceneViews) -> list[tuple[float, float]]:
    """(x, y) factors from calibrated to current size: from the principal points, then common ones."""
    sizes = np.array([mask.shape[::-1] for mask in views.masks])
    middles = np.median(views.intrinsics[:, :2, 2], axis=0)
    x, y = np.median(sizes, axis=0) / 2 / np.maximum(middles, 1.0)  # a principal point may be anywhere
    indicated = [(float(x), float(y))] if middles.min() > 1 and max(abs(x - 1), abs(y - 1)) > 0.1 else []
    return indicated + [(factor, factor) for factor in COMMON_FACTORS]
