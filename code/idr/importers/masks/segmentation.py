"""Segments photographs at one resolution: GrabCut and the hull of the other views, in turns.

B views, N points, H rows, W columns. World frame and unit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import cv2
import numpy as np

from idr.errors import InputError
from idr.importers.masks.carving import ball_cells, distance_to, other_views_outlines
from idr.importers.masks.colors import color_odds, developed
from idr.importers.masks.ground_plane import Bytes, GroundPlane, Layer, Plane, find_ground_plane
from idr.importers.masks.hints import BACKGROUND, OBJECT, Hint, is_complete, obeying, shrunk_hint
from idr.importers.masks.plate import find_plate
from idr.importers.masks.polishing import Polisher
from idr.importers.masks.seeds import Seeds, seeds_from_cameras, seeds_from_points
from idr.importers.source import Array, resized, size_within
from idr.preprocess.outlines import hull_silhouette
from idr.preprocess.scene_views import Mask, make_views
from idr.preprocess.visual_hull import SceneHull, nearest_pixels
from idr.progress_bar import with_progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tuning:
    """Constants of the segmentation. Lengths over the square root of a region's area are marked by `sqrt`."""

    iterations: int = 4  # of GrabCut
    rounds: int = 3  # of carving and segmentation; further ones change less than one pixel in a thousand
    enlarged_rounds: int = 1  # of the same, after masks of a lower resolution
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
        masks: B arrays (H, W) of bool, at the sizes of the images given.
        agreement: (B,) IoU of each mask with the silhouette of the other views' hull.
    """

    masks: tuple[Mask, ...]
    agreement: Array


@dataclass(frozen=True)
class Segmenter:
    """B images (H, W, 3) without noise, names for messages, (B, 3, 4) projections, seeds and hints (H, W)."""

    images: list[Bytes]
    names: list[str]
    projections: Array
    seeds: Seeds
    hints: list[Hint]

    @classmethod
    def at(
        cls,
        side: int,
        images: list[Bytes],
        names: list[str],
        projections: Array,
        points: Array | None,
        hints: list[Hint],
    ) -> Segmenter:
        """Reduces images, cameras and hints to a longest side in pixels; the arguments are `make_masks`'s."""
        small, matrices = [], []
        for image, projection in zip(images, projections, strict=True):
            height, width = image.shape[:2]
            size = size_within(image.shape, side)
            small.append(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
            matrices.append(resized(projection, size[0] / width, size[1] / height))
        cameras, sizes = np.stack(matrices), [image.shape[:2] for image in small]
        hints = [shrunk_hint(hint, size) for hint, size in zip(hints, sizes, strict=True)]
        if points is None:
            seeds = seeds_from_cameras(cameras, sizes)
        else:
            seeds = seeds_from_points(points, cameras, sizes)
        return cls(developed(small), names, cameras, _hinted_seeds(seeds, hints, names, cameras), hints)

    def segmented(self, scene_points: Array) -> tuple[MadeMasks, list[Layer]]:
        """Masks and the ground plane's evidence, from color, or from that and the plane that points show.

        The result whose masks agree better with the hull of the other views. The points are (N, 3).
        """
        undecided = [np.zeros(region.shape, np.float32) for region in self.seeds.regions]
        starts = {"color": (self.first_masks(undecided), undecided)}
        plane = find_ground_plane(scene_points, self.seeds, self.projections)
        if plane is not None:
            starts["color and ground plane"] = self.started(plane)
        results, failures = [], []
        for cue, (first, evidence) in starts.items():
            try:
                made = self.refined(first, evidence, TUNING.rounds)
            except InputError as error:
                failures.append(error)
                continue
            log.info("masks by %s: mean IoU with the other views' hull %.3f", cue, made.agreement.mean())
            results.append((made, evidence))
        if not results:
            raise failures[0]
        return max(results, key=lambda result: float(result[0].agreement.mean()))

    def continued(self, coarse: MadeMasks, evidence: list[Layer]) -> tuple[MadeMasks, list[Layer]]:
        """Masks and evidence of a lower resolution at this one."""
        sizes = [image.shape[:2] for image in self.images]
        if sizes == [mask.shape for mask in coarse.masks]:
            return coarse, evidence
        masks = [enlarged(mask, size) for mask, size in zip(coarse.masks, sizes, strict=True)]
        evidence = [
            np.asarray(cv2.resize(e, size[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)
            for e, size in zip(evidence, sizes, strict=True)
        ]
        return self.refined(self._obeying(masks), evidence, TUNING.enlarged_rounds, "outlines"), evidence

    def first_masks(self, evidence: list[Layer]) -> list[Mask]:
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

    def started(self, plane: Plane, plain: bool = False) -> tuple[list[Mask], list[Layer]]:
        """First masks by the evidence of a ground plane, and its evidence without their pixels."""
        ground = GroundPlane(plane, self.seeds, self.projections)
        nothing = [np.zeros(region.shape, bool) for region in self.seeds.regions]
        masks = self.first_masks(ground.evidence(self.images, nothing, plain))
        return masks, ground.evidence(self.images, masks, plain)

    def refined(
        self, masks: list[Mask], evidence: list[Layer], rounds: int, what: str = "masks"
    ) -> MadeMasks:
        """Alternates carving and segmentation; raises `InputError` if a view shows no object."""
        if any(_is_empty(mask) for mask in masks) and any(e.any() for e in evidence):
            masks = [e > TUNING.object_maybe for e in evidence]  # color fails; the ground plane may not
            masks = self._obeying(masks)
        self._refuse_empty(masks)
        for number in range(1, rounds + 1):
            views = zip(self.images, self._outlines(masks), masks, evidence, self.hints, strict=True)
            title = f"{what}, round {number} of {rounds}" if rounds > 1 else what
            masks = [
                _cut(image, _labels(outline, mask, e, hint)) if outline.any() else mask
                for image, outline, mask, e, hint in with_progress(views, title, len(masks))
            ]
            self._refuse_empty(masks)
        return self.scored(masks)

    def without_plate(self, made: MadeMasks, evidence: list[Layer]) -> tuple[MadeMasks, list[Layer]]:
        """Masks without a plain plate below the object, and evidence of its plane; the given ones if none."""
        plane = find_plate(made.masks, self.seeds, self.projections)
        if plane is None:
            return made, evidence
        first, found = self.started(plane, plain=True)
        try:
            above = self.refined(first, found, TUNING.rounds)
        except InputError:  # all of the object is as flat as a plate
            return made, evidence
        log.info("masks without a plate: mean IoU with the other views' hull %.3f", above.agreement.mean())
        return above, found

    def polished(self, made: MadeMasks, evidence: list[Layer]) -> MadeMasks:
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


def _is_empty(mask: Mask) -> bool:
    return bool(mask.mean() < TUNING.empty_share or mask.all())


def _first_labels(region: Mask, odds: Layer, hint: Hint) -> Bytes:
    """GrabCut labels from the color odds; pixels far from the region are fixed as background."""
    least = np.where(region, TUNING.odds_within, TUNING.odds_beyond)
    labels = np.where(odds > least, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[distance_to(region) > TUNING.reach * np.sqrt(region.sum())] = cv2.GC_BGD
    return _with_background(labels, hint)


def _labels(outline: Mask, mask: Mask, evidence: Layer, hint: Hint) -> Bytes:
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


def enlarged(mask: Mask, size: tuple[int, ...]) -> Mask:
    """A mask at a larger (H, W), with a smooth outline."""
    if mask.shape == size:
        return mask
    gray = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return gray > 0.5
