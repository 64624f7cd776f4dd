"""Scores of a rendered view against its photograph and mask.

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
    """Peak signal-to-noise ratio, 10 log10(1 / MSE), over the pixels of the object and channels.

    A ray that misses the surface inside the mask counts with the white background that it is rendered in.

    Args:
        rendered: (H, W, 3) or (H * W, 3) colors in [0, 1], not rounded to 8 bits.
        photo: The photograph, same shape.
        mask: (H, W) or (H * W,) bool, True on the object.

    Returns:
        Decibels; infinite for equal colors, NaN for an empty mask.

    Raises:
        ValueError: The shapes do not match.
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


def on_black(image: Tensor, mask: Tensor) -> Tensor:
    """Returns an image, (H, W, 3), with 0 outside the mask, (H, W) bool, as in the published evaluation."""
    return image * mask[..., None].to(image)


def masked_ssim(rendered: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Structural similarity over the pixels of the object (Wang et al. 2004).

    Both images are black outside the mask, as for the published PSNR. The map is scikit-image's
    ``structural_similarity(..., full=True)`` with the choices of Wang et al.: a Gaussian window (sigma 1.5,
    11 x 11 pixels), population covariances, data range 1, each channel separately. The score is its mean over
    masked pixels and channels. Windows at the silhouette include the black around the object in both images.

    Args:
        rendered: (H, W, 3) colors in [0, 1], not rounded to 8 bits.
        photo: The photograph, same shape.
        mask: (H, W) bool, True on the object.

    Returns:
        At most 1, for equal images; NaN for an empty mask or images smaller than the window.

    Raises:
        ValueError: The shapes do not match.
    """
    if rendered.shape != photo.shape or rendered.dim() != 3 or rendered.shape[:-1] != mask.shape:
        raise ValueError(
            f"rendered {tuple(rendered.shape)}, photo {tuple(photo.shape)} and mask {tuple(mask.shape)}: "
            "expected (H, W, 3), the same, and (H, W)"
        )
    if not mask.any() or min(mask.shape) < SSIM_WINDOW:
        return math.nan
    images = (on_black(image, mask).double().cpu().numpy() for image in (photo, rendered))
    _, similarity = structural_similarity(
        *images, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    return float(similarity[mask.cpu().numpy()].mean())


def mask_iou(hit: Tensor, mask: Tensor) -> float:
    """Intersection over union of the rendered silhouette and the mask, bool; 1 if both are empty.

    Raises:
        ValueError: The shapes differ.
    """
    if hit.shape != mask.shape:
        raise ValueError(f"hit {tuple(hit.shape)} and mask {tuple(mask.shape)}: expected the same shape")
    union = torch.count_nonzero(hit | mask).item()
    return torch.count_nonzero(hit & mask).item() / union if union else 1.0
