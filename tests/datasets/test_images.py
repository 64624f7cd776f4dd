"""Pixels of images and masks in all supported formats."""

from __future__ import annotations

from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from idr.datasets.images import list_images, load_mask, load_rgb, natural_sorted
from idr.errors import InputError, MissingInputError

SHAPE = (12, 16)


@pytest.fixture
def rgb():
    """(H, W, 3) uint8 of random values."""
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


@pytest.fixture
def smooth():
    """(H, W, 3) uint8 without edges, which lossy compression preserves."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.stack((10 * rows + 60, 8 * columns + 40, 200 - 5 * rows - 3 * columns), axis=-1).astype(
        np.uint8
    )


@pytest.fixture
def disc():
    """(H, W) bool."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (rows - 5) ** 2 + (columns - 9) ** 2 < 16


# ---- names


class TestNames:
    def test_numbers_count_as_numbers(self):
        names = ["10.png", "2.png", "1.png", "a9b2.png", "a9b10.png", "007.png", "B1.png", "a10b1.png"]
        expected = ["1.png", "2.png", "007.png", "10.png", "a9b2.png", "a9b10.png", "a10b1.png", "B1.png"]
        assert [path.name for path in natural_sorted(map(Path, names))] == expected

    def test_equal_numbers_are_ordered_by_full_name(self):
        names = ["01.png", "1.png", "1.jpg", "001.png"]
        for order in (names, names[::-1]):
            assert [p.name for p in natural_sorted(map(Path, order))] == [
                "001.png",
                "01.png",
                "1.jpg",
                "1.png",
            ]

    @given(st.sets(st.integers(0, 10**6), min_size=1), st.integers(0, 8), st.randoms())
    def test_padding_does_not_matter(self, numbers, padding, random):
        names = [f"view_{number:0{padding}d}.png" for number in numbers]
        random.shuffle(names)
        found = [int(path.stem[5:]) for path in natural_sorted(map(Path, names))]
        assert found == sorted(numbers)

    def test_listing_ignores_other_files_and_the_case_of_extensions(self, tmp_path):
        for name in (
            "3.PNG",
            "1.jpeg",
            "2.JPG",
            "10.tiff",
            "4.webp",
            "5.bmp",
            "6.tif",
            ".7.png",
            "8.txt",
            "Thumbs.db",
        ):
            (tmp_path / name).write_bytes(b"")
        expected = ["1.jpeg", "2.JPG", "3.PNG", "4.webp", "5.bmp", "6.tif", "10.tiff"]
        assert [path.name for path in list_images(tmp_path)] == expected

    def test_nothing_to_list_is_an_error(self, tmp_path):
        with pytest.raises(MissingInputError, match=r"no folder .*absent; expected image/ and mask/"):
            list_images(tmp_path / "absent")
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(
            MissingInputError, match=r"no images in .*; expected files ending in \.png, \.jpg"
        ):
            list_images(tmp_path)


# ---- photographs


@pytest.mark.parametrize("ending", [".png", ".PNG", ".bmp", ".tif", ".TIFF"])
def test_lossless_rgb(tmp_path, rgb, ending):
    path = tmp_path / f"a{ending}"
    iio.imwrite(path, rgb)
    found = load_rgb(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, rgb)


def test_lossless_webp(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(load_rgb(tmp_path / "a.webp"), rgb)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".JPEG"])
def test_jpeg(tmp_path, smooth, ending):
    Image.fromarray(smooth).save(tmp_path / f"a{ending}", "JPEG", quality=95)
    found = load_rgb(tmp_path / f"a{ending}").astype(int)
    assert (
        np.abs(found - smooth).max() <= 10
    )  # quality 95, chroma subsampling; swapped channels would give 100


def test_alpha_is_dropped_and_colors_are_kept(tmp_path, rgb):
    alpha = np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)
    iio.imwrite(tmp_path / "a.png", np.dstack((rgb, alpha)))
    np.testing.assert_array_equal(load_rgb(tmp_path / "a.png"), rgb)


