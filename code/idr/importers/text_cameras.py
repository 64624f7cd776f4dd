"""Reads cameras from text files: Middlebury's `*_par.txt`, and one 3 x 4 projection matrix per image.

By default the first pixel's center is at 0. Matrices map the world to pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from idr.datasets.images import IMAGE_ENDINGS, list_images, natural_sorted
from idr.errors import InputError, MissingInputError
from idr.importers.source import (
    Array,
    Source,
    SourceView,
    centered_intrinsics,
    check_rotation,
    files_ending,
    find_image,
    view_key,
    view_of_projection,
)

PAR_ENDING = "_par.txt"
PIXEL_CENTER = 0.0
IMAGE_FOLDERS = ("image", "images", "visualize", "rgb", ".")
TEXT_FOLDERS = (".", "cameras", "cams", "calib", "projections", "txt")


def find_par(source: Path) -> list[Path]:
    """Returns the `*_par.txt` of a folder, or the file itself."""
    if source.is_file():
        return [source] if source.name.endswith(PAR_ENDING) else []
    return sorted(source.glob(f"[!.]*{PAR_ENDING}"))


def read_middlebury(source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads a `*_par.txt`: the number of images, then lines `name K R t`; see `source.Reader`.

    The projection is K [R | t].
    """
    found = find_par(source)
    if not found:
        raise MissingInputError(f"no *{PAR_ENDING} in {source}")
    if len(found) > 1:
        raise InputError(f"{source} has {', '.join(p.name for p in found)}; pass one of them as SOURCE")
    path = found[0]
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    if not lines or len(lines[0]) != 1 or not lines[0][0].isdecimal():
        raise InputError(
            f"{path} does not begin with the number of images; expected it alone on the first line"
        )
    if int(lines[0][0]) != len(lines) - 1:
        raise InputError(
            f"{path} announces {lines[0][0]} images and lists {len(lines) - 1}; it may be truncated: "
            "download it again"
        )
    views = [_par_view(path, words, images or path.parent, pixel_center) for words in lines[1:]]
    return Source("middlebury", tuple(sorted(views, key=lambda view: view_key(view.name))))


def _par_view(path: Path, words: list[str], folder: Path, pixel_center: float) -> SourceView:
    label = f"{path}: {words[0]}"
    values = _numbers(words[1:], label)
    if len(values) != 21:
        raise InputError(f"{label} is followed by {len(values)} numbers; expected 21 (K, R and t)")
    k, rotation, t = values[:9].reshape(3, 3), values[9:18].reshape(3, 3), values[18:]
    k = centered_intrinsics(k, pixel_center, label)
    check_rotation(rotation, f"{label}: R")
    image = find_image(folder / words[0], label)
    return SourceView(words[0], image, k, np.column_stack([rotation, t]))


def find_projections(source: Path, images: Path | None = None) -> tuple[list[Path], list[Path]]:
    """Finds images, by default in `IMAGE_FOLDERS`, and their text files with projections.

    They are paired by name, or by natural order if no names agree. Two empty lists if there are none.
    """
    folders = [images] if images else [source / name for name in IMAGE_FOLDERS]
    for photos in filter(None, (files_ending(folder, IMAGE_ENDINGS) for folder in folders)):
        for texts in (files_ending(source / name, (".txt",)) for name in TEXT_FOLDERS):
            by_stem = {text.stem: text for text in texts if is_projection(text)}
            if by_stem:
                named = [by_stem[photo.stem] for photo in photos if photo.stem in by_stem]
                return photos, named or natural_sorted(by_stem.values())
    return [], []


def is_projection(path: Path) -> bool:
    """Whether a text file has 12 numbers, optionally after a word such as PMVS's CONTOUR."""
    try:
        words = path.read_text(encoding="utf-8").split()
        return len([float(word) for word in words[len(words) % 12 :]]) == 12
    except (OSError, ValueError):  # of decoding, too
        return False


def read_projections(source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads images, each with a text file of a 3 x 4 projection; see `source.Reader`.

    Images are searched in `IMAGE_FOLDERS`, text files in `TEXT_FOLDERS`.
    """
    photos, texts = find_projections(source, images)
    if not photos:
        if images:
            list_images(images)
        raise MissingInputError(
            f"no images with text files of 3 x 4 projections in {source}; expected images in "
            f"{', '.join(IMAGE_FOLDERS)} and .txt files of 12 numbers in {', '.join(TEXT_FOLDERS)}"
        )
    if len(photos) != len(texts):
        raise InputError(
            f"{source}: {len(photos)} images but {len(texts)} text files with a 3 x 4 projection; expected "
            "one per image, with the same name or in the same natural order"
        )
    views = []
    for photo, text in zip(photos, texts, strict=True):
        words = text.read_text(encoding="utf-8").split()
        matrix = _numbers(words[-12:], str(text)).reshape(3, 4)
        views.append(view_of_projection(photo.name, photo, matrix, pixel_center))
    return Source("projections", tuple(views))


def _numbers(words: list[str], label: str) -> Array:
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise InputError(f"{label}: {error}; expected numbers") from error
    if not np.isfinite(values).all():
        raise InputError(f"{label}: non-finite values; calibrate this view again")
    return values
