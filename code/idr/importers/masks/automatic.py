"""Computes object masks from photographs and cameras alone.

1. The photographs are freed of noise, and dark ones brightened. Two color histograms over all views: pixels
   in the object's probable region (outline of sparse points, or the ball that all cameras see) and outside.
2. GrabCut, initialized with their log odds, segments each photograph.
3. The masks carve a visual hull. GrabCut restarts from each mask; pixels well outside the hull of the OTHER
   views are fixed as background. This is repeated three times.
4. If sparse points show a ground plane below the object, steps 1 to 3 are also run with its evidence
   (`ground_plane.py`), which does not depend on color. The result whose masks agree better with the hull of
   the other views is kept.
5. `plate.py` removes a plate, `polishing.py` what continues the background's color.

Pixels that a user labels (`hints.py`) are fixed in each step, and weigh more in the histograms. Views with
all pixels labelled keep their masks, and their hull gives the first region of the others.

B views, N points, H rows, W columns. World frame and unit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError
from idr.importers.masks.carving import ball_cells, distance_to, other_views_outlines
from idr.importers.masks.colors import color_odds, developed
from idr.importers.masks.ground_plane import Bytes, GroundPlane, Plane, find_ground_plane
from idr.importers.masks.hints import (
    BACKGROUND,
    OBJECT,
    Hint,
    Hints,
    checked_hints,
    is_complete,
    obeying,
    shrunk_hint,
)
from idr.importers.masks.plate import find_plate
from idr.importers.masks.polishing import Polisher
from idr.importers.masks.seeds import Seeds, seeds_from_cameras, seeds_from_points
from idr.importers.masks.sparse_points import sparse_points
from idr.importers.source import Array, resized, size_within
from idr.preprocess.outlines import hull_silhouette
from idr.preprocess.scene_views import Mask, make_views
from idr.preprocess.visual_hull import SceneHull, nearest_pixels
from idr.progress_bar import with_progress

log = logging.getLogger(__name__)

Evidence = NDArray[np.float32]


@dataclass(frozen=True)
class _Tuning:
    """Constants of the segmentation. Lengths over the square root of a region's area are marked by `sqrt`."""

    working_side: int = 480  # pixels of the longest side at which masks are computed, then enlarged
    iterations: int = 4  # of GrabCut
    rounds: int = 3  # of carving and segmentation; further ones change less than one pixel in a thousand
    ring: float = 0.08  # sqrt: distance a mask may extend beyond the other views' outline
    reach: float = 0.4  # sqrt: distance the object may extend beyond its initial region
    speck: float = 0.05  # area over the largest component's, below which a component is dropped
    pinhole: float = 0.003  # area over the largest component's, below which a hole is filled
    lost_agreement: float = 0.015  # of the mean, above which polished masks are not kept
    empty_share: float = 0.002  # of the image, below which a mask counts as empty
    odds_within: float = 0.0  # log odds of a color above which a pixel starts as object in the initial region
    odds_beyond: float = 0.7  # the same outside of it
    ground_maybe: float = -0.1  # evidence of the ground plane below which a pixel starts as background
    ground_sure: float = -0.25  # below which it is fixed
    object_maybe: float = 0.5  # evidence above which a pixel starts as object
    object_sure: float = 1.2  # above which it is fixed


TUNING = _Tuning()


@dataclass(frozen=True)
class MadeMasks:
    """Masks and their consistency.

    Attributes:
        masks: B arrays (H, W) of bool, at the images' sizes.
        agreement: (B,) IoU of each mask with the silhouette of the other views' hull.
    """

    masks: tuple[Mask, ...]
    agreement: Array


def make_masks(
    images: list[Bytes],
    names: list[str],
    projections: Array,
    points: Array | None,
    scene_points: Array | None = None,
    hints: Hints | None = None,
) -> MadeMasks:
    """Computes a mask for every view.

    Args:
        images: B arrays (H, W, 3), RGB, without lens distortion.
        names: B names, for messages.
        projections: (B, 3, 4) world to pixels.
        points: (N, 3) sparse points on the object, None to start from the ball that all cameras see.
        scene_points: (N, 3) sparse points of the whole scene, for the ground plane; None to triangulate some.
        hints: B labelings (H, W) of pixels that are certain, see `hints.py`, each of them None for no label.

    Raises:
        InputError: Fewer than three views, no common object in view, no object found, or invalid hints.
    """
    if len(images) < 3:
        raise InputError(
            f"{len(images)} views; expected at least three to compute masks: pass masks with --masks FOLDER"
        )
    full_hints = checked_hints(hints, [image.shape[:2] for image in images], names)
    small, matrices = _working_copies(images, projections)
    sizes = [image.shape[:2] for image in small]
    small_hints = [shrunk_hint(hint, size) for hint, size in zip(full_hints, sizes, strict=True)]
    if points is None:
        seeds = seeds_from_cameras(matrices, sizes)
    else:
        seeds = seeds_from_points(points, matrices, sizes)
    seeds = _hinted_seeds(seeds, small_hints, names, matrices)
    work = _Work(small, names, matrices, seeds, small_hints)
    undecided = [np.zeros(region.shape, np.float32) for region in seeds.regions]
    starts = {"color": (work.first_masks(undecided), undecided)}
    ground = _ground_start(work, scene_points)
    if ground is not None:
        starts["color and ground plane"] = ground
    candidates, failures = [], []
    for cue, (first, evidence) in starts.items():
        try:
            made = work.refined(first, evidence)
        except InputError as error:
            failures.append(error)
            continue
        log.info("masks by %s: mean IoU with the other views' hull %.3f", cue, made.agreement.mean())
        candidates.append((made, evidence))
    if not candidates:
        raise failures[0]
    best, evidence = max(candidates, key=lambda candidate: float(candidate[0].agreement.mean()))
    best = work.polished(*work.without_plate(best, evidence))
    full = [
        obeying(_enlarged(mask, hint.shape), hint) for mask, hint in zip(best.masks, full_hints, strict=True)
    ]
    return MadeMasks(tuple(full), best.agreement)


