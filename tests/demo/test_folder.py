"""The built-in scene's cameras, data folder and command."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idr import files
from idr.cli.demo import make_scene
from idr.conf.files import load_conf
from idr.datasets.scene_dataset import SceneDataset
from idr.demo import scene as synthetic
from idr.demo.cameras import (
    UNIT_TO_WORLD,
    camera_intrinsics,
    holdout_views,
    look_at,
    spiral_directions,
    world_matrix,
)
from idr.demo.scene import SceneSettings, write_scene
from idr.demo.teapot import sdf
from idr.errors import InputError, MissingInputError, OutputError
from idr.geometry.camera_set import disturb_poses
from idr.geometry.cameras import decompose_projection, project_points

ROUNDING = 1e-12
SMALL = SceneSettings(num_views=3, num_holdout=1, img_res=(24, 30), supersampling=2, mesh_resolution=48)
VIEW = look_at(np.array([1.0, -2.6, 1.1]), np.zeros(3))


def extract(function, half_side, resolution):
    """Marching cubes by scikit-image, independent of the project's."""
    from skimage.measure import marching_cubes

    along = np.linspace(-half_side, half_side, resolution)
    grid = np.stack(np.meshgrid(along, along, along, indexing="ij"), axis=-1).reshape(-1, 3)
    volume = function(grid).reshape((resolution,) * 3)
    vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
    return along[0] + vertices * (along[1] - along[0]), faces


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "demo" / "scan1"
    return folder, write_scene(folder, SMALL, extract)


# Cameras


def test_directions_spread_over_the_whole_sphere():
    directions = spiral_directions(30)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=ROUNDING)
    between = np.arccos(np.clip(directions @ directions.T - 2 * np.eye(30), -1, 1)).min(axis=1)
    assert np.degrees(between.min()) > 20  # 30 equal caps are about 42 degrees wide
    assert np.abs(directions.mean(axis=0)).max() < 0.05


@given(st.integers(1, 60), st.data())
@settings(max_examples=30, deadline=None)
def test_held_out_views_are_distinct_and_never_all(num_views, data):
    num_holdout = data.draw(st.integers(0, num_views - 1))
    chosen = holdout_views(num_views, num_holdout)
    assert len(set(chosen)) == num_holdout and chosen == sorted(chosen)
    assert all(0 <= index < num_views for index in chosen)


def test_held_out_views_are_spread_out():
    directions = spiral_directions(30)[holdout_views(30, 6)]
    between = np.degrees(np.arccos(directions @ directions.T - 2 * np.eye(6)))
    assert between.min() > 60


@pytest.mark.parametrize("center", [(0.0, 0.0, 3.0), (0.0, 0.0, -3.0), (2.0, -1.0, 0.5)])
def test_a_camera_looks_at_its_target_upright(center):
    pose = look_at(np.array(center), np.array([0.1, 0.0, 0.2]))
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=ROUNDING)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    in_camera = np.linalg.inv(pose) @ [0.1, 0.0, 0.2, 1.0]
    np.testing.assert_allclose(in_camera[:2], 0, atol=ROUNDING)
    assert in_camera[2] > 0
    assert pose[1 if abs(center[2]) > 2.5 else 2, 1] < 0  # y is down


def test_disturbed_cameras_have_the_requested_errors():
    exact = np.stack([look_at(3 * direction, np.zeros(3)) for direction in spiral_directions(400)])
    noisy = disturb_poses(exact, 1.5, 0.03, np.random.default_rng(0))
    turn = noisy[:, :3, :3] @ exact[:, :3, :3].transpose(0, 2, 1)
    angles = np.degrees(np.arccos((np.trace(turn, axis1=1, axis2=2) - 1) / 2))
    moves = np.linalg.norm(noisy[:, :3, 3] - exact[:, :3, 3], axis=1)
    assert (
        angles.mean() == pytest.approx(1.5, rel=0.05)
        and 0.75 - 1e-6 < angles.min() < angles.max() < 2.25 + 1e-6
    )
    assert moves.mean() == pytest.approx(0.03, rel=0.05)
    np.testing.assert_array_equal(
        disturb_poses(exact, 0.0, 0.0, np.random.default_rng(0))[:, :3, 3], exact[:, :3, 3]
    )


