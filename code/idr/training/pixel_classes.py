"""Pixels of an image by what they may teach: along the silhouette, far from the object, all others.

H, W image height and width, N = H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from idr.training.sampler_config import SamplerConfig

BAND, PLAIN, FAR = range(3)


@dataclass(frozen=True)
class PixelClasses:
    """The pixels of an image, reduced or not, by what they may teach.

    Attributes:
        order: (N,) int32 pixel numbers: the band's, then the other near ones, then the far ones.
        kinds: (N,) uint8 `BAND`, `PLAIN` or `FAR`, by pixel.
        counts: Number of each.
        width: Of the image.
    """

    order: Tensor
    kinds: Tensor
    counts: tuple[int, int, int]
    width: int

    @property
    def num_near(self) -> int:
        """Pixels that are not far."""
        return self.counts[BAND] + self.counts[PLAIN]


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
    kinds = np.full(mask.shape, PLAIN, dtype=np.uint8)
    if config.far_pixels is not None:
        kinds[to_inside > config.far_pixels] = FAR
    kinds[distance <= max(config.silhouette_pixels, factor)] = BAND
    flat = kinds.reshape(-1)
    counts = np.bincount(flat, minlength=3)
    order = np.argsort(flat, kind="stable").astype(np.int32)
    return PixelClasses(
        torch.from_numpy(order), torch.from_numpy(flat), (int(counts[0]), int(counts[1]), int(counts[2])),
        mask.shape[1],
    )  # fmt: skip