def test_gray_is_repeated(tmp_path, rgb):
    gray = rgb[..., 0]
    expected = np.dstack((gray, gray, gray))
    iio.imwrite(tmp_path / "gray.png", gray)
    Image.fromarray(np.dstack((gray, rgb[..., 1])), "LA").save(tmp_path / "gray_alpha.png")
    for name in ("gray.png", "gray_alpha.png"):
        np.testing.assert_array_equal(load_rgb(tmp_path / name), expected)


def test_16_bits_are_rounded_to_8(tmp_path):
    values = np.linspace(0, 65535, SHAPE[0] * SHAPE[1]).round().astype(np.uint16).reshape(SHAPE)
    expected = np.array([[round(int(v) / 257) for v in row] for row in values])
    for ending in (".png", ".tif"):
        iio.imwrite(tmp_path / f"a{ending}", values)
        np.testing.assert_array_equal(load_rgb(tmp_path / f"a{ending}")[..., 1], expected)


def test_16_bit_color(tmp_path, rgb):
    """Multiples of 257, so the result does not depend on how a decoder reduces them."""
    wide = rgb.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "a.png"), wide[..., ::-1])
    iio.imwrite(tmp_path / "a.tiff", wide, plugin="tifffile")
    for name in ("a.png", "a.tiff"):
        np.testing.assert_array_equal(load_rgb(tmp_path / name), rgb)


def test_floats(tmp_path, rgb):
    iio.imwrite(tmp_path / "a.tiff", (rgb / 255).astype(np.float32), plugin="tifffile")
    np.testing.assert_array_equal(load_rgb(tmp_path / "a.tiff"), rgb)
    for wrong in (np.full(SHAPE, 1.5), np.full(SHAPE, np.nan)):
        iio.imwrite(tmp_path / "b.tiff", wrong.astype(np.float32), plugin="tifffile")
        with pytest.raises(
            InputError, match=r"b.tiff has float32 values; expected 8 or 16 bits per channel, or floats"
        ):
            load_rgb(tmp_path / "b.tiff")


def test_palettes(tmp_path, rgb):
    few = rgb // 128 * 255  # eight colors
    image = Image.fromarray(few).quantize(8)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "clear.png", transparency=0)
    for name in ("a.png", "clear.png"):
        assert Image.open(tmp_path / name).mode == "P"
        np.testing.assert_array_equal(load_rgb(tmp_path / name), few)


@pytest.mark.parametrize(
    "mode, ending", [("CMYK", ".jpg"), ("CMYK", ".tif"), ("YCbCr", ".tif"), ("LAB", ".tif")]
)
def test_other_color_spaces(tmp_path, smooth, mode, ending):
    if mode == "LAB":
        image = Image.new("LAB", SHAPE[::-1], (255, 128, 128))  # white
        smooth = np.full_like(smooth, 255)
    else:
        image = Image.fromarray(smooth).convert(mode)
    image.save(tmp_path / f"a{ending}")
    assert Image.open(tmp_path / f"a{ending}").mode == mode
    assert np.abs(load_rgb(tmp_path / f"a{ending}").astype(int) - smooth).max() <= 12


def test_one_bit(tmp_path, disc):
    Image.fromarray(disc).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_rgb(tmp_path / "a.png"), np.dstack([disc * 255] * 3))


def test_first_image_of_a_stereo_photograph_and_of_a_multipage_tiff(tmp_path, smooth):
    for name, options in (("phone.jpg", {"format": "MPO", "quality": 95}), ("pages.tif", {})):
        first, second = Image.fromarray(smooth), Image.fromarray(255 - smooth)
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    assert Image.open(tmp_path / "phone.jpg").n_frames == 2
    for name in ("phone.jpg", "pages.tif"):
        assert np.abs(load_rgb(tmp_path / name).astype(int) - smooth).max() <= 10


@pytest.mark.parametrize("ending", [".png", ".webp"])
@pytest.mark.parametrize("load", [load_rgb, load_mask])
def test_animations_are_refused(tmp_path, rgb, ending, load):
    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    first.save(tmp_path / f"a{ending}", save_all=True, append_images=[second])
    with pytest.raises(InputError, match="is an animation of 2 frames; expected one still image"):
        load(tmp_path / f"a{ending}")


