"""Measures of a rendered view against its photograph and mask.

H, W image height and width.
"""

from __future__ import annotations

import math

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

SSIM_WINDOW = 11
"""Pixels along a side of the window: 3.5 sigma to either side."""


def masked_psnr(rendered: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio over the pixels of the object.

    10 log10(1 / MSE), the squared error summed over masked pixels and channels and divided by 3 times the
    number of masked pixels. A miss inside the mask counts with the white it was rendered in.

    Args:
        rendered: (H, W, 3) or (H * W, 3) colors in [0, 1], not rounded to 8 bits.
        photo: Likewise, the photograph.
        mask: (H, W) or (H * W,) bool, the given mask of the object.

    Returns:
        Decibels; infinite for equal colors, NaN for a mask without a pixel.

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


def on_black(picture: Tensor, mask: Tensor) -> Tensor:
    """Returns a picture with 0 outside the mask, as the published evaluation multiplies before its PSNR.

    Args:
        picture: (H, W, 3) colors in [0, 1].
        mask: (H, W) bool.
    """
    return picture * mask[..., None].to(picture)


def masked_ssim(rendered: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Structural similarity over the pixels of the object (Wang et al. 2004).

    Both pictures are black outside the mask, as for the published PSNR. The map is scikit-image's
    ``structural_similarity(..., full=True)`` with Wang's choices: a Gaussian window (sigma 1.5, 11 x 11
    pixels), population covariances, data range 1, each channel by itself. The result is its mean over masked
    pixels and channels; windows at the rim see the black around the object, alike in both pictures.

    Args:
        rendered: (H, W, 3) colors in [0, 1], not rounded to 8 bits.
        photo: (H, W, 3) likewise, the photograph.
        mask: (H, W) bool, the given mask of the object.

    Returns:
        Up to 1 for equal pictures; NaN for a mask without a pixel or pictures smaller than the window.

    Raises:
        ValueError: The shapes do not belong together.
    """
    if rendered.shape != photo.shape or rendered.dim() != 3 or rendered.shape[:-1] != mask.shape:
        raise ValueError(
            f"rendered {tuple(rendered.shape)}, photo {tuple(photo.shape)} and mask {tuple(mask.shape)}: "
            "expected (H, W, 3), the same, and (H, W)"
        )
    if not mask.any() or min(mask.shape) < SSIM_WINDOW:
        return math.nan
    pictures = (on_black(picture, mask).double().cpu().numpy() for picture in (photo, rendered))
    _, similarity = structural_similarity(
        *pictures, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    return float(similarity[mask.cpu().numpy()].mean())


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
