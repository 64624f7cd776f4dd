"""Where a scene's masks come from: the source, a folder, the alpha channel, another program.

H rows, W columns.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.datasets.images import list_images, load_alpha, load_mask
from idr.errors import InputError, MissingInputError
from idr.importers.source import Source

AUTO, ALPHA = "auto", "alpha"
HALF = 127.5
IMAGE_PLACE, MASK_PLACE = "{image}", "{mask}"


def mask_files(source: Source, folder: Path | None) -> list[Path | None]:
    """Finds the mask file of each view.

    Args:
        source: The scene.
        folder: Masks in a folder, paired with the images by name, or in natural order if no name agrees; None
            for those that the source names itself.

    Returns:
        One path a view, or None for each where the source has none.

    Raises:
        MissingInputError: No such folder, or a mask missing there.
        InputError: Counts differ, or some views have a mask and others none.
    """
    views = source.views
    if folder is None:
        found = [view.mask for view in views]
        without = [view.name for view in views if view.mask is None]
        if without and len(without) < len(views):
            raise InputError(
                f"{len(without)} of {len(views)} views have no mask (first: {without[0]}); expected one "
                "for each, "
                "or give all of them with --masks"
            )
        return found
    files = list_images(folder)
    by_stem = {mask_stem(path): path for path in files}
    stems = [mask_stem(view.image) for view in views]
    if any(stem in by_stem for stem in stems) and len(set(stems)) == len(stems):
        lacking = [view.image.name for view, stem in zip(views, stems, strict=True) if stem not in by_stem]
        if lacking:
            raise MissingInputError(
                f"{folder} has no mask for {lacking[0]} ({len(lacking)} of {len(views)} are missing); "
                "expected one "
                "of the same name for each image"
            )
        return [by_stem[stem] for stem in stems]
    if len(files) != len(views):
        raise InputError(
            f"{folder}: {len(files)} masks for {len(views)} images, and their names do not agree; "
            "expected one for "
            "each, of the same name or in the same natural order"
        )
    return list(files)


def mask_stem(path: Path) -> str:
    """Name by which image and mask are paired: COLMAP writes the mask of a.jpg as a.jpg.png."""
    stem = Path(path.stem)
    return (stem.stem if stem.suffix.lower() in (".png", ".jpg", ".jpeg") else stem.name).lower()


def has_alpha_masks(source: Source) -> bool:
    """Tells whether the photographs have an alpha channel that cuts something out."""
    alpha = load_alpha(source.views[0].image)
    return alpha is not None and bool((alpha < HALF).any())


def check_command(command: str) -> list[str]:
    """Splits the command of a segmenter into words.

    Args:
        command: For example `segment --in {image} --out {mask}`.

    Returns:
        The words, places still in them.

    Raises:
        InputError: A place is missing or quotes are not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--mask_command {command!r}: {error}; expected a command line") from error
    missing = [place for place in (IMAGE_PLACE, MASK_PLACE) if not any(place in word for word in words)]
    if missing:
        raise InputError(
            f"--mask_command {command!r} lacks {' and '.join(missing)}; expected for example "
            "'prog {image} {mask}', which reads one file and writes the other"
        )
    return words


def run_command(words: list[str], image: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Has another program make the mask of an image.

    Args:
        words: What `check_command` returned.
        image: The image, PNG.
        size: (H, W) that the mask must have.

    Returns:
        (H, W) bool.

    Raises:
        MissingInputError: No such program.
        InputError: It failed, wrote nothing, or a mask of another size.
    """
    with tempfile.TemporaryDirectory(prefix="idr_mask_") as folder:
        path = Path(folder) / "mask.png"
        call = [word.replace(IMAGE_PLACE, str(image)).replace(MASK_PLACE, str(path)) for word in words]
        try:
            done = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise MissingInputError(
                f"--mask_command: {words[0]} cannot be started ({error.strerror}); expected a program on "
                "PATH or "
                "its full name"
            ) from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise InputError(
                f"--mask_command: {words[0]} ended with status {done.returncode} on {image.name}: "
                f"{said[-1] if said else 'it said nothing'}; try it by hand on this image"
            )
        if not path.is_file():
            raise InputError(
                f"--mask_command: {words[0]} ended well but wrote no mask for {image.name}; expected it "
                "in the file "
                "that stands for {mask}, a PNG"
            )
        mask = load_mask(path)
    if mask.shape != size:
        raise InputError(
            f"--mask_command: {words[0]} wrote a mask of {mask.shape[1]} x {mask.shape[0]} pixels for "
            f"{image.name} of {size[1]} x {size[0]}; expected the same size"
        )
    return mask
