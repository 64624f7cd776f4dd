"""Where features of photographs may lie: off a backdrop that stands still, or inside masks.

Masks of features are written as COLMAP expects them: named after the photographs, zero without features.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PIL import Image

from idr.datasets.image_files import TURNS, upright
from idr.datasets.images import load_mask, load_rgb
from idr.datasets.masks import list_masks, pair_masks
from idr.errors import InputError, MissingInputError
from idr.files import read_json, whole_folder, write_text_atomic
from idr.importers.photographs import source as photos
from idr.importers.photographs.backdrop import find_backdrop
from idr.importers.photographs.source import Photograph
from idr.importers.source import Progress
from idr.preprocess.scene_views import Mask

STILL, FEATURES, RECORD = "backdrop", "features", "backdrop.json"
"""Folder of the backdrop in the work folder, that of its masks of features, and what was found."""


def stands_still(
    work: Path, photographs: list[Photograph], pairs: list[tuple[int, int]], told: bool, progress: Progress
) -> bool:
    """Whether the backdrop stands still, or the user `told` so.

    The first call compares the `pairs` of photographs and writes where features may lie, and what is
    certainly backdrop (`backdrop_file`).
    """
    target = work / STILL
    if not target.is_dir():
        names = (photos.work_name(k, photo) for k, photo in enumerate(photographs))
        backdrop = find_backdrop((load_rgb(work / photos.FOLDER / name) for name in names), pairs, told)
        still = backdrop.is_still or told
        with whole_folder(target) as folder:
            for k, photo in enumerate(photographs) if still else ():
                _write(feature_file(folder / FEATURES, k, photo), backdrop.features(k, photo.size))
                _write(folder / f"{k:06d}.png", backdrop.certain(k, photo.size))
            write_text_atomic(folder / RECORD, json.dumps({"found": backdrop.is_still}))
    found = bool(read_json(target / RECORD)["found"])
    if found:
        progress(
            "the backdrop stands still, so the object turned: features on the backdrop do not count "
            "(--no_turntable: they do)"
        )
    elif told:
        progress("WARNING: --turntable: no textured backdrop stands still in these photographs")
    return found or told


def backdrop_file(work: Path, name: str) -> Path:
    """Mask of the pixels that are certainly backdrop, of the photograph with this name in the work folder."""
    return work / STILL / f"{Path(name).stem}.png"


def feature_file(folder: Path, k: int, photo: Photograph) -> Path:
    """Mask of the features of photograph k."""
    return folder / f"{photos.work_name(k, photo)}.png"


def paired_masks(
    folder: Path | None, required: bool, files: list[Path], beside: dict[str, Path]
) -> dict[str, Path]:
    """The masks that may limit features, by photograph, from a folder or else `beside`; empty without any.

    Raises:
        MissingInputError: They are `required`, but a photograph has none.
        InputError: The same, or names do not fit.
    """
    if folder is not None:
        try:
            paired = pair_masks(files, list_masks(folder), folder)
            return {path.name: mask for path, mask in zip(files, paired, strict=True)}
        except (InputError, MissingInputError):  # masks of some photographs may do for the scene
            if required:
                raise
            return {}
    if len(beside) == len(files):
        return beside
    if required:
        raise InputError(
            "--mask_features needs masks of all photographs; expected a folder `masks` beside them, or "
            "--masks FOLDER"
        )
    return {}


def write_masks(folder: Path, photographs: list[Photograph], masks: dict[str, Path]) -> None:
    """Writes masks of features inside masks of the object, which are given by the photographs' names.

    Raises:
        InputError: A mask cannot be read, or has another size than its photograph.
    """
    for k, photo in enumerate(photographs):
        path = masks[photo.name]
        mask = load_mask(path)
        if mask.shape != photo.size:
            mask = upright(mask, *TURNS[photo.mask_turn]).astype(bool)
        if mask.shape != photo.size:
            raise InputError(
                f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels, its photograph {photo.size[1]} x "
                f"{photo.size[0]}; expected masks of the photographs' size"
            )
        _write(feature_file(folder, k, photo), mask)


def masks_digest(masks: dict[str, Path]) -> str:
    """Hash of the masks' content."""
    total = hashlib.blake2b(digest_size=8)
    for name, path in masks.items():
        total.update(name.encode("utf-8", "surrogateescape") + b"\0" + path.read_bytes())
    return total.hexdigest()


def _write(path: Path, mask: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
