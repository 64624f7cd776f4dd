"""Finds COLMAP models and checks their files before pycolmap reads them.

pycolmap never returns from a truncated `points3D.bin`, insists on a file of points, stumbles over byte order
marks, and cuts image names in text models at the first blank. So binary files are walked record by record
first, and text names are read here.
"""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from idr.errors import InputError

MODEL_FOLDERS = (".", "sparse", "colmap/sparse", "dense/sparse", "dense/0/sparse", "undistorted/sparse")
"""Folders that have a model, or several in subfolders with numbers."""
PARTS = ("cameras", "images", "points3D")
NUM_PARAMS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2)
"""Number of parameters of COLMAP's camera models, by the model's number."""


def find_models(source: Path) -> list[Path]:
    """Returns the models of the first of `MODEL_FOLDERS` that has some, the one with most images first."""
    for folder in (source / name for name in MODEL_FOLDERS):
        if ending_of(folder):
            return [folder]
        inner = folder.iterdir() if folder.is_dir() else ()
        models = [path for path in inner if path.name.isdecimal() and ending_of(path)]
        if models:
            return sorted(models, key=lambda path: (-count_images(path), int(path.name)))
    return []


def ending_of(folder: Path) -> str | None:
    """Returns `.bin` or `.txt`, the format of the model in a folder, or None without one."""
    for ending in (".bin", ".txt"):
        if all((folder / f"{part}{ending}").is_file() for part in PARTS[:2]):
            return ending
    return None


def count_images(folder: Path) -> int:
    """Returns the number of images that a model registered, 0 if it cannot be told."""
    try:
        if ending_of(folder) == ".txt":
            return sum(1 for _ in _image_lines(folder / "images.txt"))
        with (folder / "images.bin").open("rb") as file:
            return int(struct.unpack("<Q", file.read(8))[0])
    except (OSError, ValueError, struct.error):
        return 0


def stage(folder: Path, target: Path) -> dict[int, str]:
    """Links a model's files in the empty folder `target`, with an empty file of points if there is none.

    COLMAP's descriptions of rigs are left out, which pycolmap derives from the images.

    Returns:
        The name of each image by its number, in text models; empty for binary ones.

    Raises:
        InputError: A binary file is truncated.
    """
    ending = ending_of(folder)
    for part in PARTS:
        path, link = folder / f"{part}{ending}", target / f"{part}{ending}"
        if not path.is_file():
            link.write_bytes(bytes(8) if ending == ".bin" else b"")
            continue
        if ending == ".bin":
            _check(path, part)
        with path.open("rb") as file:
            has_mark = ending == ".txt" and file.read(3) == codecs.BOM_UTF8
        if has_mark:
            link.write_bytes(path.read_bytes()[3:])
        else:
            os.symlink(path.resolve(), link)
    return dict(_image_lines(folder / "images.txt")) if ending == ".txt" else {}


def _image_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields number and name of each image of an `images.txt`: every second line, and empty ones count."""
    lines = iter(path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines())
    for line in lines:
        words = line.split(maxsplit=9)
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 10 and words[0].isdecimal():
            yield int(words[0]), words[9].strip()
        next(lines, None)  # the image's points


def _check(path: Path, part: str) -> None:
    """Raises `InputError` unless the records of a binary file fill it exactly."""
    content = memoryview(path.read_bytes())
    try:
        (count,) = struct.unpack_from("<Q", content)
        position = 8
        for _ in range(count):
            position = _NEXT[part](content, position)
            if position > len(content):
                break
        is_whole = position == len(content)
    except (struct.error, IndexError, ValueError):
        is_whole = False
    if not is_whole:
        raise InputError(
            f"{path} is truncated or corrupted: its {len(content)} bytes are not the records it announces; "
            "copy the model again, or export it again in COLMAP"
        )


def _next_camera(content: memoryview, position: int) -> int:
    (model,) = struct.unpack_from("<i", content, position + 4)
    return position + 24 + 8 * NUM_PARAMS[model] if 0 <= model < len(NUM_PARAMS) else len(content)


def _next_image(content: memoryview, position: int) -> int:
    name = position + 64
    end = bytes(content[name : name + 4096]).index(0) + name + 1
    (num_points,) = struct.unpack_from("<Q", content, end)
    return end + 8 + 24 * int(num_points)


def _next_point(content: memoryview, position: int) -> int:
    (length,) = struct.unpack_from("<Q", content, position + 43)
    return position + 51 + 8 * int(length)


_NEXT = {"cameras": _next_camera, "images": _next_image, "points3D": _next_point}
