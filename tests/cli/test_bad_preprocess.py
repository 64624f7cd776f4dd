"""Preprocessing, scene check and the built-in scene refuse invalid input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from tests.cli.bad_input import (
    OFFSET,
    RADIUS,
    SCALE,
    camera_matrices,
    cut_short,
    look_at_origin,
    positions_around,
    positions_on_ring,
    rewrite_npz,
    snapshot,
    write_scene,
)

from idr.cli.check_scene import main as check_scene
from idr.cli.demo.make_scene import main as make_scene
from idr.cli.preprocess_cameras import main as preprocess

CAMERAS, MASK = "cameras.npz", "mask/002.png"
both = pytest.mark.parametrize("main", [preprocess, check_scene], ids=["preprocess", "check"])


def _mask(value: int) -> Callable[[Path], None]:
    return lambda scene: iio.imwrite(scene / MASK, np.full((12, 16), value, np.uint8))


def _camera(**entries: object) -> Callable[[Path], None]:
    return lambda scene: rewrite_npz(scene / CAMERAS, **entries)


@both
@pytest.mark.parametrize(
    "spoil, texts",
    [
        (
            lambda scene: shutil.rmtree(scene),
            ["no scene folder", "data/balls/scan3", "mask/ and cameras.npz"],
        ),
        (lambda scene: shutil.rmtree(scene / "mask"), ["no folder", "scan3/mask"]),
        (
            lambda scene: (scene / MASK).unlink(),
            ["5 masks but 6 world_mats", "expected one of each per view"],
        ),
        (lambda scene: cut_short(scene / MASK), [MASK, "cannot be read as an image", "replace it"]),
        (
            _mask(0),
            ["mask 2 (002.png) marks no pixel", "expected the object white on black", "replace this mask"],
        ),
        (
            _mask(255),
            ["mask 2 (002.png) marks every pixel", "expected the object white on black"],
        ),
        (
            lambda scene: (scene / CAMERAS).unlink(),
            ["no camera file", "npz files there: cameras_linear_init.npz", "world_mat_<i>"],
        ),
        (
            lambda scene: cut_short(scene / CAMERAS),
            [CAMERAS, "cannot be read as an npz", "download it again"],
        ),
        (lambda scene: (scene / CAMERAS).write_text("no"), [CAMERAS, "cannot be read as an npz"]),
        (
            _camera(world_mat_2=None),
            [CAMERAS, "has world_mat_5 but not world_mat_2", "add it"],
        ),
        (_camera(world_mat_6=np.eye(4)), ["6 masks but 7 world_mats"]),
        (_camera(world_mat_3=np.full((4, 4), np.inf)), ["world_mat_3 (003.png)", "non-finite", "export"]),
        (_camera(world_mat_3=np.zeros((4, 4))), ["world_mat_3 (003.png)", "singular", "export"]),
        (_camera(world_mat_3=np.eye(3)), ["world_mat_3 has shape (3, 3)", "expected (4, 4)"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",  # equal in all test processes
)
def test_an_invalid_scene_is_refused(project, main, spoil, texts):
    spoil(project.scene)
    project.refuses(main, "--source_dir", project.scene, texts=texts)


class TestPreprocess:
    def refuses(self, project, *flags, texts):
        project.refuses(preprocess, "--source_dir", project.scene, *flags, texts=texts)

    def test_single_view(self, project):
        write_scene(project.scene, positions=positions_around()[:1])
        self.refuses(
            project, texts=["1 view", "determines neither distance nor depth", "expected two or more"]
        )

    def test_views_from_one_position(self, project):
        write_scene(project.scene, positions=positions_around()[:1] * 3)
        self.refuses(project, texts=["3 views see the object from one place", "add views from other sides"])

    def test_object_behind_the_cameras(self, project):
        poses = [
            look_at_origin(position) @ np.diag([1.0, -1.0, -1.0, 1.0]) for position in positions_around()
        ]
        np.savez(project.scene / CAMERAS, **camera_matrices(poses))
        self.refuses(
            project, texts=["object lies behind camera 0 (000.png)", "expected OpenCV axes", "OpenGL"]
        )

    def test_camera_inside_the_object(self, project):
        matrices = camera_matrices([look_at_origin([0.1, 0.05, 0.1])])
        rewrite_npz(project.scene / CAMERAS, world_mat_4=matrices["world_mat_0"])
        self.refuses(project, texts=["camera 4 (004.png) lies inside the object", "expected cameras outside"])

    def test_masks_of_other_cameras(self, project):
        for k, path in enumerate(sorted((project.scene / "mask").iterdir())):
            mask = np.zeros((12, 16), np.uint8)
            mask[(0, -1)[k % 2], (0, -1)[k // 2 % 2]] = 255
            iio.imwrite(path, mask)
        self.refuses(project, texts=["masks and cameras contradict each other", "natural name order"])

    def test_no_noisy_file(self, project):
        (project.scene / "cameras_linear_init.npz").unlink()
        self.refuses(
            project, "--use_linear_init", texts=["cameras_linear_init.npz", "npz files there: cameras.npz"]
        )

    @pytest.mark.parametrize("flags, got", [((), "neither"), (("--dtu", "--source_dir", "x"), "both")])
    def test_one_of_two_flags(self, project, flags, got):
        project.refuses(
            preprocess, *flags, texts=[f"got {got} --source_dir and --dtu", "--source_dir FOLDER"]
        )

    def test_missing_dtu_folder(self, project):
        texts = ["no scenes", "data/DTU/scan*", "download_data.sh", "--data_root"]
        project.refuses(preprocess, "--dtu", texts=texts)

    def test_one_bad_scene_does_not_stop_the_others(self, project):
        dtu = project.root / "data" / "DTU"
        for number in (24, 65):
            shutil.copytree(project.scene, dtu / f"scan{number}")
        cut_short(dtu / "scan24" / CAMERAS)
        before = snapshot(dtu / "scan24")
        outcome = project.run(preprocess, "--dtu")
        assert outcome.status == 2
        assert "error: 1 of 2 scenes failed, the others are done: scan24" in outcome.err
        assert "Traceback" not in outcome.err
        assert snapshot(dtu / "scan24") == before
        assert (dtu / "scan65" / "cameras_backup.npz").is_file()

    @pytest.mark.parametrize("positions", [positions_around(), positions_on_ring()], ids=["around", "ring"])
    def test_a_scale_mat_that_training_refuses_is_replaced(self, project, positions):
        """Also works with coplanar cameras."""
        write_scene(project.scene, positions=positions)
        small = np.diag([4 * SCALE, 4 * SCALE, 4 * SCALE, 1.0])
        small[:3, 3] = OFFSET
        rewrite_npz(project.scene / CAMERAS, **{f"scale_mat_{i}": small for i in range(6)})
        project.refuses_to_train(texts=["lies inside the unit sphere", "run preprocess_cameras.py"])
        original = (project.scene / CAMERAS).read_bytes()

        assert project.run(preprocess, "--source_dir", project.scene).status == 0
        assert (project.scene / "cameras_backup.npz").read_bytes() == original
        assert project.train("--nepoch", "0").status == 0
        with np.load(project.scene / CAMERAS) as archive:
            scale_mat = archive["scale_mat_0"]
        # Published rule: 9/4 of a ball's radius. Coarse pixels (1/7 radius) and few views enlarge the hull.
        assert 2.0 < scale_mat[0, 0] / (RADIUS * SCALE) < 3.5
        np.testing.assert_allclose(scale_mat[:3, 3], OFFSET, atol=0.2 * RADIUS * SCALE)


class TestCheck:
    def test_image_missing(self, project):
        (project.scene / "image" / "000001.png").unlink()
        texts = ["5 images but 6 masks and cameras", "expected one of each"]
        project.refuses(check_scene, "--source_dir", project.scene, texts=texts)

    def test_a_single_view_is_drawn_with_a_warning(self, project):
        write_scene(project.scene, positions=positions_around()[:1])
        outcome = project.run(check_scene, "--source_dir", project.scene)
        assert outcome.status == 0, outcome.err
        assert ": 1 view: a single mask determines neither" in outcome.out
        assert (project.scene / "check" / "contact_sheet.png").is_file()


@pytest.mark.parametrize(
    "flags, texts",
    [
        (("--views", "0"), ["number of training views 0", "at least 1"]),
        (("--holdout", "-1"), ["number of held-out views -1", "0 or more"]),
        (("--img_res", "4", "100"), ["image size (4, 100)", "each at least 8"]),
        (("--noise_degrees", "200"), ["rotation noise 200", "0 to 90 degrees"]),
        (("--supersampling", "0"), ["supersampling 0", "1 to 32"]),
        (("--seed", "-1"), ["seed -1", "0 or more"]),
    ],
)
def test_built_in_scene_out_of_range(project, flags, texts):
    project.refuses(make_scene, *flags, texts=texts)
