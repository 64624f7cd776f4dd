"""Reads photographs and masks in common formats.

H rows, W columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from idr.datasets.image_files import (
    ALPHA_MODES,
    check_regular,
    check_size,
    decoder_errors,
    open_image,
    read_header,
    tiff_shape,
)
from idr.errors import InputError, MissingInputError
from idr.places import shipped_name

IMAGE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    *(".heic", ".heif", ".avif"),
)
VIDEO_ENDINGS = (".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp")
UNREAD_ENDINGS = (
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw"),
    *(".exr", ".hdr", ".gif", ".tga", ".jp2", ".jxl", ".psd", ".svg", ".eps", ".pdf", ".insp"),
)
"""Formats of cameras and programs that are not read; named in messages."""
ARRAY_MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow modes that need no conversion."""
MASK_THRESHOLD = 127.5  # of 255; the published rule
OPAQUE = 255
MAX_LABELS = 16
"""Gray values up to which a mask without pure white counts as a label image."""
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that compares numbers in a name by value: 2.png before 10.png."""
    parts = re.split(r"(\d+)", path.stem.lower())
    # Superscripts are digits but no decimals: int() refuses them.
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def natural_sorted(paths: Iterable[Path]) -> list[Path]:
    """Sorts paths by `natural_key`; full names break ties."""
    return sorted(paths, key=lambda path: (natural_key(path), path.name))


def list_images(folder: Path) -> list[Path]:
    """Lists the images of a folder, at least one, in natural name order, without hidden files.

    Raises:
        MissingInputError: No such folder, or no image in it.
        InputError: Something with an image's name is no regular file.
    """
    if not folder.is_dir():
        raise MissingInputError(
            f"no folder {folder}; expected image/ and mask/ in a scene (see "
            f"{shipped_name('DATA_CONVENTION.md')})"
        )
    found = images_in(folder)
    if not found:
        left_out = passed_over(folder.iterdir())
        others = f"; it has {left_out}" if left_out else ""
        raise MissingInputError(
            f"no images in {folder}; expected files ending in {', '.join(IMAGE_ENDINGS)}{others}"
        )
    return found


def images_in(folder: Path) -> list[Path]:
    """Lists the images of a folder like `list_images`, possibly none."""
    entries = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
    found = natural_sorted(p for p in entries if not p.name.startswith("."))
    for path in found:
        check_regular(path)
    return found


def passed_over(paths: Iterable[Path]) -> str:
    """Counts the files of formats that are not read, and says how to convert them; empty without any."""
    endings = (*UNREAD_ENDINGS, *VIDEO_ENDINGS)
    files = [p for p in paths if p.suffix.lower() in endings and not p.name.startswith(".") and p.is_file()]
    if not files:
        return ""
    counts = Counter(path.suffix.lower() for path in files)
    listed = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
    remedies = ["convert photographs to JPEG or PNG"] * any(e in UNREAD_ENDINGS for e in counts)
    remedies += ["pass a video alone as the source"] * any(e in VIDEO_ENDINGS for e in counts)
    return f"{listed} that are not read ({natural_sorted(files)[0].name}): {', '.join(remedies)}"


def _read(path: Path) -> NDArray[np.generic]:
    """Reads (H, W) or (H, W, C) values of L, LA, RGB or RGBA in the file's own type."""
    with decoder_errors(path):
        pixels = _decode(path)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 2, 3, 4)):
        raise InputError(f"{path} has shape {pixels.shape}; expected one still image of 1 to 4 channels")
    return pixels


def _decode(path: Path) -> NDArray[np.generic]:
    """Decodes a file; the first of several pages or of a stereo pair."""
    try:
        image = open_image(path)
    except UnidentifiedImageError:
        check_size(path, *tiff_shape(path)[:2])
        return np.array(iio.imread(path, index=0, plugin="tifffile"))
    with image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format in ("PNG", "WEBP", "AVIF"):
            raise InputError(f"{path} is an animation of {frames} frames; expected one still image")
        transparent = "transparency" in image.info and image.mode in ("1", "L", "RGB", "P")
        if image.mode in ARRAY_MODES and not transparent:
            return np.array(image)
        # Palettes and other color spaces.
        return np.array(image.convert("RGBA" if transparent or image.mode in ALPHA_MODES else "RGB"))


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


def is_cut_out(path: Path) -> bool:
    """Whether an image has an alpha channel with transparent pixels."""
    alpha = load_alpha(path) if read_header(path).has_alpha else None
    return alpha is not None and bool((alpha < MASK_THRESHOLD).any())


def load_mask(path: Path) -> NDArray[np.bool_]:
    """Loads an object mask, (H, W) bool.

    - An alpha channel with transparent pixels is the mask, whatever the colors (cut-out photographs).
    - Of a palette with colors (label images), index 0 is the background, all else the object.
    - Of exactly two gray values, the larger is the object.
    - Otherwise gray values above 127.5 of 255 are the object. Colors are reduced to their luma.

    Raises:
        InputError: Not a readable still image, or several values of which none is white.
    """
    labels = _palette_labels(path)
    if labels is not None:
        return labels != 0
    raw = np.atleast_3d(_read(path))
    num_colors = 1 if raw.shape[2] < 3 else 3
    color, alpha = np.split(raw, [num_colors], axis=2)
    opacity = _to_uint8(_stretched(alpha), path)
    if (opacity < MASK_THRESHOLD).any():
        return opacity[..., 0] > MASK_THRESHOLD
    gray = color[..., 0]
    if num_colors == 3:
        gray = np.round(_to_uint8(_stretched(color), path).astype(np.float64) @ LUMA).astype(np.uint8)
    values = _values(gray)
    if len(values) == 2:
        return gray == values[1]
    inside = _to_uint8(_stretched(gray), path) > MASK_THRESHOLD
    labeled = num_colors == 1 and gray.dtype == np.uint8 and len(values) <= MAX_LABELS and values[-1] < OPAQUE
    if len(values) > 2 and (labeled or not inside.any()):
        found = ", ".join(f"{value:g}" for value in values[:MAX_LABELS])
        found += f", ... {values[-1]:g}" if len(values) > MAX_LABELS else ""
        raise InputError(
            f"{path} has the values {found}; expected a mask of two values, or the object in white (255) on "
            "black: keep only the object's label"
        )
    return inside


def _values(gray: NDArray[np.generic]) -> NDArray[np.generic]:
    """Distinct values in increasing order."""
    if gray.dtype == np.uint8:
        return np.flatnonzero(np.bincount(gray.ravel(), minlength=OPAQUE + 1))
    return np.unique(gray)


def _palette_labels(path: Path) -> NDArray[np.uint8] | None:
    """Indices (H, W) of a file with an opaque palette of colors; None for other files."""
    if read_header(path).mode != "P":
        return None
    with decoder_errors(path), open_image(path) as image:
        indices = np.array(image)
        colors = np.array(image.convert("RGB")).reshape(-1, 3)
        gray = bool((colors == colors[:, :1]).all())
        return None if gray or "transparency" in image.info else indices


def _stretched(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Scales values of 0 and 1 to 0 and 255; returns others unchanged."""
    if np.issubdtype(values.dtype, np.integer) and values.size and values.max() == 1:
        return values.astype(np.uint8) * np.uint8(OPAQUE)
    return values