def _hinted_seeds(seeds: Seeds, hints: list[Hint], names: list[str], projections: Array) -> Seeds:
    """The seeds with the labels put in; the hull of complete masks replaces the regions of other views."""
    whole = [k for k, hint in enumerate(hints) if is_complete(hint) and not _is_empty(hint == OBJECT)]
    regions = list(seeds.regions)
    if whole:
        cells, spacing = ball_cells(seeds)
        # Only the cameras of these views are used.
        views = make_views(tuple(names), tuple(np.eye(*r.shape) > 0 for r in regions), projections)
        for k in whole:
            column, row, seen = nearest_pixels(cells, views.projections[k], regions[k].shape)
            cells = cells[~seen | (hints[k][row, column] == OBJECT)]
        hull = SceneHull(cells, spacing, 0, False, seeds.center, seeds.radius)
        outlines = [hull_silhouette(views, k, hull) for k in range(len(views))]
        regions = [r if _is_empty(outline) else outline for r, outline in zip(regions, outlines, strict=True)]
    regions = [obeying(region, hint) for region, hint in zip(regions, hints, strict=True)]
    return replace(seeds, regions=tuple(regions))


@dataclass(frozen=True)
class _Work:
    """Images at working size, names for messages, (B, 3, 4) cameras, seeds, and hints at working size."""

    images: list[Bytes]
    names: list[str]
    projections: Array
    seeds: Seeds
    hints: list[Hint]

    def first_masks(self, evidence: list[Evidence]) -> list[Mask]:
        """Masks by color; evidence other than 0 tells where in the seeds' regions the object's colors are."""
        regions = tuple(
            region & (e > TUNING.object_maybe) if e.any() else region
            for region, e in zip(self.seeds.regions, evidence, strict=True)
        )
        odds = color_odds(self.images, regions, self.hints)
        views = zip(self.images, self.seeds.regions, odds, self.hints, strict=True)
        return [
            _cut(image, _first_labels(region, o, hint))
            for image, region, o, hint in with_progress(views, "first masks", len(odds))
        ]

    def started(self, plane: Plane, plain: bool = False) -> tuple[list[Mask], list[Evidence]]:
        """First masks by the evidence of a ground plane, and its evidence without their pixels."""
        ground = GroundPlane(plane, self.seeds, self.projections)
        nothing = [np.zeros(region.shape, bool) for region in self.seeds.regions]
        masks = self.first_masks(ground.evidence(self.images, nothing, plain))
        return masks, ground.evidence(self.images, masks, plain)

    def refined(self, masks: list[Mask], evidence: list[Evidence]) -> MadeMasks:
        """Alternates carving and segmentation; raises `InputError` if a view shows no object."""
        if any(_is_empty(mask) for mask in masks) and any(e.any() for e in evidence):
            masks = [e > TUNING.object_maybe for e in evidence]  # color fails; the ground plane may not
            masks = self._obeying(masks)
        self._refuse_empty(masks)
        for number in range(1, TUNING.rounds + 1):
            views = zip(self.images, self._outlines(masks), masks, evidence, self.hints, strict=True)
            title = f"masks, round {number} of {TUNING.rounds}"
            masks = [
                _cut(image, _labels(outline, mask, e, hint)) if outline.any() else mask
                for image, outline, mask, e, hint in with_progress(views, title, len(masks))
            ]
            self._refuse_empty(masks)
        return self.scored(masks)

    def without_plate(self, made: MadeMasks, evidence: list[Evidence]) -> tuple[MadeMasks, list[Evidence]]:
        """Masks without a plain plate below the object, and evidence of its plane; the given ones if none."""
        plane = find_plate(made.masks, self.seeds, self.projections)
        if plane is None:
            return made, evidence
        first, found = self.started(plane, plain=True)
        try:
            above = self.refined(first, found)
        except InputError:  # all of the object is as flat as a plate
            return made, evidence
        log.info("masks without a plate: mean IoU with the other views' hull %.3f", above.agreement.mean())
        return above, found

    def polished(self, made: MadeMasks, evidence: list[Evidence]) -> MadeMasks:
        """Masks without what continues the background; the former ones if these agree better.

        Polishing an object of its background's color removes parts of it, and the agreement falls.
        """
        polisher = Polisher(self.images, self.names, self.projections, self.seeds, self.hints)
        masks = polisher.polished(list(made.masks), evidence)
        if any(_is_empty(mask) and not is_complete(h) for mask, h in zip(masks, self.hints, strict=True)):
            return made
        polished = self.scored(masks)
        lost = float((made.agreement - polished.agreement).mean())
        log.info("polished masks: mean IoU with the other views' hull %.3f", polished.agreement.mean())
        return made if lost > TUNING.lost_agreement else polished

    def scored(self, masks: list[Mask]) -> MadeMasks:
        """The masks without specks, and their agreement."""
        masks = self._obeying([_tidy(mask) for mask in masks])
        outlines = self._outlines(masks)
        agreement = [(m & o).sum() / max(1, (m | o).sum()) for m, o in zip(masks, outlines, strict=True)]
        return MadeMasks(tuple(masks), np.array(agreement))

    def _outlines(self, masks: list[Mask]) -> list[Mask]:
        views = make_views(tuple(self.names), tuple(masks), self.projections)
        return other_views_outlines(views, self.seeds)

    def _obeying(self, masks: list[Mask]) -> list[Mask]:
        return [obeying(mask, hint) for mask, hint in zip(masks, self.hints, strict=True)]

    def _refuse_empty(self, masks: list[Mask]) -> None:
        for mask, name, hint in zip(masks, self.names, self.hints, strict=True):
            if _is_empty(mask) and not is_complete(hint):
                raise InputError(
                    f"{name}: object and background could not be separated by color and the other views; "
                    "pass masks (--masks FOLDER or --mask_command), or sparse points on the object (--points)"
                )


