"""Images reduced by whole factors, computed for the drawn pixels only; no reduced image is stored.

A reduced pixel is a block of f x f pixels. Its ray passes through the block's center, the mean of the pixels'
uv: integer uv are pixel centers, so the block at (0, 0) with f = 2 has (0.5, 0.5). Intrinsics stay the same.
Rows and columns at the right and the bottom that do not fill a block are left out.

A reduced pixel lies on the object if at least half of its pixels do. Its color is the mean over those of its
pixels that lie on the object, so that the background does not bleed into silhouettes; outside the object,
where no loss uses colors, over all of them.

P reduced pixels, f factor, H, W image height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reduced_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Returns height and width of a reduced image of (H, W) pixels."""
    return size[0] // factor, size[1] // factor


def reduced_pixels(pixels: Tensor, factor: int) -> Tensor:
    """Returns the uv (..., 2) in a reduced image of uv at full resolution."""
    return (pixels + 0.5) / factor - 0.5


def sample_reduced(dataset: Any, index: int, pixels: Tensor, factor: int) -> Any:
    """Returns reduced pixels of an image, (P,) numbers row by row, as the data set's ``sample_item`` does.

    Values per pixel other than masks and colors are averaged; of booleans the more frequent one counts.

    Args:
        dataset: Has ``sample_item`` and ``img_res``.
        index: Position of the image.
        pixels: Numbers in the reduced image.
        factor: f; 1 for full resolution.
    """
    if factor == 1:
        return dataset.sample_item(index, pixels)
    width = int(dataset.img_res[1])
    reduced_width = width // factor
    corner = pixels // reduced_width * factor * width + pixels % reduced_width * factor  # (P,)
    steps = torch.arange(factor)
    blocks = corner[:, None] + (steps[:, None] * width + steps).reshape(1, -1)  # (P, f f), full resolution
    position, sample, truth = dataset.sample_item(index, blocks.reshape(-1))
    sample = {**sample, "object_mask": sample["object_mask"].bool()}
    inside = sample["object_mask"].view(blocks.shape)
    sample = {name: _reduced(value, blocks) for name, value in sample.items()}
    counted = inside | ~sample["object_mask"][:, None]  # (P, f f)
    colors = truth["rgb"].view(*blocks.shape, 3) * counted[:, :, None]
    rgb = colors.sum(dim=1) / counted.sum(dim=1, keepdim=True)  # (P, 3)
    return position, sample, {name: _reduced(value, blocks) for name, value in truth.items()} | {"rgb": rgb}


def _reduced(value: Any, blocks: Tensor) -> Any:
    """Averages values per pixel; values per image stay."""
    if not isinstance(value, Tensor) or value.shape[:1] != (blocks.numel(),):
        return value
    grouped = value.view(*blocks.shape, *value.shape[1:])
    if value.dtype == torch.bool:
        return 2 * grouped.sum(dim=1) >= blocks.shape[1]
    return grouped.mean(dim=1, dtype=torch.float32)
