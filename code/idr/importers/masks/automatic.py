"""Computes object masks from photographs and cameras alone.

1. Two color histograms over all views: pixels in the object's probable region (outline of sparse points, or
   the ball that all cameras see) and pixels outside it.
2. GrabCut, initialized with their log odds, segments each photograph.
3. The masks carve a visual hull. GrabCut restarts from each mask; pixels well outside the hull of the OTHER
   views are fixed as background. This is repeated three times.
4. If sparse points show a ground plane below the object, step 3 is also run with its evidence
   (`ground_plane.py`), which does not depend on color. The result whose masks agree better with the hull of
   the other views is kept.

B views, N points, H rows, W columns. World frame and unit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from idr.errors import InputError
from idr.importers.masks.ground_plane import GroundPlane, find_ground_plane
from idr.importers.masks.seeds import Seeds, seeds_from_cameras, seeds_from_points
from idr.importers.masks.sparse_points import sparse_points
from idr.importers.source import Array, resized
from idr.preprocess.outlines import hull_silhouette
from idr.preprocess.scene_views import SceneViews, make_views
from idr.preprocess.visual_hull import SceneHull, nearest_pixels

log = logging.getLogger(__name__)

WORKING_SIDE = 480
"""Longest side in pixels at which masks are computed; they are enlarged afterwards."""
ITERATIONS = 4
"""Iterations of GrabCut."""
ROUNDS = 3
"""Rounds of carving and segmentation; further ones change less than one pixel in a thousand."""
GRID = 72
"""Samples along the diameter of the ball to carve."""
MIN_INSIDE_SHARE = 0.8
"""Share of the other views that must see a point inside their masks; less than in the visual hull, because
these masks are preliminary."""
RING = 0.08
"""Distance a mask may extend beyond the other views' outline, over the square root of its area."""
SPECK, PINHOLE = 0.05, 0.003
"""Areas over the largest component's: smaller components are dropped, smaller holes filled."""
EMPTY_SHARE = 0.002
"""Share of the image below which a mask counts as empty."""
COLOR_BINS, COLOR_BLUR = 32, 1.0
"""Bins along each axis of L*a*b*, and sigma in bins of the Gaussian that smooths the histograms."""
RARE_COLOR = 1e-6
"""Share of pixels added to both histograms, so that rare colors are undecided."""
ODDS_WITHIN, ODDS_BEYOND = 0.0, 0.7
"""Log odds of a color above which a pixel starts as object, inside and outside the initial region."""
GROUND_MAYBE, GROUND_SURE, OBJECT_MAYBE, OBJECT_SURE = -0.1, -0.25, 0.5, 1.2
"""Evidence of the ground plane below which a pixel starts as background, below which it is fixed; above which
it starts as object, above which it is fixed."""
REACH = 0.4
"""Distance the object may extend beyond the initial region, over the square root of the region's area."""


@dataclass(frozen=True)
class MadeMasks:
    """Masks and their consistency.

    Attributes:
        masks: B arrays (H, W) of bool, at the images' sizes.
        agreement: (B,) IoU of each mask with the silhouette of the other views' hull.
    """

    masks: tuple[NDArray[np.bool_], ...]
    agreement: Array


def make_masks(
    images: list[NDArray[np.uint8]],
    names: list[str],
    projections: Array,
    points: Array | None,
    scene_points: Array | None = None,
) -> MadeMasks:
    """Computes a mask for every view.

    Args:
        images: B arrays (H, W, 3), RGB, without lens distortion.
        names: B names, for messages.
        projections: (B, 3, 4) world to pixels.
        points: (N, 3) sparse points on the object, None to start from the ball that all cameras see.
        scene_points: (N, 3) sparse points of the whole scene, for the ground plane; None to triangulate some.

    Returns:
        The masks.

    Raises:
        InputError: Fewer than three views, no common object in view, or no object found.
    """
    if len(images) < 3:
        raise InputError(
            f"{len(images)} views; expected at least three to compute masks: pass masks with --masks FOLDER"
        )
    small, matrices = _working_copies(images, projections)
    sizes = [image.shape[:2] for image in small]
    seeds = (
        seeds_from_cameras(matrices, sizes) if points is None else seeds_from_points(points, matrices, sizes)
    )
    odds = color_odds(small, seeds.regions)
    first = [
        _cut(image, _first_labels(region, odd))
        for image, region, odd in zip(small, seeds.regions, odds, strict=True)
    ]
    work = _Work(small, names, matrices, seeds)
    candidates, failures = [], []
    for cue, compute in (("color", _no_evidence), ("color and ground plane", _ground_evidence)):
        evidence = compute(work, first, scene_points)
        if evidence is None:
            continue
        try:
            made = work.refined(first, evidence)
        except InputError as error:
            failures.append(error)
            continue
        log.info("masks by %s: mean IoU with the other views' hull %.3f", cue, made.agreement.mean())
        candidates.append(made)
    if not candidates:
        raise failures[0]
    best = max(candidates, key=lambda made: float(made.agreement.mean()))
    full = [_enlarged(mask, image.shape[:2]) for mask, image in zip(best.masks, images, strict=True)]
    return MadeMasks(tuple(full), best.agreement)


