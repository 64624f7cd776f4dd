"""Prepares photographs and masks for a data folder: removes lens distortion, downscales, adapts the camera.

H, W are an image's rows and columns on disk, h, w those of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.datasets.images import OPAQUE, load_alpha, load_mask, load_rgb
from idr.errors import InputError
from idr.importers.photographs.lenses import pinhole_for, undistortion_maps
from idr.importers.source import Array, SourceView, resized
from idr.preprocess.scene_views import Mask

SHAPE_TOLERANCE = 1.0
"""Pixels by which the two sides' scale factors may disagree, since sizes are rounded."""
BACKGROUND = 255.0
"""Color of transparent pixels: white, as in renderings."""


@dataclass(frozen=True)
class PreparedView:
    """A view as it is written to the data folder.

    Attributes:
        rgb: (h, w, 3) uint8.
        mask: (h, w) bool, True inside the object; None if the source has none for it.
        intrinsics: (3, 3) K of `rgb`.
        world_to_camera: (3, 4).
        undistorted: Whether lens distortion was removed.
        rescaled: The image's size on disk over the calibrated size.
    """

    rgb: NDArray[np.uint8]
    mask: Mask | None
    intrinsics: Array
    world_to_camera: Array
    undistorted: bool
    rescaled: float

    @property
    def projection(self) -> Array:
        """(3, 4) K [R | t]."""
        return self.intrinsics @ self.world_to_camera


def prepare_view(view: SourceView, mask_file: Path | None, use_alpha: bool, downscale: int) -> PreparedView:
    """Reads a view, removes its lens distortion, and downscales it.

    Args:
        view: The view.
        mask_file: Its mask, at the photograph's size; None without one.
        use_alpha: Whether the photograph's alpha channel is the mask.
        downscale: Factor by which both sides shrink, averaging squares of pixels. Rows and columns that do
            not fill a square are cropped at the bottom and on the right.

    Returns:
        The view, with its camera adapted to each step.

    Raises:
        InputError: Unreadable files, sizes that do not match, no alpha channel, or an invalid lens.
    """
    rgb = load_rgb(view.image).astype(np.float32)
    size = rgb.shape[:2]
    alpha = load_alpha(view.image) if use_alpha else None
    if use_alpha and alpha is None:
        raise InputError(f"{view.image} has no alpha channel to use as mask; expected RGBA in all images")
    intrinsics, factor = _fitted(view, size)
    layers: np.ndarray = rgb
    if alpha is not None:
        # Colors of transparent pixels are meaningless, so all resampling below works on weighted colors.
        layers = np.dstack([rgb * (alpha[..., None] / OPAQUE), alpha.astype(np.float32)])
    if mask_file is not None:
        mask = load_mask(mask_file)
        if mask.shape != size:
            raise InputError(
                f"{mask_file} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {view.image.name} "
                f"{size[1]} x {size[0]}; expected a mask of the photograph's size"
            )
        layers = np.dstack([layers, mask.astype(np.float32)])
    if view.lens is not None:
        pinhole = pinhole_for(intrinsics, view.lens, size, view.name)
        maps = undistortion_maps(intrinsics, view.lens, pinhole, size)
        layers = cv2.remap(layers, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        intrinsics = pinhole
    if downscale > 1:
        layers, intrinsics = _downscaled(layers, intrinsics, downscale, view.name)
    colors, inside = _split(layers, alpha is not None, mask_file is not None)
    return PreparedView(colors, inside, intrinsics, view.world_to_camera, view.lens is not None, factor)


def _fitted(view: SourceView, size: tuple[int, int]) -> tuple[Array, float]:
    """Intrinsics for the image's size, and that size over the calibrated one."""
    if view.calibrated_size is None or view.calibrated_size == size:
        return view.intrinsics, 1.0
    height, width = view.calibrated_size
    scale_x, scale_y = size[1] / width, size[0] / height
    if abs(scale_x - scale_y) * max(width, height) > 2 * SHAPE_TOLERANCE:
        raise InputError(
            f"{view.image} has {size[1]} x {size[0]} pixels, but its camera was calibrated for {width} x "
            f"{height}, another aspect ratio; expected the calibrated photographs, or all of them resized by "
            "one factor"
        )
    return resized(view.intrinsics, scale_x, scale_y), scale_x


def _downscaled(layers: np.ndarray, intrinsics: Array, downscale: int, name: str) -> tuple[np.ndarray, Array]:
    height, width = layers.shape[0] // downscale, layers.shape[1] // downscale
    if min(height, width) < 1:
        raise InputError(
            f"--downscale {downscale} leaves no pixel of {name} ({layers.shape[1]} x {layers.shape[0]} "
            "pixels); expected a smaller factor"
        )
    whole = layers[: height * downscale, : width * downscale]
    squares = whole.reshape(height, downscale, width, downscale, -1)
    return squares.mean(axis=(1, 3)), resized(intrinsics, 1 / downscale, 1 / downscale)


def _split(layers: np.ndarray, has_alpha: bool, has_mask: bool) -> tuple[NDArray[np.uint8], Mask | None]:
    """Separates colors and mask; a pixel is inside if the object covers more than half of it."""
    colors, inside = layers[..., :3], None
    if has_alpha:
        alpha = layers[..., 3:4]
        weight = np.maximum(alpha, 1e-3) / OPAQUE
        colors = np.where(alpha > 0.5, colors / weight, BACKGROUND)
        inside = alpha[..., 0] > OPAQUE / 2
    if has_mask:
        inside = layers[..., -1] > 0.5
    return np.clip(np.round(colors), 0, 255).astype(np.uint8), inside
