"""Photographs without cameras: found, checked, turned upright, and sorted by the camera that took them.

H rows, W columns, of a photograph as it is looked at: after the quarter turns that its EXIF asks for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from idr.datasets.images import IMAGE_ENDINGS, list_images, load_alpha, load_rgb
from idr.errors import InputError, MissingInputError
from idr.files import write_atomic, write_text_atomic

KIND = "photographs"
"""What the importer calls such a source."""
FEWEST = 3
"""Photographs below which there is nothing to reconstruct."""
IMAGE_FOLDERS = (".", "images", "image")
FOREIGN_ENDINGS = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".mov", ".mp4")
"""What phones and cameras write and this project does not read, for a message that helps."""
LIST = "photographs.json"
ORIENTATION, MAKE, MODEL, EXIF_BLOCK = 0x0112, 0x010F, 0x0110, 0x8769
FOCAL_35MM, FOCAL_MM, PLANE_RESOLUTION, PLANE_UNIT, LENS = 0xA405, 0x920A, 0xA20E, 0xA210, 0xA434
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
"""EXIF's units of the resolution in the focal plane: inch, centimetre, millimeter."""
DIAGONAL_35MM = math.hypot(36.0, 24.0)
"""Millimeters: the equivalent focal length is defined by the diagonal of this film (CIPA DCG-001)."""
READ_AS_IT_IS = ("L", "RGB")


