"""Importing masks as programs write them: where they lie, how they are named, what their values mean."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from tests.importers import colmap_writer, spots, writers

from idr.cli.import_scene import main
from idr.datasets.images import load_mask, load_rgb

NUM_VIEWS = 6
Convert = Callable[[np.ndarray], Image.Image]


def truth(root: Path) -> list[np.ndarray]:
    """(H, W) bool for each view, in the order of the scene."""
    return [spots.silhouette(projector) > 0 for projector in writers.pinhole_projectors()[0]]


def call(root: Path, *more: str) -> int:
    return main([str(root / "source"), "--out", str(root / "data" / "mine" / "scan0"), *more])


def smallest_iou(root: Path, expected: list[np.ndarray]) -> float:
    ious = []
    for k, mask in enumerate(expected):
        found = load_mask(root / "data" / "mine" / "scan0" / "mask" / f"{k:04d}.png")
        ious.append((found & mask).sum() / (found | mask).sum())
    return min(ious)


def written(masks: Path) -> list[np.ndarray]:
    """The masks that a writer wrote, in numeric order."""
    return [load_mask(path) for path in sorted(masks.iterdir(), key=lambda p: int(re.sub(r"\D", "", p.stem)))]


# ---- where they lie


@pytest.mark.parametrize("place", ["masks", "mask", "silhouettes"])
@pytest.mark.parametrize("flag", [False, True])
def test_masks_of_a_rig_beside_the_images_of_colmap(place: str, flag: bool, tmp_path: Path) -> None:
    """COLMAP's convention: masks/cam0/0.png.png for images/cam0/0.png; the same names in each folder."""
    pytest.importorskip("pycolmap", reason="needs the extra `colmap`")
    source = tmp_path / "source"
    colmap_writer.write_colmap(source, tmp_path / "flat")
    listed = source / "sparse" / "0" / "images.txt"
    text = listed.read_text()
    for k in range(NUM_VIEWS):
        old, new = f"cam{k % 2}/{k}.png", f"cam{k % 2}/{k // 2}.png"
        (source / "images" / old).rename(source / "images" / new)
        text = text.replace(old, new)
        target = source / place / f"cam{k % 2}" / f"{k // 2}.png.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tmp_path / "flat" / f"{k}.png", target)
    listed.write_text(text)
    shutil.copyfile(tmp_path / "flat" / "1.png", source / place / "preview.png")
    assert call(tmp_path, *(["--masks", str(source / place)] if flag else [])) == 0
    flat = written(tmp_path / "flat")
    assert smallest_iou(tmp_path, flat[0::2] + flat[1::2]) == 1
    record = json.loads((tmp_path / "data" / "mine" / "scan0" / "import.json").read_text())
    assert place in record["masks"]


@pytest.mark.parametrize("flag", ["--images", "--masks"])
def test_cut_outs_stand_for_photographs_or_masks(flag: str, tmp_path: Path) -> None:
    """Cut-outs as PNG, with the object's colors dark, of JPEG photographs."""
    source = tmp_path / "source"
    writers.write_nerfstudio(source, tmp_path / "masks")
    (source / "cutouts").mkdir()
    for k in range(1, NUM_VIEWS + 1):
        photo, alpha = source / "images" / f"frame_{k}.png", load_mask(tmp_path / "masks" / f"frame_{k}.png")
        rgb = load_rgb(photo) // 4
        cut_out = Image.fromarray(np.dstack([rgb, 255 * alpha.astype(np.uint8)]))
        cut_out.save(source / "cutouts" / photo.name)
        Image.fromarray(rgb).save(photo.with_suffix(".jpg"), quality=95)
        photo.unlink()
    frames = source / "transforms.json"
    frames.write_text(frames.read_text().replace(".png", ".jpg"))
    assert call(tmp_path, flag, str(source / "cutouts")) == 0
    assert smallest_iou(tmp_path, written(tmp_path / "masks")) == 1


# ---- what they say


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


def cut_out(mask: np.ndarray) -> Image.Image:
    colors = np.random.default_rng(0).integers(0, 100, (*mask.shape, 3))
    return Image.fromarray(np.dstack([colors, 255 * mask]).astype(np.uint8))


