"""The commands preprocess_cameras.py and check_scene.py."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.preprocess.scenes import IMAGE_SIZE, ellipsoid_mask, ring_centers, world_mats

from idr.cli import check_scene, preprocess_cameras
from idr.preprocess import visual_hull

CODE = Path(__file__).resolve().parents[2] / "code"
VIEWS = 8
RADII = np.array([1.0, 0.6, 0.8])


@pytest.fixture(autouse=True)
def coarse_hulls(monkeypatch):
    monkeypatch.setattr(visual_hull, "CELLS_BUDGET", 20_000)


def write_scene(folder, count=VIEWS, matrices=None):
    """An ellipsoid with unpadded image numbers, whose natural order differs from the alphabetical one."""
    (folder / "image").mkdir(parents=True)
    (folder / "mask").mkdir()
    matrices = world_mats(ring_centers(count, 300.0, 0.3)) if matrices is None else matrices
    for k, matrix in enumerate(matrices):
        mask = ellipsoid_mask(matrix, RADII)
        cv2.imwrite(str(folder / "mask" / f"{k + 3}.png"), mask.astype(np.uint8) * 255)
        cv2.imwrite(
            str(folder / "image" / f"{k + 3}.png"), np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 180
        )
    np.savez(
        folder / "cameras.npz",
        **{f"world_mat_{k}": np.vstack([m, [0, 0, 0, 1]]) for k, m in enumerate(matrices)},
    )
    return folder


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "DTU" / "scan7")


def tree_hash(folder):
    """Hash of all names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def refused(capsys, main, argv, message, folder):
    """Asserts exit status 2, one message without traceback, and unchanged files."""
    before = tree_hash(folder)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert tree_hash(folder) == before


def test_preprocess_writes_scale_mats_and_a_backup(scene, capsys):
    original = (scene / "cameras.npz").read_bytes()
    assert preprocess_cameras.main(["--source_dir", str(scene)]) == 0
    out = capsys.readouterr().out
    assert f"scan7: {VIEWS} views: center = (" in out and "; radius = " in out
    assert "mean IoU" in out and "margin" in out
    assert f"wrote {VIEWS} scale_mats to {scene / 'cameras.npz'}" in out
    assert (scene / "cameras_backup.npz").read_bytes() == original
    with np.load(scene / "cameras.npz") as stored:
        assert len(stored.files) == 2 * VIEWS
        scale_mat = stored["scale_mat_3"]
    np.testing.assert_allclose(scale_mat[:3, 3], 0.0, atol=0.1)
    assert 1.0 < scale_mat[0, 0] < 2.25

    first = (scene / "cameras.npz").read_bytes()
    assert preprocess_cameras.main(["--source_dir", str(scene)]) == 0
    assert (scene / "cameras.npz").read_bytes() == first
    assert (scene / "cameras_backup.npz").read_bytes() == original


def test_linear_init_has_its_own_file(scene):
    (scene / "cameras.npz").rename(scene / "cameras_linear_init.npz")
    assert preprocess_cameras.main(["--source_dir", str(scene), "--use_linear_init"]) == 0
    names = sorted(path.name for path in scene.glob("*.npz"))
    assert names == ["cameras_linear_init.npz", "cameras_linear_init_backup.npz"]


def test_dry_run_changes_nothing(scene, capsys):
    before = tree_hash(scene)
    assert preprocess_cameras.main(["--source_dir", str(scene), "--dry_run"]) == 0
    assert "dry run" in capsys.readouterr().out
    assert tree_hash(scene) == before