@dataclass(frozen=True)
class Photograph:
    """One photograph, as the reconstruction sees it.

    Attributes:
        name: The file's name in the user's folder.
        digest: Of the file's bytes.
        turned: Degrees, clockwise, by which its pixels on disk are turned: EXIF's and, where most of the
            others lie and this one stands (or the reverse), a quarter more.
        mirrored: Whether EXIF asks for a mirror image.
        size: (H, W).
        camera: What told its camera and lens; equal for photographs that share intrinsics.
        focal: Focal length in pixels by EXIF, None where it says nothing.
        copied: Whether the reconstruction needs a file of its own, since pixels were turned or have a format
            that COLMAP may read otherwise.
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
    """Finds photographs in a folder, or in its `images/` or `image/`.

    Args:
        source: The folder.

    Returns:
        Files in natural name order; empty if there are none.
    """
    for name in IMAGE_FOLDERS:
        folder = source / name
        if folder.is_dir() and any(_is_image(path) for path in folder.iterdir()):
            return list_images(folder)
    return []


def checked_photographs(source: Path) -> list[Path]:
    """Finds photographs, as many as a reconstruction needs, or says why there are none.

    Args:
        source: The folder.

    Returns:
        Files in natural name order.

    Raises:
        MissingInputError: None there.
        InputError: Too few, or formats that are not read.
    """
    files = find_photographs(source)
    if not files:
        foreign = foreign_files(source)
        if foreign:
            raise InputError(
                f"{source} holds {len(foreign)} files such as {foreign[0]}, which are not read; expected "
                f"{', '.join(IMAGE_ENDINGS)}: convert them to JPEG or PNG first"
            )
        raise MissingInputError(
            f"no photographs in {source}; expected files ending in {', '.join(IMAGE_ENDINGS)}"
        )
    if len(files) < FEWEST:
        raise InputError(
            f"too few photographs: {len(files)} in {files[0].parent}; expected {FEWEST} at the very least, "
            "better 20 to 60 all around the object"
        )
    return files


def foreign_files(source: Path) -> list[str]:
    """Names of photographs and films in formats that are not read."""
    if not source.is_dir():
        return []
    return sorted(path.name for path in source.iterdir() if path.suffix.lower() in FOREIGN_ENDINGS)


def digests(files: list[Path]) -> dict[str, str]:
    """Digests of photographs by name.

    Args:
        files: The photographs.

    Returns:
        One digest a name.

    Raises:
        InputError: Two files are one and the same photograph, or a file cannot be read.
    """
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for path in files:
        try:
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); replace it") from error
        if digest in owners:
            raise InputError(
                f"{owners[digest]} and {path.name} are the same photograph; expected each once: remove one"
            )
        owners[digest] = path.name
        found[path.name] = digest
    return found


def prepare(files: list[Path], known: dict[str, str], folder: Path) -> list[Photograph]:
    """Puts photographs, upright, into a folder of their own, where a reconstruction finds them.

    Photograph k becomes `<k of six digits>/<name>`: COLMAP's order by name is the natural one then. A file
    that needs no change becomes a link.

    Args:
        files: Photographs in natural order.
        known: What `digests` returned.
        folder: An existing, empty folder.

    Returns:
        The photographs; the same list is in the folder's `photographs.json`.

    Raises:
        InputError: One cannot be read as a still image.
    """
    looked = [_look(path, known[path.name]) for path in files]
    standing = [photo.size[0] > photo.size[1] for photo in looked]
    mostly_standing = sum(standing) * 2 > len(looked)
    photographs = []
    for k, (path, photo, stands) in enumerate(zip(files, looked, standing, strict=True)):
        square = photo.size[0] == photo.size[1]
        if stands != mostly_standing and not square:
            photo = _quarter_turned(photo, 90 if mostly_standing else 270)
        target = folder / work_name(k, photo)
        target.parent.mkdir()
        if photo.copied:
            _write_copy(path, photo, target)
        else:
            _link(path, target)
        photographs.append(photo)
    write_text_atomic(folder / LIST, json.dumps([asdict(photo) for photo in photographs], indent=1) + "\n")
    return photographs


def read_list(folder: Path) -> list[Photograph]:
    """Reads what `prepare` wrote into its folder."""
    entries = json.loads((folder / LIST).read_text(encoding="utf-8"))
    return [Photograph(**{**entry, "size": tuple(entry["size"])}) for entry in entries]


def work_name(k: int, photo: Photograph) -> str:
    """Name of photograph k in the folder of `prepare`; copies are PNG."""
    return f"{k:06d}/{Path(photo.name).stem + '.png' if photo.copied else photo.name}"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file()


def _look(path: Path, digest: str) -> Photograph:
    """Reads a photograph whole, so that a broken file is named now, and its EXIF."""
    height, width = load_rgb(path).shape[:2]
    exif, mode = _exif(path)
    turned, mirrored = _orientation(exif.get(ORIENTATION, 1))
    block = exif.get_ifd(EXIF_BLOCK)
    focal = _focal_pixels(block, width, height)
    told = [exif.get(MAKE), exif.get(MODEL), block.get(LENS), block.get(FOCAL_35MM), block.get(FOCAL_MM)]
    size = (width, height) if turned % 180 else (height, width)
    copied = bool(turned or mirrored or mode not in READ_AS_IT_IS)
    camera = " ".join(str(word).strip(" \0") for word in told if word is not None)
    return Photograph(path.name, digest, turned, mirrored, size, camera, focal, copied)


def _exif(path: Path) -> tuple[Image.Exif, str]:
    """A readable image's EXIF and Pillow's word for its format; empty where Pillow cannot open it."""
    try:
        with Image.open(path) as image:
            return image.getexif(), image.mode
    except UnidentifiedImageError:  # TIFF of 16 bits a channel: read by another library, and without EXIF
        return Image.Exif(), ""


def _orientation(value: int) -> tuple[int, bool]:
    """Clockwise degrees to turn, after a mirror image left to right, for EXIF's values 1 to 8."""
    table = {1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True)}
    table |= {5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False)}
    return table.get(value, (0, False))


def _focal_pixels(block: dict[int, object], width: int, height: int) -> float | None:
    """Focal length in pixels: from the equivalent for 35 mm film, or from millimeters and the sensor."""
    equivalent = _positive(block.get(FOCAL_35MM))
    if equivalent is not None:
        return equivalent * math.hypot(width, height) / DIAGONAL_35MM
    millimeters, resolution = _positive(block.get(FOCAL_MM)), _positive(block.get(PLANE_RESOLUTION))
    unit = MM_PER_UNIT.get(int(_positive(block.get(PLANE_UNIT)) or 2))
    if millimeters is None or resolution is None or unit is None:
        return None
    return millimeters * resolution / unit


def _positive(value: object) -> float | None:
    """The value as a positive finite number, None for anything else; EXIF holds what a program left there."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _quarter_turned(photo: Photograph, degrees: int) -> Photograph:
    values = asdict(photo) | {"turned": (photo.turned + degrees) % 360, "size": photo.size[::-1]}
    copied = bool(values["turned"] or photo.mirrored or photo.copied)
    return Photograph(**values | {"copied": copied})


def _write_copy(path: Path, photo: Photograph, target: Path) -> None:
    """Writes the turned pixels without loss, an alpha channel with them."""
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