@pytest.mark.parametrize("load", [load_rgb, load_mask])
def test_truncated_files_are_refused(tmp_path, rgb, load):
    iio.imwrite(tmp_path / "whole.png", rgb)
    content = (tmp_path / "whole.png").read_bytes()
    path = tmp_path / "part.png"
    end_marker = 12 + 4 + 4  # the end chunk and two checksums before it have no pixels
    for length in range(0, len(content) - end_marker, 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"part.png cannot be read as an image \(.*\); replace it"):
            load(path)


# ---- masks


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    Image.fromarray(pixels, mode).save(path)
    return path


@pytest.mark.parametrize(
    "kind", ["0-255", "0-1", "one-bit", "16-bit", "16-bit-0-1", "rgb", "rgb-0-1", "rgba", "rgba-0-1"]
)
def test_mask_formats(tmp_path, disc, kind):
    white, one = disc.astype(np.uint8) * 255, disc.astype(np.uint8)
    opaque = np.full(SHAPE, 255, np.uint8)
    pixels = {
        "0-255": white,
        "0-1": one,
        "one-bit": disc,
        "16-bit": white.astype(np.uint16) * 257,
        "16-bit-0-1": one.astype(np.uint16),
        "rgb": np.dstack([white] * 3),
        "rgb-0-1": np.dstack([one] * 3),
        "rgba": np.dstack([white] * 3 + [opaque]),
        "rgba-0-1": np.dstack([one] * 3 + [opaque]),
    }[kind]
    found = load_mask(save(tmp_path / "m.png", pixels))
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, disc)


def test_threshold_is_between_127_and_128(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(load_mask(save(tmp_path / "m.png", levels)), levels >= 128)
    rgb = np.dstack([levels] * 3)  # luma weights sum to one, so gray levels must survive rounding
    np.testing.assert_array_equal(load_mask(save(tmp_path / "m3.png", rgb)), levels >= 128)


def test_color_masks_are_thresholded_by_luma(tmp_path):
    """Green is bright, red and blue are dark."""
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]], np.uint8)
    np.testing.assert_array_equal(load_mask(save(tmp_path / "m.png", pixels)), [[False, True, False, True]])


def test_alpha_is_the_mask_if_colors_are_constant(tmp_path, disc, rgb):
    alpha = disc.astype(np.uint8) * 255
    for level in (0, 255):
        flat = np.full((*SHAPE, 3), level, np.uint8)
        np.testing.assert_array_equal(load_mask(save(tmp_path / "m.png", np.dstack((flat, alpha)))), disc)
    gray_alpha = np.dstack((np.full(SHAPE, 255, np.uint8), alpha))
    np.testing.assert_array_equal(load_mask(save(tmp_path / "la.png", gray_alpha, "LA")), disc)


def test_transparency_cuts_a_mask_that_colors_give(tmp_path, disc):
    left = np.zeros(SHAPE, bool)
    left[:, :9] = True
    pixels = np.dstack([disc.astype(np.uint8) * 255] * 3 + [left.astype(np.uint8) * 255])
    np.testing.assert_array_equal(load_mask(save(tmp_path / "m.png", pixels)), disc & left)


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_noise_does_no_harm(tmp_path, quality):
    rows, columns = np.mgrid[:120, :160]
    disc = (rows - 60) ** 2 + (columns - 80) ** 2 < 40**2
    Image.fromarray(disc.astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=quality)
    noisy = iio.imread(tmp_path / "m.jpg")
    assert len(np.unique(noisy)) > 2  # JPEG noise
    wrong = load_mask(tmp_path / "m.jpg") != disc
    assert wrong.sum() <= 0.02 * disc.sum()  # a few pixels of the outline, at the lowest quality


def test_constant_masks(tmp_path):
    for level, inside in ((0, False), (1, True), (127, False), (128, True), (255, True)):
        found = load_mask(save(tmp_path / "m.png", np.full(SHAPE, level, np.uint8)))
        assert found.all() == inside and found.any() == inside, level