def test_world_matrices_decompose_into_intrinsics_and_pose():
    intrinsics = camera_intrinsics((128, 160))
    ours, pose = decompose_projection((world_matrix(intrinsics, VIEW) @ UNIT_TO_WORLD)[:3])
    np.testing.assert_allclose(ours, intrinsics, atol=1e-9)
    np.testing.assert_allclose(pose, VIEW, atol=1e-9)
    assert intrinsics[0, 0] != intrinsics[1, 1] and intrinsics[0, 2] != 79.5 and intrinsics[1, 2] != 63.5


# The folder


def digest(folder: Path):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_dataset_reads_the_folder(scene):
    folder, views = scene
    dataset = SceneDataset(
        False, "demo", (24, 30), scan_id=1, data_root=str(folder.parents[1]), holdout=tuple(SMALL.holdout)
    )
    assert len(dataset) == 3 and not set(dataset.indices) & set(SMALL.holdout)
    exact, noisy = synthetic.scene_poses(SMALL)
    np.testing.assert_allclose(dataset.poses.numpy(), exact[dataset.indices], atol=1e-5)
    np.testing.assert_allclose(dataset.get_scale_mat(), UNIT_TO_WORLD, atol=1e-4)
    for k, index in enumerate(dataset.indices):
        difference = dataset.images[k].numpy() / 255 - views[index].rgb.reshape(-1, 3)
        assert np.abs(difference).max() <= 0.5 / 255 + 1e-9
        assert np.array_equal(dataset.masks[k].numpy(), views[index].coverage.reshape(-1) > 0.5)
    first = SceneDataset(True, "demo", (24, 30), scan_id=1, data_root=str(folder.parents[1])).get_pose_init()
    np.testing.assert_allclose(first[:, 4:].numpy(), noisy[:, :3, 3], atol=1e-5)


def test_the_exact_surface_projects_onto_the_masks(scene):
    import imageio.v3 as iio
    import trimesh

    folder, _ = scene
    world = np.asarray(trimesh.load(folder / "exact_surface.ply", process=False).vertices)
    cameras = np.load(folder / "cameras.npz")
    for i in range(4):
        mask = iio.imread(folder / "mask" / f"{i:03d}.png") > 127
        uv, depth = project_points(world, cameras[f"world_mat_{i}"][:3])
        assert (depth > 0).all()
        drawn = np.zeros_like(mask)
        column, row = np.rint(uv.T).astype(int)
        drawn[row, column] = True
        assert not (drawn & ~dilated(mask)).any()  # within a pixel of the silhouette
        assert (drawn & mask).sum() > 0.9 * mask.sum()


def dilated(mask):
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)


def test_the_exact_surface_reads_back_in_the_unit_frame(scene, tmp_path):
    vertices, faces = synthetic.read_exact_mesh(scene[0])
    assert np.abs(sdf(vertices)).max() < 1e-6  # float32 world coordinates
    assert faces.max() < len(vertices)
    with pytest.raises(MissingInputError, match="expected the built-in scene"):
        synthetic.read_exact_mesh(tmp_path)


def test_files_are_reproducible(scene, tmp_path):
    write_scene(tmp_path / "again", SMALL, extract)
    first, again = digest(scene[0]), digest(tmp_path / "again")
    assert first == again and len(first) == 2 * 4 + 5
    other = SceneSettings(**{**vars(SMALL), "seed": 1, "num_views": 1, "num_holdout": 0})
    write_scene(tmp_path / "other", other, extract)
    assert digest(tmp_path / "other")["cameras.npz"] != first["cameras.npz"]


