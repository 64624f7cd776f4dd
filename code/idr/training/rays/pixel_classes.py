"""Classes of an image's pixels: along the silhouette, inside, outside, far from the object.

H, W image height and width, N = H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from idr.training.rays.config import SamplerConfig

OUTER_BAND, INNER_BAND, INSIDE, PLAIN, FAR = range(5)
NEAR, BAND, OBJECT = range(FAR), range(INSIDE), range(INNER_BAND, PLAIN)
"""Ranges of kinds from which a draw is uniform: contiguous when pixels are ordered by kind."""


@dataclass(frozen=True)
class PixelClasses:
    """The kinds of the pixels of an image, reduced or not.

    Attributes:
        order: (N,) int32 pixel numbers, ordered by kind.
        kinds: (N,) uint8 kind of each pixel: `OUTER_BAND` and `INNER_BAND`, the two sides of the silhouette;
            `INSIDE`, the rest of the object; `PLAIN`, around it; `FAR`.
        counts: Number of pixels of each kind.
        mixed: (N,) bool, pixels whose colors mix object and background; None without such a strip.
        width: Width of the image.
    """

    order: Tensor
    kinds: Tensor
    counts: tuple[int, ...]
    mixed: Tensor | None
    width: int

    def place(self, kinds: range) -> tuple[int, int]:
        """Returns the first position in `order` of pixels of some kinds, and their number."""
        return sum(self.counts[: kinds.start]), sum(self.counts[kinds.start : kinds.stop])


def classify(mask: Tensor, config: SamplerConfig, factor: int) -> PixelClasses:
    """Classifies the pixels of an image reduced by a factor, by its object mask (H, W) bool."""
    inside = mask.numpy().astype(np.uint8)
    to_inside, to_outside = (
        cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * factor
        for side in (1 - inside, inside)
    )  # 0 on the respective other side
    distance = np.maximum(to_inside, to_outside)
    kinds = np.where(mask.numpy(), INSIDE, PLAIN).astype(np.uint8)
    if config.far_pixels is not None:
        kinds[to_inside > config.far_pixels] = FAR
    band = distance <= max(config.silhouette_pixels, factor)
    kinds[band] = np.where(mask.numpy(), INNER_BAND, OUTER_BAND)[band]
    flat = kinds.reshape(-1)
    counts = np.bincount(flat, minlength=FAR + 1)
    order = np.argsort(flat, kind="stable").astype(np.int32)
    mixed = None
    if config.mixed_pixels:
        mixed = mask.reshape(-1) & torch.from_numpy(to_outside <= config.mixed_pixels * factor).reshape(-1)
    return PixelClasses(
        torch.from_numpy(order), torch.from_numpy(flat), tuple(counts.tolist()), mixed, mask.shape[1]
    )
