"""The supported source formats, and how each is recognized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from idr.errors import InputError, MissingInputError
from idr.importers import colmap, numpy_folders, text_cameras, transforms
from idr.importers.photographs import source as photographs
from idr.importers.source import Reader, Source


@dataclass(frozen=True)
class Kind:
    """A source format: the files that identify it, for messages; whether a path has it; its reader.

    `pixel_center` is the coordinate of the first pixel's center.
    """

    looks_for: str
    matches: Callable[[Path], bool]
    read: Reader
    pixel_center: float


def _npz(kind: str, file: str, program: str) -> Kind:
    read = partial(numpy_folders.read, kind, file)
    return Kind(f"{file} ({program})", lambda p: (p / file).is_file(), read, numpy_folders.PIXEL_CENTER)


KINDS = {
    "transforms": Kind(
        "transforms.json or transforms_train.json (nerfstudio, instant-ngp, Blender)",
        lambda source: transforms.find_file(source) is not None,
        transforms.read,
        transforms.PIXEL_CENTER,
    ),
    "neus": _npz("neus", numpy_folders.NEUS_FILE, "NeuS"),
    "idr": _npz("idr", numpy_folders.IDR_FILE, "IDR"),
    "middlebury": Kind(
        f"*{text_cameras.PAR_ENDING} (Middlebury)",
        lambda source: bool(text_cameras.find_par(source)),
        text_cameras.read_middlebury,
        text_cameras.PIXEL_CENTER,
    ),
    "colmap": Kind(
        "cameras and images, .bin or .txt, here or in sparse/0 (COLMAP)",
        lambda source: source.is_dir() and colmap.find_model(source) is not None,
        colmap.read,
        colmap.PIXEL_CENTER,
    ),
    "projections": Kind(
        "images, each with a text file of a 3 x 4 projection",
        lambda source: source.is_dir() and bool(text_cameras.find_projections(source)[0]),
        text_cameras.read_projections,
        text_cameras.PIXEL_CENTER,
    ),
}


def recognize(source: Path) -> str:
    """Returns the format of a file or folder: a key of `KINDS`, or `photographs.KIND` without cameras.

    Raises:
        MissingInputError: The path does not exist.
        InputError: No format matches, or several do.
    """
    if not source.exists():
        raise MissingInputError(f"no file or folder {source}; expected a scene to import")
    found = [name for name, kind in KINDS.items() if kind.matches(source)]
    if not found and photographs.is_photographs(source):
        return photographs.KIND
    if not found:
        expected = "; ".join(f"{name}: {kind.looks_for}" for name, kind in KINDS.items())
        raise InputError(
            f"{source} has no known format; expected one of {expected}; or a folder of photographs alone"
        )
    if len(found) > 1:
        raise InputError(f"{source} may be {' or '.join(found)}; choose one, such as --kind {found[0]}")
    return found[0]


def read_source(
    source: Path, kind: str | None = None, images: Path | None = None, pixel_center: float | None = None
) -> Source:
    """Reads a scene with cameras. For photographs alone, use `structure_from_motion.reconstruct`.

    Args:
        source: File or folder.
        kind: A key of `KINDS`, None to recognize it.
        images: Folder of the images, None to search where the format keeps them.
        pixel_center: Coordinate of the first pixel's center, None for the format's convention.

    Raises:
        MissingInputError: A file of the scene is missing.
        InputError: The scene does not match its format.
    """
    kind = kind or recognize(source)
    if not source.exists():
        raise MissingInputError(f"no file or folder {source}; expected a scene to import")
    if kind == photographs.KIND:
        raise InputError(f"{source} has photographs without cameras; expected a scene with cameras")
    chosen = KINDS[kind]
    return chosen.read(source, images, chosen.pixel_center if pixel_center is None else pixel_center)
