"""Photographs without cameras: finds them, turns them upright, and reads camera and lens from EXIF.

H rows, W columns of the upright photograph, after the EXIF rotation.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from idr.datasets.images import IMAGE_ENDINGS, list_images, load_alpha, load_rgb
from idr.errors import InputError, MissingInputError
from idr.files import write_atomic, write_text_atomic
from idr.importers.source import files_ending

KIND = "photographs"
"""The importer's name of this source."""
MIN_PHOTOGRAPHS = 3
"""Photographs needed for a reconstruction."""
IMAGE_FOLDERS = (".", "images", "image")
UNSUPPORTED_ENDINGS = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".mov", ".mp4")
"""Formats of phones and cameras that are not supported; named in an error message."""
LIST = "photographs.json"
ORIENTATION, MAKE, MODEL, EXIF_BLOCK = 0x0112, 0x010F, 0x0110, 0x8769
FOCAL_35MM, FOCAL_MM, PLANE_RESOLUTION, PLANE_UNIT, LENS = 0xA405, 0x920A, 0xA20E, 0xA210, 0xA434
TURNS = {1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True)}
TURNS |= {5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False)}
"""Clockwise rotation in degrees, after mirroring left to right, by EXIF's orientation."""
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
"""EXIF's units of the resolution in the focal plane: inch, centimeter, millimeter."""
DIAGONAL_35MM = math.hypot(36.0, 24.0)
"""Millimeters: the 35 mm equivalent focal length refers to the film's diagonal (CIPA DCG-001)."""
DIRECT_MODES = ("L", "RGB")
"""Pillow modes of files that COLMAP reads as we do."""


@dataclass(frozen=True)
class Photograph:
    """One photograph, as used by the reconstruction.

    Attributes:
        name: The file's name in the user's folder.
        digest: Hash of the file's bytes.
        turned: Clockwise rotation of the pixels on disk in degrees: EXIF's, plus 90 or 270 for a portrait
            among mostly landscape photographs, or the reverse.
        mirrored: Whether EXIF asks for a mirror image.
        size: (H, W).
        camera: Camera and lens from EXIF; photographs with equal values share intrinsics.
        focal: Focal length in pixels from EXIF, None without one.
        copied: Whether the reconstruction needs a rewritten file: rotated pixels, or a format that COLMAP may
            read differently.
    """

    name: str
    digest: str
    turned: int
    mirrored: bool
    size: tuple[int, int]
    camera: str
    focal: float | None
    copied: bool


def find_photographs(source: Path) -> list[Path]:
    """Finds photographs in a folder, or in its `images/` or `image/`, in natural name order."""
    for name in IMAGE_FOLDERS:
        if files_ending(source / name, IMAGE_ENDINGS):
            return list_images(source / name)
    return []


def checked_photographs(source: Path) -> list[Path]:
    """Finds the photographs for a reconstruction, at least `MIN_PHOTOGRAPHS`, in natural name order.

    Raises:
        MissingInputError: No photographs.
        InputError: Too few, or only unsupported formats.
    """
    files = find_photographs(source)
    if not files:
        unsupported = unsupported_files(source)
        if unsupported:
            raise InputError(
                f"{source} has {len(unsupported)} files in unsupported formats such as {unsupported[0]}; "
                f"expected {', '.join(IMAGE_ENDINGS)}: convert them to JPEG or PNG first"
            )
        raise MissingInputError(
            f"no photographs in {source}; expected files ending in {', '.join(IMAGE_ENDINGS)}"
        )
    if len(files) < MIN_PHOTOGRAPHS:
        raise InputError(
            f"too few photographs: {len(files)} in {files[0].parent}; expected at least {MIN_PHOTOGRAPHS}, "
            "better 20 to 60 all around the object"
        )
    return files


def unsupported_files(source: Path) -> list[str]:
    """Names of photographs and videos in unsupported formats."""
    if not source.is_dir():
        return []
    return sorted(path.name for path in source.iterdir() if path.suffix.lower() in UNSUPPORTED_ENDINGS)


def digests(files: list[Path]) -> dict[str, str]:
    """Returns the hash of each file by name; raises `InputError` for equal files and unreadable ones."""
    owners: dict[str, str] = {}
    for path in files:
        try:
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); replace it") from error
        if digest in owners:
            raise InputError(
                f"{owners[digest]} and {path.name} are the same photograph; expected each only once: remove "
                "one"
            )
        owners[digest] = path.name
    return {name: digest for digest, name in owners.items()}


