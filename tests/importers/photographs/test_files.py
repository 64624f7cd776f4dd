"""EXIF's orientation of images and masks, and memory of large photographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.importers import spots, writers

from idr.cli.import_scene import main
from idr.datasets.image_files import TURNS, upright
from idr.datasets.images import load_mask, load_rgb
from idr.errors import InputError
from idr.importers.photographs import files
from idr.importers.photographs.files import INVERSE, prepare_view
from idr.importers.source import SourceView

SIZE = (18, 24)
TOLERANCE = 0.05
"""Pixels: quantization of the spots; see tests/importers/test_conventions.py."""


def store(path: Path, orientation: int, turn: bool) -> None:
    """Gives an image an EXIF orientation, under which a viewer shows it as it is now if it is also turned."""
    pixels = np.asarray(Image.open(path))
    if turn:
        pixels = upright(pixels, *TURNS[INVERSE.get(orientation, orientation)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def import_scene(root: Path) -> Path:
    scene = root / "data" / "mine" / "scan0"
    assert main([str(root / "source"), "--out", str(scene), "--masks", str(root / "masks")]) == 0
    return scene


def overlap(scene: Path, masks: Path) -> float:
    """Smallest IoU of the scene's masks and those of the source as they were written."""
    ious = []
    for k in range(6):
        found = load_mask(scene / "mask" / f"{k:04d}.png")
        truth = load_mask(masks / f"frame_{k + 1}.png")
        ious.append((found & truth).sum() / (found | truth).sum())
    return min(ious)


@pytest.mark.parametrize("masks_turned", [False, True])
@pytest.mark.parametrize("first", [1, 3])
def test_cameras_of_upright_photographs(first: int, masks_turned: bool, tmp_path: Path) -> None:
    """All eight orientations; the size of a quarter turn shows which pixels the cameras belong to."""
    writers.write_nerfstudio(tmp_path / "source", tmp_path / "masks")
    writers.write_nerfstudio(tmp_path / "truth", tmp_path / "true_masks")
    for k in range(6):
        store(tmp_path / "source" / "images" / f"frame_{k + 1}.png", first + k, turn=True)
        if masks_turned:
            store(tmp_path / "masks" / f"frame_{k + 1}.png", first + k, turn=True)
    scene = import_scene(tmp_path)
    assert spots.largest_miss(scene) < TOLERANCE
    assert overlap(scene, tmp_path / "true_masks") == 1
    notes = json.loads((scene / "import.json").read_text())["notes"]
    count = sum(first + k != 1 for k in range(6))
    assert any(f"{count} of 6 photographs" in n and "turned upright by EXIF" in n for n in notes)


@pytest.mark.parametrize("masks_shown", [False, True])
def test_cameras_of_the_pixels_as_stored(masks_shown: bool, tmp_path: Path) -> None:
    """COLMAP's way; masks may be turned as a viewer shows the photographs, where their sizes tell."""
    writers.write_nerfstudio(tmp_path / "source", tmp_path / "masks")
    writers.write_nerfstudio(tmp_path / "truth", tmp_path / "true_masks")
    for k, orientation in enumerate((1, 3, 5, 6, 7, 8)):
        store(tmp_path / "source" / "images" / f"frame_{k + 1}.png", orientation, turn=False)
        mask = tmp_path / "masks" / f"frame_{k + 1}.png"
        if masks_shown and orientation > 4:
            Image.fromarray(upright(np.asarray(Image.open(mask)), *TURNS[orientation])).save(mask)
    scene = import_scene(tmp_path)
    assert spots.largest_miss(scene) < TOLERANCE
    assert overlap(scene, tmp_path / "true_masks") == 1
    notes = json.loads((scene / "import.json").read_text())["notes"]
    assert any("orientation of 5 of 6 photographs" in n and "is ignored, as COLMAP does" in n for n in notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_alpha_is_turned_with_its_photograph(orientation: int, tmp_path: Path) -> None:
    layers = np.random.default_rng(0).integers(0, 256, (*SIZE, 4)).astype(np.uint8)
    layers[..., 3] = np.where(np.arange(SIZE[1]) < 9, 255, 0)
    Image.fromarray(layers).save(tmp_path / "a.png")
    store(tmp_path / "a.png", orientation, turn=True)
    k = np.diag([20.0, 20.0, 1.0])
    view = SourceView("a", tmp_path / "a.png", k, np.eye(4)[:3], calibrated_size=SIZE)
    found = prepare_view(view, None, True, 1, turn_upright=True)
    inside = layers[..., 3] > 0
    np.testing.assert_array_equal(found.mask, inside)
    np.testing.assert_array_equal(found.rgb[inside], layers[inside, :3])


def test_masks_one_pixel_larger_are_refused_with_both_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (24, 18)).save(tmp_path / "a.png")
    Image.new("L", (24, 19)).save(tmp_path / "m.png")
    view = SourceView("a", tmp_path / "a.png", np.diag([20.0, 20.0, 1.0]), np.eye(4)[:3])
    message = r"m\.png has 24 x 19 pixels, its image a\.png 24 x 18; expected .*export the masks again"
    with pytest.raises(InputError, match=message):
        prepare_view(view, tmp_path / "m.png", False, 1)


@pytest.mark.parametrize("distorted", [False, True])
def test_large_photographs_are_reduced_first_with_the_same_result(
    distorted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[:187, :250]
    shade = 128 + 100 * np.sin(rows / 17) * np.cos(columns / 23)
    mask = (rows - 90) ** 2 + (columns - 120) ** 2 < 60**2
    Image.fromarray(np.dstack([shade, 255 - shade, shade / 2]).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    lens = (lambda p: p * (1 - 0.1 * (p**2).sum(1, keepdims=True))) if distorted else None
    k = np.array([[230.0, 0, 124], [0, 230, 92], [0, 0, 1]])
    view = SourceView("a", tmp_path / "a.png", k, np.eye(4)[:3], lens)
    usual = prepare_view(view, tmp_path / "m.png", False, 4)
    monkeypatch.setattr(files, "LARGE", 1000)
    monkeypatch.setattr(files, "BAND_ROWS", 5)
    large = prepare_view(view, tmp_path / "m.png", False, 4)
    assert usual.mask is not None and large.mask is not None
    assert large.rgb.shape == usual.rgb.shape == (46, 62, 3)
    exact = not distorted
    assert np.abs(large.rgb.astype(int) - usual.rgb).max() <= (0 if exact else 3)  # two orders of resampling
    assert (large.mask != usual.mask).sum() <= (0 if exact else 0.02 * usual.mask.sum())
    np.testing.assert_allclose(large.intrinsics, usual.intrinsics, rtol=0 if exact else 0.02)
    assert load_rgb(tmp_path / "a.png").shape == (187, 250, 3)
