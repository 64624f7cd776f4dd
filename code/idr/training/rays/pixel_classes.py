"""Pixels of an image by what they may teach: along the silhouette, inside, outside, far from the object.

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
"""Kinds that a draw puts together; pixels in the order of kinds, each of them is one stretch."""


@dataclass(frozen=True)
class PixelClasses:
    """The pixels of an image, reduced or not, by what they may teach.

    Attributes:
        order: (N,) int32 pixel numbers, kind by kind.
        kinds: (N,) uint8 by pixel: `OUTER_BAND` and `INNER_BAND`, the silhouette's two sides; `INSIDE`, the
            rest of the object; `PLAIN`, around it; `FAR`.
        counts: Number of each.
        width: Of the image.
    """

    order: Tensor
    kinds: Tensor
    counts: tuple[int, ...]
    width: int

    def place(self, kinds: range) -> tuple[int, int]:
        """Returns where the pixels of some kinds begin in `order`, and how many there are."""
        return sum(self.counts[: kinds.start]), sum(self.counts[kinds.start : kinds.stop])


def classify(mask: Tensor, config: SamplerConfig, factor: int) -> PixelClasses:
    """Sorts the pixels of an image into classes.

    Args:
        mask: (H, W) bool, the object, of the image reduced by `factor`.
        config: Gives the distances.
        factor: Pixels along a block's side.
    """
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
    return PixelClasses(
        torch.from_numpy(order), torch.from_numpy(flat), tuple(counts.tolist()), mask.shape[1]
    )
