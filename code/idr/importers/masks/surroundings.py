"""The background as a smooth color around the object, in each view by itself.

A plain cloth, a table or a screen changes its color slowly: uneven light, vignetting, wrinkles, soft shadows.
The colors of surely background pixels therefore tell what the background looks like where the object may be,
although no feature lies on it. Textured surroundings have a large variance, which says little.

H rows, W columns. Colors are L*a*b* in gray levels of 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from idr.importers.masks.ground_plane import Layer
from idr.preprocess.scene_views import Mask


@dataclass(frozen=True)
class _Tuning:
    """Constants of the surroundings. Lengths are shares of the image's longer side."""

    reaches: tuple[float, ...] = (0.015, 0.04, 0.1)  # sigma of the Gaussian neighborhoods
    coarse: float = 3.0  # pixels, sigma above which a neighborhood is averaged at a lower resolution
    least_share: float = 0.02  # of a neighborhood that must be background
    noise: float = 2.0  # gray levels, least standard deviation of a color
    darkest: float = 0.35  # brightness in a shadow over that without
    shadow_noise: float = 3.0  # gray levels, standard deviation of a shadow's chromaticity
    shadow_share: float = 0.4  # of the background that may lie in shadow


TUNING = _Tuning()


def surroundings_density(lab: Layer, background: Mask) -> Layer:
    """Density of each pixel's color under the colors of the background near it.

    Args:
        lab: (H, W, 3).
        background: (H, W), surely background.

    Returns:
        (H, W), per gray level cubed: the largest of a Gaussian at each reach, and of a shadow on the widest.
    """
    weight = background.astype(np.float32)
    density = np.zeros(lab.shape[:2], np.float32)
    for reach in TUNING.reaches:
        mean, variance, share = _neighborhood(lab, weight, reach * max(lab.shape))
        variance = np.maximum(variance, TUNING.noise**2)
        distance = (np.square(lab - mean) / variance).sum(axis=2)
        gaussian = np.exp(-0.5 * distance) / np.sqrt((2 * np.pi) ** 3 * variance.prod(axis=2))
        known = share > TUNING.least_share
        density = np.maximum(density, np.where(known, gaussian, 0.0))
        shadow = _shadow_density(lab, mean, variance)
        density = np.maximum(density, np.where(known, TUNING.shadow_share * shadow, 0.0))
    return density.astype(np.float32)


def _neighborhood(lab: Layer, weight: Layer, sigma: float) -> tuple[Layer, Layer, Layer]:
    """Mean and variance (H, W, 3) of the weighted colors around each pixel, and their share (H, W)."""
    height, width = weight.shape
    factor = max(1.0, sigma / TUNING.coarse)  # wide neighborhoods are averaged on fewer pixels
    size = (max(1, round(width / factor)), max(1, round(height / factor)))

    def averaged(layer: Layer) -> Layer:
        small = cv2.resize(layer, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(small, (0, 0), sigma / factor), dtype=np.float32)

    share, color = averaged(weight), averaged(lab * weight[..., None])
    square = averaged(np.square(lab) * weight[..., None])
    safe = np.maximum(share, 1e-6)[..., None]
    variance = np.maximum(square / safe - np.square(color / safe), 0.0)
    mean, variance, share = (
        np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
        for layer in (color / safe, variance, share)
    )
    return mean, variance, share


def _shadow_density(lab: Layer, mean: Layer, variance: Layer) -> Layer:
    """Density of colors on the way from `darkest` times the mean color to itself, toward black."""
    black = np.array([0.0, 128.0, 128.0], np.float32)
    color, base = lab - black, mean - black
    length = np.maximum(np.linalg.norm(base, axis=2), 1.0)
    share = np.clip((color * base).sum(axis=2) / np.square(length), TUNING.darkest, 1.0)
    spread = np.maximum(variance[..., 1:].mean(axis=2), TUNING.shadow_noise**2)
    distance = np.square(color - share[..., None] * base).sum(axis=2) / spread
    return np.exp(-0.5 * distance) / (2 * np.pi * spread * (1 - TUNING.darkest) * length)
