"""Training refuses invalid camera files, and accepts unusual but valid cameras."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.bad_input import (
    INTRINSICS,
    camera_matrices,
    cut_short,
    look_at_origin,
    positions_around,
    positions_on_ring,
    rewrite_npz,
    write_scene,
)

from idr.datasets.scene_dataset import SceneDataset
from idr.geometry.cameras import pixel_rays

CAMERAS = "cameras.npz"


def _change(**entries: object) -> Callable[[Path], None]:
    return lambda scene: rewrite_npz(scene / CAMERAS, **entries)


def _moved(position: list[float]) -> Callable[[Path], None]:
    """Moves camera 4."""
    matrices = camera_matrices([look_at_origin(position)])
    return _change(world_mat_4=matrices["world_mat_0"])


def _looking_away(scene: Path) -> None:
    pose = look_at_origin(positions_around()[4])
    pose[:3, [0, 2]] *= -1  # rotate by 180 degrees about the camera's y axis
    rewrite_npz(scene / CAMERAS, world_mat_4=camera_matrices([pose])["world_mat_0"])


def _opengl(scene: Path) -> None:
    """A pose with OpenGL axes: y up, z backward."""
    pose = look_at_origin(positions_around()[4])
    pose[:3, 1:3] *= -1
    rewrite_npz(scene / CAMERAS, world_mat_4=camera_matrices([pose])["world_mat_0"])


def _corrupt(scene: Path) -> None:
    """Flips bytes of the compressed arrays."""
    with np.load(scene / CAMERAS) as archive:
        entries = {key: archive[key] for key in archive.files}
    np.savez_compressed(scene / CAMERAS, **entries)
    content = bytearray((scene / CAMERAS).read_bytes())
    for position in range(60, 120):
        content[position] ^= 0xFF
    (scene / CAMERAS).write_bytes(bytes(content))


def _array_file(scene: Path) -> None:
    with open(scene / CAMERAS, "wb") as file:
        np.save(file, np.eye(4))


def _pickle_that_would_run(scene: Path) -> None:
    (scene / CAMERAS).write_bytes(pickle.dumps(Trap(str(scene.parent / "ran"))))


def _object_array(scene: Path) -> None:
    rewrite_npz(scene / CAMERAS, world_mat_1=np.array([Trap(str(scene.parent / "ran"))], dtype=object))


class Trap:
    """Creates a folder when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return __import__("os").mkdir, (self.path,)


NOT_FINITE = np.full((4, 4), np.nan)
UNREADABLE = [CAMERAS, "cannot be read as an npz", "download it again"]


