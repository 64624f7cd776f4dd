"""Object masks made from photographs and cameras alone.

1. Where the object probably is (the outline of sparse points, or the ball that all cameras look at) and
   where it probably is not give two histograms of colors, counted over all views together: what is cut off
   in one view, or seen through a hole, is told by the others.
2. GrabCut begins with that labelling and separates each photograph.
3. The masks carve a visual hull. GrabCut begins again from each mask, with what lies well beyond the outline
   that the OTHER views' masks allow as sure background. Three times.
4. If sparse points show a table below the object, step 3 is done once more with its evidence: what agrees
   with the table's picture is background and what does not is object (`table.py`), whatever their colors.
   Of both results the one is kept whose masks agree better with the hull of the other views.

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
from idr.importers.masks.ground_plane import Table, find_table
from idr.importers.masks.seeds import Seeds, seeds_from_cameras, seeds_from_points
from idr.importers.masks.sparse_points import sparse_points
from idr.importers.source import Array, resized
from idr.preprocess.outlines import hull_silhouette
from idr.preprocess.scene_views import SceneViews, make_views
from idr.preprocess.visual_hull import SceneHull, nearest_pixels

log = logging.getLogger(__name__)

WORKING_SIDE = 480
"""Longest side of the images that are worked on; masks are brought back to full size afterwards."""
ITERATIONS = 4
ROUNDS = 3
"""Carving and cutting anew; more change less than one pixel in a thousand."""
GRID = 72
"""Samples along the diameter of the ball that is carved."""
AGREEING_SHARE = 0.8
"""Share of the other views that must see a point inside their masks; below the hull's own rule, for these
masks are still guesses."""
RING = 0.08
"""How far beyond the outline that other views allow a mask may reach, over the square root of its area."""
SPECK, PINHOLE = 0.05, 0.003
"""Parts smaller than this share of the largest are dropped, holes smaller than this share of it filled."""
EMPTY_SHARE = 0.002
"""A mask of a smaller share of the image is no object."""
COLOR_BINS, COLOR_BLUR = 32, 1.0
"""Bins along each axis of L*a*b*, and the deviation of the Gaussian that smooths their counts, in bins."""
RARE_COLOR = 1e-6
"""Share of all pixels below which a color says nothing."""
ODDS_WITHIN, ODDS_BEYOND = 0.0, 0.7
"""Log odds of a color above which a pixel begins as object, within the first region and beyond it."""
TABLE_MAYBE, TABLE_SURE, OBJECT_MAYBE, OBJECT_SURE = -0.1, -0.25, 0.5, 1.2
"""Evidence of the table (`table.py`) below which a pixel begins as background and below which it stays so;
above which it begins as object and above which it stays so."""
REACH = 0.4
"""How far beyond the first region the object may go on, over the square root of the region's area."""