def _ground_start(work: _Work, points: Array | None) -> tuple[list[Mask], list[Evidence]] | None:
    """First masks and evidence from the ground plane that (N, 3) points of the scene show, if any."""
    if points is None:
        points = sparse_points(work.images, work.projections, work.seeds.center)
    plane = find_ground_plane(points, work.seeds, work.projections)
    return None if plane is None else work.started(plane)


def _working_copies(images: list[Bytes], projections: Array) -> tuple[list[Bytes], Array]:
    small, matrices = [], []
    for image, projection in zip(images, projections, strict=True):
        height, width = image.shape[:2]
        size = size_within(image.shape, TUNING.working_side)
        small.append(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
        matrices.append(resized(projection, size[0] / width, size[1] / height))
    return developed(small), np.stack(matrices)


def _is_empty(mask: Mask) -> bool:
    return bool(mask.mean() < TUNING.empty_share or mask.all())


def _first_labels(region: Mask, odds: Evidence, hint: Hint) -> Bytes:
    """GrabCut labels from the color odds; pixels far from the region are fixed as background."""
    least = np.where(region, TUNING.odds_within, TUNING.odds_beyond)
    labels = np.where(odds > least, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[distance_to(region) > TUNING.reach * np.sqrt(region.sum())] = cv2.GC_BGD
    return _with_background(labels, hint)


def _labels(outline: Mask, mask: Mask, evidence: Evidence, hint: Hint) -> Bytes:
    """GrabCut labels from a mask, the other views' outline, the ground plane's evidence and a hint."""
    unit = float(np.sqrt(outline.sum()))
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[evidence < TUNING.ground_maybe] = cv2.GC_PR_BGD
    labels[evidence > TUNING.object_maybe] = cv2.GC_PR_FGD
    labels[evidence > TUNING.object_sure] = cv2.GC_FGD
    beyond = distance_to(outline) > max(2.0, TUNING.ring * unit)
    labels[beyond | (evidence < TUNING.ground_sure)] = cv2.GC_BGD
    return _with_background(labels, hint)


def _with_background(labels: Bytes, hint: Hint) -> Bytes:
    """Puts a hint in. GrabCut needs background pixels: without any, the corners become background."""
    labels[hint == OBJECT], labels[hint == BACKGROUND] = cv2.GC_FGD, cv2.GC_BGD
    if not np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        labels[[0, 0, -1, -1], [0, -1, 0, -1]] = cv2.GC_BGD
    return labels


def _cut(image: Bytes, labels: Bytes) -> Mask:
    """Runs GrabCut, deterministically; labels without undecided pixels are the mask."""
    inside = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not inside.any() or np.isin(labels, (cv2.GC_FGD, cv2.GC_BGD)).all():
        return inside
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    labels = labels.copy()
    cv2.grabCut(image, labels, None, background, foreground, TUNING.iterations, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _tidy(mask: Mask) -> Mask:
    """Drops small components and fills small holes."""
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = areas[1:].max()
    kept = np.isin(components, [k for k in range(1, count) if areas[k] >= TUNING.speck * largest])
    count, components, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    holes = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] < TUNING.pinhole * largest]
    return kept | np.isin(components, holes)


def _enlarged(mask: Mask, size: tuple[int, ...]) -> Mask:
    if mask.shape == size:
        return mask
    gray = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return gray > 0.5
