"""Photographs before a reconstruction: turned upright, with the turn of their masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from idr.datasets.image_files import TURNS, upright
from idr.datasets.images import load_rgb
from idr.importers.photographs import source as photos
from idr.importers.photographs.files import INVERSE

SIZE = (24, 32)


def test_all_orientations_and_the_turns_of_their_masks(tmp_path: Path) -> None:
    """Eight landscapes and a portrait, which is turned to match the others."""
    generator = np.random.default_rng(0)
    shown = [generator.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(9)]
    shown[8] = np.ascontiguousarray(np.rot90(shown[8]))
    stored = []
    for k, pixels in enumerate(shown):
        orientation, exif = 1 + k % 8, Image.Exif()
        exif[0x0112] = orientation
        stored.append(upright(pixels, *TURNS[INVERSE.get(orientation, orientation)]))
        Image.fromarray(stored[-1]).save(tmp_path / f"{k}.png", exif=exif)
    files = photos.checked_photographs(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    photos.prepare(files, photos.digests(files), work)
    for k, photo in enumerate(photos.read_list(work)):
        found = load_rgb(work / photos.work_name(k, photo))
        assert found.shape[:2] == photo.size == SIZE
        np.testing.assert_array_equal(found, shown[k] if k < 8 else np.rot90(shown[8]))
        # A mask as stored, and for the portrait one as a viewer shows it, has its sides swapped.
        swapped = shown[8] if k == 8 else stored[k]
        if swapped.shape[:2] != SIZE:
            np.testing.assert_array_equal(upright(swapped, *TURNS[photo.mask_turn]), found)