def test_dtu_processes_every_scan_and_reports_failures(scene, tmp_path, capsys):
    good = write_scene(tmp_path / "DTU" / "scan10", 6)
    bad = write_scene(tmp_path / "DTU" / "scan9", 5)
    next((bad / "mask").iterdir()).unlink()
    assert preprocess_cameras.main(["--dtu", "--data_root", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert (
        captured.out.index("scan7: ") < captured.out.index("scan9: FAILED") < captured.out.index("scan10: ")
    )
    assert "1 of 3 scenes failed, the others are done: scan9 (" in captured.err
    assert (good / "cameras_backup.npz").is_file() and (scene / "cameras_backup.npz").is_file()
    assert not (bad / "cameras_backup.npz").exists()


@pytest.mark.parametrize("argv", [[], ["--source_dir", "somewhere", "--dtu"]])
def test_one_of_source_dir_and_dtu(argv, tmp_path, capsys):
    refused(capsys, preprocess_cameras.main, argv, "--source_dir FOLDER for one scene", tmp_path)


class TestRefusals:
    """Invalid input: exit status 2, one message, nothing changed."""

    def test_no_scene(self, tmp_path, capsys):
        argv = ["--source_dir", str(tmp_path / "scan1")]
        refused(capsys, preprocess_cameras.main, argv, "no scene folder", tmp_path)

    def test_no_dtu(self, tmp_path, capsys):
        refused(
            capsys,
            preprocess_cameras.main,
            ["--dtu", "--data_root", str(tmp_path)],
            "download_data.sh",
            tmp_path,
        )

    def test_no_masks(self, scene, capsys):
        for path in (scene / "mask").iterdir():
            path.unlink()
        refused(capsys, preprocess_cameras.main, ["--source_dir", str(scene)], "no images in", scene)

    def test_no_noisy_cameras(self, scene, capsys):
        argv = ["--source_dir", str(scene), "--use_linear_init"]
        refused(capsys, preprocess_cameras.main, argv, "npz files there: cameras.npz", scene)

    def test_counts_differ(self, scene, capsys):
        (scene / "mask" / "4.png").unlink()
        message = f"{VIEWS - 1} masks but {VIEWS} world_mats in cameras.npz"
        refused(capsys, preprocess_cameras.main, ["--source_dir", str(scene)], message, scene)

    @pytest.mark.parametrize(("value", "word"), [(0, "no"), (255, "every")])
    def test_empty_or_full_mask(self, scene, capsys, value, word):
        cv2.imwrite(str(scene / "mask" / "5.png"), np.full(IMAGE_SIZE, value, np.uint8))
        message = f"mask 2 (5.png) marks {word} pixel as object"
        refused(capsys, preprocess_cameras.main, ["--source_dir", str(scene)], message, scene)

    def test_truncated_mask(self, scene, capsys):
        path = scene / "mask" / "5.png"
        path.write_bytes(path.read_bytes()[:60])
        refused(
            capsys, preprocess_cameras.main, ["--source_dir", str(scene)], "cannot be read as an image", scene
        )

    def test_truncated_cameras(self, scene, capsys):
        path = scene / "cameras.npz"
        path.write_bytes(path.read_bytes()[:900])
        refused(
            capsys, preprocess_cameras.main, ["--source_dir", str(scene)], "cannot be read as an npz", scene
        )

    def test_single_view(self, tmp_path, capsys):
        scene = write_scene(tmp_path / "scan0", 1)
        refused(
            capsys, preprocess_cameras.main, ["--source_dir", str(scene)], "two or more viewpoints", scene
        )

    def test_shuffled_cameras(self, scene, capsys):
        rng = np.random.default_rng(0)
        with np.load(scene / "cameras.npz") as stored:
            matrices = [stored[f"world_mat_{k}"] for k in rng.permutation(VIEWS)]
        for matrix in matrices:
            matrix[:3] = (
                np.array([[1, 0, 30 * rng.normal()], [0, 1, 30 * rng.normal()], [0, 0, 1]]) @ matrix[:3]
            )
        np.savez(scene / "cameras.npz", **{f"world_mat_{k}": matrix for k, matrix in enumerate(matrices)})
        refused(capsys, preprocess_cameras.main, ["--source_dir", str(scene)], "contradict each other", scene)

    def test_read_only_folder(self, scene, capsys, monkeypatch):
        """Simulates missing permission, which does not apply to tests that run as root."""

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("os.open", refuse)
        argv = ["--source_dir", str(scene)]
        refused(capsys, preprocess_cameras.main, argv, "you may not write there", scene)

    def test_check_scene_without_scale_mats(self, scene, capsys):
        refused(capsys, check_scene.main, ["--source_dir", str(scene)], "scale_mat", scene)


class TestCheckScene:
    """Images and warnings."""

    def test_a_good_scene(self, scene, capsys):
        preprocess_cameras.main(["--source_dir", str(scene)])
        capsys.readouterr()
        assert check_scene.main(["--source_dir", str(scene)]) == 0
        out = capsys.readouterr().out
        assert f"{VIEWS} views, 0 with warnings, 0 warnings about the whole scene" in out
        assert sorted(path.name for path in (scene / "check").iterdir()) == sorted(
            [f"check_{k + 3}.png" for k in range(VIEWS)] + ["contact_sheet.png", "scene_report.html"]
        )
        image = cv2.imread(str(scene / "check" / "check_3.png"))
        sheet = cv2.imread(str(scene / "check" / "contact_sheet.png"))
        assert image.shape[0] >= IMAGE_SIZE[0] and sheet.shape[1] == 3 * 480
        for color in ((64, 220, 64), (255, 210, 0), (255, 40, 200)):  # mask, sphere, hull, RGB
            assert (
                np.abs(image[..., ::-1].astype(int) - color).max(axis=-1) < 70
            ).any()  # lines are antialiased

    @pytest.mark.parametrize(
        ("center", "radius", "message"),
        [
            ((0.0, 0.0, 0.0), 0.5, "masks extend beyond the unit sphere"),
            ((0.7, 0.0, 0.0), 1.0, "mask outside the sphere"),
            ((0.0, 0.0, 0.0), 8.0, "the sphere is far too large"),
            ((0.0, 0.0, 0.0), 8.0, "camera inside the sphere"),
        ],
    )
    def test_wrong_spheres(self, scene, tmp_path, capsys, center, radius, message):
        from idr.preprocess.scene_views import write_scale_mats

        write_scale_mats(scene / "cameras.npz", np.array(center), radius)
        assert check_scene.main(["--source_dir", str(scene), "--out", str(tmp_path / "out")]) == 0
        assert message in capsys.readouterr().out
        assert (tmp_path / "out" / "contact_sheet.png").is_file()
        assert not (scene / "check").exists()

    def test_a_wrong_mask_is_named(self, scene, tmp_path, capsys):
        preprocess_cameras.main(["--source_dir", str(scene)])
        mask = cv2.imread(str(scene / "mask" / "6.png"), 0)
        mask[:, :70] = 0
        cv2.imwrite(str(scene / "mask" / "6.png"), mask)
        capsys.readouterr()
        assert check_scene.main(["--source_dir", str(scene), "--out", str(tmp_path / "out")]) == 0
        assert "disagree" in capsys.readouterr().out

    def test_a_contradictory_scene_is_still_drawn(self, tmp_path, capsys):
        matrices = world_mats(ring_centers(VIEWS, 300.0, 0.3))
        scene = write_scene(tmp_path / "scan0", matrices=matrices)
        preprocess_cameras.main(["--source_dir", str(scene)])
        for k in range(VIEWS):
            mask = np.zeros(IMAGE_SIZE, np.uint8)
            mask[10 + 9 * k : 14 + 9 * k, 20 + 11 * k : 24 + 11 * k] = 255
            cv2.imwrite(str(scene / "mask" / f"{k + 3}.png"), mask)
        assert check_scene.main(["--source_dir", str(scene), "--out", str(tmp_path / "out")]) == 0
        warning = "WARNING: masks-and-cameras-contradict: masks and cameras contradict each other"
        assert warning in capsys.readouterr().out
        assert (tmp_path / "out" / "contact_sheet.png").is_file()

    def test_images_of_another_size(self, scene, tmp_path, capsys):
        preprocess_cameras.main(["--source_dir", str(scene)])
        cv2.imwrite(str(scene / "image" / "4.png"), np.zeros((50, 60, 3), np.uint8))
        assert check_scene.main(["--source_dir", str(scene), "--out", str(tmp_path / "out")]) == 0
        assert "image and mask differ in size in view 1 (4.png)" in capsys.readouterr().out


def test_pictures_of_others_are_replaced_with_force_only(scene, tmp_path, capsys):
    assert preprocess_cameras.main(["--source_dir", str(scene)]) == 0
    mine = tmp_path / "out" / "check_000.png"
    mine.parent.mkdir()
    mine.write_text("mine")
    flags = ["--source_dir", str(scene), "--out", str(mine.parent)]
    refused(capsys, check_scene.main, flags, "check_000.png is there already: add --force", scene)
    assert mine.read_text() == "mine"
    assert check_scene.main([*flags, "--force"]) == 0 == check_scene.main(flags)


@pytest.mark.parametrize("script", ["preprocess_cameras.py", "check_scene.py"])
def test_scripts_as_processes(script, tmp_path, warm_python):
    """From code/, uninstalled: help lists the flags, and a mistake gives exit status 2 and one line."""
    help_text = subprocess.run(
        [sys.executable, f"preprocess/{script}", "-h"], cwd=CODE, capture_output=True, text=True
    )
    assert help_text.returncode == 0
    assert "--source_dir" in help_text.stdout and "--use_linear_init" in help_text.stdout
    argv = [warm_python, f"preprocess/{script}", "--source_dir", str(tmp_path / "nowhere")]
    failed = subprocess.run(argv, cwd=CODE, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: no scene folder") and "Traceback" not in failed.stderr
