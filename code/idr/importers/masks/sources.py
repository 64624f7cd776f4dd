"""Masks from the source, a folder, the alpha channel, or another program.

H rows, W columns.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from idr.datasets.images import is_cut_out, load_mask
from idr.datasets.masks import list_masks, masks_beside, pair_masks
from idr.errors import InputError, MissingInputError
from idr.importers.photographs.source import KIND
from idr.importers.source import Source
from idr.preprocess.scene_views import Mask

AUTO, ALPHA = "auto", "alpha"


def mask_files(source: Source, folder: Path | None) -> list[Path | None]:
    """Finds the mask file of each view; all are None if the source has no masks.

    Those of a folder are paired by `pair_masks`. Without a folder they are the source's own, or those of
    `masks_beside` its images.

    Raises:
        MissingInputError: The folder or a mask is missing.
        InputError: Names do not fit, or only some views have a mask.
    """
    views = source.views
    if folder is None:
        without = [view.name for view in views if view.mask is None]
        if without and len(without) < len(views):
            raise InputError(
                f"{len(without)} of {len(views)} views have no mask (first: {without[0]}); expected one per "
                "view, or pass a folder with all of them as --masks"
            )
        # Photographs of a reconstruction may be copies elsewhere, of another name.
        looks_beside = without and source.kind != KIND
        folder = masks_beside([view.image for view in views]) if looks_beside else None
        if folder is None:
            return [view.mask for view in views]
    own_names = source.kind == KIND
    images = [Path(view.name) if own_names else view.image for view in views]
    return list(pair_masks(images, list_masks(folder), folder))


def has_alpha_masks(source: Source) -> bool:
    """Whether all photographs have an alpha channel with transparent pixels.

    Raises:
        InputError: Only some of them have, or one cannot be read.
    """
    opaque = [view.image for view in source.views if not is_cut_out(view.image)]
    if opaque and len(opaque) < len(source.views):
        raise InputError(
            f"{opaque[0]} has no transparent pixels ({len(opaque)} of {len(source.views)} images), unlike "
            "the others, whose alpha channel is the mask: cut out the object in it, too, or pass --masks "
            "FOLDER or --masks auto"
        )
    return not opaque


def has_masks(source: Source) -> bool:
    """Whether a source has masks without --masks: its own, in a folder beside the images, or as alpha."""
    return mask_files(source, None)[0] is not None or has_alpha_masks(source)


def check_command(command: str) -> list[str]:
    """Splits the command line of a segmentation program, such as `segment --in {image} --out {mask}`.

    Raises:
        InputError: A placeholder is missing, or quotes are not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--mask_command {command!r}: {error}; expected a command line") from error
    missing = [p for p in ("{image}", "{mask}") if not any(p in word for word in words)]
    if missing:
        raise InputError(
            f"--mask_command {command!r} lacks {' and '.join(missing)}; expected for example "
            "'prog {image} {mask}', with a program that reads the image and writes the mask"
        )
    return words


def run_command(command: list[str], image: Path, size: tuple[int, int]) -> Mask:
    """Runs a program, see `check_command`, to make the mask of a PNG, (H, W) of bool.

    Raises:
        MissingInputError: The program does not exist.
        InputError: It failed, wrote no mask, or one of another size.
    """
    program = f"--mask_command: {command[0]}"
    with tempfile.TemporaryDirectory(prefix="idr_mask_") as folder:
        path = Path(folder) / "mask.png"
        call = [word.replace("{image}", str(image)).replace("{mask}", str(path)) for word in command]
        try:
            done = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise MissingInputError(
                f"{program} cannot be started ({error.strerror}); expected a program on PATH, or its full "
                "path"
            ) from error
        if done.returncode != 0:
            output = (done.stderr or done.stdout).strip().splitlines()
            raise InputError(
                f"{program} exited with status {done.returncode} on {image.name}: "
                f"{output[-1] if output else 'no output'}; run it by hand on this image"
            )
        if not path.is_file():
            raise InputError(
                f"{program} exited with status 0 but wrote no mask for {image.name}; expected a PNG at the "
                "path given for {mask}"
            )
        mask = load_mask(path)
    if mask.shape != size:
        raise InputError(
            f"{program} wrote a mask of {mask.shape[1]} x {mask.shape[0]} pixels for {image.name} of "
            f"{size[1]} x {size[0]}; expected the same size"
        )
    return mask
