"""The supported source formats, and how each is recognized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from idr.errors import InputError, MissingInputError
from idr.importers import colmap, colmap_files, foreign, numpy_folders, sdfstudio, text_cameras, transforms
from idr.importers.photographs import source as photographs
from idr.importers.source import Reader, Source


@dataclass(frozen=True)
class Kind:
    """A source format: the files that identify it, for messages; whether a path has it; its reader.

    `matches` takes the path and the folder of images, None without one. `pixel_center` is the coordinate of
    the first pixel's center.
    """

    looks_for: str
    matches: Callable[[Path, Path | None], bool]
    read: Reader
    pixel_center: float


def _is_other_json(source: Path) -> bool:
    return source.is_file() and (source.name == sdfstudio.NAME or bool(foreign.find_cameras(source)))


def _npz(kind: str, file: str, program: str) -> Kind:
    return Kind(
        f"{file} with image/ or images/ ({program})",
        lambda p, images: (p / file).is_file() and bool(images or numpy_folders.find_images(p)),
        partial(numpy_folders.read, kind, file),
        numpy_folders.PIXEL_CENTER,
    )


KINDS = {
    "neus": _npz("neus", numpy_folders.NEUS_FILE, "NeuS"),
    "idr": _npz("idr", numpy_folders.IDR_FILE, "IDR, DVR, UNISURF, MonoSDF"),
    "transforms": Kind(
        f"{', '.join(transforms.NAMES)} (nerfstudio, instant-ngp, Blender, NeuS2)",
        lambda source, _: transforms.find_file(source) is not None and not _is_other_json(source),
        transforms.read,
        transforms.PIXEL_CENTER,
    ),
    "sdfstudio": Kind(
        f"{sdfstudio.NAME} (sdfstudio)",
        lambda source, _: sdfstudio.find_file(source) is not None,
        sdfstudio.read,
        sdfstudio.PIXEL_CENTER,
    ),
    "colmap": Kind(
        "cameras and images, .bin or .txt, here or in sparse/0 (COLMAP)",
        lambda source, _: bool(colmap_files.find_models(source)),
        colmap.read,
        colmap.PIXEL_CENTER,
    ),
    "mvsnet": Kind(
        "*_cam.txt, here or in cams/ (MVSNet, BlendedMVS)",
        lambda source, _: bool(text_cameras.find_mvsnet(source)),
        text_cameras.read_mvsnet,
        text_cameras.PIXEL_CENTER,
    ),
    "middlebury": Kind(
        f"*{text_cameras.PAR_ENDING} (Middlebury)",
        lambda source, _: bool(text_cameras.find_par(source)),
        text_cameras.read_middlebury,
        text_cameras.PIXEL_CENTER,
    ),
    "projections": Kind(
        "images, each with a text file of a 3 x 4 projection",
        lambda source, images: source.is_dir() and bool(text_cameras.find_projections(source, images)[0]),
        text_cameras.read_projections,
        text_cameras.PIXEL_CENTER,
    ),
}
REFINED = tuple(KINDS)[:6]
"""Formats that programs leave beside one another; the first is read. Results come before what they were made
from, and COLMAP's model before MVSNet's copy of it."""
MAX_INNER = 50
"""Inner folders that are looked at: a home directory given by mistake should not be searched."""


def kinds_of(source: Path, images: Path | None = None) -> list[str]:
    """Returns the formats of a file or folder, in the order of `KINDS`; `images` as for `read_source`."""
    return [name for name, kind in KINDS.items() if kind.matches(source, images)]


def recognize(source: Path, images: Path | None = None) -> str:
    """Returns the format of a file or folder: a key of `KINDS`, or `photographs.KIND` without cameras.

    Where one program left its result beside its input, as NeuS or nerfstudio beside COLMAP's model, it is the
    result.

    Raises:
        MissingInputError: The path does not exist.
        InputError: No format matches, several do, or photographs lie beside cameras that are not read.
    """
    if not source.exists():
        raise MissingInputError(f"no file or folder {source}; expected a scene to import")
    found = kinds_of(source, images)
    if len(found) > 1 and not set(found) <= set(REFINED):
        raise InputError(f"{source} may be {' or '.join(found)}; choose one, such as --kind {found[0]}")
    if found:
        return found[0]
    has_photographs = photographs.is_photographs(source)
    others = foreign.find_cameras(source) + _inner_sources(source)
    if others:
        raise InputError(
            f"{source} has no cameras that can be read as they are, but {'; '.join(others)}"
            + (f"; or estimate new cameras of its photographs: --kind {photographs.KIND}" * has_photographs)
        )
    if has_photographs:
        return photographs.KIND
    expected = "; ".join(f"{name}: {kind.looks_for}" for name, kind in KINDS.items())
    raise InputError(
        f"{source} has no known format; expected one of {expected}; or a folder of photographs alone"
    )


def _inner_sources(source: Path, without: str = "") -> list[str]:
    """Clauses on the folders in a folder, and in these, that have a known format other than `without`."""
    if not source.is_dir():
        return []
    inner = [path for pattern in ("*", "*/*") for path in sorted(source.glob(pattern)) if path.is_dir()]
    found = [(path, kinds_of(path)) for path in inner[:MAX_INNER]]
    scenes = [(path, kinds[0]) for path, kinds in found if kinds and kinds[0] != without]
    return [f"{path.name} is a scene of {kind}: pass {path} as SOURCE" for path, kind in scenes[:3]]


def read_source(
    source: Path, kind: str | None = None, images: Path | None = None, pixel_center: float | None = None
) -> Source:
    """Reads a scene with cameras. For photographs alone, use `structure_from_motion.reconstruct`.

    Args:
        source: File or folder.
        kind: A key of `KINDS`, None to recognize it.
        images: Folder of the images, None to search where the format keeps them.
        pixel_center: Coordinate of the first pixel's center, None for the format's convention.

    Returns:
        The scene. If other formats were there too, its first note names them.

    Raises:
        MissingInputError: A file of the scene is missing.
        InputError: The scene does not match its format.
    """
    recognized = kind or recognize(source, images)
    if not source.exists():
        raise MissingInputError(f"no file or folder {source}; expected a scene to import")
    if recognized == photographs.KIND:
        raise InputError(f"{source} has photographs without cameras; expected a scene with cameras")
    chosen = KINDS[recognized]
    scene = chosen.read(source, images, chosen.pixel_center if pixel_center is None else pixel_center)
    if kind:
        return scene
    notes = list(scene.notes)
    others = [name for name in kinds_of(source, images) if name != recognized]
    if others:
        found = " and ".join(others)
        notes.insert(0, f"read as {recognized}; also found {found}, read instead with --kind {others[0]}")
    if recognized == "colmap":  # which other programs refine
        refined = [*foreign.find_unnamed(source), *_inner_sources(source, without="colmap")]
        notes += [f"read COLMAP's model, but {clause}" for clause in refined]
    return replace(scene, notes=tuple(notes))
