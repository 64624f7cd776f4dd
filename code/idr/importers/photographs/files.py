"""Prepares photographs and masks for a data folder: removes lens distortion, downscales, adapts the camera.

H, W are an image's rows and columns on disk, h, w those of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.datasets.image_files import TURNS, read_header, upright
from idr.datasets.images import OPAQUE, load_alpha, load_mask, load_rgb
from idr.errors import InputError
from idr.importers.photographs.lenses import pinhole_for, undistortion_maps
from idr.importers.photographs.source import KIND
from idr.importers.source import Array, Source, SourceView, resized
from idr.preprocess.scene_views import Mask

SHAPE_TOLERANCE = 1.0
"""Pixels by which the two sides' scale factors may disagree, since sizes are rounded."""
BACKGROUND = 255.0
"""Color of transparent pixels: white, as in renderings."""
CERTAIN = 0.99
"""Share of a pixel that the mask of the backdrop must cover."""
INVERSE = {6: 8, 8: 6}
"""EXIF's orientation that undoes another one; all others undo themselves."""
LARGE, BAND_ROWS = 2**26, 64
"""Pixels above which a photograph is reduced before its distortion is removed; rows of a reduced band."""


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
        backdrop: (h, w) bool, True where the image certainly shows background; None if unknown.
    """

    rgb: NDArray[np.uint8]
    mask: Mask | None
    intrinsics: Array
    world_to_camera: Array
    undistorted: bool
    rescaled: float
    backdrop: Mask | None = None

    @property
    def projection(self) -> Array:
        """(3, 4) K [R | t]."""
        return self.intrinsics @ self.world_to_camera


def cameras_are_upright(views: Sequence[SourceView]) -> bool:
    """Whether the cameras belong to photographs turned upright by EXIF, not to the pixels as stored.

    COLMAP and most programs ignore EXIF's orientation, so pixels are used as stored, unless the calibrated
    size of some view fits only the upright photograph.
    """
    for view in views:
        header = read_header(view.image)
        if view.calibrated_size is not None and TURNS[header.orientation][0] % 180:
            stored, calibrated = header.size, view.calibrated_size
            if not _same_shape(stored, calibrated) and _same_shape(stored[::-1], calibrated):
                return True
    return False


def is_turned_upright(source: Source) -> bool:
    """Whether EXIF's orientation is applied to photographs: bare ones, or see `cameras_are_upright`."""
    return source.kind == KIND or cameras_are_upright(source.views)


def orientation_notes(source: Source) -> list[str]:
    """Says what was done with EXIF's orientation of photographs that have cameras, if any has one."""
    turned = [view.name for view in source.views if read_header(view.image).orientation != 1]
    if source.kind == KIND or not turned:
        return []
    some = f"{len(turned)} of {len(source.views)} photographs (first: {turned[0]})"
    if cameras_are_upright(source.views):
        return [f"{some} turned upright by EXIF's orientation, as the calibrated size asks"]
    return [
        f"EXIF's orientation of {some} is ignored, as COLMAP does: cameras and masks are those of the pixels "
        "as stored; if the images come out sideways or upside down, calibrate upright copies"
    ]