@pytest.mark.parametrize(
    "spoil, texts",
    [
        pytest.param(
            lambda scene: (scene / CAMERAS).unlink(),
            [
                "no camera file",
                CAMERAS,
                "expected one with world_mat_i and scale_mat_i",
                "cameras_linear_init.npz",
            ],
            id="none",
        ),
        pytest.param(lambda scene: cut_short(scene / CAMERAS), UNREADABLE, id="cut-short"),
        pytest.param(lambda scene: (scene / CAMERAS).write_bytes(b""), UNREADABLE, id="no-bytes"),
        pytest.param(lambda scene: (scene / CAMERAS).write_text("not here"), UNREADABLE, id="text"),
        pytest.param(_corrupt, UNREADABLE, id="corrupt"),
        pytest.param(_array_file, [CAMERAS, "npz", "a single array"], id="npy"),
        pytest.param(_pickle_that_would_run, UNREADABLE, id="pickle"),
        pytest.param(_object_array, [CAMERAS, "pickled object arrays", "float64"], id="pickle-inside"),
        pytest.param(
            _change(world_mat_2=None),
            [
                CAMERAS,
                "lacks world_mat_2",
                "5 world_mat matrices for 6 images",
                "expected one camera per image",
            ],
            id="world_mat-missing",
        ),
        pytest.param(
            _change(scale_mat_0=None), [CAMERAS, "lacks scale_mat_0", "for 6 images"], id="scale_mat-missing"
        ),
        pytest.param(
            _change(world_mat_6=np.eye(4), scale_mat_6=np.eye(4)),
            [CAMERAS, "also has world_mat_6", "7 world_mat matrices for 6 images", "numbered from 0"],
            id="extra",
        ),
        pytest.param(
            _change(world_mat_3=NOT_FINITE),
            [CAMERAS, "world_mat_3", "non-finite", "calibrate this view again"],
            id="world_mat-not-finite",
        ),
        pytest.param(
            _change(scale_mat_3=NOT_FINITE),
            [CAMERAS, "scale_mat_3", "non-finite"],
            id="scale_mat-not-finite",
        ),
        pytest.param(
            _change(world_mat_1=np.eye(3)),
            [CAMERAS, "world_mat_1 has shape (3, 3)", "expected 4 x 4"],
            id="shape",
        ),
        pytest.param(
            _change(world_mat_1=np.full((4, 4), "one")),
            [CAMERAS, "world_mat_1", "expected 4 x 4 real numbers"],
            id="text-in-matrix",
        ),
        pytest.param(
            _change(world_mat_1=np.zeros((4, 4))),
            [CAMERAS, "world_mat_1", "singular", "calibrate this view again"],
            id="singular",
        ),
        pytest.param(
            _change(scale_mat_1=np.diag([1.0, 2.0, 3.0, 1.0])),
            [
                CAMERAS,
                "scale_mat_1 is not a similarity",
                "expected uniform positive scale",
                "preprocess_cameras.py",
            ],
            id="scale_mat-no-similarity",
        ),
        pytest.param(
            _change(scale_mat_1=np.zeros((4, 4))),
            [CAMERAS, "scale_mat_1 is not a similarity"],
            id="scale_mat-zero",
        ),
        pytest.param(
            _looking_away,
            [CAMERAS, "world_mat_4 is mirrored or looks away", "behind the camera (depth -", "OpenCV axes"],
            id="behind",
        ),
        pytest.param(
            _opengl,
            [CAMERAS, "world_mat_4 is mirrored or looks away", "behind the camera (depth -", "OpenCV axes"],
            id="opengl-axes",
        ),
        pytest.param(
            _moved([0.2, 0.1, 0.1]),
            [
                CAMERAS,
                "camera 4 lies inside the unit sphere",
                "0.24 of its radius",
                "run preprocess_cameras.py",
            ],
            id="inside-the-object",
        ),
        pytest.param(
            _moved([0.9, 0.0, 0.0]),
            [CAMERAS, "camera 4 lies inside the unit sphere", "0.90 of its radius"],
            id="inside-the-sphere",
        ),
    ],
)
def test_invalid_cameras_are_refused(project, spoil, texts):
    spoil(project.scene)
    project.refuses_to_train(texts=texts)
    assert not (project.scene.parent / "ran").exists()


def test_mirrored_matrix_is_refused(project):
    """P with one image axis flipped: det < 0, and with -P the sphere is behind the camera."""
    with np.load(project.scene / CAMERAS) as archive:
        world_mat = archive["world_mat_4"].copy()
    world_mat[:3] = np.diag([-1.0, 1.0, 1.0]) @ world_mat[:3]
    rewrite_npz(project.scene / CAMERAS, world_mat_4=world_mat)
    texts = ["world_mat_4 is mirrored", "behind the camera (depth -", "x right, y down, z forward"]
    project.refuses_to_train(texts=texts)


def test_negated_matrix_is_the_same_camera(project):
    with np.load(project.scene / CAMERAS) as archive:
        world_mat = archive["world_mat_4"].copy()
    before = _dataset(project.root)
    world_mat[:3] *= -2.5
    rewrite_npz(project.scene / CAMERAS, world_mat_4=world_mat)
    assert project.train("--nepoch", "0").status == 0
    after = _dataset(project.root)
    torch.testing.assert_close(after.poses, before.poses)
    torch.testing.assert_close(after.intrinsics, before.intrinsics)


def test_other_matrices_in_the_file_are_ignored(project):
    rewrite_npz(
        project.scene / CAMERAS, world_mat_inv_0=NOT_FINITE, scale_mat_inv_7=np.eye(3), camera_mat_0=np.eye(2)
    )
    assert project.train("--nepoch", "0").status == 0


