"""Polishing of masks: what continues the background's color is no part of the object.

Masks by GrabCut may keep a block of plain ground below the object: its color is that of the background, but
it lies in the hull of all views, so it counts as the object's, too. Here the log odds of a pixel compare the
colors of sure object pixels with those of the background: of all views, and of the pixels around it.

In some views, a shadowed part of the object may also look like background. A removed part is put back if the
other views' outline contains it and its colors are not surely the background's.

B views, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.importers.masks.carving import distance_to, other_views_outlines
from idr.importers.masks.colors import Colors, lab_image
from idr.importers.masks.graph_cut import LIMIT, cut
from idr.importers.masks.ground_plane import Layer
from idr.importers.masks.hints import BACKGROUND, OBJECT, Hint, obeying
from idr.importers.masks.seeds import Seeds
from idr.importers.masks.surroundings import surroundings_density
from idr.importers.source import Array
from idr.preprocess.scene_views import Mask, make_views


@dataclass(frozen=True)
class _Tuning:
    """Constants of the polishing. Lengths over the square root of the mask's area are marked by `sqrt`."""

    rounds: int = 3  # of carving and segmentation
    ring: float = 0.08  # sqrt: distance a mask may extend beyond the other views' outline
    apart: float = 0.03  # sqrt: distance from mask and outline at which a pixel surely is background
    rare_color: float = 1e-8  # density added to both sides: rare colors are undecided
    odds_inside: float = 0.6  # log odds added inside the other views' outline
    odds_outside: float = -1.0  # and outside of it
    ground_sure: float = -0.25  # evidence of the ground plane below which a pixel is background
    sure_odds: float = 3.0  # against the object, with which a pixel outside its mask carves fully
    least_certainty: float = 0.3  # with which any pixel outside its mask carves
    hole_odds: float = -2.5  # mean of a hole's pixels, above which it is filled
    part_inside: float = 0.85  # share of a removed part in the other views' outline, for it to be put back
    part_odds: float = -3.0  # mean log odds of its colors, for the same
    part_area: float = 0.002  # of the outline's, for the same


TUNING = _Tuning()


class Polisher:
    """Images (H, W, 3) of B views, names for messages, (B, 3, 4) cameras, seeds, and hints (H, W)."""

    def __init__(
        self,
        images: list[NDArray[np.uint8]],
        names: list[str],
        projections: Array,
        seeds: Seeds,
        hints: list[Hint],
    ) -> None:
        self.names, self.projections, self.seeds, self.hints = tuple(names), projections, seeds, hints
        self.labs = [lab_image(image) for image in images]
        self.colors = Colors(self.labs, hints)

    def polished(self, masks: list[Mask], evidence: list[Layer]) -> list[Mask]:
        """Alternates carving and segmentation, from B masks and the ground plane's evidence, (H, W).

        Stops before a mask becomes empty.
        """
        certainty: list[Layer] | None = None
        given = masks
        for _ in range(TUNING.rounds):
            outlines = self._outlines(masks, certainty)
            odds = self._odds(masks, outlines, evidence)
            cuts = [
                self._cut(k, masks[k], outline, odds[k], evidence[k] < TUNING.ground_sure)
                for k, outline in enumerate(outlines)
            ]
            if any(mask.all() or not mask.any() for mask in cuts):
                break
            masks = cuts
            certainty = [
                np.clip(cv2.blur(-o, (3, 3)) / TUNING.sure_odds, TUNING.least_certainty, 1.0) for o in odds
            ]
        return self._with_lost_parts(masks, given, evidence)

    def _with_lost_parts(self, masks: list[Mask], given: list[Mask], evidence: list[Layer]) -> list[Mask]:
        """Puts back the parts of the given masks that the other views and their colors support."""
        outlines = self._outlines(masks)
        odds = self._odds(masks, outlines, evidence)
        results = []
        for mask, before, outline, o in zip(masks, given, outlines, odds, strict=True):
            count, parts = cv2.connectedComponents((before & ~mask).astype(np.uint8), connectivity=4)
            area = np.bincount(parts.ravel(), minlength=count)
            inside = np.bincount(parts[outline], minlength=count)
            total = np.bincount(parts[outline], (o - TUNING.odds_inside)[outline], count)
            back = (inside > TUNING.part_inside * area) & (total > TUNING.part_odds * inside)
            back &= area >= TUNING.part_area * outline.sum()
            back[0] = False  # all other pixels
            results.append(mask | (back[parts] & outline))
        return results  # all given masks obey the hints

    def _outlines(self, masks: list[Mask], certainty: list[Layer] | None = None) -> list[Mask]:
        views = make_views(self.names, tuple(masks), self.projections)
        return other_views_outlines(views, self.seeds, certainty)

    def _odds(self, masks: list[Mask], outlines: list[Mask], evidence: list[Layer]) -> list[Layer]:
        """Log odds of object against background: color, place relative to the outline, ground plane."""
        inside = [(mask & outline).astype(np.float32) for mask, outline in zip(masks, outlines, strict=True)]
        outside = []
        for mask, outline, hint in zip(masks, outlines, self.hints, strict=True):
            apart = max(1.0, TUNING.apart * _unit(mask, outline))
            outside.append((distance_to(mask | outline) > apart) & (hint != OBJECT) | (hint == BACKGROUND))
        within = self.colors.density(inside, OBJECT)
        beyond = self.colors.density([mask.astype(np.float32) for mask in outside], BACKGROUND)
        odds = []
        for k, lab in enumerate(self.labs):
            background = 0.5 * beyond[k] + 0.5 * surroundings_density(lab, outside[k]) + TUNING.rare_color
            color = np.clip(np.log((within[k] + TUNING.rare_color) / background), -LIMIT, LIMIT)
            place = np.where(outlines[k], TUNING.odds_inside, TUNING.odds_outside)
            odds.append((color + place + evidence[k]).astype(np.float32))
        return odds

    def _cut(self, k: int, mask: Mask, outline: Mask, odds: Layer, ground: Mask) -> Mask:
        if not outline.any():
            return mask
        labels = np.where(odds > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        beyond = distance_to(outline) > max(2.0, TUNING.ring * _unit(mask, outline))
        labels[beyond | ground] = cv2.GC_BGD
        labels[self.hints[k] == OBJECT], labels[self.hints[k] == BACKGROUND] = cv2.GC_FGD, cv2.GC_BGD
        made = cut(self.labs[k], np.asarray(cv2.GaussianBlur(odds, (0, 0), 0.7), np.float32), labels)
        return obeying(_without_weak_holes(made, odds), self.hints[k])


def _unit(mask: Mask, outline: Mask) -> float:
    return float(np.sqrt(max(mask.sum(), outline.sum())))


def _without_weak_holes(mask: Mask, odds: Layer) -> Mask:
    """Fills holes whose colors are not surely the background's."""
    count, parts = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    total, area = (np.bincount(parts.ravel(), weights, count) for weights in (odds.ravel(), None))
    weak = total > TUNING.hole_odds * area
    weak[border] = False
    return mask | weak[parts]
