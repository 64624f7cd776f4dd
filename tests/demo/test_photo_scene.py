"""The phone-like photographs: their files agree with the ground truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from idr.cli.demo import make_photo_scene
from idr.datasets.images import load_mask, load_rgb
from idr.demo.photo_render import PhoneLens
from idr.demo.photo_scene import phone_lens
from idr.demo.scene import read_exact_mesh

SMALL = ["--views", "8", "--img_res", "48", "64", "--supersampling", "1", "--mesh_resolution", "32"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photo") / "teapot"
    assert make_photo_scene.main(["--out", str(folder), *SMALL]) == 0
    return folder


def test_lens_distortion_agrees_with_opencv() -> None:
    lens = phone_lens((480, 640))
    uv = np.array([[319.5, 239.5], [0.0, 0.0], [639.0, 479.0], [12.5, 400.25]])
    k1, k2 = lens.radial
    rays = lens.rays(uv)
    seen, _ = cv2.projectPoints(
        rays, np.zeros(3), np.zeros(3), lens.intrinsics[:3, :3], np.array([k1, k2, 0.0, 0.0])
    )
    assert np.abs(seen[:, 0] - uv).max() < 1e-6
    assert np.allclose(np.linalg.norm(rays, axis=1), 1)
    straight = PhoneLens(lens.intrinsics, (0.0, 0.0)).rays(uv)
    assert np.degrees(np.arccos(rays[1] @ straight[1])) > 0.5  # a noticeable distortion in the corner


def test_masks_and_cameras_of_the_ground_truth_agree(scene: Path) -> None:
    """The exact surface, projected by camera and lens, fills each mask."""
    vertices, _ = read_exact_mesh(scene / "truth")
    matrices, lens = np.load(scene / "truth" / "cameras.npz"), phone_lens((48, 64))
    for i in range(8):
        projection = (matrices[f"world_mat_{i}"] @ matrices[f"scale_mat_{i}"])[:3]
        camera = np.linalg.solve(lens.intrinsics[:3, :3], projection)  # (3, 4), [R | t] up to scale
        points = np.column_stack((vertices, np.ones(len(vertices)))) @ camera.T
        assert (points[:, 2] > 0).all()
        seen = lens.distort(points[:, :2] / points[:, 2:]) * lens.intrinsics[0, 0] + lens.intrinsics[:2, 2]
        mask = load_mask(scene / "truth" / "mask" / f"IMG_{i:04d}.png")
        columns, rows = np.rint(seen).astype(int).T
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0
        assert grown[rows, columns].all()
        v, u = np.nonzero(mask)
        assert np.abs(seen[:, 0].min() - u.min()) < 1.5 and np.abs(seen[:, 1].max() - v.max()) < 1.5


def test_photographs_have_exif_like_a_phones(scene: Path) -> None:
    tags = []
    for i in range(8):
        path = scene / "photos" / f"IMG_{i:04d}.jpg"
        with Image.open(path) as image:
            exif = image.getexif()
            assert exif[0x0110] == "Phone 1"
            block = exif.get_ifd(0x8769)
        assert block[0xA405] == 34  # mm: 0.94 of 36 mm
        assert float(block[0x920A]) == pytest.approx(0.94 * 36 / 7.6, abs=0.01)
        tags.append(exif.get(0x0112, 1))
        assert load_rgb(path).shape == (48, 64, 3)
    assert tags == [1, 1, 1, 6, 1, 1, 3, 1]
    assert not (scene / "photos" / "mask").exists()


def test_exif_orientation_turns_the_image_upright(scene: Path) -> None:
    """The world's up direction points up in the displayed image."""
    matrices = np.load(scene / "truth" / "cameras.npz")
    for i, turn in ((0, np.eye(2)), (3, [[0, -1], [1, 0]]), (6, -np.eye(2))):  # stored to displayed axes
        projection = (matrices[f"world_mat_{i}"] @ matrices[f"scale_mat_{i}"])[:3]
        points = projection @ np.array([[0, 0, -0.3, 1.0], [0, 0, 0.3, 1.0]]).T
        foot, top = (points[:2] / points[2]).T
        shown = np.asarray(turn) @ (top - foot)
        assert shown[1] < -3 * abs(shown[0])


def test_nothing_is_overwritten(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_photo_scene.main(["--out", str(scene), *SMALL]) == 2
    assert "already exists: choose another --out" in capsys.readouterr().err
    assert make_photo_scene.main(["--out", str(scene.parent / "new"), "--views", "2"]) == 2
    assert not (scene.parent / "new").exists()
