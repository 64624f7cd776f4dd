"""Pixels of images and masks in all supported formats."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from idr.datasets.image_files import TURNS, read_header, upright
from idr.datasets.images import is_cut_out, list_images, load_mask, load_rgb, natural_sorted
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


    def test_superscripts_are_no_numbers(self):
        names = ["10².png", "2².png", "1².png", "²1.png", "٣.png", "2.png"]
        expected = ["2.png", "2².png", "٣.png", "10².png"]
        found = [path.name for path in natural_sorted(map(Path, names))]
        assert [name for name in found if name in expected] == expected and len(found) == len(names)

    def test_other_formats_are_counted_with_the_way_to_convert(self, tmp_path):
        for name in ("a.exr", "b.EXR", "c.dng", "d.MOV", "._e.exr"):
            (tmp_path / name).write_bytes(b"1")
        found = r"it has 1 \.dng, 2 \.exr, 1 \.mov .* not read \(a\.exr\): convert .* to JPEG.*video alone"
        with pytest.raises(MissingInputError, match=found):
            list_images(tmp_path)

    @pytest.mark.parametrize("what", ["folder", "pipe", "broken link"])
    def test_only_regular_files_are_opened(self, tmp_path, what, rgb):
        path = tmp_path / "b.png"
        iio.imwrite(tmp_path / "a.png", rgb)
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / "gone.png")
        for read in (list_images, lambda folder: load_rgb(folder / "b.png")):
            with pytest.raises(InputError, match=rf"b\.png is a {what}.*expected an image file: remove"):
                read(tmp_path)
        path.rmdir() if what == "folder" else path.unlink()
        path.symlink_to("a.png")
        assert len(list_images(tmp_path)) == 2


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
    if Image.open(tmp_path / f"a{ending}").mode != mode:
        pytest.skip(f"Pillow before 13 misreads the {mode} that it writes")
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


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.jpg cannot be read as an image \(.*is empty\); replace"):
        load_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize("ending", [".jfif", ".ppm", ".pgm", ".avif"])
def test_further_formats(tmp_path, smooth, ending):
    if ending == ".avif":
        pytest.importorskip("PIL.AvifImagePlugin")
    options = {".jfif": {"format": "JPEG", "quality": 95}, ".avif": {"quality": 95}}.get(ending, {})
    image = Image.fromarray(smooth).convert("L" if ending == ".pgm" else "RGB")
    image.save(tmp_path / f"a{ending}", **options)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert list_images(tmp_path) and np.abs(load_rgb(tmp_path / f"a{ending}") - expected).max() <= 10


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.jpg"])
def test_heic_is_read_upright_whatever_its_name(tmp_path, smooth, name):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra `photos`")
    large = np.kron(smooth, np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    heif.from_pillow(Image.fromarray(large)).save(tmp_path / name, quality=95, exif=exif.tobytes())
    header = read_header(tmp_path / name)
    shown = np.rot90(large, -1)
    assert header.size == shown.shape[:2] and header.orientation == 1 and header.exif[0x010F] == "Maker"
    assert np.abs(load_rgb(tmp_path / name).astype(int) - shown).max() <= 12


def test_heic_without_its_library_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 12)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingInputError, match=r"pip install 'idr-surface\[photos\]', or convert it"):
        load_rgb(tmp_path / "a.heic")


def test_a_broken_heic_is_refused(tmp_path):
    pytest.importorskip("pillow_heif", reason="needs the extra `photos`")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 12)
    with pytest.raises(InputError, match=r"a\.heic cannot be read as an image"):
        load_rgb(tmp_path / "a.heic")


def test_only_named_formats_are_opened(tmp_path, smooth, monkeypatch):
    """An EPS would start Ghostscript, whatever its name."""
    Image.fromarray(smooth).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started a program"))
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image \(no data of PNG, JPEG"):
        load_rgb(tmp_path / "a.png")


def test_phones_have_200_megapixels_and_more_is_refused(tmp_path):
    width = 16320
    Image.new("1", (width, 12240)).save(tmp_path / "a.ppm")
    content = (tmp_path / "a.ppm").read_bytes()
    assert read_header(tmp_path / "a.ppm").size == (12240, width)
    assert Image.MAX_IMAGE_PIXELS is not None  # for whoever else uses Pillow
    (tmp_path / "b.ppm").write_bytes(content.replace(b"16320", b"43862", 1))
    with pytest.raises(InputError, match=r"pixels, 537 million; expected at most 268 million: reduce it"):
        load_rgb(tmp_path / "b.ppm")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_agrees_with_pillow(tmp_path, rgb, orientation):
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    header = read_header(tmp_path / "a.png")
    assert header.orientation == orientation
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    np.testing.assert_array_equal(upright(load_rgb(tmp_path / "a.png"), *TURNS[orientation]), expected)


def test_broken_exif_does_no_harm(tmp_path, rgb):
    """Every byte of EXIF in turn: pixels do not depend on it."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    block, path = exif.tobytes()[6:], tmp_path / "b.png"
    assert read_header(tmp_path / "a.png").exif[0xA405] == 28
    for place in range(len(block)):
        broken = bytearray(block)
        broken[place] ^= 0xFF
        Image.fromarray(rgb).save(path, exif=bytes(broken))
        assert read_header(path).orientation in TURNS
        np.testing.assert_array_equal(load_rgb(path), rgb)


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