@dataclass(frozen=True)
class MadeMasks:
    """Masks and how far they are to be believed.

    Attributes:
        masks: B arrays (H, W) of bool, in the images' own sizes.
        agreement: (B,) overlap (IoU) of each mask with what the other views' masks say of it.
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
    """Makes a mask for every view.

    Args:
        images: B arrays (H, W, 3), RGB, without lens distortion.
        names: B names, for messages.
        projections: (B, 3, 4) world to pixels.
        points: (N, 3) sparse points on the object, None to start from where the cameras look.
        scene_points: (N, 3) sparse points of object and surroundings, for the table; None to find some.

    Returns:
        The masks.

    Raises:
        InputError: Fewer than three views, cameras or points that show no common object, or nothing found.
    """
    if len(images) < 3:
        raise InputError(
            f"{len(images)} views: masks are made by comparing views, three at least; give them with "
            "--masks FOLDER"
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
    found, refusals = [], []
    for how, evidence in (("color alone", _no_evidence), ("color and the table", _table_evidence)):
        against = evidence(work, first, scene_points)
        if against is None:
            continue
        try:
            made = work.refined(first, against)
        except InputError as error:
            refusals.append(error)
            continue
        log.info("masks by %s: overlap with the other views' hull %.3f", how, made.agreement.mean())
        found.append(made)
    if not found:
        raise refusals[0]
    best = max(found, key=lambda made: float(made.agreement.mean()))
    full = [_enlarged(mask, image.shape[:2]) for mask, image in zip(best.masks, images, strict=True)]
    return MadeMasks(tuple(full), best.agreement)


@dataclass(frozen=True)
class _Work:
    """What masks are cut from: images of a working size, names for messages, (B, 3, 4) cameras, a ball."""

    images: list[NDArray[np.uint8]]
    names: list[str]
    projections: Array
    seeds: Seeds

    def refined(self, masks: list[NDArray[np.bool_]], evidence: list[NDArray[np.float32]]) -> MadeMasks:
        """Cuts masks anew within what the other views allow; refuses where a view shows nothing."""
        if any(_is_nothing(mask) for mask in masks) and any(told.any() for told in evidence):
            masks = [told > OBJECT_MAYBE for told in evidence]  # colors tell nothing; the table may
        _refuse_nothing(masks, self.names)
        for _ in range(ROUNDS):
            masks = [
                _cut(image, _labels(outline, mask, told)) if outline.any() else mask
                for image, outline, mask, told in zip(
                    self.images, self._outlines(masks), masks, evidence, strict=True
                )
            ]
            _refuse_nothing(masks, self.names)
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


def _table_evidence(
    work: _Work, masks: list[NDArray[np.bool_]], points: Array | None
) -> list[NDArray[np.float32]] | None:
    """What the table below the object tells, if sparse points of the scene, or some made here, show one."""
    if points is None:
        points = sparse_points(work.images, work.projections, work.seeds.center)
    plane = find_table(points, work.seeds, work.projections)
    if plane is None:
        return None
    table = Table(plane, work.seeds, work.projections)
    if any(_is_nothing(mask) for mask in masks):
        nowhere = [np.zeros_like(mask) for mask in masks]
        masks = [told > OBJECT_MAYBE for told in table.evidence(work.images, nowhere)]
    return table.evidence(work.images, masks)


def other_views_outlines(views: SceneViews, seeds: Seeds) -> list[NDArray[np.bool_]]:
    """Draws for each view the outline of the hull that the OTHER views' masks leave.

    Args:
        views: Masks and cameras.
        seeds: The ball to carve.

    Returns:
        B arrays (H, W) of bool; empty where the others leave nothing.
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
        others, agreeing = num_seen - seen[k], num_inside - inside[k]
        kept = (others >= max(2, (len(views) - 1) // 2)) & (agreeing >= AGREEING_SHARE * others)
        hull = SceneHull(cells[kept], float(axis[1] - axis[0]), 0, False, seeds.center, seeds.radius)
        outlines.append(hull_silhouette(views, k, hull))
    return outlines


def _working_copies(
    images: list[NDArray[np.uint8]], projections: Array
) -> tuple[list[NDArray[np.uint8]], Array]:
    """Images of at most `WORKING_SIDE` and their projections."""
    small, matrices = [], []
    for image, projection in zip(images, projections, strict=True):
        height, width = image.shape[:2]
        factor = min(1.0, WORKING_SIDE / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small.append(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
        matrices.append(resized(projection, size[0] / width, size[1] / height))
    return small, np.stack(matrices)


def _is_nothing(mask: NDArray[np.bool_]) -> bool:
    return bool(mask.mean() < EMPTY_SHARE or mask.all())


def _refuse_nothing(masks: list[NDArray[np.bool_]], names: list[str]) -> None:
    for mask, name in zip(masks, names, strict=True):
        if _is_nothing(mask):
            raise InputError(
                f"{name}: no object could be told from its background by color and the other views; "
                "give masks with --masks FOLDER or --mask_command, or sparse points on the object with "
                "--points"
            )


def color_odds(
    images: list[NDArray[np.uint8]], regions: tuple[NDArray[np.bool_], ...]
) -> list[NDArray[np.float32]]:
    """Tells for each pixel whether its color is rather found inside the regions, all views taken together.

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
    """GrabCut's labels for a first region: all but what is far from it is open, the colors begin."""
    far = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5) > REACH * np.sqrt(region.sum())
    labels = np.where(odds > np.where(region, ODDS_WITHIN, ODDS_BEYOND), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(
        np.uint8
    )
    labels[far] = cv2.GC_BGD
    return _with_background(labels)


def _labels(
    outline: NDArray[np.bool_], mask: NDArray[np.bool_], against_table: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """GrabCut's labels for an outline that the other views allow, and the evidence of the table."""
    unit = float(np.sqrt(outline.sum()))
    to_outline = cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, 5)
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[against_table < TABLE_MAYBE] = cv2.GC_PR_BGD
    labels[against_table > OBJECT_MAYBE] = cv2.GC_PR_FGD
    labels[against_table > OBJECT_SURE] = cv2.GC_FGD
    beyond = to_outline > max(2.0, RING * unit)
    labels[beyond | (against_table < TABLE_SURE)] = cv2.GC_BGD
    return _with_background(labels)


def _with_background(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """GrabCut needs both sorts of pixels: of a region that fills the image, the corners become background."""
    if not np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            labels[row, column] = cv2.GC_BGD
    return labels


def _cut(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Runs GrabCut; the same input gives the same mask."""
    if not np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        return np.zeros(labels.shape, bool)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    labels = labels.copy()
    cv2.grabCut(image, labels, None, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _tidy(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drops specks and fills pinholes."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = areas[1:].max()
    kept = np.isin(parts, [k for k in range(1, count) if areas[k] >= SPECK * largest])
    count, parts, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    holes = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] < PINHOLE * largest]
    return kept | np.isin(parts, holes)


def _enlarged(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask in the image's own size."""
    if mask.shape == size:
        return mask
    gray = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return gray > 0.5