def levels(low: int, high: int) -> Convert:
    return lambda mask: Image.fromarray(np.where(mask, high, low).astype(np.uint8))


@pytest.mark.parametrize(
    "convert", [palette, cut_out, levels(0, 2), levels(0, 100), levels(0, 1)],
    ids=["palette", "cut-outs", "0 and 2", "0 and 100", "0 and 1"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["transforms", "idr"])
def test_values_of_masks(convert: Convert, kind: str, tmp_path: Path) -> None:
    """In a folder beside the images, and in IDR's own."""
    source = tmp_path / "source"
    masks = source / ("mask" if kind == "idr" else "masks")
    if kind == "idr":
        writers.write_npz(source, None, "cameras.npz")
    else:
        writers.write_nerfstudio(source, masks)
    expected = written(masks)
    for path in list(masks.iterdir()):
        convert(load_mask(path)).save(path)
    assert call(tmp_path) == 0
    assert smallest_iou(tmp_path, expected) == 1


def some_opaque(source: Path) -> None:
    for k in range(1, NUM_VIEWS + 1):
        path = source / "images" / f"frame_{k}.png"
        opaque = np.full((*load_rgb(path).shape[:2], 1), 255, np.uint8)
        if k > 2:
            opaque[:10] = 0
        Image.fromarray(np.dstack([load_rgb(path), opaque])).save(path)


def labels(source: Path) -> None:
    for path in (source / "masks").iterdir():
        mask = load_mask(path).astype(np.uint8)
        mask[:3] = 2
        Image.fromarray(mask).save(path)


def one_more(source: Path) -> None:
    for path in (source / "masks").iterdir():
        Image.fromarray(np.pad(load_mask(path), ((0, 1), (0, 0)))).save(path)


def two_of_a_name(source: Path) -> None:
    Image.open(source / "masks" / "frame_3.png").save(source / "masks" / "frame_3.jpg")


WRONG = {
    "the first image is not cut out": (
        some_opaque,
        r"frame_1\.png has no transparent pixels \(2 of 6 images\).*--masks auto",
    ),
    "three labels": (labels, r"frame_1\.png has the values 0, 1, 2; expected a mask of two values"),
    "one row more": (one_more, r"frame_1\.png has 128 x 97 pixels, its image frame_1\.png 128 x 96"),
    "two of a name": (two_of_a_name, r"frame_3\.jpg and frame_3\.png are both masks of frame_3\.png"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_masks_are_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = WRONG[what]
    source = tmp_path / "source"
    writers.write_nerfstudio(source, None if what.startswith("the first") else source / "masks")
    spoil(source)
    assert call(tmp_path) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "data" / "mine" / "scan0").exists()


def test_the_remedy_for_white_masks_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NeuS's gen_cameras.py writes masks that are white everywhere."""
    source = tmp_path / "source"
    writers.write_npz(source)
    for path in (source / "mask").iterdir():
        mask = load_mask(path)
        Image.fromarray(np.where(mask[..., None], (220, 120, 30), (30, 60, 200)).astype(np.uint8)).save(
            source / "image" / path.name
        )
        Image.fromarray(np.full(mask.shape, 255, np.uint8)).save(path)
    assert call(tmp_path) == 2
    error = capsys.readouterr().err
    assert "marks every pixel as object" in error and "import with --masks auto" in error
    assert call(tmp_path, "--masks", "auto") == 0
    assert smallest_iou(tmp_path, truth(tmp_path)) > 0.9


# ---- by a network


NETWORK = """
import numpy as np

def new_session(model):
    if FAILS:
        raise OSError("no route to the weights")
    return model

def remove(rgb, session, only_mask):
    assert session == "isnet-general-use" and only_mask and rgb.dtype == np.uint8
    return np.where(rgb[..., 0] > 125, 180, 90).astype(np.uint8)
"""


@pytest.mark.parametrize("kind", ["works", "no weights", "no runtime", "missing"])
def test_masks_by_rembg(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its network cannot be loaded here: a module stands for it that sees the color of the object."""
    expected = red_ball(tmp_path / "source", ())
    (tmp_path / "source" / "mask").rmdir()
    monkeypatch.delitem(sys.modules, "rembg", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    if kind != "missing":
        (tmp_path / "packages").mkdir()
        works = f"FAILS = {kind == 'no weights'}\n{NETWORK}"
        text = "raise SystemExit(1)" if kind == "no runtime" else works
        (tmp_path / "packages" / "rembg.py").write_text(text)
    status = call(tmp_path, "--masks", "rembg")
    if kind == "works":
        assert status == 0 and smallest_iou(tmp_path, expected) == 1
        record = json.loads((tmp_path / "data" / "mine" / "scan0" / "import.json").read_text())
        assert record["masks"] == "made (rembg)" and "made_masks" not in record
        return
    error = capsys.readouterr().err
    remedy = "use --masks auto" if kind == "no weights" else "pip install 'idr-surface[segment]'"
    assert status == 2 and remedy in error and error.count("\n") == 1
    assert not (tmp_path / "data" / "mine" / "scan0").exists()


# ---- only some of them


def red_ball(source: Path, kept: tuple[int, ...]) -> list[np.ndarray]:
    """Colors the photographs of a source of kind `idr` by their masks, of which some are kept."""
    writers.write_npz(source, None, "cameras.npz")
    expected = written(source / "mask")
    for k, path in enumerate(sorted((source / "mask").iterdir())):
        colors = np.where(load_mask(path)[..., None], (220, 120, 30), (30, 60, 200))
        Image.fromarray(colors.astype(np.uint8)).save(source / "image" / path.name)
        if k not in kept:
            path.unlink()
    return expected


@pytest.mark.parametrize("place", ["the source's own", "a folder", "alpha"])
def test_missing_masks_are_made_from_the_others(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The given masks, larger than what the colors say, stay as they are."""
    source, flags = tmp_path / "source", []
    expected = red_ball(source, (1, 4))
    for path in (source / "mask").iterdir():
        larger = np.pad(load_mask(path), 2, mode="edge")
        larger = sliding_window_view(larger, (5, 5)).any((2, 3))
        Image.fromarray(larger).save(path)
        expected[int(path.stem)] = larger
    if place == "a folder":
        (source / "mask").rename(tmp_path / "some")
        flags = ["--masks", str(tmp_path / "some")]
    elif place == "alpha":
        for path in (source / "mask").iterdir():
            alpha = 255 * load_mask(path).astype(np.uint8)
            image = source / "image" / path.name
            Image.fromarray(np.dstack([load_rgb(image), alpha])).save(image)
        shutil.rmtree(source / "mask")
    assert call(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert "--make_missing_masks" in error and error.count("\n") == 1
    assert call(tmp_path, *flags, "--make_missing_masks") == 0
    assert "2 masks given; making masks of 4 images" in capsys.readouterr().out
    scan = tmp_path / "data" / "mine" / "scan0"
    for k in (1, 4):
        assert (load_mask(scan / "mask" / f"{k:04d}.png") == expected[k]).all()
    assert smallest_iou(tmp_path, expected) > 0.9
    record = json.loads((scan / "import.json").read_text())
    assert record["masks"].endswith("4 made (auto)")
    assert record["made_masks"] == ["0000.png", "0002.png", "0003.png", "0005.png"]


NO_MASKS = {
    "auto": (["--masks", "auto", "--make_missing_masks"], "got both --make_missing_masks and --masks auto"),
    "none": (["--make_missing_masks"], "neither masks nor an alpha channel"),
    "other names": (["--masks", "others", "--make_missing_masks"], "1 masks for 6 images, and their names"),
}


@pytest.mark.parametrize("what", NO_MASKS)
def test_no_mask_to_make_others_from(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    red_ball(tmp_path / "source", ())
    (tmp_path / "others").mkdir()
    Image.new("L", (128, 96)).save(tmp_path / "others" / "cat.png")
    flags, message = NO_MASKS[what]
    (tmp_path / "source" / "mask").rmdir()
    assert call(tmp_path, *flags) == 2
    assert message in capsys.readouterr().err


def test_an_empty_mask_is_no_start_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    red_ball(tmp_path / "source", (1, 4))
    Image.new("L", (128, 96)).save(tmp_path / "source" / "mask" / "004.png")
    assert call(tmp_path, "--make_missing_masks") == 2
    error = capsys.readouterr().err
    assert re.search(r"0004\.png \(.*\)\) marks no pixel as object", error) and error.count("\n") == 1
