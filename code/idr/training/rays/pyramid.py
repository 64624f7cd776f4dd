"""Images reduced by whole factors, pixel by pixel as they are asked for; none is ever stored.

A reduced pixel stands for a block of f x f pixels. Its ray is that of the block's center, the mean of the
pixels' own uv: integer uv are pixels' centers, so that of the block at (0, 0) with f = 2 is (0.5, 0.5).
Intrinsics stay as they are. Rows and columns that fill no block, at the right and the bottom, are left out.

It lies on the object if at least half of its pixels do: its ray passes where the block's pixels meet, so a
silhouette that halves the block runs through the ray itself, and either answer is off by half a reduced pixel
at most. Its color is the mean over those of its pixels that lie on the object, so that the background does
not bleed into silhouettes; outside the object, where no loss looks at colors, over all of them.

P reduced pixels, f factor, H, W image height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reduced_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Returns height and width of a reduced image.

    Args:
        size: H and W.
        factor: f.
    """
    return size[0] // factor, size[1] // factor


def block_pixels(pixels: Tensor, width: int, factor: int) -> Tensor:
    """Returns the pixels of blocks.

    Args:
        pixels: (P,) numbers of reduced pixels, row by row.
        width: W of the image as it is.
        factor: f.

    Returns:
        (P, f f) numbers of pixels of the image as it is, row by row.
    """
    reduced_width = width // factor
    corner = pixels // reduced_width * factor * width + pixels % reduced_width * factor  # (P,)
    steps = torch.arange(factor)
    return corner[:, None] + (steps[:, None] * width + steps).reshape(1, -1)


def sample_reduced(dataset: Any, index: int, pixels: Tensor, factor: int) -> Any:
    """Returns reduced pixels of an image, as the data set's ``sample_item`` returns pixels.

    Args:
        dataset: Has ``sample_item`` and ``img_res``.
        index: Position of the image.
        pixels: (P,) numbers of reduced pixels, row by row.
        factor: f; 1 for the image as it is.

    Returns:
        The data set's item, of P rays. What else there is a pixel, beside masks and colors, is averaged; of
        what is true or false the more frequent counts.
    """
    if factor == 1:
        return dataset.sample_item(index, pixels)
    blocks = block_pixels(pixels, int(dataset.img_res[1]), factor)  # (P, f f)
    position, sample, truth = dataset.sample_item(index, blocks.reshape(-1))
    sample = {**sample, "object_mask": sample["object_mask"].bool()}
    inside = sample["object_mask"].view(blocks.shape)
    sample = {name: _reduced(value, blocks) for name, value in sample.items()}
    counted = inside | ~sample["object_mask"][:, None]  # (P, f f)
    colors = truth["rgb"].view(*blocks.shape, 3) * counted[:, :, None]
    rgb = colors.sum(dim=1) / counted.sum(dim=1, keepdim=True)  # (P, 3)
    return position, sample, {name: _reduced(value, blocks) for name, value in truth.items()} | {"rgb": rgb}


def _reduced(value: Any, blocks: Tensor) -> Any:
    """Averages what belongs to pixels; what belongs to the image stays."""
    if not isinstance(value, Tensor) or value.shape[:1] != (blocks.numel(),):
        return value
    grouped = value.view(*blocks.shape, *value.shape[1:])
    if value.dtype == torch.bool:
        return 2 * grouped.sum(dim=1) >= blocks.shape[1]
    return grouped.mean(dim=1, dtype=torch.float32)
