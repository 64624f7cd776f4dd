"""Reads cameras from text files: Middlebury's `*_par.txt`, one 3 x 4 projection per image, and MVSNet's.

By default the first pixel's center is at 0. Matrices map the world to pixels.
"""

from __future__ import annotations

import re
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
    missing_images,
    other_endings,
    view_key,
    view_of_projection,
)

PAR_ENDING = "_par.txt"
PIXEL_CENTER = 0.0
IMAGE_FOLDERS = ("image", "images", "visualize", "rgb", ".")
TEXT_FOLDERS = (".", "cameras", "cams", "calib", "projections", "txt")
MVSNET_FOLDERS = (".", "cams", "cams_1", "Cameras", "cameras")


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
    found_views = [_par_view(path, words, images, pixel_center) for words in lines[1:]]
    views = [view for view in found_views if view is not None]
    missing = [words[0] for words, view in zip(lines[1:], found_views, strict=True) if view is None]
    notes = missing_images(missing, len(found_views), str(path)) + other_endings(views)
    return Source("middlebury", tuple(sorted(views, key=lambda view: view_key(view.name))), notes=notes)


def _par_view(path: Path, words: list[str], images: Path | None, pixel_center: float) -> SourceView | None:
    """The view of a line, None if its image does not exist."""
    label = f"{path}: {words[0]}"
    values = _numbers(words[1:], label)
    if len(values) != 21:
        raise InputError(f"{label} is followed by {len(values)} numbers; expected 21 (K, R and t)")
    k, rotation, t = values[:9].reshape(3, 3), values[9:18].reshape(3, 3), values[18:]
    k = centered_intrinsics(k, pixel_center, label)
    check_rotation(rotation, f"{label}: R")
    image = find_image(words[0], path.parent, images, label)
    return SourceView(words[0], image, k, np.column_stack([rotation, t])) if image else None


def find_projections(source: Path, images: Path | None = None) -> tuple[list[Path], list[Path]]:
    """Finds images, by default in `IMAGE_FOLDERS`, and text files with projections in `TEXT_FOLDERS`.

    Two empty lists without either.
    """
    folders = [images] if images else [source / name for name in IMAGE_FOLDERS]
    for photos in filter(None, (files_ending(folder, IMAGE_ENDINGS) for folder in folders)):
        for texts in (files_ending(source / name, (".txt",)) for name in TEXT_FOLDERS):
            projections = [text for text in texts if _read_projection(text) is not None]
            if projections:
                return photos, projections
    return [], []


def _read_projection(path: Path) -> Array | None:
    """The (3, 4) matrix of a text file of 12 numbers, or 16 whose last four are 0 0 0 1; None otherwise.

    A word such as PMVS's CONTOUR may precede the numbers.
    """
    try:
        words = path.read_text(encoding="utf-8-sig").split()
        if words and not words[0].strip("+-.")[:1].isdecimal() and words[0].lower() not in ("nan", "inf"):
            words = words[1:]
        values = np.array([float(word) for word in words])
    except (OSError, ValueError):  # of decoding, too
        return None
    if len(values) == 16 and (values[12:] == [0, 0, 0, 1]).all():
        values = values[:12]
    return values.reshape(3, 4) if len(values) == 12 else None


def pair_by_name(photos: list[Path], texts: list[Path], source: Path) -> list[Path]:
    """Returns the text file of each image: by name, else by the first number in the names, else by order.

    Raises:
        InputError: The number of text files differs, or several images have the number of one.
    """
    by_stem = {_stem(text): text for text in texts}
    found = [by_stem[photo.stem] for photo in photos if photo.stem in by_stem]
    if not found:
        by_number, numbers = {_number(text): text for text in texts}, [_number(photo) for photo in photos]
        found = [by_number[number] for number in numbers if number in by_number]
        # Numbers from 0 beside numbers from 1 count the same views differently.
        counts_differ = 0 in by_number and 0 not in numbers
        if None in by_number or len(by_number) < len(texts) or len(found) < len(photos) or counts_differ:
            found = natural_sorted(texts)
        elif len(set(found)) < len(found):
            first = next(text for text in found if found.count(text) > 1)
            raise InputError(
                f"{found.count(first)} images have the number of {first.name}; expected one image per camera:"
                " copy those of one light to a folder of their own and pass it with --images"
            )
    if len(photos) != len(found):
        raise InputError(
            f"{source}: {len(photos)} images but {len(found)} text files with a camera; expected one per "
            "image, with the same name or in the same natural order"
        )
    return found