class TestTrainedCameras:
    def test_no_noisy_file(self, project):
        (project.scene / "cameras_linear_init.npz").unlink()
        texts = ["no camera file", "cameras_linear_init.npz", "npz files there: cameras.npz"]
        project.refuses_to_train("--train_cameras", texts=texts)

    def test_incomplete_noisy_file(self, project):
        rewrite_npz(project.scene / "cameras_linear_init.npz", world_mat_5=None)
        texts = ["cameras_linear_init.npz lacks world_mat_5", "5 world_mat matrices for 6 images"]
        project.refuses_to_train("--train_cameras", texts=texts)
        assert project.train("--nepoch", "0").status == 0  # not read without the flag

    def test_noisy_camera_inside_the_sphere(self, project):
        matrices = camera_matrices([look_at_origin([0.0, 0.3, 0.1])])
        rewrite_npz(project.scene / "cameras_linear_init.npz", world_mat_2=matrices["world_mat_0"])
        texts = ["cameras_linear_init.npz", "camera 2 lies inside the unit sphere"]
        project.refuses_to_train("--train_cameras", texts=texts)

    def test_no_learning_rate(self, project):
        conf = project.conf.read_text().replace("learning_rate_cam = 1.0e-3", "")
        project.conf.write_text(conf)
        project.refuses_to_train(
            "--train_cameras", texts=["--train_cameras needs train.learning_rate_cam", "1.0e-4"]
        )


# ---- unusual but valid


def _dataset(root: Path, **options: object) -> SceneDataset:
    arguments = {"img_res": [12, 16], "scan_id": 3, "data_root": str(root / "data")} | options
    return SceneDataset(False, "balls", **arguments)


def _slow_rays(projection: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays through pixels from P's null space, and from solving P x ~ (u, v, 1) pixel by pixel."""
    homogeneous = np.linalg.svd(projection)[2][-1]
    center = homogeneous[:3] / homogeneous[3]
    directions = np.empty((len(uv), 3))
    for k, (column, row) in enumerate(uv):
        through = np.linalg.lstsq(projection[:, :3], np.array([column, row, 1.0]), rcond=None)[0]
        ahead = np.sign(np.linalg.det(projection[:, :3]))  # P and -P are the same camera
        directions[k] = ahead * through / np.linalg.norm(through)
    return directions, center


def _assert_rays_match(root: Path, img_res: tuple[int, int]) -> None:
    dataset = _dataset(root, img_res=img_res)
    with np.load(root / "data" / "balls" / "scan3" / CAMERAS) as archive:
        for index in range(len(dataset)):
            _, sample, _ = dataset[index]
            directions, centers = pixel_rays(*(sample[key][None] for key in ("uv", "pose", "intrinsics")))
            projection = (archive[f"world_mat_{index}"] @ archive[f"scale_mat_{index}"])[:3]
            expected, center = _slow_rays(projection, sample["uv"].numpy())
            # float32 poses and intrinsics: 6e-8 relative, times a focal length of 20 and a distance of 3
            np.testing.assert_allclose(directions[0], expected, atol=1e-5)
            np.testing.assert_allclose(centers[0], center, atol=1e-5)


def test_non_square_pixels_and_skew(project):
    skewed = np.array([[20.0, 3.0, 9.1], [0.0, 31.0, 4.3], [0.0, 0.0, 1.0]])
    write_scene(project.scene, intrinsics=skewed)
    outcome = project.train()
    assert outcome.status == 0, outcome.err
    assert "warning" not in outcome.err
    _assert_rays_match(project.root, (12, 16))


def test_principal_point_outside_a_portrait_image(project):
    """The image is a crop of a larger one."""
    cropped = INTRINSICS + np.array([[0.0, 0.0, -9.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    write_scene(project.scene, intrinsics=cropped, size=(20, 10))
    outcome = project.train("--set", "dataset.img_res=[20,10]")
    assert outcome.status == 0, outcome.err
    _assert_rays_match(project.root, (20, 10))


def test_cameras_in_one_plane(project):
    write_scene(project.scene, positions=positions_on_ring())
    outcome = project.train("--train_cameras")
    assert outcome.status == 0, outcome.err
    assert "done: 1 epochs" in outcome.out
    _assert_rays_match(project.root, (12, 16))


@pytest.mark.parametrize("flags", [(), ("--train_cameras",)])
def test_single_view_trains_with_a_warning(project, flags):
    write_scene(project.scene, positions=positions_around()[:1])
    outcome = project.train(*flags)
    assert outcome.status == 0, outcome.err
    assert "warning: " in outcome.err and "single view" in outcome.err
    assert "1 images" in outcome.out and "done: 1 epochs" in outcome.out
