"""Photographs without cameras: finds them, turns them upright, and reads camera and lens from EXIF.

H rows, W columns of the upright photograph, after the EXIF rotation.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from idr.datasets.image_files import TURNS, read_header, upright
from idr.datasets.images import (
    IMAGE_ENDINGS,
    UNREAD_ENDINGS,
    VIDEO_ENDINGS,
    images_in,
    load_alpha,
    load_rgb,
    natural_sorted,
    passed_over,
)
from idr.errors import InputError, MissingInputError
from idr.files import write_atomic, write_text_atomic

KIND = "photographs"
"""The importer's name of this source."""
MIN_PHOTOGRAPHS = 3
"""Photographs needed for a reconstruction."""
IMAGE_FOLDERS = (".", "images", "image")
MASK_FOLDERS = ("mask", "masks", "silhouettes")
MAX_DEPTH = 3
"""Folders below the source that are searched, such as a camera's DCIM/100APPLE."""
FOLDER, LIST = "photographs", "photographs.json"
MAKE, MODEL = 0x010F, 0x0110
FOCAL_35MM, FOCAL_MM, PLANE_RESOLUTION, PLANE_UNIT, LENS = 0xA405, 0x920A, 0xA20E, 0xA210, 0xA434
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
"""EXIF's units of the resolution in the focal plane: inch, centimeter, millimeter."""
DIAGONAL_35MM = math.hypot(36.0, 24.0)
"""Millimeters: the 35 mm equivalent focal length refers to the film's diagonal (CIPA DCG-001)."""
DIRECT_MODES = ("L", "RGB")
DIRECT_ENDINGS = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",)}
"""Pillow modes of files that COLMAP reads as we do, and their names' endings by Pillow's formats."""


@dataclass(frozen=True)
class Photograph:
    """One photograph, as used by the reconstruction.

    Attributes:
        name: The file's name in the user's folder.
        digest: Hash of the file's bytes.
        orientation: EXIF's.
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
    orientation: int
    turned: int
    mirrored: bool
    size: tuple[int, int]
    camera: str
    focal: float | None
    copied: bool

    @property
    def mask_turn(self) -> int:
        """EXIF's orientation of a mask whose sides are swapped: one as a viewer shows it, else as stored."""
        more = (self.turned - TURNS[self.orientation][0]) % 360
        return {0: self.orientation, 90: 6, 180: 3, 270: 8}[more]


def find_photographs(source: Path) -> list[Path]:
    """Finds photographs in a folder, in natural name order, folder by folder; possibly none.

    They lie in the folder itself, in its `images/` or `image/`, or else in folders up to three levels below
    it. Folders of masks do not count.

    Raises:
        InputError: Something with an image's name is no regular file.
    """
    folders = _files_below(source, IMAGE_ENDINGS)
    for name in IMAGE_FOLDERS:
        if name in folders:
            return images_in(source / name)
    return [path for name in folders for path in images_in(source / name)]


def left_out(source: Path, used: Path) -> str:
    """Counts what a reconstruction from the folder `used` leaves out; empty if nothing is."""
    folders = _files_below(source, IMAGE_ENDINGS).items()
    others = [f"{len(files)} photographs in {name}" for name, files in folders if source / name != used]
    parts = [f"{', '.join(others)}, not used"] if others else []
    parts.append(passed_over(chain(*_files_below(source, (*UNREAD_ENDINGS, *VIDEO_ENDINGS)).values())))
    return "; ".join(filter(None, parts))


def find_video(source: Path) -> Path | None:
    """Returns the video that a source is, or that it has in place of photographs; None without one.

    Raises:
        InputError: Several videos.
    """
    if source.is_file():
        return source if source.suffix.lower() in VIDEO_ENDINGS else None
    if find_photographs(source):
        return None
    videos = list(chain(*_files_below(source, VIDEO_ENDINGS).values()))
    if len(videos) > 1:
        names = ", ".join(path.relative_to(source).as_posix() for path in videos[:8])
        raise InputError(f"{source} has {len(videos)} videos: {names}; pass one of them as the source")
    return videos[0] if videos else None