def _stem(text: Path) -> str:
    return text.stem.removesuffix("_cam")  # MVSNet's


def _number(path: Path) -> int | None:
    found = re.search(r"[0-9]+", path.stem)
    return int(found[0]) if found else None


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
            f"{', '.join(IMAGE_FOLDERS)} (or --images) and .txt files of 12 numbers in "
            f"{', '.join(TEXT_FOLDERS)}"
        )
    views = []
    for photo, text in zip(photos, pair_by_name(photos, texts, source), strict=True):
        matrix = _read_projection(text)
        assert matrix is not None, "find_projections returns only such files"
        if not np.isfinite(matrix).all():
            raise InputError(f"{text}: non-finite values; calibrate this view again")
        views.append(view_of_projection(photo.name, photo, matrix, pixel_center))
    return Source("projections", tuple(views))


def find_mvsnet(source: Path) -> list[Path]:
    """Returns the `*_cam.txt` of MVSNet and BlendedMVS in a folder or in its `MVSNET_FOLDERS`."""
    folders = [source / name for name in MVSNET_FOLDERS]
    found = ([text for text in files_ending(f, (".txt",)) if text.stem.endswith("_cam")] for f in folders)
    return next(filter(None, found), [])


def read_mvsnet(source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads images and MVSNet's `*_cam.txt`; see `source.Reader`.

    A file has the word `extrinsic` and a 4 x 4 world-to-camera matrix, then `intrinsic` and K, 3 x 3.
    """
    texts = find_mvsnet(source)
    if not texts:
        raise MissingInputError(f"no *_cam.txt in {source} or its {', '.join(MVSNET_FOLDERS[1:])}")
    folders = [images] if images else [source / name for name in ("blended_images", *IMAGE_FOLDERS)]
    folders += [] if images else [source.parent / name for name in ("blended_images", "images", "image")]
    photos = next(filter(None, (files_ending(folder, IMAGE_ENDINGS) for folder in folders)), [])
    photos = [photo for photo in photos if not photo.stem.endswith("_masked")]  # copies in BlendedMVS
    if not photos:
        raise MissingInputError(f"no images/ or blended_images/ in {source}; pass their folder with --images")
    views = []
    for photo, text in zip(photos, pair_by_name(photos, texts, source), strict=True):
        words = text.read_text(encoding="utf-8-sig", errors="replace").split()
        if words[:1] != ["extrinsic"] or words[17:18] != ["intrinsic"] or len(words) < 27:
            raise InputError(f"{text}: expected `extrinsic`, 16 numbers, `intrinsic` and 9 numbers (MVSNet)")
        pose, k = _numbers(words[1:17], str(text)).reshape(4, 4), _numbers(words[18:27], str(text))
        check_rotation(pose[:3, :3], f"{text}: the rotation of extrinsic")
        k = centered_intrinsics(k.reshape(3, 3), pixel_center, str(text))
        views.append(SourceView(photo.name, photo, k, pose[:3]))
    return Source("mvsnet", tuple(views))


def _numbers(words: list[str], label: str) -> Array:
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise InputError(f"{label}: {error}; expected numbers") from error
    if not np.isfinite(values).all():
        raise InputError(f"{label}: non-finite values; calibrate this view again")
    return values