def prepare_view(
    view: SourceView, mask_file: Path | None, use_alpha: bool, downscale: int, turn_upright: bool = False
) -> PreparedView:
    """Reads a view, removes its lens distortion, and downscales it.

    Args:
        view: The view.
        mask_file: Its mask, at the photograph's size; None without one.
        use_alpha: Whether the photograph's alpha channel is the mask.
        downscale: Factor by which both sides shrink, averaging squares of pixels. Rows and columns that do
            not fill a square are cropped at the bottom and on the right.
        turn_upright: Whether EXIF's orientation is applied to photograph and mask; see `cameras_are_upright`.

    Returns:
        The view, with its camera adapted to each step.

    Raises:
        InputError: Unreadable files, sizes that do not match, no alpha channel, or an invalid lens.
    """
    stored = read_header(view.image).orientation
    turn = TURNS[stored if turn_upright else 1]
    rgb = upright(load_rgb(view.image), *turn)
    size = rgb.shape[:2]
    alpha = load_alpha(view.image) if use_alpha else None
    if use_alpha and alpha is None:
        raise InputError(f"{view.image} has no alpha channel to use as mask; expected RGBA in all images")
    parts = [rgb, alpha if alpha is None else upright(alpha, *turn), None, None]
    intrinsics, factor = fitted_intrinsics(view, size)
    if mask_file is not None:
        swapped = view.mask_turn or (stored if turn_upright else INVERSE.get(stored, stored))
        parts[2] = _read_mask(mask_file, view.image.name, size, swapped, turn_upright)
    if view.backdrop is not None:
        parts[3] = load_mask(view.backdrop)
    if downscale > 1:
        _check_downscale(size, downscale, view.name)
    reduce_first = downscale > 1 and size[0] * size[1] > LARGE
    layers = _reduced_in_bands(parts, downscale) if reduce_first else _stacked(parts)
    if reduce_first:
        intrinsics = resized(intrinsics, 1 / downscale, 1 / downscale)
    if view.lens is not None:
        size = layers.shape[:2]
        pinhole = pinhole_for(intrinsics, view.lens, size, view.name)
        maps = undistortion_maps(intrinsics, view.lens, pinhole, size)
        layers = cv2.remap(layers, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        intrinsics = pinhole
    if downscale > 1 and not reduce_first:
        layers, intrinsics = _reduced(layers, downscale), resized(intrinsics, 1 / downscale, 1 / downscale)
    backdrop = None if parts[3] is None else layers[..., -1] > CERTAIN
    layers = layers if backdrop is None else layers[..., :-1]
    colors, inside = _split(layers, alpha is not None, mask_file is not None)
    undistorted = view.lens is not None
    return PreparedView(colors, inside, intrinsics, view.world_to_camera, undistorted, factor, backdrop)


def _read_mask(path: Path, image: str, size: tuple[int, int], swapped: int, turn_upright: bool) -> Mask:
    """Reads a mask of an image of `size` (H, W); `swapped` is the orientation of one with swapped sides."""
    mask = load_mask(path)
    if turn_upright:
        mask = upright(mask, *TURNS[read_header(path).orientation]).astype(bool)
    if mask.shape != size and mask.shape == size[::-1]:
        mask = upright(mask, *TURNS[swapped]).astype(bool)
    if mask.shape != size:
        raise InputError(
            f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {image} {size[1]} x {size[0]}; "
            "expected a mask of the photograph's size: export the masks again at that size, or use --masks "
            "auto"
        )
    return mask


def _stacked(parts: Sequence[np.ndarray | None]) -> np.ndarray:
    """Layers (H, W, 3 to 6) of float32: colors, weighted by any alpha channel; the latter; any masks."""
    rgb, alpha, *masks = parts
    assert rgb is not None
    layers = rgb.astype(np.float32)
    if alpha is not None:
        # Colors of transparent pixels are meaningless, so all resampling below works on weighted colors.
        layers = np.dstack([layers * (alpha[..., None] / np.float32(OPAQUE)), alpha.astype(np.float32)])
    return np.dstack([layers, *(mask.astype(np.float32) for mask in masks if mask is not None)])


def _reduced_in_bands(parts: Sequence[np.ndarray | None], downscale: int) -> np.ndarray:
    """Reduces bands of rows in turn: all layers of a large photograph at once would need gigabytes."""
    assert parts[0] is not None
    step, bands = BAND_ROWS * downscale, []
    for row in range(0, len(parts[0]) // downscale * downscale, step):
        band = [None if part is None else part[row : row + step] for part in parts]
        bands.append(_reduced(_stacked(band), downscale))
    return np.concatenate(bands)


def fitted_intrinsics(view: SourceView, size: tuple[int, int]) -> tuple[Array, float]:
    """Returns K (3, 3) for an image of `size` (H, W), and that size over the calibrated one."""
    if view.calibrated_size is None or view.calibrated_size == size:
        return view.intrinsics, 1.0
    height, width = view.calibrated_size
    scale_x, scale_y = size[1] / width, size[0] / height
    if not _same_shape(size, view.calibrated_size):
        raise InputError(
            f"{view.image} has {size[1]} x {size[0]} pixels, but its camera was calibrated for {width} x "
            f"{height}, another aspect ratio; expected the calibrated photographs, or all of them resized by "
            "one factor"
        )
    return resized(view.intrinsics, scale_x, scale_y), scale_x


def _same_shape(size: tuple[int, ...], calibrated: tuple[int, ...]) -> bool:
    factors = size[0] / calibrated[0], size[1] / calibrated[1]
    return abs(factors[0] - factors[1]) * max(calibrated) <= 2 * SHAPE_TOLERANCE


def _check_downscale(size: tuple[int, ...], downscale: int, name: str) -> None:
    if min(size) < downscale:
        raise InputError(
            f"--downscale {downscale} leaves no pixel of {name} ({size[1]} x {size[0]} pixels); expected a "
            "smaller factor"
        )


def _reduced(layers: np.ndarray, downscale: int) -> np.ndarray:
    height, width = layers.shape[0] // downscale, layers.shape[1] // downscale
    whole = layers[: height * downscale, : width * downscale]
    return whole.reshape(height, downscale, width, downscale, -1).mean(axis=(1, 3))


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
