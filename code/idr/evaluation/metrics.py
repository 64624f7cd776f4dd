"""Measures of a rendered view against its photograph and mask.

H, W image height and width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def masked_psnr(rendered: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio over the pixels of the object.

    10 log10(1 / MSE), the squared error summed over masked pixels and channels and divided by 3 times the
    number of masked pixels. A miss inside the mask counts with the white it was rendered in.

    Args:
        rendered: (H, W, 3) or (H * W, 3) colours in [0, 1], not rounded to 8 bits.
        photo: Likewise, the photograph.
        mask: (H, W) or (H * W,) bool, the given mask of the object.

    Returns:
        Decibels; infinite for equal colours, NaN for a mask without a pixel.

    Raises:
        ValueError: The shapes do not belong together.
    """
    if rendered.shape != photo.shape or rendered.shape[:-1] != mask.shape:
        raise ValueError(
            f"rendered {tuple(rendered.shape)}, photo {tuple(photo.shape)} and mask {tuple(mask.shape)}: "
            "expected (..., 3), the same, and (...)"
        )
    difference = rendered[mask].double() - photo[mask].double()  # (masked pixels, 3)
    if difference.numel() == 0:
        return math.nan
    mean_square = difference.square().mean().item()
    return math.inf if mean_square == 0 else -10.0 * math.log10(mean_square)


def mask_iou(hit: Tensor, mask: Tensor) -> float:
    """Intersection over union of the rendered silhouette and the given mask.

    Args:
        hit: Bool, where rays hit the surface.
        mask: Bool of the same shape, the given mask.

    Returns:
        0 to 1; 1 where both are empty.

    Raises:
        ValueError: The shapes differ.
    """
    if hit.shape != mask.shape:
        raise ValueError(f"hit {tuple(hit.shape)} and mask {tuple(mask.shape)}: expected the same shape")
    union = torch.count_nonzero(hit | mask).item()
    return torch.count_nonzero(hit & mask).item() / union if union else 1.0