@dataclass(frozen=True)
class _Work:
    """Images at working size, names for messages, (B, 3, 4) cameras, and seeds."""

    images: list[NDArray[np.uint8]]
    names: list[str]
    projections: Array
    seeds: Seeds

    def refined(self, masks: list[NDArray[np.bool_]], evidence: list[NDArray[np.float32]]) -> MadeMasks:
        """Alternates carving and segmentation; raises `InputError` if a view shows no object."""
        if any(_is_empty(mask) for mask in masks) and any(e.any() for e in evidence):
            masks = [e > OBJECT_MAYBE for e in evidence]  # color fails; the ground plane may not
        _refuse_empty(masks, self.names)
        for _ in range(ROUNDS):
            masks = [
                _cut(image, _labels(outline, mask, e)) if outline.any() else mask
                for image, outline, mask, e in zip(
                    self.images, self._outlines(masks), masks, evidence, strict=True
                )
            ]
            _refuse_empty(masks, self.names)
        masks = [_tidy(mask) for mask in masks]
        outlines = self._outlines(masks)
        agreement = [(m & o).sum() / max(1, (m | o).sum()) for m, o in zip(masks, outlines, strict=True)]
        return MadeMasks(tuple(masks), np.array(agreement))

    def _outlines(self, masks: list[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
        views = make_views(tuple(self.names), tuple(masks), self.projections)
        return other_views_outlines(views, self.seeds)


def _no_evidence(
    work: _Work, masks: list[NDArray[np.bool_]], points: Array | None
) -> list[NDArray[np.float32]]:
    return [np.zeros(mask.shape, np.float32) for mask in masks]


def _ground_evidence(
    work: _Work, masks: list[NDArray[np.bool_]], points: Array | None
) -> list[NDArray[np.float32]] | None:
    """The evidence of the ground plane, or None if sparse points do not show one."""
    if points is None:
        points = sparse_points(work.images, work.projections, work.seeds.center)
    plane = find_ground_plane(points, work.seeds, work.projections)
    if plane is None:
        return None
    ground = GroundPlane(plane, work.seeds, work.projections)
    if any(_is_empty(mask) for mask in masks):
        empty = [np.zeros_like(mask) for mask in masks]
        masks = [e > OBJECT_MAYBE for e in ground.evidence(work.images, empty)]
    return ground.evidence(work.images, masks)


def other_views_outlines(views: SceneViews, seeds: Seeds) -> list[NDArray[np.bool_]]:
    """Silhouette, in each view, of the hull that the OTHER views' masks carve.

    Args:
        views: Masks and cameras.
        seeds: The ball to carve.

    Returns:
        B arrays (H, W) of bool; all False if that hull is empty.
    """
    axis = np.linspace(-seeds.radius, seeds.radius, GRID)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = cells[np.linalg.norm(cells, axis=1) <= seeds.radius] + seeds.center
    seen = np.zeros((len(views), len(cells)), bool)
    inside = np.zeros_like(seen)
    for k, mask in enumerate(views.masks):
        column, row, seen[k] = nearest_pixels(cells, views.projections[k], mask.shape)
        inside[k] = seen[k] & mask[row, column]
    num_seen, num_inside = seen.sum(axis=0), inside.sum(axis=0)
    outlines = []
    for k in range(len(views)):
        others, others_inside = num_seen - seen[k], num_inside - inside[k]
        kept = (others >= max(2, (len(views) - 1) // 2)) & (others_inside >= MIN_INSIDE_SHARE * others)
        hull = SceneHull(cells[kept], float(axis[1] - axis[0]), 0, False, seeds.center, seeds.radius)
        outlines.append(hull_silhouette(views, k, hull))
    return outlines


def _working_copies(
    images: list[NDArray[np.uint8]], projections: Array
) -> tuple[list[NDArray[np.uint8]], Array]:
    """Images reduced to `WORKING_SIDE`, and their projections."""
    small, matrices = [], []
    for image, projection in zip(images, projections, strict=True):
        height, width = image.shape[:2]
        factor = min(1.0, WORKING_SIDE / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small.append(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
        matrices.append(resized(projection, size[0] / width, size[1] / height))
    return small, np.stack(matrices)


def _is_empty(mask: NDArray[np.bool_]) -> bool:
    return bool(mask.mean() < EMPTY_SHARE or mask.all())


def _refuse_empty(masks: list[NDArray[np.bool_]], names: list[str]) -> None:
    for mask, name in zip(masks, names, strict=True):
        if _is_empty(mask):
            raise InputError(
                f"{name}: object and background could not be separated by color and the other views; pass "
                "masks (--masks FOLDER or --mask_command), or sparse points on the object (--points)"
            )


def color_odds(
    images: list[NDArray[np.uint8]], regions: tuple[NDArray[np.bool_], ...]
) -> list[NDArray[np.float32]]:
    """Log odds of each pixel's color, inside the regions against outside, from histograms over all views.

    Args:
        images: B arrays (H, W, 3), RGB.
        regions: B arrays (H, W) of bool, True where the object probably is.

    Returns:
        B arrays (H, W): log of the color's share inside over its share outside.
    """
    bins = [_color_bins(image) for image in images]
    counts = np.zeros((2, COLOR_BINS**3))
    for index, region in zip(bins, regions, strict=True):
        for row, chosen in enumerate((region, ~region)):
            counts[row] += np.bincount(index[chosen], minlength=COLOR_BINS**3)
    shares = [
        gaussian_filter(count.reshape([COLOR_BINS] * 3), COLOR_BLUR).ravel() / max(1.0, count.sum())
        for count in counts
    ]
    odds = np.log((shares[0] + RARE_COLOR) / (shares[1] + RARE_COLOR)).astype(np.float32)
    return [odds[index] for index in bins]


def _color_bins(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int64)
    light, a, b = (lab[..., i] * COLOR_BINS // 256 for i in range(3))
    return (light * COLOR_BINS + a) * COLOR_BINS + b


def _first_labels(region: NDArray[np.bool_], odds: NDArray[np.float32]) -> NDArray[np.uint8]:
    """GrabCut labels from the color odds; pixels far from the region are fixed as background."""
    far = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5) > REACH * np.sqrt(region.sum())
    labels = np.where(odds > np.where(region, ODDS_WITHIN, ODDS_BEYOND), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(
        np.uint8
    )
    labels[far] = cv2.GC_BGD
    return _with_background(labels)


def _labels(
    outline: NDArray[np.bool_], mask: NDArray[np.bool_], evidence: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """GrabCut labels from a mask, the other views' outline and the ground plane's evidence."""
    unit = float(np.sqrt(outline.sum()))
    to_outline = cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, 5)
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[evidence < GROUND_MAYBE] = cv2.GC_PR_BGD
    labels[evidence > OBJECT_MAYBE] = cv2.GC_PR_FGD
    labels[evidence > OBJECT_SURE] = cv2.GC_FGD
    beyond = to_outline > max(2.0, RING * unit)
    labels[beyond | (evidence < GROUND_SURE)] = cv2.GC_BGD
    return _with_background(labels)


def _with_background(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """GrabCut needs background pixels: without any, the corners become background."""
    if not np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            labels[row, column] = cv2.GC_BGD
    return labels


def _cut(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Runs GrabCut, deterministically."""
    if not np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        return np.zeros(labels.shape, bool)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    labels = labels.copy()
    cv2.grabCut(image, labels, None, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _tidy(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drops small components and fills small holes."""
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = areas[1:].max()
    kept = np.isin(components, [k for k in range(1, count) if areas[k] >= SPECK * largest])
    count, components, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    holes = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] < PINHOLE * largest]
    return kept | np.isin(components, holes)


def _enlarged(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask at the image's size."""
    if mask.shape == size:
        return mask
    gray = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return gray > 0.5
