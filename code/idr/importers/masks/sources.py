"""Masks from the source, a folder, the alpha channel, or another program.

H rows, W columns.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from idr.datasets.images import MASK_THRESHOLD, list_images, load_alpha, load_mask
from idr.errors import InputError, MissingInputError
from idr.importers.source import Source
from idr.preprocess.scene_views import Mask

AUTO, ALPHA = "auto", "alpha"


def mask_files(source: Source, folder: Path | None) -> list[Path | None]:
    """Finds the mask file of each view; all are None if the source has no masks.

    Those of a folder are paired with the images by name, or in natural order if no names agree; without a
    folder they are the source's own.

    Raises:
        MissingInputError: The folder or a mask is missing.
        InputError: Counts differ, or only some views have a mask.
    """
    views = source.views
    if folder is None:
        found = [view.mask for view in views]
        without = [view.name for view in views if view.mask is None]
        if without and len(without) < len(views):
            raise InputError(
                f"{len(without)} of {len(views)} views have no mask (first: {without[0]}); expected one per "
                "view, or pass a folder with all of them as --masks"
            )
        return found
    files = list_images(folder)
    by_stem = {mask_stem(path): path for path in files}
    stems = [mask_stem(view.image) for view in views]
    if any(stem in by_stem for stem in stems) and len(set(stems)) == len(stems):
        missing = [view.image.name for view, stem in zip(views, stems, strict=True) if stem not in by_stem]
        if missing:
            raise MissingInputError(
                f"{folder} has no mask for {missing[0]} ({len(missing)} of {len(views)} are missing); "
                "expected one per image, with the same name"
            )
        return [by_stem[stem] for stem in stems]
    if len(files) != len(views):
        raise InputError(
            f"{folder}: {len(files)} masks for {len(views)} images, and their names do not agree; expected "
            "one per image, with the same name or in the same natural order"
        )
    return list(files)


def mask_stem(path: Path) -> str:
    """Name that pairs an image with its mask; COLMAP names the mask of a.jpg a.jpg.png."""
    stem = Path(path.stem)
    return (stem.stem if stem.suffix.lower() in (".png", ".jpg", ".jpeg") else stem.name).lower()


def has_alpha_masks(source: Source) -> bool:
    """Whether the first photograph has an alpha channel with transparent pixels."""
    alpha = load_alpha(source.views[0].image)
    return alpha is not None and bool((alpha < MASK_THRESHOLD).any())


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
