"""Reads photographs and masks in common formats.

H rows, W columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from idr.errors import InputError, MissingInputError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
ARRAY_MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow modes that need no conversion."""
MASK_THRESHOLD = 127.5  # of 255; the published rule
OPAQUE = 255
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that compares numbers in a name by value: 2.png before 10.png."""
    parts = re.split(r"(\d+)", path.stem.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def natural_sorted(paths: Iterable[Path]) -> list[Path]:
    """Sorts paths by `natural_key`; full names break ties."""
    return sorted(paths, key=lambda path: (natural_key(path), path.name))


def list_images(folder: Path) -> list[Path]:
    """Lists the images of a folder, at least one, in natural name order, without hidden files.

    Raises:
        MissingInputError: No such folder, or no image in it.
    """
    if not folder.is_dir():
        raise MissingInputError(
            f"no folder {folder}; expected image/ and mask/ in a scene (see DATA_CONVENTION.md)"
        )
    found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith(".")]
    if not found:
        raise MissingInputError(f"no images in {folder}; expected files ending in {', '.join(IMAGE_ENDINGS)}")
    return natural_sorted(found)


def _read(path: Path) -> NDArray[np.generic]:
    """Reads (H, W) or (H, W, C) values of L, LA, RGB or RGBA in the file's own type."""
    try:
        pixels = _decode(path)
    except InputError:
        raise
    except Exception as error:  # decoders raise arbitrary exceptions on broken files
        raise InputError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error}); replace it"
        ) from error
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 2, 3, 4)):
        raise InputError(f"{path} has shape {pixels.shape}; expected one still image of 1 to 4 channels")
    return pixels


def _decode(path: Path) -> NDArray[np.generic]:
    """Decodes a file; the first of several pages or of a stereo pair."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if path.suffix.lower() in (".tif", ".tiff"):  # Pillow cannot read 16 bits or floats in three channels
            return np.array(iio.imread(path, index=0, plugin="tifffile"))
        raise
    with image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format in ("PNG", "WEBP"):
            raise InputError(f"{path} is an animation of {frames} frames; expected one still image")
        if image.mode in ARRAY_MODES:
            return np.array(image)
        # Palettes and other color spaces.
        has_alpha = image.mode.lower() in ("pa", "rgba", "la") or "transparency" in image.info
        return np.array(image.convert("RGBA" if has_alpha else "RGB"))


def _to_uint8(pixels: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Scales 1-bit, 16-bit and float images to 0..255."""
    if pixels.dtype == np.uint8 or pixels.size == 0:
        return pixels.astype(np.uint8, copy=False)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(OPAQUE)
    if np.issubdtype(pixels.dtype, np.integer) and pixels.min() >= 0 and pixels.max() <= 65535:
        # 16 bits, also decoded as wider integers
        return np.round(pixels.astype(np.float64) / 257.0).astype(np.uint8)
    if np.issubdtype(pixels.dtype, np.floating) and np.isfinite(pixels).all() and pixels.max() <= 1.0:
        return np.round(np.clip(pixels.astype(np.float64), 0, 1) * OPAQUE).astype(np.uint8)
    raise InputError(
        f"{path} has {pixels.dtype} values; expected 8 or 16 bits per channel, or floats in [0, 1]"
    )


def load_rgb(path: Path) -> NDArray[np.uint8]:
    """Loads a photograph as RGB, (H, W, 3) uint8.

    Gray images are repeated over three channels, 16 bits reduced to 8, and alpha channels dropped.

    Raises:
        InputError: Not a readable still image.
    """
    pixels = np.atleast_3d(_to_uint8(_read(path), path))
    if pixels.shape[2] in (1, 2):
        return np.repeat(pixels[..., :1], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def load_alpha(path: Path) -> NDArray[np.uint8] | None:
    """Loads the alpha channel of an image, (H, W) uint8, 255 where opaque; None without one.

    Raises:
        InputError: Not a readable still image.
    """
    pixels = _to_uint8(_read(path), path)
    if pixels.ndim == 2 or pixels.shape[2] not in (2, 4):
        return None
    return np.ascontiguousarray(pixels[..., -1])


def load_mask(path: Path) -> NDArray[np.bool_]:
    """Loads an object mask, (H, W) bool: gray values above 127.5 of 255 are inside.

    Files with only the values 0 and 1 are treated as booleans. Colors are reduced to their luma. An alpha
    channel with transparent pixels is intersected with the mask of the colors, or replaces it if all colors
    are equal.

    Raises:
        InputError: Not a readable still image.
    """
    raw = np.atleast_3d(_read(path))
    num_colors = 1 if raw.shape[2] < 3 else 3
    color, alpha = (_to_uint8(_stretched(part), path) for part in np.split(raw, [num_colors], axis=2))
    gray = color[..., 0] if num_colors == 1 else np.round(color.astype(np.float64) @ LUMA)
    inside = gray > MASK_THRESHOLD
    if (alpha < OPAQUE).any():
        opaque = alpha[..., 0] > MASK_THRESHOLD
        inside = opaque if color.min() == color.max() else inside & opaque
    return inside


def _stretched(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Scales values of 0 and 1 to 0 and 255; returns others unchanged."""
    if np.issubdtype(values.dtype, np.integer) and values.size and values.max() == 1:
        return values.astype(np.uint8) * np.uint8(OPAQUE)
    return values