def test_alpha_alone_is_the_mask_of_a_cut_out(tmp_path, disc, rgb):
    alpha = disc.astype(np.uint8) * 255
    for colors in (rgb, np.zeros_like(rgb), np.full_like(rgb, 255), 255 - np.dstack([alpha] * 3)):
        path = save(tmp_path / "m.png", np.dstack((colors, alpha)))
        assert is_cut_out(path)
        np.testing.assert_array_equal(load_mask(path), disc)
    gray_alpha = np.dstack((rgb[..., 0], alpha))
    np.testing.assert_array_equal(load_mask(save(tmp_path / "la.png", gray_alpha, "LA")), disc)
    opaque = save(tmp_path / "opaque.png", np.dstack([alpha] * 3 + [np.full(SHAPE, 255, np.uint8)]))
    assert not is_cut_out(opaque)
    np.testing.assert_array_equal(load_mask(opaque), disc)


def test_palette_index_zero_is_background(tmp_path, disc):
    """PASCAL VOC's palette: 1 is dark red, 2 dark green, 255 the border."""
    indices = disc.astype(np.uint8) * np.where(np.arange(SHAPE[1]) < 9, 1, 2).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png"), disc)
    flat = Image.fromarray(disc.astype(np.uint8), "P")  # black and white, in either order
    for palette, inside in (([0, 0, 0, 255, 255, 255], disc), ([255, 255, 255, 0, 0, 0], ~disc)):
        flat.putpalette(palette)
        flat.save(tmp_path / "flat.png")
        np.testing.assert_array_equal(load_mask(tmp_path / "flat.png"), inside)
    image.save(tmp_path / "clear.png", transparency=2)
    np.testing.assert_array_equal(load_mask(tmp_path / "clear.png"), indices != 2)


@pytest.mark.parametrize("low, high", [(0, 2), (0, 100), (3, 7), (0, 255), (100, 200)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, "color"])
def test_of_two_values_the_larger_is_the_object(tmp_path, disc, low, high, kind):
    pixels = np.where(disc, high, low)
    pixels = np.dstack([pixels] * 3).astype(np.uint8) if kind == "color" else pixels.astype(kind)
    np.testing.assert_array_equal(load_mask(save(tmp_path / "m.png", pixels)), disc)


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 100, 200), (0, 50, 90)])
def test_label_images_are_refused_with_their_values(tmp_path, disc, values):
    pixels = np.where(disc, values[1], values[0]).astype(np.uint8)
    pixels[0] = values[2]
    found = ", ".join(map(str, values))
    with pytest.raises(InputError, match=rf"m\.png has the values {found}; expected a mask of two values"):
        load_mask(save(tmp_path / "m.png", pixels))


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
