"""Masks from the source, a folder, the alpha channel, or another program.

H rows, W columns.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from idr.datasets.images import is_cut_out, load_mask
from idr.datasets.masks import MAKE_MISSING, list_masks, masks_beside, pair_masks, pair_some_masks
from idr.errors import InputError, MissingInputError
from idr.importers.photographs.source import KIND
from idr.importers.source import Source
from idr.preprocess.scene_views import Mask

AUTO, ALPHA = "auto", "alpha"


def mask_files(source: Source, folder: Path | None, some: bool = False) -> list[Path | None]:
    """Finds the mask file of each view; all are None if the source has no masks.

    Those of a folder are paired by `pair_masks`, or by `pair_some_masks` if `some` views may lack one.
    Without a folder they are the source's own, or those of `masks_beside` its images.

    Raises:
        MissingInputError: The folder or a mask is missing.
        InputError: Names do not fit, or only some views have a mask.
    """
    views = source.views
    if folder is None:
        without = [view.name for view in views if view.mask is None]
        if without and len(without) < len(views) and not some:
            raise InputError(
                f"{len(without)} of {len(views)} views have no mask (first: {without[0]}); expected one per "
                f"view: pass a folder with all of them as --masks, or compute those with {MAKE_MISSING}"
            )
        # Photographs of a reconstruction may be copies elsewhere, of another name.
        looks_beside = len(without) == len(views) and source.kind != KIND
        folder = masks_beside([view.image for view in views]) if looks_beside else None
        if folder is None:
            return [view.mask for view in views]
    own_names = source.kind == KIND
    images = [Path(view.name) if own_names else view.image for view in views]
    pair = pair_some_masks if some else pair_masks
    return list(pair(images, list_masks(folder), folder))


def alpha_masks(source: Source, some: bool = False) -> list[bool]:
    """Whether the alpha channel of each photograph is its mask, which has transparent pixels.

    Raises:
        InputError: Only some of them have, unless `some` may lack a mask, or one cannot be read.
    """
    cut_out = [is_cut_out(view.image) for view in source.views]
    opaque = [view.image for view, is_cut in zip(source.views, cut_out, strict=True) if not is_cut]
    if opaque and len(opaque) < len(source.views) and not some:
        raise InputError(
            f"{opaque[0]} has no transparent pixels ({len(opaque)} of {len(source.views)} images), unlike "
            "the others, whose alpha channel is the mask: cut out the object in it, too, pass --masks "
            f"FOLDER or --masks auto, or compute the missing masks with {MAKE_MISSING}"
        )
    return cut_out


@dataclass(frozen=True)
class FoundMasks:
    """Where each view's mask comes from: a file, its alpha channel, or neither, and all of them in words."""

    files: list[Path | None]
    alpha: list[bool]
    origin: str


def find_masks(source: Source, choice: str | None, some: bool = False) -> FoundMasks:
    """Finds the masks that --masks chooses: `ALPHA`, a folder, or None for the source's own.

    Raises:
        MissingInputError: The folder or a mask is missing.
        InputError: There are none, only some unless `some` may lack, or names do not fit.
    """
    views = source.views
    files: list[Path | None] = [None] * len(views)
    if choice != ALPHA:
        files = mask_files(source, Path(choice).expanduser() if choice else None, some)
    if given := [file for file in files if file is not None]:
        own = "the source's own" if any(view.mask for view in views) else str(given[0].parent)
        return FoundMasks(files, [False] * len(views), choice or own)
    # An image without alpha channel is refused where its mask is read.
    alpha = [True] * len(views) if choice == ALPHA and not some else alpha_masks(source, some)
    if not any(alpha):
        raise InputError(
            f"the source ({source.kind}) has neither masks nor an alpha channel; expected --masks "
            "FOLDER, --mask_command 'prog {image} {mask}', or --masks auto to compute them"
        )
    return FoundMasks(files, alpha, "alpha channel")


def has_masks(source: Source) -> bool:
    """Whether a source has masks without --masks: its own, in a folder beside the images, or as alpha."""
    return mask_files(source, None)[0] is not None or any(alpha_masks(source))


def check_command(command: str) -> list[str]:
    """Splits the command line of a segmentation program, such as `segment --in {image} --out {mask}`.

    Raises:
        MissingInputError: The program does not exist.
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
    if shutil.which(words[0]) is None:
        raise MissingInputError(
            f"--mask_command: {words[0]} cannot be started; expected a program on PATH, or its full path"
        )
    return words


def run_command(command: list[str], image: Path, size: tuple[int, int]) -> Mask:
    """Runs a program, see `check_command`, to make the mask of a PNG, (H, W) of bool.

    Raises:
        InputError: It cannot be started, failed, wrote no mask, or one of another size.
    """
    program = f"--mask_command: {command[0]}"
    with tempfile.TemporaryDirectory(prefix="idr_mask_") as folder:
        path = Path(folder) / "mask.png"
        call = [word.replace("{image}", str(image)).replace("{mask}", str(path)) for word in command]
        try:
            done = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise InputError(f"{program} cannot be started ({error.strerror}); run it by hand") from error
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