def test_the_folder_records_its_settings(scene):
    record = json.loads((scene[0] / "scene.json").read_text())
    assert record["holdout"] == SMALL.holdout and record["seed"] == 0 and record["version"] >= 1
    assert record["img_res"] == [24, 30] and record["supersampling"] == 2


TINY = SceneSettings(num_views=1, num_holdout=0, img_res=(8, 8), supersampling=1, mesh_resolution=24)


def test_nothing_is_overwritten_without_force(tmp_path):
    folder = tmp_path / "scan1"
    folder.mkdir()  # an empty folder may be used
    write_scene(folder, TINY, extract)
    before = digest(folder)
    with pytest.raises(InputError, match="--force"):
        write_scene(folder, TINY, extract)
    assert digest(folder) == before
    write_scene(folder, SceneSettings(**{**vars(TINY), "seed": 5}), extract, overwrite=True)
    assert digest(folder)["cameras.npz"] != before["cameras.npz"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also has notes\.txt"):
        write_scene(folder, TINY, extract, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan1"]


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "scan1" / "image").mkdir(parents=True)
    with pytest.raises(InputError, match="was not written by this command"):
        write_scene(tmp_path / "scan1", TINY, extract, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_scene(tmp_path / "file", TINY, extract, overwrite=True)


def test_a_failure_keeps_the_old_scene(tmp_path, monkeypatch):
    folder = tmp_path / "scan1"
    write_scene(folder, TINY, extract)
    before = digest(tmp_path)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="no space left"):
        write_scene(folder, TINY, no_space, overwrite=True)
    assert digest(tmp_path) == before and len(list(tmp_path.iterdir())) == 1
    rename = files.os.rename

    def rename_fails_for_the_new(source, target):
        if str(source).endswith(".tmp"):
            no_space()
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", rename_fails_for_the_new)
    with pytest.raises(OutputError):
        write_scene(folder, TINY, extract, overwrite=True)
    assert digest(folder) == before_of(before)


def before_of(with_parent):
    return {name.removeprefix("scan1/"): value for name, value in with_parent.items()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_views": 0}, "training views 0"),
        ({"num_holdout": -1}, "held-out views -1"),
        ({"img_res": (4, 100)}, "image size"),
        ({"supersampling": 0}, "supersampling 0"),
        ({"noise_degrees": float("nan")}, "rotation noise nan"),
        ({"seed": -2}, "seed -2"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        SceneSettings(**wrong)


# The command and its conf


def test_the_command_writes_a_scene(tmp_path, capsys):
    arguments = [
        "--out", str(tmp_path / "scan7"), "--img_res", "8", "10", "--views", "2", "--holdout", "1",
        "--supersampling", "1", "--mesh_resolution", "24", "--seed", "3",
    ]  # fmt: skip
    assert make_scene.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 views to train on and 1 held out" in printed and "dataset.holdout=[1]" in printed
    assert len(list((tmp_path / "scan7" / "image").iterdir())) == 3
    before = digest(tmp_path)
    assert make_scene.main(arguments) == 2
    assert "--force" in capsys.readouterr().err and digest(tmp_path) == before
    assert make_scene.main(["--out", str(tmp_path / "x"), "--views", "0"]) == 2
    assert "expected at least 1" in capsys.readouterr().err and digest(tmp_path) == before
    assert make_scene.main(["--out", str(tmp_path / "scan007")]) == 2
    assert "training looks for scan7" in capsys.readouterr().err and digest(tmp_path) == before


def test_the_demo_conf_fits_the_default_scene():
    conf, scene_settings = load_conf("confs/demo.conf"), SceneSettings()
    assert conf["dataset.holdout"] == scene_settings.holdout
    assert tuple(conf["dataset.img_res"]) == scene_settings.img_res
    assert conf["dataset.data_dir"] == "demo" and conf["dataset.scan_id"] == 1
    assert conf["model.implicit_network.dims"] == [64] * 6 and conf["train.num_pixels"] == 512
