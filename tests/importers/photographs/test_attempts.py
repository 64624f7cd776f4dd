"""Further attempts of structure from motion: turntables, faint photographs, masks; resuming and messages."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tests.importers import textured

from idr.errors import InputError
from idr.evaluation.camera_error import camera_errors
from idr.geometry.alignment import align_cameras
from idr.importers.photographs.structure_from_motion import ReconstructionSettings, reconstruct
from idr.importers.source import Source

pycolmap = pytest.importorskip("pycolmap", reason="needs the extra `colmap`")
ONCE = ReconstructionSettings(threads=1, second_try=False)
AUTO = ReconstructionSettings(threads=1)


def write(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


def turned(count: int = 6) -> np.ndarray:
    """Poses relative to a box that turns by 14 degrees at a time."""
    return np.stack([textured.pose_at(14.0 * k, 0.55) for k in range(count)])


def rotation_errors(found: Source, truth: np.ndarray) -> np.ndarray:
    matrices = [np.vstack([view.world_to_camera, [0, 0, 0, 1]]) for view in found.views]
    poses, exact = np.linalg.inv(np.stack(matrices)), truth[[int(Path(v.name).stem) for v in found.views]]
    return camera_errors(poses, exact, align_cameras(poses, exact)).rotation_degrees


@pytest.fixture(scope="module")
def turntable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of a turntable, and masks of the box, named after them."""
    root = tmp_path_factory.mktemp("turntable")
    images = [textured.photograph(pose, behind=textured.backdrop()) for pose in turned()]
    (root / "box").mkdir()
    for k, image in enumerate(write(root / "photos", images) and images):
        box = (image[..., 0].astype(int) > image[..., 1]) & (image[..., 0] > image[..., 2])
        Image.fromarray(box).save(root / "box" / f"{k}.png")
    return root


def test_a_turntable_without_its_backdrop_and_with_it(turntable: Path) -> None:
    said: list[str] = []
    found = reconstruct(turntable / "photos", turntable / "work", AUTO, said.append)
    assert len(found.views) == 6 and rotation_errors(found, turned()).mean() < 0.5
    assert any("the backdrop stands still" in line for line in said)
    for view in found.views:
        assert view.backdrop is not None
        certain, image = np.asarray(Image.open(view.backdrop)), np.asarray(Image.open(view.image))
        wall = (textured.backdrop().astype(int) == image).all(axis=-1)
        assert certain[wall].mean() > 0.2 and not certain[~wall].any()
    everywhere = ReconstructionSettings(threads=1, second_try=False, turntable="off")
    with pytest.raises(InputError, match="say so with --turntable") as error:
        reconstruct(turntable / "photos", turntable / "everywhere", everywhere, said.append)
    assert str(error.value).startswith(("one viewpoint", "no initial pair", "registered"))


def test_masks_limit_features(turntable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ReconstructionSettings(
        threads=1, second_try=False, turntable="off", mask_features=True, masks=turntable / "box"
    )
    found = reconstruct(turntable / "photos", turntable / "masked", settings, print)
    assert len(found.views) == 6 and rotation_errors(found, turned()).mean() < 0.5
    monkeypatch.setattr(pycolmap, "extract_features", lambda *_: pytest.fail("not resumed"))
    again = reconstruct(turntable / "photos", turntable / "masked", settings, print)
    assert [v.name for v in again.views] == [v.name for v in found.views]
    Image.fromarray(np.ones((textured.HEIGHT, textured.WIDTH), bool)).save(turntable / "box" / "0.png")
    said: list[str] = []
    with pytest.raises(pytest.fail.Exception, match="not resumed"):  # another mask, other features
        reconstruct(turntable / "photos", turntable / "masked", settings, said.append)
    assert any("starts over" in line for line in said)
    assert np.asarray(Image.open(turntable / "masked" / "regions" / "000000" / "000000.png.png")).all()


def test_the_global_mapper(turntable: Path) -> None:
    settings = ReconstructionSettings(threads=1, second_try=False, mapper="global")
    found = reconstruct(turntable / "photos", turntable / "global", settings, print)
    assert len(found.views) == 6 and rotation_errors(found, turned()).mean() < 1.0


def test_features_inside_masks_need_masks(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", [textured.texture(k, (255, 255, 255)) for k in range(3)])
    with pytest.raises(InputError, match="--mask_features needs masks of all photographs"):
        reconstruct(folder, tmp_path / "work", ReconstructionSettings(mask_features=True), print)
    assert not (tmp_path / "work").exists()


def faint(count: int = 8) -> tuple[list[np.ndarray], np.ndarray]:
    """Blurred photographs with little contrast, far apart, and their poses."""
    poses = textured.poses(count, step_degrees=24.0)
    images = []
    for pose in poses:
        blurred = cv2.GaussianBlur(textured.photograph(pose).astype(np.float32), (0, 0), 1.5)
        images.append(np.rint(128 + 0.45 * (blurred - 128)).astype(np.uint8))
    return images, poses


def test_a_second_try_rescues_faint_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, poses = faint()
    folder, work, said = write(tmp_path / "photos", images), tmp_path / "work", []
    with pytest.raises(InputError, match=r"registered [2-5] of 8 .*--second_try on"):
        reconstruct(folder, work, ONCE, print)
    whole = pycolmap.match_exhaustive
    monkeypatch.setattr(pycolmap, "match_exhaustive", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(folder, work, AUTO, said.append)
    assert any("after its model" in line for line in said)  # of the first attempt
    monkeypatch.setattr(pycolmap, "match_exhaustive", whole)
    monkeypatch.setattr(pycolmap, "extract_features", lambda *_: pytest.fail("not resumed"))
    found = reconstruct(folder, work, AUTO, said.append)
    assert len(found.views) == 8 and rotation_errors(found, poses).mean() < 0.5
    note = next(note for note in found.notes if note.startswith("attempts: "))
    assert re.search("as usual: registered [2-5] of 8", note)
    assert note.endswith("many features, relaxed mapper: registered 8 of 8 photographs")
    again = reconstruct(folder, work, AUTO, said.append)
    for one, other in zip(again.views, found.views, strict=True):
        np.testing.assert_array_equal(one.world_to_camera, other.world_to_camera)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_failure_says_what_was_tried(tmp_path: Path) -> None:
    images = [textured.texture(k, (255, 255, 255))[:120, :160] for k in range(3)]
    folder = write(tmp_path / "photos", images)
    message = r"no two of 3 photographs .*; all 3 attempts ended so$"
    with pytest.raises(InputError, match=message):
        reconstruct(folder, tmp_path / "work", AUTO, print)
    (tmp_path / "photos" / "0.png").rename(tmp_path / "photos" / "9.png")
    said: list[str] = []
    with pytest.raises(InputError, match="no two of 3"):
        reconstruct(folder, tmp_path / "work", AUTO, said.append)
    assert any("starts over" in line for line in said)
