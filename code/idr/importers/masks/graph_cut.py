"""The minimum cut of an image under given log odds of each pixel.

H rows, W columns.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.preprocess.scene_views import Mask

LIMIT = 5.0
"""Bound of the log odds."""
STRENGTH = 6.0
"""Weight of the log odds; OpenCV gives an edge between two equal pixels the weight 50."""
LEVELS = 60
"""Gray levels that the range of the log odds is coded in: changes of these are edges like those of color."""


def cut(lab: NDArray[np.float32], odds: NDArray[np.float32], labels: NDArray[np.uint8]) -> Mask:
    """The (H, W) mask of the least sum of log odds and length of the outline, which is shorter along edges.

    OpenCV's GrabCut computes it without its own color models: the log odds are one channel of its image, with
    two fixed Gaussians whose log ratio is the value of that channel, and two others are the color.

    Args:
        lab: (H, W, 3) L*a*b* in gray levels.
        odds: (H, W) log odds of object against background.
        labels: (H, W) GrabCut labels; GC_FGD and GC_BGD are fixed.
    """
    colors = lab.reshape(-1, 3) - lab.reshape(-1, 3).mean(axis=0)
    axes = np.linalg.eigh(colors.T @ colors)[1][:, 1:]  # the two principal ones
    coded = np.empty(lab.shape, np.float32)
    coded[..., :2] = (colors @ axes).reshape(*lab.shape[:2], 2) + 128
    coded[..., 2] = (np.clip(odds, -LIMIT, LIMIT) / LIMIT + 1) * LEVELS / 2
    image = np.clip(np.rint(coded), 0, 255).astype(np.uint8)
    variance = LEVELS**2 / (2 * STRENGTH * LIMIT)
    models = [_one_gaussian(level, variance) for level in (0.0, float(LEVELS))]
    result = labels.copy()
    cv2.grabCut(image, result, None, *models, 1, cv2.GC_EVAL_FREEZE_MODEL)  # type: ignore[call-overload]
    return np.isin(result, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _one_gaussian(level: float, variance: float) -> NDArray[np.float64]:
    """OpenCV's mixture of five Gaussians; one has all weight, and ignores the first two channels."""
    weights, means, covariances = np.zeros(5), np.zeros((5, 3)), np.zeros((5, 3, 3))
    weights[0], means[0] = 1.0, (128.0, 128.0, level)
    covariances[:] = np.diag((1e9, 1e9, variance))
    return np.concatenate([weights, means.ravel(), covariances.ravel()])[None]
