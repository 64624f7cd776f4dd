"""Training refuses invalid folders, images and masks, and accepts common image formats."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from tests.cli.bad_input import cut_short, write_scene

IMAGE, MASK = "image/000002.png", "mask/002.png"


def _resize(name: str) -> Callable[[Path], None]:
    return lambda scene: iio.imwrite(scene / name, np.full((14, 16), 255, np.uint8))


def _fill(name: str, value: int) -> Callable[[Path], None]:
    return lambda scene: iio.imwrite(scene / name, np.full((12, 16), value, np.uint8))


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(scene: Path) -> None:
        (scene / name).write_bytes(content)

    return write


def _remove(name: str) -> Callable[[Path], None]:
    return lambda scene: (scene / name).unlink()


def _empty_folder(name: str) -> Callable[[Path], None]:
    def empty(scene: Path) -> None:
        shutil.rmtree(scene / name)
        (scene / name).mkdir()

    return empty


def _to_jpeg(scene: Path) -> None:
    path = scene / IMAGE
    iio.imwrite(path.with_suffix(".jpeg"), iio.imread(path))
    path.unlink()
    cut_short(path.with_suffix(".jpeg"), 0.97)


def _to_animation(scene: Path) -> None:
    path = scene / IMAGE
    frames = [np.full((12, 16, 3), value, np.uint8) for value in (0, 255)]
    iio.imwrite(path.with_suffix(".webp"), np.stack(frames), lossless=True)
    path.unlink()


def _to_float(scene: Path) -> None:
    path = scene / IMAGE
    iio.imwrite(path.with_suffix(".tiff"), np.full((12, 16, 3), 3.5, np.float32))
    path.unlink()


@pytest.mark.parametrize(
    "spoil, texts",
    [
        pytest.param(
            _resize(IMAGE),
            [IMAGE, "14 x 16 (height x width)", "dataset.img_res = [12, 16]", "correct img_res"],
            id="image-of-another-size",
        ),
        pytest.param(
            _resize(MASK),
            [MASK, "14 x 16 (height x width)", "dataset.img_res = [12, 16]", "correct img_res"],
            id="mask-of-another-size",
        ),
        pytest.param(
            _remove(MASK),
            ["scan 3: 6 images but 5 masks in", "expected one mask per image"],
            id="mask-missing",
        ),
        pytest.param(_remove(IMAGE), ["scan 3: 5 images but 6 masks in"], id="image-missing"),
        pytest.param(
            lambda scene: shutil.rmtree(scene / "mask"),
            ["no folder", "mask", "image/ and mask/", "DATA_CONVENTION"],
            id="no-mask-folder",
        ),
        pytest.param(
            _empty_folder("image"),
            ["no images in", "image", "expected files ending in .png, .jpg"],
            id="no-images",
        ),
        pytest.param(
            lambda scene: cut_short(scene / IMAGE),
            [IMAGE, "cannot be read as an image", "truncated", "replace it"],
            id="image-cut-short",
        ),
        pytest.param(
            _to_jpeg,
            ["000002.jpeg", "cannot be read as an image", "truncated", "replace it"],
            id="jpeg-cut-short",
        ),
        pytest.param(
            _write(IMAGE, b""), [IMAGE, "cannot be read as an image", "replace it"], id="image-of-no-bytes"
        ),
        pytest.param(
            _write(IMAGE, b"<html>not found</html>"),
            [IMAGE, "cannot be read as an image", "replace it"],
            id="image-is-a-web-page",
        ),
        pytest.param(
            lambda scene: cut_short(scene / MASK),
            [MASK, "cannot be read as an image", "truncated", "replace it"],
            id="mask-cut-short",
        ),
        pytest.param(
            _to_animation,
            ["000002.webp", "animation of 2 frames", "expected one still image"],
            id="animated-image",
        ),
        pytest.param(
            _to_float,
            ["000002.tiff", "float32", "expected 8 or 16 bits per channel, or floats in [0, 1]"],
            id="floats-beyond-one",
        ),
        pytest.param(
            _fill(MASK, 0),
            [MASK, "the mask is empty", "expected the object in white", "with import_scene.py"],
            id="empty-mask",
        ),
        pytest.param(
            _fill(MASK, 127),
            [MASK, "the mask is empty", "expected the object in white"],
            id="gray-mask-below-threshold",
        ),
        pytest.param(
            _fill(MASK, 255),
            [MASK, "white everywhere", "expected black around the object", "with import_scene.py"],
            id="all-inside-mask",
        ),
    ],
)
def test_an_invalid_scene_is_refused(project, spoil, texts):
    spoil(project.scene)
    project.refuses_to_train(texts=texts)


class TestPlaces:
    def test_no_data_folder(self, project):
        shutil.rmtree(project.root / "data")
        project.refuses_to_train(texts=["no data folder", "data/balls", "download_data.sh", "--data_root"])

    def test_a_missing_data_set_lists_the_existing_ones(self, project):
        write_scene(project.root / "data" / "cubes" / "scan1")
        texts = [
            "no data folder",
            "data/bals",
            "data has balls, cubes",
            "did you mean balls?",
            "dataset.data_dir",
        ]
        project.refuses_to_train("--set", "dataset.data_dir=bals", texts=texts)

    def test_wrong_data_root(self, project):
        project.refuses_to_train(
            "--data_root", "elsewhere", texts=["no data folder elsewhere/balls", "--data_root"]
        )

    def test_a_missing_scan_lists_the_existing_ones(self, project):
        for number in (24, 110):
            (project.scene.parent / f"scan{number}").mkdir()
        texts = ["no scene", "data/balls/scan65", "has scan3, scan24, scan110", "--scan_id"]
        project.refuses_to_train("--scan_id", "65", texts=texts)

    def test_folder_without_scans(self, project):
        shutil.rmtree(project.scene)
        project.refuses_to_train(texts=["no scene", "data/balls/scan3", "has no scan folders", "--scan_id"])

    def test_default_scan_is_scan0(self, project):
        conf = project.conf.read_text().replace(", scan_id = 3", "")
        project.conf.write_text(conf)
        project.refuses_to_train(texts=["no scene", "data/balls/scan0", "has scan3"])
        project.scene.rename(project.scene.with_name("scan0"))
        assert project.train().status == 0
        assert [path.name for path in (project.root / "exps").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "holdout, texts",
    [
        ("[6]", ["dataset.holdout names image 6", "images 0 to 5"]),
        ("[-1]", ["dataset.holdout names image -1", "images 0 to 5"]),
        ("[0,1,2,3,4,5]", ["every image is held out", "6 images"]),
    ],
)
def test_invalid_holdout_is_refused(project, holdout, texts):
    project.refuses_to_train("--set", f"dataset.holdout={holdout}", texts=texts)


# ---- converted formats; tests/datasets/test_images.py checks the pixels


def _each(scene: Path, kind: str, convert: Callable[[np.ndarray], np.ndarray], ending: str = ".png") -> None:
    for path in sorted((scene / kind).iterdir()):
        pixels = convert(iio.imread(path))
        path.unlink()
        iio.imwrite(path.with_suffix(ending), pixels)


def _rgba(pixels: np.ndarray) -> np.ndarray:
    return np.dstack((pixels, np.full(pixels.shape[:2], 255, np.uint8)))


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda scene: _each(scene, "image", _rgba), id="rgba-images"),
        pytest.param(lambda scene: _each(scene, "image", lambda p: p[..., 0]), id="gray-images"),
        pytest.param(
            lambda scene: _each(scene, "image", lambda p: p[..., 0].astype(np.uint16) * 257),
            id="16-bit-images",
        ),
        pytest.param(lambda scene: _each(scene, "image", lambda p: p, ".PNG"), id="PNG"),
        pytest.param(lambda scene: _each(scene, "image", lambda p: p, ".jpeg"), id="jpeg"),
        pytest.param(lambda scene: _each(scene, "mask", lambda p: p // 255), id="masks-0-and-1"),
        pytest.param(
            lambda scene: _each(scene, "mask", lambda p: _rgba(np.dstack((p, p, p)))), id="rgba-masks"
        ),
        pytest.param(lambda scene: _each(scene, "mask", lambda p: p, ".jpg"), id="jpeg-masks"),
    ],
)
def test_other_image_formats_are_accepted(project, convert):
    convert(project.scene)
    outcome = project.train("--nepoch", "0")
    assert outcome.status == 0, outcome.err
    assert "6 images" in outcome.out
