"""Colors of photographs, and their histograms in object and background over all views.

B views, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from idr.importers.masks.ground_plane import Bytes, Layer
from idr.importers.masks.hints import BACKGROUND, OBJECT, UNKNOWN, Hint
from idr.preprocess.scene_views import Mask

COLOR_BINS, COLOR_BLUR = 32, 1.0
"""Bins along each axis of L*a*b*, and sigma in bins of the Gaussian that smooths the histograms."""
RARE_COLOR = 1e-6
"""Share of pixels added to both histograms: rare colors are undecided."""
FINE_BINS = 64
"""Bins along each axis for colors without noise."""
WINDOW, SMOOTHED = 7, 12.0
"""Width in pixels over which noise is averaged, and gray levels above which a difference is an edge."""
HINT_WEIGHT = 0.3
"""Least weight of all labelled pixels in a histogram, over that of the others."""


@dataclass(frozen=True)
class _Tuning:
    """Constants of `developed`, in gray levels unless noted."""

    window: int = 5  # pixels, width over which noise is averaged
    edge: float = 2.5  # standard deviations of the noise, above which a difference is an edge
    noise: tuple[float, float] = (0.5, 4.0)  # bounds of its standard deviation; texture passes for noise, too
    highlights: float = 99.0  # percentile of an image's pixels that counts as its brightest
    bright_views: float = 75.0  # percentile over the views of that
    white: float = 235.0  # that it is brought to


TUNING = _Tuning()


def developed(images: list[Bytes]) -> list[Bytes]:
    """Photographs (H, W, 3) without noise, all of them brightened by the factor that dark ones need.

    Dark colors lie close together: noise, and rounding of L*a*b*, would hide their differences.
    """
    laplacian = np.outer((1, -2, 1), (1, -2, 1)).astype(np.float32)
    layers = [image.astype(np.float32) for image in images]
    detail = [np.median(np.abs(cv2.filter2D(layer, -1, laplacian)[1:-1, 1:-1])) for layer in layers]
    noise = float(np.clip(np.median(detail) / (0.6745 * np.linalg.norm(laplacian)), *TUNING.noise))
    highlights = [np.percentile(layer.max(axis=2), TUNING.highlights) for layer in layers]
    factor = max(1.0, TUNING.white / max(1.0, float(np.percentile(highlights, TUNING.bright_views))))
    edge, sigma = TUNING.edge * noise, TUNING.window / 3
    smooth = (cv2.bilateralFilter(layer, TUNING.window, edge, sigma) for layer in layers)
    return [np.clip(np.rint(factor * layer), 0, 255).astype(np.uint8) for layer in smooth]


def color_odds(
    images: list[Bytes], regions: tuple[Mask, ...], hints: list[Hint]
) -> list[NDArray[np.float32]]:
    """Log odds of each pixel's color: its share inside the regions over that outside, in all views.

    The images are B arrays (H, W, 3), RGB; the regions, where the object probably is, the hints and the log
    odds are B arrays (H, W). Few labelled pixels weigh as much as `HINT_WEIGHT` of the others.
    """
    cube = (COLOR_BINS,) * 3
    bins = [_bins(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), COLOR_BINS) for image in images]
    counts, certain = np.zeros((2, np.prod(cube))), np.zeros((2, np.prod(cube)))
    for index, region, hint in zip(bins, regions, hints, strict=True):
        for row, (chosen, label) in enumerate(((region, OBJECT), (~region, BACKGROUND))):
            counts[row] += np.bincount(index[chosen & (hint == UNKNOWN)], minlength=counts.shape[1])
            certain[row] += np.bincount(index[hint == label], minlength=counts.shape[1])
    least = HINT_WEIGHT * counts.sum(axis=1) / np.maximum(1.0, certain.sum(axis=1))
    counts += np.maximum(1.0, least)[:, None] * certain
    within, beyond = (
        gaussian_filter(count.reshape(cube), COLOR_BLUR).ravel() / max(1.0, count.sum())
        for count in counts
    )
    odds = np.log((within + RARE_COLOR) / (beyond + RARE_COLOR)).astype(np.float32)
    return [odds[index] for index in bins]


def lab_image(image: Bytes) -> Layer:
    """An image (H, W, 3), RGB, in L*a*b* of 0 to 255, without noise."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * (2.55, 1, 1) + (0, 128, 128)
    return np.asarray(cv2.bilateralFilter(lab.astype(np.float32), WINDOW, SMOOTHED, WINDOW / 3), np.float32)


class Colors:
    """The colors of B images (H, W, 3) in L*a*b*, and the pixels that hints label, B arrays (H, W)."""

    def __init__(self, labs: list[Layer], hints: list[Hint]) -> None:
        self.bins = [_bins(lab, FINE_BINS) for lab in labs]
        self.hints = hints

    def density(self, weights: list[Layer], label: int) -> list[Layer]:
        """Density of each pixel's color, per gray level cubed, among the weighted pixels of all views.

        The weights are B arrays (H, W). Pixels with this label in a hint count, those with another do not;
        few of them weigh as much as `HINT_WEIGHT` of the others.
        """
        counts, certain = np.zeros(FINE_BINS**3), np.zeros(FINE_BINS**3)
        for index, weight, hint in zip(self.bins, weights, self.hints, strict=True):
            free = hint == UNKNOWN
            counts += np.bincount(index[free], weight[free], minlength=len(counts))
            certain += np.bincount(index[hint == label], minlength=len(counts))
        if certain.any():
            counts += max(1.0, HINT_WEIGHT * counts.sum() / certain.sum()) * certain
        smooth = gaussian_filter(counts.reshape((FINE_BINS,) * 3), COLOR_BLUR).ravel()
        smooth *= (FINE_BINS / 256) ** 3 / max(1.0, counts.sum())
        return [smooth[index].astype(np.float32) for index in self.bins]


def _bins(lab: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The bin of each pixel's color, (H, W), in a cube of `count` bins a side over 0 to 255."""
    light, a, b = (lab[..., i].astype(np.int64) * count // 256 for i in range(3))
    return (light * count + a) * count + b
