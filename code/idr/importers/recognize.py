"""Which program left a folder: the kinds of sources, and how each is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from idr.errors import InputError, MissingInputError
from idr.importers import colmap, numpy_folders, text_cameras, transforms
from idr.importers.photographs import source as photographs
from idr.importers.source import Source


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        looks_for: What marks it, for messages.
        is_there: Whether a path is of this kind.
        read: Reads it: (source, images folder or None, pixel center).
        pixel_center: Where its convention puts the center of the first pixel.
    """

    looks_for: str
    is_there: Callable[[Path], bool]
    read: Callable[[Path, Path | None, float], Source]
    pixel_center: float


KINDS = {
    "transforms": Kind(
        "transforms.json or transforms_train.json (nerfstudio, instant-ngp, Blender)",
        lambda source: transforms.find_file(source) is not None,
        transforms.read,
        transforms.PIXEL_CENTER,
    ),
    "neus": Kind(
        f"{numpy_folders.NEUS_FILE} (NeuS)",
        lambda source: (source / numpy_folders.NEUS_FILE).is_file(),
        numpy_folders.read_neus,
        numpy_folders.PIXEL_CENTER,
    ),
    "idr": Kind(
        f"{numpy_folders.IDR_FILE} (IDR)",
        lambda source: (source / numpy_folders.IDR_FILE).is_file(),
        numpy_folders.read_idr,
        numpy_folders.PIXEL_CENTER,
    ),
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
        "images with a text file of a 3 x 4 projection each",
        lambda source: source.is_dir() and bool(text_cameras.find_projections(source)[0]),
        text_cameras.read_projections,
        text_cameras.PIXEL_CENTER,
    ),
}


def recognize(source: Path) -> str:
    """Tells the kind of a source.

    Args:
        source: File or folder.

    Returns:
        A key of `KINDS`, or `photographs.KIND` for photographs and nothing that places them.

    Raises:
        MissingInputError: Nothing there.
        InputError: Of no kind, or of several.
    """
    if not source.exists():
        raise MissingInputError(f"no file or folder {source}; expected a scene to import")
    found = [name for name, kind in KINDS.items() if kind.is_there(source)]
    if not found and (photographs.find_photographs(source) or photographs.foreign_files(source)):
        return photographs.KIND
    if not found:
        looked = "; ".join(f"{name}: {kind.looks_for}" for name, kind in KINDS.items())
        looked += "; photographs alone"
        raise InputError(f"{source} is no scene that can be imported; looked for {looked}")
    if len(found) > 1:
        raise InputError(f"{source} may be {' or '.join(found)}; say which with --kind {found[0]}")
    return found[0]


def read_source(
    source: Path, kind: str | None = None, images: Path | None = None, pixel_center: float | None = None
) -> Source:
    """Reads a scene of another program; photographs without cameras are for `reconstruction.reconstruct`.

    Args:
        source: File or folder.
        kind: A key of `KINDS`, None to recognize it.
        images: The images' folder, None for where the source has them.
        pixel_center: Where the source puts the center of the first pixel, None for its kind's convention.

    Returns:
        The scene.

    Raises:
        MissingInputError: A part of it is not there.
        InputError: It cannot be used.
    """
    kind = kind or recognize(source)
    if not source.exists():
        raise MissingInputError(f"no file or folder {source}; expected a scene to import")
    if kind == photographs.KIND:
        raise InputError(f"{source} holds photographs without cameras; expected a scene with cameras")
    chosen = KINDS[kind]
    return chosen.read(source, images, chosen.pixel_center if pixel_center is None else pixel_center)
