"""Importing photographs alone: structure from motion, resuming, rough cameras, and invalid input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tests.importers import textured

from idr.cli.import_scene import main
from idr.datasets.camera_files import read_cameras
from idr.evaluation.camera_error import camera_errors
from idr.geometry.alignment import align_cameras
from idr.importers.photographs import structure_from_motion as reconstruction

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
    assert sorted(p.name for p in work.iterdir()) == ["matches", "photographs", "reconstruction.json"]


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
    folder.mkdir()
    (folder / "IMG_1.HEIC").write_bytes(b"0")
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
    "unsupported format": (phone_format, r"unsupported formats such as IMG_1\.HEIC.*convert"),
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
