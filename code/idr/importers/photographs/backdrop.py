"""The backdrop of photographs whose camera stood still while the object turned, as on a turntable.

Photographs of one viewpoint form a group, since a set often has several rings. In a group the backdrop is
what most photographs show unchanged, up to exposure. B photographs of a group, H rows, W columns; h, w of
their reduced copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.importers.source import size_within
from idr.preprocess.scene_views import Mask

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Tuning:
    """Constants of the detection. Colors are logarithms, so that exposure is a summand."""

    side: int = 240  # pixels of the longest side of the reduced copies
    blur: float = 0.8  # sigma in pixels of the reduced copies, against noise
    floor: float = 16.0  # gray levels added before the logarithm: noise in dark parts
    tolerance: float = 0.1  # deviation of an unchanged pixel: noise and JPEG have 0.02
    texture: float = 0.05  # standard deviation in a window of `window` pixels, above which it has texture
    window: int = 7
    alike: float = 0.9  # of the pixels of two windows must agree: less at the edge of a frame
    linked: float = 0.1  # of the textured windows of two photographs must be alike
    linked_if_told: float = 0.02  # the same if the user says that the camera stood still
    smallest: int = 4  # photographs of a group: fewer do not tell what stands still
    valid: float = 0.5  # of a group's photographs must show a pixel of the backdrop
    textured: float = 0.01  # of the image must be textured backdrop, and as much must change
    covered: float = 0.8  # of the photographs must be in such a group
    margin: int = 2  # pixels around changed ones that may have features
    hull_margin: float = 0.15  # of the changed region's size: beyond it the backdrop is certain
    speck: float = 2e-3  # of the image: smaller changed regions do not count for the hull


TUNING = _Tuning()


@dataclass(frozen=True)
class Backdrop:
    """The backdrop of some photographs.

    Attributes:
        changed: B arrays (h, w): where a photograph differs from its group's backdrop, with a margin; all
            True in photographs without a group.
        is_still: Whether textured backdrop stands still in nearly all photographs, while something moves.
    """

    changed: tuple[Mask, ...]
    is_still: bool

    def features(self, k: int, size: tuple[int, int]) -> Mask:
        """Where photograph k of `size` (H, W) may have features, (H, W)."""
        return _resized(self.changed[k], size)

    def certain(self, k: int, size: tuple[int, int]) -> Mask:
        """Where photograph k of `size` (H, W) certainly shows the backdrop, (H, W).

        Parts of the object that do not change, such as the plain neck of a bottle on the axis, look like
        backdrop. So the convex hull of what changes stays unknown, and all above and below it (the axis is
        upright in the image), with a wide margin.
        """
        changed = cv2.erode(self.changed[k].astype(np.uint8), np.ones((3, 3), np.uint8))
        count, parts, stats, _ = cv2.connectedComponentsWithStats(changed)
        large = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= TUNING.speck * changed.size]
        moving = np.isin(parts, large)
        hull = np.zeros(changed.shape, np.uint8)
        if moving.any():
            points = np.argwhere(moving)[:, ::-1].astype(np.int32)
            cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
        reach = TUNING.hull_margin * np.sqrt(hull.sum())
        hull[:, hull.any(axis=0)] = 1
        far = cv2.distanceTransform(1 - hull, cv2.DIST_L2, 5) > reach
        return _resized(far & ~moving, size)


def find_backdrop(
    photographs: Iterable[Bytes], pairs: Sequence[tuple[int, int]], told: bool = False
) -> Backdrop:
    """Finds what stands still in (H, W, 3) RGB photographs.

    The `pairs` are compared to find equal viewpoints; if the user `told` that there are, less texture does.
    """
    logs = [_log_colors(image) for image in photographs]
    changed = [np.ones(image.shape[:2], bool) for image in logs]
    covered = 0
    for members in _groups(logs, pairs, TUNING.linked_if_told if told else TUNING.linked):
        if len(members) < TUNING.smallest:
            continue
        colors = np.stack([logs[k] for k in members])  # (B, h, w, 3)
        still, backdrop = _unchanged(colors)
        valid = still.mean(axis=0) >= TUNING.valid
        textured = (_window_deviation(backdrop.mean(axis=-1)) > TUNING.texture) & valid
        still &= valid
        if textured.mean() >= TUNING.textured and 1 - still.mean() >= TUNING.textured:
            covered += len(members)
        size = 2 * TUNING.margin + 1
        for k, unchanged in zip(members, still, strict=True):
            grown = cv2.dilate((~unchanged).astype(np.uint8), np.ones((size, size), np.uint8))
            changed[k] = grown > 0
    return Backdrop(tuple(changed), covered >= TUNING.covered * len(logs))


def _log_colors(image: Bytes) -> NDArray[np.float32]:
    size = size_within(image.shape, TUNING.side)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(np.log(cv2.GaussianBlur(small, (0, 0), TUNING.blur) + TUNING.floor), dtype=np.float32)


def _unchanged(colors: NDArray[np.float32]) -> tuple[Mask, NDArray[np.float32]]:
    """Where each of (B, h, w, 3) logarithmic colors shows the backdrop, and its (h, w, 3) colors."""
    colors = colors - np.median(colors, axis=(1, 2), keepdims=True)
    for _ in range(2):  # exposure is that of the backdrop, which is known after the first round
        backdrop = np.median(colors, axis=0)
        still = np.abs(colors - backdrop).max(axis=-1) < TUNING.tolerance
        for image, unchanged in zip(colors, still, strict=True):
            if unchanged.any():
                image -= np.median((image - backdrop)[unchanged], axis=0)
    return still, backdrop


def _groups(
    logs: list[NDArray[np.float32]], pairs: Sequence[tuple[int, int]], share: float
) -> list[list[int]]:
    """Photographs connected by pairs that show the same at more than a share of their textured windows."""
    grays = [image.mean(axis=-1) for image in logs]
    textured = [_window_deviation(gray) > TUNING.texture for gray in grays]
    owner = list(range(len(logs)))
    for i, j in pairs:
        if owner[i] == owner[j] or grays[i].shape != grays[j].shape:
            continue
        change = grays[i] - grays[j]
        same = np.abs(change - np.median(change)) < TUNING.tolerance
        alike = _window_mean(same.astype(np.float32)) > TUNING.alike
        num_textured = max(1, (textured[i] | textured[j]).sum())
        if (alike & textured[i] & textured[j]).sum() > share * num_textured:
            owner = [owner[i] if k == owner[j] else k for k in owner]
    return [[k for k, number in enumerate(owner) if number == one] for one in sorted(set(owner))]


def _window_mean(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(gray, (TUNING.window, TUNING.window)))


def _window_deviation(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    variance = _window_mean(gray * gray) - _window_mean(gray) ** 2
    return np.sqrt(np.maximum(variance, 0))


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
