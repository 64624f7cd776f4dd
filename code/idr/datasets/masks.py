"""Pairs masks with images by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from idr.datasets.images import IMAGE_ENDINGS, images_in, list_images, natural_key
from idr.errors import InputError, MissingInputError

MASK_WORD = re.compile(r"^mask[_.-]+|[ _.-]+mask$")
"""What programs add to an image's name for its mask."""
MAX_DEPTH = 3
"""Folders below the folder of masks that are searched."""
MAKE_MISSING = "--make_missing_masks"
"""The flag of imports that computes the masks of views without one."""
IMAGE_FOLDER = re.compile(r"images?([_-].+)?|rgb|input|photos", re.IGNORECASE)
"""Names of folders of images whose masks may lie in a folder beside them."""


def mask_stem(path: Path) -> str:
    """Name that an image shares with its mask: `a` for a.jpg, a.png, a.jpg.png, a_mask.png, mask_a.png."""
    stem = path.stem.lower()
    while stem.endswith(IMAGE_ENDINGS):
        stem = stem.rpartition(".")[0]
    return MASK_WORD.sub("", stem) or stem


def list_masks(folder: Path) -> list[Path]:
    """Lists the masks of a folder and of the folders in it, at least one, in natural name order.

    Raises:
        MissingInputError: No such folder, or no image in it.
        InputError: Something with an image's name is no regular file.
    """
    return _masks_in(folder) or list_images(folder)


def _masks_in(folder: Path) -> list[Path]:
    found = []
    for parent, folders, _ in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < MAX_DEPTH else []
        found += images_in(Path(parent))
    return found


def masks_beside(images: Sequence[Path]) -> Path | None:
    """Finds a folder of masks, `masks`, `mask` or `silhouettes`, in or beside the folder of the images."""
    common = Path(os.path.normpath(os.path.commonpath([path.parent for path in images])))
    beside = [path.parent for path in (common, common.parent) if IMAGE_FOLDER.fullmatch(path.name)]
    own = [common.name.replace("image", "mask")] if common.name.startswith("image") else []
    for folder in (common, *beside):
        for name in (*own, "masks", "mask", "silhouettes"):
            if (folder / name).is_dir() and _masks_in(folder / name):
                return folder / name
    return None


def scene_masks(scene: Path) -> list[Path]:
    """Lists the masks of a data folder in the order of its images; the caller compares the counts."""
    masks = list_images(scene / "mask")
    images = images_in(scene / "image") if (scene / "image").is_dir() else []
    return pair_masks(images, masks, scene / "mask") if len(images) == len(masks) else masks


def pair_masks(images: Sequence[Path], masks: Sequence[Path], folder: Path) -> list[Path]:
    """Finds the mask of each image.

    Names are compared with their folders, as far as the masks have some; then with numbers by value; then by
    their last numbers alone. If no names agree, equally many are paired in natural order. Numbers that differ
    by more than one offset are no natural order: a mask is missing and another file stands among them.

    Args:
        images: The images, in natural order; only their names count.
        masks: The masks in `folder` or in folders below it, in natural order.
        folder: For messages, too.

    Returns:
        One mask per image.

    Raises:
        MissingInputError: Some images have a mask, others none.
        InputError: Two masks fit one image, two images one mask, or nothing agrees.
    """
    by_name = _matches(images, masks, folder, mask_stem)
    if all(by_name):
        return _one_each(images, by_name)
    for key in (_numbers_by_value, _last_number):
        found = _matches(images, masks, folder, key)
        if all(len(fitting) == 1 for fitting in found) and len(set(found)) == len(images):
            return _one_each(images, found)
    if any(by_name):
        missing = [image.name for image, fitting in zip(images, by_name, strict=True) if not fitting]
        raise MissingInputError(
            f"{folder} has no mask for {missing[0]} ({len(missing)} of {len(images)} are missing); expected "
            f"one per image, with the same name: add them, or let an import compute them with {MAKE_MISSING}"
        )
    if len(masks) != len(images) or not _same_order(images, masks):
        raise InputError(
            f"{folder}: {len(masks)} masks for {len(images)} images, and their names do not agree (such as "
            f"{masks[0].name} and {images[0].name}); expected one per image, with the same name or in the "
            "same natural order"
        )
    return list(masks)


def pair_some_masks(images: Sequence[Path], masks: Sequence[Path], folder: Path) -> list[Path | None]:
    """Finds the mask of each image as `pair_masks` does; None for those without one.

    Raises:
        InputError: Two masks fit one image, two images one mask, or no name agrees.
    """
    try:
        return list(pair_masks(images, masks, folder))
    except (MissingInputError, InputError):
        for key in (mask_stem, _numbers_by_value, _last_number):
            found = _matches(images, masks, folder, key)
            named = [(image, fitting) for image, fitting in zip(images, found, strict=True) if fitting]
            # Numbers may be counted from another start: then some masks have no image.
            if named and (key is mask_stem or len({fitting for _, fitting in named}) == len(masks)):
                _one_each(*zip(*named, strict=True))
                return [fitting[0] if fitting else None for fitting in found]
        raise


def _matches(
    images: Sequence[Path], masks: Sequence[Path], folder: Path, key: Callable[[Path], Hashable]
) -> list[tuple[Path, ...]]:
    """Masks whose folders and key are the end of each image's path, as long an end as possible."""
    by_parts: dict[tuple[Hashable, ...], tuple[Path, ...]] = {}
    for mask in masks:
        parts = (*_folders(mask.relative_to(folder)), key(mask))
        by_parts[parts] = (*by_parts.get(parts, ()), mask)
    depth = max(map(len, by_parts))
    found = []
    for image in images:
        parts = (*_folders(image), key(image))
        ends = (parts[-length:] for length in range(min(depth, len(parts)), 0, -1))
        found.append(next((by_parts[end] for end in ends if end in by_parts), ()))
    return found


def _folders(path: Path) -> tuple[str, ...]:
    return tuple(part.lower() for part in path.parts[:-1])


def _numbers_by_value(path: Path) -> Hashable:
    return tuple(natural_key(Path(f"{mask_stem(path)}.png")))


def _last_number(path: Path) -> Hashable:
    """The last number of a name; the path itself, which no other path equals, without any."""
    numbers = re.findall(r"\d+", mask_stem(path))
    return int(numbers[-1]) if numbers else path


def _one_each(images: Sequence[Path], found: Sequence[tuple[Path, ...]]) -> list[Path]:
    """The only mask of each image; raises `InputError` for two masks of an image, or two images of a mask."""
    owners: dict[Path, Path] = {}
    for image, fitting in zip(images, found, strict=True):
        if len(fitting) > 1:
            names = " and ".join(mask.name for mask in fitting[:2])
            raise InputError(f"{fitting[0].parent}: {names} are both masks of {image.name}; keep one of them")
        first = owners.setdefault(fitting[0], image)
        if first != image:
            raise InputError(
                f"{fitting[0]} is the mask of both {first} and {image}; expected one mask per image, in "
                "folders like those of the images"
            )
    return [fitting[0] for fitting in found]


def _same_order(images: Sequence[Path], masks: Sequence[Path]) -> bool:
    """Whether natural order pairs names without contradiction, which it does unless some numbers agree."""
    numbers = [(_last_number(image), _last_number(mask)) for image, mask in zip(images, masks, strict=True)]
    if not {image for image, _ in numbers} & {mask for _, mask in numbers}:
        return True
    offsets = {i - m if isinstance(i, int) and isinstance(m, int) else None for i, m in numbers}
    return len(offsets) == 1 or len({image for image, _ in numbers}) < len(numbers)
