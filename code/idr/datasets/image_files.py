"""Opens image files: only regular files, of named formats, of a limited number of pixels.

H rows, W columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from idr.errors import USER_ERRORS, InputError, MissingInputError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
"""Pillow's formats that are opened, whatever the name. Others may start programs, such as Ghostscript."""
MAX_PIXELS = 2**28
"""Pixels of the largest image that is read, 268 million; phones have up to 200 million."""
PHOTOS_EXTRA = "pip install 'idr-surface[photos]'"
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION, EXIF_BLOCK = 0x0112, 0x8769
"""EXIF tags."""
TURNS = {1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True)}
TURNS |= {5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False)}
"""Clockwise rotation in degrees, after mirroring left to right, by EXIF's orientation."""


@dataclass(frozen=True)
class Header:
    """What an image file says of itself, without its pixels.

    Attributes:
        size: (H, W) of the stored pixels.
        format: Pillow's name of the format.
        mode: Pillow's mode; empty for a TIFF that Pillow cannot read.
        has_alpha: Whether there is an alpha channel or a transparent color.
        exif: EXIF's tags, those of its inner block too; empty without any.
    """

    size: tuple[int, int]
    format: str
    mode: str
    has_alpha: bool
    exif: Mapping[int, Any] = field(default_factory=dict)

    @property
    def orientation(self) -> int:
        """EXIF's orientation, 1 to 8; 1 if it is missing or invalid. Pixels of HEIC files are upright."""
        value = self.exif.get(ORIENTATION, 1)
        return value if isinstance(value, int) and value in TURNS else 1


def read_header(path: Path) -> Header:
    """Reads the size, format and EXIF data of an image file.

    Raises:
        InputError: Not a readable still image, or too large.
        MissingInputError: A HEIC file, and pillow-heif is not installed.
    """
    with decoder_errors(path):
        try:
            image = open_image(path)
        except UnidentifiedImageError:
            height, width = check_size(path, *tiff_shape(path)[:2])
            return Header((height, width), "TIFF", "", False)
        with image:
            alpha = image.mode in ALPHA_MODES or "transparency" in image.info
            size = (image.height, image.width)
            return Header(size, image.format or "", image.mode, alpha, _exif(image))


def _exif(image: Image.Image) -> dict[int, Any]:
    """EXIF's tags; what cannot be read is left out, since pixels do not depend on it."""
    tags: dict[int, Any] = {}
    with suppress(Exception), warnings.catch_warnings():  # of any kind, on broken data
        warnings.simplefilter("ignore")
        exif = image.getexif()
        tags |= dict(exif)
        tags |= exif.get_ifd(EXIF_BLOCK)
    return tags


def upright(pixels: NDArray[np.generic], turned: int, mirrored: bool) -> NDArray[np.generic]:
    """Mirrors (H, W, ...) pixels left to right if asked, then turns them clockwise by `turned` degrees."""
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, -turned // 90))


@contextmanager
def decoder_errors(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises on a broken file into `InputError`."""
    check_regular(path)
    try:
        if path.stat().st_size == 0:
            raise OSError("the file is empty")
        yield
    except (*USER_ERRORS, MemoryError):
        raise
    except Exception as error:  # decoders raise arbitrary exceptions
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} cannot be read as an image ({reason}); replace it") from error


def check_regular(path: Path) -> None:
    """Raises `InputError` for anything but a regular file: opening a pipe would wait for ever."""
    if path.is_file():
        return
    found = "is a folder" if path.is_dir() else "is a pipe or a device" if path.exists() else "does not exist"
    found = "is a broken link" if path.is_symlink() and not path.exists() else found
    raise InputError(f"{path} {found}; expected an image file: remove or rename it")


def open_image(path: Path) -> Image.Image:
    """Opens an image by its content, in one of `FORMATS`, or HEIC and AVIF, with at most `MAX_PIXELS`."""
    with path.open("rb") as file:
        head = file.read(12)
    formats: tuple[str, ...] = FORMATS
    if head[4:8] == b"ftyp":
        formats = ("AVIF",) if head[8:12] in (b"avif", b"avis") else ("HEIF",)
        _register(path, formats[0])
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is below the phones'
    try:
        image = Image.open(path, formats=formats)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    check_size(path, image.height, image.width)
    return image


def _register(path: Path, name: str) -> None:
    """Makes Pillow able to open HEIF, or checks that it can open AVIF."""
    Image.init()
    if name == "HEIF":
        try:
            import pillow_heif
        except ImportError as error:
            raise MissingInputError(
                f"{path} is a HEIC file; reading it needs pillow-heif, which is not installed: "
                f"{PHOTOS_EXTRA}, or convert it to JPEG"
            ) from error
        pillow_heif.register_heif_opener()
    elif name not in Image.OPEN:
        raise InputError(f"{path} is an AVIF file, which this version of Pillow cannot read; convert to JPEG")


def check_size(path: Path, height: int, width: int) -> tuple[int, int]:
    """Returns H and W, or raises `InputError` for more than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{path} has {width} x {height} pixels, {height * width / 1e6:.0f} million; expected at most "
            f"{MAX_PIXELS / 1e6:.0f} million: reduce it"
        )
    return height, width


def tiff_shape(path: Path) -> tuple[int, ...]:
    """Shape of a TIFF that Pillow cannot read: 16 bits or floats in three channels."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(
            f"{path} cannot be read as an image (no data of {', '.join(FORMATS)}, HEIC or AVIF); replace it"
        )
    return tuple(iio.improps(path, index=0, plugin="tifffile").shape)
