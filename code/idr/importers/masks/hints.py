"""Hints: pixels that a user labels as object or background, with certainty.

H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError
from idr.preprocess.scene_views import Mask

UNKNOWN, OBJECT, BACKGROUND = 0, 1, 2
"""Values of a pixel in a hint, an array (H, W) of uint8 at its photograph's size."""

Hint = NDArray[np.uint8]
Hints = Sequence[Hint | None]
"""One entry a view; None labels no pixel of it."""


def hint_of_mask(mask: Mask) -> Hint:
    """The hint (H, W) that labels every pixel as a mask says; `make_masks` then keeps this mask."""
    return np.where(mask, OBJECT, BACKGROUND).astype(np.uint8)


def hint_of_backdrop(backdrop: Mask | None) -> Hint | None:
    """The hint (H, W) that labels the pixels of a backdrop; None without one."""
    return None if backdrop is None else np.where(backdrop, BACKGROUND, UNKNOWN).astype(np.uint8)


def is_complete(hint: Hint) -> bool:
    """Whether every pixel is labelled."""
    return bool((hint != UNKNOWN).all())


def checked_hints(hints: Hints | None, sizes: list[tuple[int, ...]], names: list[str]) -> list[Hint]:
    """One hint for each view, all `UNKNOWN` where none is given; the sizes are B times (H, W).

    Raises:
        InputError: Their number, a size or a value differs.
    """
    if hints is None:
        hints = [None] * len(sizes)
    if len(hints) != len(sizes):
        raise InputError(f"{len(hints)} hints for {len(sizes)} photographs; expected one for each, or None")
    checked = []
    for hint, size, name in zip(hints, sizes, names, strict=True):
        hint = np.full(size, UNKNOWN, np.uint8) if hint is None else np.asarray(hint)
        if hint.shape != tuple(size):
            raise InputError(
                f"{name}: the hint has the shape {hint.shape}, its photograph {tuple(size)}; expected one "
                "label a pixel: draw it on this photograph"
            )
        if not np.isin(hint, (UNKNOWN, OBJECT, BACKGROUND)).all():
            raise InputError(
                f"{name}: the hint has the values {np.unique(hint)[:8].tolist()}; expected {UNKNOWN} "
                f"(unknown), {OBJECT} (object) and {BACKGROUND} (background)"
            )
        checked.append(hint.astype(np.uint8))
    return checked


def shrunk_hint(hint: Hint, size: tuple[int, int]) -> Hint:
    """A hint at a smaller (H, W); a pixel has the label that covers more of it, so thin strokes survive."""
    if hint.shape == size:
        return hint
    inside, outside = (
        cv2.resize((hint == label).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        for label in (OBJECT, BACKGROUND)
    )
    labels = np.where(inside >= outside, OBJECT, BACKGROUND)
    return np.where(inside + outside > 0, labels, UNKNOWN).astype(np.uint8)


def obeying(mask: Mask, hint: Hint) -> Mask:
    """The mask (H, W) with a hint's labels put in."""
    return (mask | (hint == OBJECT)) & (hint != BACKGROUND)
