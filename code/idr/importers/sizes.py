"""Brings the views of a scene to one size, at the right and bottom, where cameras stay as they are.

B views of sizes (H, W). Crops rows and columns that rounding added, pads everything else with background.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from idr.importers.photographs.files import PreparedView
from idr.preprocess.scene_views import Mask

Sizes = NDArray[np.integer]
MAX_CROP = 2
"""Rows or columns that are cropped rather than padded: what rounding adds when images are undistorted."""


def common_size(sizes: Sizes) -> tuple[int, int]:
    """Size (H, W) for views of sizes (B, 2): the smallest sides if they nearly agree, else the largest."""
    low, high = sizes.min(axis=0), sizes.max(axis=0)
    height, width = low if (high - low).max() <= MAX_CROP else high
    return int(height), int(width)


def fitted(view: PreparedView, size: tuple[int, int]) -> PreparedView:
    """Crops or pads a view; padded pixels repeat the image's edge and are outside the mask."""
    if view.rgb.shape[:2] == size:
        return view
    rgb = view.rgb[: size[0], : size[1]]
    more = ((0, size[0] - rgb.shape[0]), (0, size[1] - rgb.shape[1]))
    mask, backdrop = (
        layer if layer is None else np.pad(layer[: size[0], : size[1]], more)
        for layer in (view.mask, view.backdrop)
    )
    rgb = np.pad(rgb, (*more, (0, 0)), mode="edge")
    return replace(view, rgb=rgb, mask=mask, backdrop=backdrop)


def without_padding(
    masks: list[Mask], sizes: Sizes, names: list[str]
) -> tuple[list[Mask], tuple[str, ...]]:
    """Removes the padding from masks that were made of padded images.

    Returns:
        The masks, and a warning that names those which reach the padding: the object continues there.
    """
    inside, cut = [], []
    for mask, (height, width), name in zip(masks, sizes.tolist(), names, strict=True):
        kept = mask.copy()
        kept[height:], kept[:, width:] = False, False
        right, bottom = kept[:, width - 1 : width], kept[height - 1 : height]
        if (right.any() and width < mask.shape[1]) or (bottom.any() and height < mask.shape[0]):
            cut.append(name)
        inside.append(kept)
    if not cut:
        return inside, ()
    return inside, (
        f"the object is cut off where {len(cut)} images were padded ({', '.join(cut[:8])}): training takes "
        "the padding for background; move these photographs away and import again",
    )


def describe_change(sizes: Sizes, size: tuple[int, int]) -> tuple[str, ...]:
    """Returns a note on the change from sizes (B, 2) to the common one, if there is any."""
    different = sorted({(width, height) for height, width in sizes.tolist()})
    if len(different) == 1:
        return ()
    change = "cropped" if (sizes >= size).all() else "padded with background"
    listed = ", ".join(f"{width} x {height}" for width, height in different[:5])
    return (f"images of {listed} pixels {change} at right and bottom: {size[1]} x {size[0]}; cameras kept",)
