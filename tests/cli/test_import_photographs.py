"""Importing photographs alone: structure from motion, resuming, rough cameras, and invalid input."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from tests.importers import textured

from idr.cli.import_scene import main
from idr.datasets.camera_files import read_cameras
from idr.evaluation.camera_error import camera_errors
from idr.geometry.alignment import align_cameras
from idr.importers.photographs import structure_from_motion as reconstruction
from idr.importers.recognize import recognize

pytest.importorskip("pycolmap", reason="needs the extra `colmap`")
VIEWS = 8


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs, one of them stored rotated, imported with rough cameras."""
    root = tmp_path_factory.mktemp("photographs")
    files = textured.write(root / "photos", textured.poses(VIEWS))
    turned = Image.open(files[2]).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    turned.save(files[2], exif=exif)
    assert call(root, "--rough_cameras", "--rough_degrees", "2") == 0
    return root


@pytest.fixture(scope="module")
def from_a_phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs on a card: HEIC and JPEG, names with blanks and brackets or no UTF-8; masks."""
    heif = pytest.importorskip("pillow_heif", reason="needs the extra `photos`")
    root = tmp_path_factory.mktemp("phone")
    folder, masks = root / "photos" / "DCIM" / "100APPLE", root / "photos" / "DCIM" / "100APPLE" / "masks"
    masks.mkdir(parents=True)
    for k, pose in enumerate(textured.poses(VIEWS)):
        image = Image.fromarray(textured.photograph(pose))
        name = os.fsdecode(b"IMG (5) \xff") if k == 5 else f"IMG ({k})"
        on_object(np.asarray(image)).save(masks / f"{name}_mask.png")
        if k % 2:
            heif.from_pillow(image).save(folder / f"{name}.HEIC", quality=95)
        elif k == 2:  # stored sideways
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(folder / f"{name}.jpg", quality=98, exif=exif)
        else:
            image.save(folder / f"{name}.jpg", quality=98)
    for name in ("._IMG (0).jpg", "IMG (0).MOV", "IMG (1).MOV", "raw.dng"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert call(root, "--matching", "sequential") == 0
    return root


def on_object(rgb: np.ndarray) -> Image.Image:
    """Mask by color: the box is orange, the ground is blue."""
    return Image.fromarray((rgb[..., 0].astype(int) > rgb[..., 2]).astype(np.uint8) * 255)


def test_photographs_of_a_phone(from_a_phone: Path) -> None:
    found, truth = found_poses(from_a_phone), textured.poses(VIEWS)
    assert camera_errors(found, truth, align_cameras(found, truth)).rotation_degrees.max() < 1.0
    record = json.loads((scene_of(from_a_phone) / "import.json").read_text())
    numbers = [int(view["source"][5]) for view in record["views"]]
    assert numbers == list(range(VIEWS)) and record["masks"] == "the source's own"
    notes = " ".join(record["notes"])
    assert "photos also has 1 .dng, 2 .mov that are not read" in notes and "1 photograph turned" in notes


def test_masks_beside_photographs_are_turned_with_them(from_a_phone: Path) -> None:
    for k in range(VIEWS):
        image = np.asarray(Image.open(scene_of(from_a_phone) / "image" / f"{k:04d}.png"))
        mask = np.asarray(Image.open(scene_of(from_a_phone) / "mask" / f"{k:04d}.png")) > 127
        truth = np.asarray(on_object(image)) > 127
        assert image.shape == (240, 320, 3)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9, k  # lossy colors at the edges


def test_masks_of_some_photographs_tell_those_of_the_others(from_a_phone: Path, capsys) -> None:
    """By a folder, and beside the photographs; the reconstruction is kept from the first import."""
    masks = from_a_phone / "photos" / "DCIM" / "100APPLE" / "masks"
    for k in (0, 1, 3, 4, 6):
        (masks / f"IMG ({k})_mask.png").rename(from_a_phone / f"IMG ({k})_mask.png")
    try:
        written = scene_of(from_a_phone) / "mask"
        before = [np.asarray(Image.open(written / f"{k:04d}.png")) for k in range(VIEWS)]
        for flags in ([], ["--masks", str(masks)]):
            command = ["--matching", "sequential", "--force", *flags]
            assert call(from_a_phone, *command) == 2
            assert "--make_missing_masks" in capsys.readouterr().err
            assert call(from_a_phone, *command, "--make_missing_masks") == 0
            assert "3 masks given; making masks of 5 images" in capsys.readouterr().out
            for k, mask in enumerate(before):
                made = np.asarray(Image.open(written / f"{k:04d}.png"))
                iou = (mask & made > 0).sum() / (mask | made > 0).sum()
                assert iou == 1 if k in (2, 5, 7) else iou > 0.9
    finally:
        for path in from_a_phone.glob("IMG*_mask.png"):
            path.rename(masks / path.name)


def test_a_video(tmp_path: Path) -> None:
    """Every second frame is blurred; a folder with a single video counts as the video."""
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra `photos`")
    poses = textured.poses(12, step_degrees=7.0)
    frames = [textured.photograph(pose) for pose in poses]
    frames[1::2] = [cv2.blur(frame, (9, 9)) for frame in frames[1::2]]
    (tmp_path / "photos").mkdir()
    video = tmp_path / "photos" / "mug.mp4"
    iio.imwrite(video, np.stack(frames), plugin="FFMPEG", fps=8, quality=10, macro_block_size=2)
    assert recognize(video) == recognize(video.parent) == "photographs"
    settings, said = reconstruction.ReconstructionSettings(threads=1, frames=6), []
    found = reconstruction.reconstruct(video.parent, tmp_path / "work", settings, said.append)
    assert [view.name for view in found.views] == [f"frame_{k:06d}.png" for k in range(0, 12, 2)]
    assert "photographs are the sharpest frames of mug.mp4" in found.notes
    matrices = [np.vstack([view.world_to_camera, [0, 0, 0, 1]]) for view in found.views]
    cameras = np.linalg.inv(np.stack(matrices))
    errors = camera_errors(cameras, poses[::2], align_cameras(cameras, poses[::2]))
    assert errors.rotation_degrees.max() < 2.0  # lossy video
    again = reconstruction.reconstruct(video, tmp_path / "work", settings, said.append)
    assert [view.image for view in again.views] == [view.image for view in found.views]
    assert "after its model" in said[-1]


def call(root: Path, *more: str) -> int:
    out = str(root / "data" / "mine" / "scan7")
    return main([str(root / "photos"), "--out", out, "--threads", "1", *more])


def scene_of(root: Path) -> Path:
    return root / "data" / "mine" / "scan7"


def found_poses(root: Path, name: str = "cameras.npz") -> np.ndarray:
    return read_cameras(scene_of(root) / name, VIEWS).decompose(False)[1]


def test_cameras_are_estimated(imported: Path) -> None:
    found, truth = found_poses(imported), textured.poses(VIEWS)
    errors = camera_errors(found, truth, align_cameras(found, truth))
    assert errors.rotation_degrees.max() < 1.0  # 240 x 320 pixels, focal length unknown
    assert errors.translation.max() < 0.03 * 3.2
    record = json.loads((scene_of(imported) / "import.json").read_text())
    assert record["kind"] == "photographs" and record["masks"] == "made (auto)"
    assert [view["source"] for view in record["views"]] == [f"view{k + 1}.png" for k in range(VIEWS)]
    notes = " ".join(record["notes"])
    assert "registered 8 of 8 photographs" in notes and "mean reprojection error" in notes
    assert "1 photograph turned upright" in notes and "lens distortion removed from 8" in notes


def test_exif_orientation_is_applied(imported: Path) -> None:
    images = [cv2.imread(str(path)) for path in sorted((scene_of(imported) / "image").iterdir())]
    assert {image.shape for image in images} == {(240, 320, 3)}
    expected = textured.photograph(textured.poses(VIEWS)[2])[..., ::-1].astype(float)
    difference = np.abs(images[2] - expected)[60:180, 80:240].mean()
    assert difference < 0.5 * np.abs(images[2][::-1, ::-1] - expected)[60:180, 80:240].mean()


def test_rough_cameras_have_the_requested_errors(imported: Path) -> None:
    exact, rough = found_poses(imported), found_poses(imported, "cameras_linear_init.npz")
    cosines = (np.einsum("bij,bij->b", exact[:, :3, :3], rough[:, :3, :3]) - 1) / 2
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    assert (angles > 0.99).all() and (angles < 3.01).all()  # 0.5 to 1.5 times two degrees
    both = [
        read_cameras(scene_of(imported) / name, VIEWS) for name in ("cameras.npz", "cameras_linear_init.npz")
    ]
    assert np.array_equal(both[0].scale_mats, both[1].scale_mats)
    center = both[0].scale_mats[0][:3, 3]
    displacement = np.linalg.norm(exact[:, :3, 3] - rough[:, :3, 3], axis=1)
    share = displacement / np.linalg.norm(exact[:, :3, 3] - center, axis=1)
    assert (share > 0.0149).all() and (share < 0.0451).all()


def test_a_second_call_resumes_with_the_same_result(imported: Path, tmp_path: Path, capsys) -> None:
    root = tmp_path / "again"
    shutil.copytree(imported, root, symlinks=True)
    before = (scene_of(root) / "cameras.npz").read_bytes()
    assert call(root, "--force") == 0
    assert "after its model" in capsys.readouterr().out
    assert (scene_of(root) / "cameras.npz").read_bytes() == before
    work = root / "data" / "mine" / "reconstruction_scan7"
    shutil.rmtree(work / "model")  # as if interrupted during registration
    (work / ".model.abc.tmp").mkdir()
    (work / ".model.abc.tmp" / "images.bin").write_bytes(b"half")
    assert call(root, "--force", "--masks", "auto") == 0
    assert "after its matches" in capsys.readouterr().out
    assert not (work / ".model.abc.tmp").exists()
    assert (scene_of(root) / "cameras.npz").read_bytes() == before  # bit-equal with one thread


def test_an_interrupted_registration_leaves_no_model(imported: Path, tmp_path: Path, monkeypatch) -> None:
    import pycolmap

    root = tmp_path / "stopped"
    shutil.copytree(imported, root, symlinks=True)
    work = root / "data" / "mine" / "reconstruction_scan7"
    shutil.rmtree(work / "model")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pycolmap, "incremental_mapping", stop)
    assert call(root, "--force") == 130
    names = sorted(path.name for path in work.iterdir())
    assert names == ["backdrop", "matches", "photographs", "reconstruction.json"]


def test_rough_cameras_from_the_reconstruction_itself(imported: Path, tmp_path: Path) -> None:
    model = imported / "data" / "mine" / "reconstruction_scan7" / "model"
    out = tmp_path / "data" / "mine" / "scan1"
    masks = str(scene_of(imported) / "mask")
    arguments = [str(scene_of(imported)), "--out", str(out), "--masks", masks, "--rough_from", str(model)]
    assert main(arguments) == 0
    exact, rough = (
        read_cameras(out / name, VIEWS).decompose(False)[1]
        for name in ("cameras.npz", "cameras_linear_init.npz")
    )
    assert np.allclose(exact, rough, atol=1e-6)  # the same cameras, paired in natural order


def test_missing_rough_views_are_reported_before_masks_are_made(
    imported: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    from idr.importers import scene_folder

    second = tmp_path / "second"
    shutil.copytree(scene_of(imported), second)
    for kind in ("image", "mask"):
        for path in sorted((second / kind).iterdir())[:2]:
            path.unlink()
    with np.load(second / "cameras.npz") as file:
        arrays = {f"{key.rpartition('_')[0]}_{int(key.rpartition('_')[2]) - 2}": file[key] for key in file}
    np.savez(second / "cameras.npz", **{key: value for key, value in arrays.items() if "-" not in key})
    monkeypatch.setattr(scene_folder, "make_masks", lambda *_: pytest.fail("made masks before checking"))
    out = tmp_path / "data" / "mine" / "scan1"
    arguments = [str(scene_of(imported)), "--out", str(out), "--masks", "auto"]
    assert main([*arguments, "--rough_from", str(second)]) == 2
    assert "has no camera for 0000.png, 0001.png (2 of 8 views)" in capsys.readouterr().err
    assert main([*arguments, "--rough_from", str(tmp_path / "none")]) == 2
    assert "no file or folder" in capsys.readouterr().err and not out.exists()


def test_sequential_pairs_close_an_orbit() -> None:
    pairs = reconstruction.sequential_pairs(200)
    assert len(pairs) == len(set(pairs)) and all(i < j for i, j in pairs)
    assert {(0, 1), (0, 10), (199 - 10, 199), (0, 195)} <= set(pairs) and (1, 100) not in pairs
    assert len(pairs) < 200 * 199 / 2 / 5


def some(count: int) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        textured.write(folder, textured.poses(count))
        return []

    return make


def broken(folder: Path) -> list[str]:
    files = textured.write(folder, textured.poses(3))
    files[1].write_bytes(files[1].read_bytes()[:3000])
    return []


def twice(folder: Path) -> list[str]:
    shutil.copyfile(textured.write(folder, textured.poses(3))[0], folder / "copy.png")
    return []


def phone_format(folder: Path) -> list[str]:
    (folder / "DCIM" / "100CANON").mkdir(parents=True)
    (folder / "DCIM" / "100CANON" / "IMG_1.DNG").write_bytes(b"0")
    return []


def one_name_in_two_formats(folder: Path) -> list[str]:
    files = textured.write(folder, textured.poses(3))
    Image.open(files[0]).convert("RGB").save(files[0].with_suffix(".jpg"))
    return []


def several_folders(folder: Path) -> list[str]:
    for name in ("mug", "shoe"):
        textured.write(folder / "DCIM" / name, textured.poses(3))
    return []


def a_mask_is_missing(folder: Path) -> list[str]:
    for path in textured.write(folder / "images", textured.poses(3))[1:]:
        masks = folder / "masks"
        masks.mkdir(exist_ok=True)
        shutil.copyfile(path, masks / path.name)
    return []


def a_preview_beside(folder: Path) -> list[str]:
    files = textured.write(folder / "images", textured.poses(3))
    shutil.copyfile(files[0], folder / "preview.png")
    return []


def several_videos(folder: Path) -> list[str]:
    folder.mkdir()
    for name in ("a.mov", "b.MP4"):
        (folder / name).write_bytes(b"0")
    return []


def empty_photograph(folder: Path) -> list[str]:
    textured.write(folder, textured.poses(3))[0].write_bytes(b"")
    return []


def write_images(folder: Path, images: list[np.ndarray]) -> list[str]:
    folder.mkdir()
    for k, image in enumerate(images):
        cv2.imwrite(str(folder / f"{k}.png"), image)
    return []


def one_viewpoint(folder: Path) -> list[str]:
    image = textured.photograph(textured.poses(1)[0])
    noise = np.random.default_rng(0).integers(0, 6, (4, *image.shape))
    return write_images(
        folder, [np.clip(image.astype(int) + more, 0, 255).astype(np.uint8) for more in noise]
    )


def no_overlap(folder: Path) -> list[str]:
    return write_images(
        folder, [cv2.resize(textured.texture(k, (255, 255, 255)), (320, 240)) for k in range(4)]
    )


def no_texture(folder: Path) -> list[str]:
    return write_images(folder, [np.full((240, 320, 3), 90 + k, np.uint8) for k in range(4)])


def more_than_there_are(folder: Path) -> list[str]:
    textured.write(folder, textured.poses(5))
    return ["--min_registered", "6"]


def flags(*arguments: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        textured.write(folder, textured.poses(3))
        return list(arguments)

    return make


def foreign_work_folder(folder: Path) -> list[str]:
    textured.write(folder, textured.poses(3))
    work = folder.parent / "data" / "mine" / "reconstruction_scan7"
    work.mkdir(parents=True)
    (work / "thesis.txt").write_text("mine")
    return []


WRONG = {
    "too few photographs": (some(2), r"too few photographs: 2 in .*expected at least 3"),
    "unreadable photograph": (broken, r"view2\.png cannot be read as an image .*replace it"),
    "duplicate photograph": (twice, r"are the same photograph; expected each only once"),
    "unsupported format": (phone_format, r"it has 1 \.dng that are not read \(IMG_1\.DNG\): convert"),
    "one name in two formats": (one_name_in_two_formats, r"view1\.jpg and view1\.png have one name"),
    "several folders": (several_folders, r"several folders: DCIM/mug \(3\), DCIM/shoe \(3\); pass one"),
    "a mask is missing": (a_mask_is_missing, r"no mask for view1\.png \(1 of 3"),
    "a preview beside": (a_preview_beside, r"too few photographs: 1 in .*there are 3 photographs in images"),
    "several videos": (several_videos, r"has 2 videos: a\.mov, b\.MP4; pass one of them"),
    "empty photograph": (empty_photograph, r"view1\.png cannot be read as an image .*is empty"),
    "frames of photographs": (flags("--frames", "9"), r"--frames is for a video, but .*has photographs"),
    "one viewpoint": (one_viewpoint, r"one viewpoint: .*walk around the object"),
    "no overlap": (no_overlap, r"too few matches: no two of 4 photographs"),
    "no texture": (no_texture, r"too few features: 4 of 4 photographs"),
    "too few registered": (
        more_than_there_are,
        r"registered \d of 5 photographs, expected 6 or more; take more",
    ),
    "work folder taken": (foreign_work_folder, r"reconstruction_scan7 exists and is not a work folder"),
    "mask folder missing": (flags("--masks", "nowhere"), r"no folder .*nowhere"),
    "--pixel_center for photographs": (
        flags("--pixel_center", "0"),
        r"--pixel_center is for sources with cameras",
    ),
    "two sources of rough cameras": (
        flags("--rough_cameras", "--rough_from", "x"),
        r"both --rough_cameras and --rough_from",
    ),
    "invalid --threads": (flags("--threads", "0"), r"--threads 0: expected 1 or more"),
}


@pytest.mark.parametrize("what", WRONG)
def test_invalid_photographs_are_refused_and_no_scene_is_written(what: str, tmp_path: Path, capsys) -> None:
    import re

    spoil, message = WRONG[what]
    arguments = spoil(tmp_path / "photos")
    assert call(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not scene_of(tmp_path).exists()
    if what == "work folder taken":
        assert (tmp_path / "data/mine/reconstruction_scan7/thesis.txt").read_text() == "mine"


def test_reconstruction_flags_are_refused_with_existing_cameras(imported: Path, tmp_path: Path, capsys):
    out = str(tmp_path / "data" / "mine" / "scan1")
    assert main([str(scene_of(imported)), "--out", out, "--camera_model", "OPENCV"]) == 2
    assert "--camera_model is for photographs alone" in capsys.readouterr().err