def is_photographs(source: Path) -> bool:
    """Whether a path has photographs or a video, also if they cannot be read."""
    return bool(find_video(source) or _files_below(source, (*IMAGE_ENDINGS, *UNREAD_ENDINGS)))


def _files_below(source: Path, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files by their folder relative to the source, up to three levels below it, but those of masks."""
    found = {}
    for parent, folders, names in os.walk(source):
        relative = Path(parent).relative_to(source)
        searched = (n for n in folders if not n.startswith(".") and n.lower() not in MASK_FOLDERS)
        folders[:] = sorted(searched) if len(relative.parts) < MAX_DEPTH else []
        ours = [n for n in names if Path(n).suffix.lower() in endings and not n.startswith(".")]
        if ours:
            found[relative.as_posix()] = natural_sorted(Path(parent) / name for name in ours)
    return found


def checked_photographs(source: Path) -> list[Path]:
    """Finds the photographs for a reconstruction, at least `MIN_PHOTOGRAPHS`, in natural name order.

    Raises:
        MissingInputError: No photographs.
        InputError: Too few, in several folders, or two of one name.
    """
    files = find_photographs(source)
    if not files:
        others = left_out(source, source)
        raise MissingInputError(
            f"no photographs in {source}; expected files ending in {', '.join(IMAGE_ENDINGS)}"
            + (f"; it has {others}" if others else "")
        )
    folders = Counter(path.parent.relative_to(source).as_posix() for path in files)
    if len(folders) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in list(folders.items())[:8])
        raise InputError(
            f"{source} has photographs in several folders: {listed}; pass one of them, or move the "
            "photographs of one object into one folder"
        )
    by_stem: dict[str, Path] = {}
    for path in files:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise InputError(
                f"{other} and {path.name} have one name; expected each photograph only once: remove one"
            )
    if len(files) < MIN_PHOTOGRAPHS:
        others = left_out(source, files[0].parent)
        raise InputError(
            f"too few photographs: {len(files)} in {files[0].parent}; expected at least {MIN_PHOTOGRAPHS}, "
            "better 20 to 60 all around the object" + (f"; there are {others}" if others else "")
        )
    return files


def digests(files: list[Path]) -> dict[str, str]:
    """Returns the hash of each file by name; raises `InputError` for equal files and unreadable ones."""
    owners: dict[str, str] = {}
    for path in files:
        if path.suffix.lower() in IMAGE_ENDINGS:
            read_header(path)  # a broken file, such as an empty one, has no equal
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

    Photograph k, in natural order, gets the `work_name`, so COLMAP orders by name as we do. Files that need
    no change are linked. The list is also written to `photographs.json`.

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
    """Name of photograph k in the work folder; copies are PNG.

    COLMAP's lists of pairs separate names by blanks, and it reads names as UTF-8: the user's may be neither.
    """
    return f"{k:06d}/{k:06d}{'.png' if photo.copied else Path(photo.name).suffix}"


def _read(path: Path, digest: str) -> Photograph:
    """Reads EXIF, and all pixels, so that broken files are reported now."""
    height, width = load_rgb(path).shape[:2]
    header = read_header(path)
    turned, mirrored = TURNS[header.orientation]
    focal = _focal_pixels(header.exif, width, height)
    description = map(header.exif.get, (MAKE, MODEL, LENS, FOCAL_35MM, FOCAL_MM))
    size = (width, height) if turned % 180 else (height, width)
    direct = header.mode in DIRECT_MODES and path.suffix.lower() in DIRECT_ENDINGS.get(header.format, ())
    camera = " ".join(str(word).strip(" \0") for word in description if word is not None)
    copied = bool(turned or mirrored or not direct)
    return Photograph(path.name, digest, header.orientation, turned, mirrored, size, camera, focal, copied)


def _focal_pixels(block: Mapping[int, object], width: int, height: int) -> float | None:
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
    image = Image.fromarray(upright(layers, photo.turned, photo.mirrored))
    write_atomic(target, lambda file: image.save(file, format="PNG", compress_level=1))


def _link(path: Path, target: Path) -> None:
    try:
        os.symlink(path.resolve(), target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
