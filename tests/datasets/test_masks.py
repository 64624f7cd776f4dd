"""Which mask belongs to which image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli import bad_input

from idr.datasets.masks import list_masks, mask_stem, masks_beside, pair_masks, pair_some_masks, scene_masks
from idr.errors import InputError, MissingInputError
from idr.preprocess.scene_views import load_views

FOLDER = Path("masks")


def pair(images: list[str], masks: list[str]) -> list[str]:
    """Names of the masks below the folder, in the order of the images."""
    found = pair_masks([Path(name) for name in images], [FOLDER / name for name in masks], FOLDER)
    return [path.relative_to(FOLDER).as_posix() for path in found]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(path, "PNG")


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg.png", "a.png.png", "a.HEIC.png", "a_mask.png", "A-mask.jpg", "mask_a.png"]
)
def test_names_of_a_mask(name: str) -> None:
    assert mask_stem(Path(name)) == "a" == mask_stem(Path("a.jpg"))


@pytest.mark.parametrize(
    "images, masks",
    [
        (["b.jpg", "a.jpg"], ["b.png", "a.png"]),
        (["10.jpg", "9.jpg"], ["0010.png", "0009.png"]),
        (["IMG_0012.HEIC", "IMG_0007.HEIC"], ["mask-12.png", "mask-7.png"]),
        (["front/0.png", "back/0.png"], ["front/0.png.png", "back/0.png.png"]),
        (["x/images/front/0.png", "x/images/back/0.png"], ["front/0.png", "back/0.png"]),
        (["front/a.png", "back/b.png"], ["a.png", "b.png"]),
        (["3.png", "1.png"], ["3_mask.png", "1_mask.png"]),
    ],
)
def test_masks_are_paired_by_name_in_any_order(images: list[str], masks: list[str]) -> None:
    stray = [*masks[::-1], "preview.png"]
    assert pair(images, masks) == masks == pair(images, stray)


def test_without_common_names_natural_order_counts() -> None:
    assert pair(["frame_1.png", "frame_2.png"], ["000.png", "001.png"]) == ["000.png", "001.png"]
    assert pair(["20260101_101112.jpg", "20260101_101530.jpg"], ["0.png", "1.png"]) == ["0.png", "1.png"]
    assert pair(["rect_1_r5000.png", "rect_2_r5000.png"], ["0.png", "1.png"]) == ["0.png", "1.png"]


WRONG = {
    "one is missing": (["a.jpg", "b.jpg"], ["a.png"], MissingInputError, r"no mask for b\.jpg \(1 of 2"),
    "a stray file takes the place of one": (
        ["a.jpg", "b.jpg"], ["a.png", "c.png"], MissingInputError, r"no mask for b\.jpg",
    ),
    "a stray file shifts numbers": (
        [f"IMG_{k}.jpg" for k in range(1, 6)], ["0_old.png", "m_1.png", "m_2.png", "m_3.png", "m_5.png"],
        InputError, r"5 masks for 5 images, and their names do not agree \(such as 0_old\.png and IMG_1",
    ),
    "two masks": (["a.jpg"], ["a.jpg", "a.png"], InputError, r"a\.jpg and a\.png are both masks of a\.jpg"),
    "two names": (["a.jpg"], ["a.png", "a_mask.png"], InputError, r"both masks of a\.jpg; keep one"),
    "one mask for two": (
        ["front/0.jpg", "back/0.jpg"], ["0.png", "1.png"], InputError, r"0\.png is the mask of both front/0",
    ),
    "other names and counts": (["a.jpg", "b.jpg"], ["x.png"], InputError, r"1 masks for 2 images"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_nothing_is_paired_by_guessing(what: str) -> None:
    images, masks, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        pair(images, masks)


def test_masks_are_listed_with_those_in_folders_below(tmp_path: Path) -> None:
    touch(tmp_path, "front/10.png", "front/9.png", "back/0.png.png", ".cache/0.png", "front/._9.png")
    names = [path.relative_to(tmp_path).as_posix() for path in list_masks(tmp_path)]
    assert names == ["back/0.png.png", "front/9.png", "front/10.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingInputError, match="no images in .*none"):
        list_masks(tmp_path / "none")


@pytest.mark.parametrize("name", ["masks", "mask", "silhouettes"])
def test_a_folder_of_masks_beside_the_images_is_found(tmp_path: Path, name: str) -> None:
    images = [tmp_path / "images" / side / "0.png" for side in ("front", "back")]
    assert masks_beside(images) is None
    touch(tmp_path, f"{name}/front/0.png")
    assert masks_beside(images) == masks_beside(images[:1]) == tmp_path / name
    assert masks_beside([tmp_path / "0.jpg"]) == tmp_path / name  # photographs with the folder among them
    assert masks_beside([tmp_path / "mug" / "0.jpg"]) is None  # a folder that may have nothing to do with it


def test_masks_of_reduced_images_come_first(tmp_path: Path) -> None:
    touch(tmp_path, "masks/0.png", "masks_4/0.png")
    assert masks_beside([tmp_path / "images_4" / "0.png"]) == tmp_path / "masks_4"
    assert masks_beside([tmp_path / "images_2" / "0.png"]) == tmp_path / "masks"


def test_masks_of_a_data_folder_are_those_of_its_images(tmp_path: Path) -> None:
    """Suffixes that sort otherwise than the images, cut-outs, and hidden files of a Mac."""
    scene = bad_input.write_scene(tmp_path / "scan0")
    names = ["1", "1b", "2", "3", "10", "11"]
    for old, new in zip(sorted((scene / "image").iterdir()), names, strict=True):
        old.rename(scene / "image" / f"{new}.png")
    truth = []
    for old, new in zip(sorted((scene / "mask").iterdir()), names, strict=True):
        truth.append(np.asarray(Image.open(old)) > 127)
        colors = np.random.default_rng(0).integers(0, 256, (*truth[-1].shape, 3)).astype(np.uint8)
        cut_out = Image.fromarray(np.dstack([colors, 255 * truth[-1].astype(np.uint8)]))
        cut_out.save(scene / "mask" / f"{new}_mask.png")
        old.unlink()
    (scene / "mask" / "._1_mask.png").write_bytes(b"\0\5\x16\7")
    assert [path.name for path in scene_masks(scene)] == [f"{name}_mask.png" for name in names]
    for found, expected in zip(load_views(scene).masks, truth, strict=True):
        np.testing.assert_array_equal(found, expected)
    (scene / "mask" / "11_mask.png").rename(scene / "mask" / "0.png")
    with pytest.raises(MissingInputError, match=r"no mask for 11\.png \(1 of 6"):
        load_views(scene)


def paths(*names: str) -> list[Path]:
    return [Path("masks") / name for name in names]


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        (("b_mask.png",), [None, "b_mask.png", None]),
        (("c.png", "a.png", "notes.png"), ["a.png", None, "c.png"]),
        (("x.png", "y.png", "z.png"), ["x.png", "y.png", "z.png"]),  # all: in natural order
    ],
)
def test_some_masks_are_paired(masks: tuple[str, ...], expected: list[str | None]) -> None:
    images = [Path(f"{name}.jpg") for name in "abc"]
    found = pair_some_masks(images, paths(*masks), Path("masks"))
    assert [mask and mask.name for mask in found] == expected


def test_some_masks_are_paired_by_number_only_if_all_are_of_images() -> None:
    images = [Path(f"IMG_{k}.jpg") for k in (1, 2, 3, 4)]
    found = pair_some_masks(images, paths("mask_2.png", "mask_4.png"), Path("masks"))
    assert [mask and mask.name for mask in found] == [None, "mask_2.png", None, "mask_4.png"]
    for wrong in (("mask_0.png", "mask_1.png"), ("x.png",)):  # counted from 0
        with pytest.raises(InputError, match="names do not agree"):
            pair_some_masks(images, paths(*wrong), Path("masks"))
