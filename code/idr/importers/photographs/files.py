"""Photographs and masks as the project wants them: no lens distortion, one size, cameras to match.

H, W are an image's rows and columns on disk, h, w those of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.datasets.images import load_alpha, load_mask, load_rgb
from idr.errors import InputError
from idr.importers.photographs.lenses import pinhole_for, undistortion_maps
from idr.importers.source import Array, SourceView, resized

SHAPE_TOLERANCE = 1.0
"""Pixels by which the sides may miss a common factor between calibration and image: sizes are rounded."""
OPAQUE = 255
BACKDROP = 255.0
"""Color where an alpha channel leaves nothing: white, which rendering shows beside the object, too."""


@dataclass(frozen=True)
class Picture:
    """One view, ready to be written.

    Attributes:
        rgb: (h, w, 3) uint8.
        mask: (h, w) bool, True inside the object; None if the view brought no mask.
        intrinsics: (3, 3) K of `rgb`.
        world_to_camera: (3, 4).
        undistorted: Whether a lens's distortion was removed.
        rescaled: Factor from the calibrated size to the image's, 1 where they agree.
    """

    rgb: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    intrinsics: Array
    world_to_camera: Array
    undistorted: bool
    rescaled: float

    @property
    def projection(self) -> Array:
        """(3, 4) K [R | t]."""
        return self.intrinsics @ self.world_to_camera


def load_picture(view: SourceView, mask_file: Path | None, use_alpha: bool, downscale: int) -> Picture:
    """Reads a view, removes its lens's distortion, and reduces it.

    Args:
        view: The view.
        mask_file: Its mask, in the photograph's own pixels; None for none.
        use_alpha: Whether the photograph's alpha channel is the mask.
        downscale: Factor by which both sides shrink; each pixel becomes the mean of a square, and rows and
            columns that fill no square are cut off at the bottom and on the right.

    Returns:
        The view, its camera adapted exactly to each of these steps.

    Raises:
        InputError: Unreadable files, sizes that do not belong together, no alpha channel, or a lens that
            makes no sense.
    """
    rgb = load_rgb(view.image).astype(np.float32)
    size = rgb.shape[:2]
    alpha = load_alpha(view.image) if use_alpha else None
    if use_alpha and alpha is None:
        raise InputError(
            f"{view.image} has no alpha channel, which was to be the mask; expected RGBA in all images"
        )
    intrinsics, factor = _fitted(view, size)
    # Colors of transparent pixels mean nothing: they are weighed by alpha through all that follows.
    layers = (
        rgb if alpha is None else np.dstack([rgb * (alpha[..., None] / OPAQUE), alpha.astype(np.float32)])
    )
    if mask_file is not None:
        mask = load_mask(mask_file)
        if mask.shape != size:
            raise InputError(
                f"{mask_file} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {view.image.name} "
                f"{size[1]} x {size[0]}; expected the mask of this very photograph"
            )
        layers = np.dstack([layers, mask.astype(np.float32)])
    if view.lens is not None:
        pinhole = pinhole_for(intrinsics, view.lens, size, view.name)
        maps = undistortion_maps(intrinsics, view.lens, pinhole, size)
        layers = cv2.remap(layers, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        intrinsics = pinhole
    if downscale > 1:
        layers, intrinsics = _reduced(layers, intrinsics, downscale, view.name)
    colors, inside = _split(layers, alpha is not None, mask_file is not None)
    return Picture(colors, inside, intrinsics, view.world_to_camera, view.lens is not None, factor)


def _fitted(view: SourceView, size: tuple[int, int]) -> tuple[Array, float]:
    """Intrinsics for the image as it is, and its size over the calibrated one."""
    if view.calibrated_size is None or view.calibrated_size == size:
        return view.intrinsics, 1.0
    height, width = view.calibrated_size
    scale_x, scale_y = size[1] / width, size[0] / height
    if abs(scale_x - scale_y) * max(width, height) > 2 * SHAPE_TOLERANCE:
        raise InputError(
            f"{view.image} has {size[1]} x {size[0]} pixels, but its camera was calibrated for {width} x "
            f"{height}: "
            "another shape; expected the calibrated photographs, or all of them resized by one factor"
        )
    return resized(view.intrinsics, scale_x, scale_y), scale_x


def _reduced(layers: np.ndarray, intrinsics: Array, downscale: int, name: str) -> tuple[np.ndarray, Array]:
    """Means of squares of `downscale` pixels."""
    height, width = layers.shape[0] // downscale, layers.shape[1] // downscale
    if min(height, width) < 1:
        raise InputError(
            f"--downscale {downscale} leaves nothing of {name} ({layers.shape[1]} x {layers.shape[0]} "
            "pixels); "
            "expected a smaller factor"
        )
    whole = layers[: height * downscale, : width * downscale]
    squares = whole.reshape(height, downscale, width, downscale, -1)
    return squares.mean(axis=(1, 3)), resized(intrinsics, 1 / downscale, 1 / downscale)


def _split(
    layers: np.ndarray, has_alpha: bool, has_mask: bool
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Takes colors and mask apart again; a pixel is inside where the object covers more than half of it."""
    colors = layers[..., :3]
    inside = None
    if has_alpha:
        alpha = layers[..., 3:4]
        weight = np.maximum(alpha, 1e-3) / OPAQUE
        colors = np.where(alpha > 0.5, colors / weight, BACKDROP)
        inside = alpha[..., 0] > OPAQUE / 2
    if has_mask:
        inside = layers[..., -1] > 0.5
    return np.clip(np.round(colors), 0, 255).astype(np.uint8), inside