def prepare(files: list[Path], hashes: dict[str, str], folder: Path) -> None:
    """Writes upright photographs to a work folder for the reconstruction.

    Photograph k, in natural order, becomes `<k, six digits>/<name>`, so COLMAP orders by name as we do. Files
    that need no change are linked. The list is also written to `photographs.json`.

    Raises:
        InputError: A file cannot be read as a still image.
    """
    photographs = [_read(path, hashes[path.name]) for path in files]
    mostly_portrait = sum(photo.size[0] > photo.size[1] for photo in photographs) * 2 > len(files)
    for k, (path, photo) in enumerate(zip(files, photographs, strict=True)):
        height, width = photo.size
        if height != width and (height > width) != mostly_portrait:
            turned = (photo.turned + (90 if mostly_portrait else 270)) % 360
            copied = bool(turned or photo.copied)
            photo = photographs[k] = replace(photo, turned=turned, size=(width, height), copied=copied)
        target = folder / work_name(k, photo)
        target.parent.mkdir()
        if photo.copied:
            _write_copy(path, photo, target)
        else:
            _link(path, target)
    write_text_atomic(folder / LIST, json.dumps([asdict(photo) for photo in photographs], indent=1) + "\n")


def read_list(folder: Path) -> list[Photograph]:
    """Reads the list that `prepare` wrote."""
    entries = json.loads((folder / LIST).read_text(encoding="utf-8"))
    return [Photograph(**{**entry, "size": tuple(entry["size"])}) for entry in entries]


def work_name(k: int, photo: Photograph) -> str:
    """Name of photograph k in the work folder; copies are PNG."""
    return f"{k:06d}/{Path(photo.name).stem + '.png' if photo.copied else photo.name}"


def _read(path: Path, digest: str) -> Photograph:
    """Reads EXIF, and all pixels, so that broken files are reported now."""
    height, width = load_rgb(path).shape[:2]
    exif, mode = _exif(path)
    turned, mirrored = TURNS.get(exif.get(ORIENTATION, 1), (0, False))
    block = exif.get_ifd(EXIF_BLOCK)
    focal = _focal_pixels(block, width, height)
    description = [exif.get(MAKE), exif.get(MODEL), *map(block.get, (LENS, FOCAL_35MM, FOCAL_MM))]
    size = (width, height) if turned % 180 else (height, width)
    copied = bool(turned or mirrored or mode not in DIRECT_MODES)
    camera = " ".join(str(word).strip(" \0") for word in description if word is not None)
    return Photograph(path.name, digest, turned, mirrored, size, camera, focal, copied)


def _exif(path: Path) -> tuple[Image.Exif, str]:
    """EXIF and Pillow's mode of a readable image; empty if Pillow cannot open it."""
    try:
        with Image.open(path) as image:
            return image.getexif(), image.mode
    except UnidentifiedImageError:  # TIFF with 16 bits a channel: read by another library, without EXIF
        return Image.Exif(), ""


def _focal_pixels(block: dict[int, object], width: int, height: int) -> float | None:
    """Focal length in pixels, from the 35 mm equivalent, or from millimeters and the sensor's resolution."""
    equivalent = _positive(block.get(FOCAL_35MM))
    if equivalent is not None:
        return equivalent * math.hypot(width, height) / DIAGONAL_35MM
    millimeters, resolution = _positive(block.get(FOCAL_MM)), _positive(block.get(PLANE_RESOLUTION))
    unit = MM_PER_UNIT.get(int(_positive(block.get(PLANE_UNIT)) or 2))
    if millimeters is None or resolution is None or unit is None:
        return None
    return millimeters * resolution / unit


def _positive(value: object) -> float | None:
    """The value if it is a positive finite number, else None; EXIF may contain anything."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _write_copy(path: Path, photo: Photograph, target: Path) -> None:
    """Writes the upright pixels losslessly, with any alpha channel."""
    alpha = load_alpha(path)
    layers = load_rgb(path) if alpha is None else np.dstack([load_rgb(path), alpha])
    if photo.mirrored:
        layers = layers[:, ::-1]
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(layers, -photo.turned // 90)))
    write_atomic(target, lambda file: upright.save(file, format="PNG", compress_level=1))


def _link(path: Path, target: Path) -> None:
    try:
        os.symlink(path.resolve(), target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
