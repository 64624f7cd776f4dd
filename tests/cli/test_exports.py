"""``export_mesh.py``, ``export_cameras.py`` and ``render_path.py`` through their command lines."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from tests.evaluation import ball
from tests.evaluation.test_reconstruction import DRIFT_SCALE, DRIFT_SHIFT, drifted_poses

import idr.conf.files
import idr.runs.folders
from idr.cli import export_cameras, export_mesh, render_path, report
from idr.geometry.cameras import pose_matrix, project_points
from idr.geometry.paths import surroundings
from idr.importers.recognize import read_source

CODE = Path(idr.conf.files.__file__).parents[2]
DRIFTED_BALL = {"radius": DRIFT_SCALE * ball.RADIUS, "center": DRIFT_SHIFT.tolist()}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project folder with the ball's scene and conf; one view is held out."""
    ball.enter_project(tmp_path, monkeypatch)
    return tmp_path


def call(command, root, *flags):
    return command.main([*ball.COMMAND, "--data_root", str(root / "data"), *flags])


def mesh(root, *flags):
    return call(export_mesh, root, "--resolution", "24", *flags)


# ---- meshes


def test_mesh_in_world_coordinates_with_colors(root, capsys):
    ball.write_run(root / "exps", rgb=(0.6, -0.2, -1.0))
    assert mesh(root, "--out", "ball.glb", "new/ball.ply", "ball.obj") == 0
    out = capsys.readouterr().out
    assert "components: kept 1 of 1" in out and "ball.glb (" in out
    levels = np.round((np.array([0.6, -0.2, -1.0]) + 1) / 2 * 255)
    for name in ("new/ball.ply", "ball.obj"):
        found = trimesh.load(root / name, process=False)
        radii = np.linalg.norm(found.vertices - ball.OFFSET, axis=1)
        np.testing.assert_allclose(radii, ball.RADIUS * ball.SCALE, rtol=0.02)  # half a cell of a coarse grid
        np.testing.assert_array_equal(np.unique(found.visual.vertex_colors[:, :3], axis=0), levels[None])
        assert found.is_watertight and found.volume > 0
    glb = trimesh.load(root / "ball.glb", process=False, force="mesh")
    turned, (node,) = node_of(root / "ball.glb")
    np.testing.assert_allclose(turned.vertices, found.vertices, rtol=1e-6)  # the file holds world coordinates
    matrix = np.reshape(node["matrix"], (4, 4)).T
    np.testing.assert_allclose(glb.vertices, turned.vertices @ matrix[:3, :3].T, rtol=1e-5, atol=1e-3)
    cameras = training_cameras(root)
    np.testing.assert_allclose(matrix[:3, :3] @ surroundings(cameras).up, [0, 1, 0], atol=1e-5)
    first = matrix[:3, :3] @ (cameras[0, :3, 3] - ball.OFFSET)
    assert first[2] > 0 and abs(first[0]) < 1e-4 * first[2]
    assert "up: (" in out


def training_cameras(root):
    """Given poses in world coordinates, the held-out view left out."""
    from idr.datasets.scene_dataset import SceneDataset

    dataset = SceneDataset(
        False, "balls", [ball.HEIGHT, ball.WIDTH], 3, data_root=str(root / "data"), holdout=[4]
    )
    return np.asarray(dataset.get_gt_pose(scaled=False), dtype=np.float64)


def node_of(path):
    """The mesh of a GLB as its accessors hold it, and the nodes that turn it."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    nodes = [node for node in json.loads(data[20 : 20 + length])["nodes"] if "mesh" in node]
    (geometry,) = trimesh.load(path, process=False).geometry.values()
    return geometry, nodes


def test_up_direction_is_a_flag_or_none(root, capsys):
    ball.write_run(root / "exps")
    assert mesh(root, "--out", "none.glb", "--up", "none") == 0
    assert "matrix" not in node_of(root / "none.glb")[1][0] and "up:" not in capsys.readouterr().out
    assert mesh(root, "--out", "given.glb", "--up=0,-2,0") == 0
    matrix = np.reshape(node_of(root / "given.glb")[1][0]["matrix"], (4, 4)).T
    np.testing.assert_allclose(matrix[:3, :3] @ [0, -1, 0], [0, 1, 0], atol=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1)
    with pytest.raises(SystemExit):
        mesh(root, "--up", "0,0,0")
    assert "three numbers such as" in capsys.readouterr().err


def test_mesh_in_unit_coordinates_goes_to_evals(root, capsys):
    ball.write_run(root / "exps")
    flags = ("--coordinates", "unit", "--colors", "normal", "--faces", "200", "--texture", "64")
    assert mesh(root, *flags) == 0
    assert "reduced to 200" in capsys.readouterr().out
    path = root / "evals" / "ball_3" / "mesh_7.glb"
    found = trimesh.load(path, process=False, force="mesh")
    np.testing.assert_allclose(np.linalg.norm(found.vertices, axis=1), ball.RADIUS, rtol=0.04)
    picture = np.asarray(found.visual.material.baseColorTexture)
    assert picture.shape[:2] == (64, 64) and (picture[..., :3] == round(ball.GRAY * 255)).all()
    assert mesh(root, *flags) == 2
    assert f"{path} is there already: add --force" in capsys.readouterr().err
    assert mesh(root, *flags, "--force") == 0


def test_mesh_fits_into_a_number_of_megabytes(root, capsys):
    ball.write_run(root / "exps")
    assert mesh(root, "--colors", "normal", "--max_mb", "0.03", "--out", "ball.glb") == 0
    printed = capsys.readouterr().out
    assert "reduced to" in printed and "watertight: yes, 1 component" in printed
    assert 20_000 < (root / "ball.glb").stat().st_size <= 30_000
    assert trimesh.load(root / "ball.glb", force="mesh").is_watertight


def test_mesh_of_trained_cameras_is_aligned(root):
    ball.write_run(root / "exps", poses=drifted_poses((4,)), **DRIFTED_BALL)
    assert mesh(root, "--out", "ball.ply") == 0
    found = trimesh.load(root / "ball.ply", process=False)
    radii = np.linalg.norm(found.vertices - ball.OFFSET, axis=1)
    np.testing.assert_allclose(radii, ball.RADIUS * ball.SCALE, rtol=0.02)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--out", "ball.off"), "ending in .glb, .obj, .ply"),
        (("--out", "ball.ply", "--texture", "64"), "PLY holds no texture"),
        (("--out", "data"), "expected a name ending"),
        (("--texture", "8"), "--texture 8: expected 16 to"),
        (("--texture", "64", "--colors", "none"), "expected colors to bake"),
        (("--faces", "3"), "--faces 3: expected 4 or more"),
        (("--max_mb", "0"), "--max_mb 0: expected 0.01"),
        (("--max_mb", "1", "--texture", "64"), "choose --faces for a texture"),
        (("--resolution", "1"), "--resolution 1"),
        (("--chunk_points", "0"), "--chunk_points 0"),
        (("--checkpoint", "100"), "100"),
        (("--scan_id", "9"), "ball_9"),
        (("--out", "ball.conf/x.ply"), "a file stands where a folder is needed"),
    ],
)
def test_mesh_mistakes_give_one_message_and_change_nothing(root, capsys, flags, message):
    ball.write_run(root / "exps")
    before = ball.files_of(root)
    assert mesh(root, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("error:") == 1 and "Traceback" not in error
    assert ball.files_of(root) == before


def test_no_surface_is_reported(root, capsys):
    ball.write_run(root / "exps", radius=-1.0)
    assert mesh(root) == 2
    assert "has no surface in the bounding sphere yet: train longer" in capsys.readouterr().err
    assert not (root / "evals").exists()


def test_surface_that_leaves_the_box_is_closed_with_lids(root, capsys):
    ball.write_run(root / "exps", radius=1.2)  # out of the cube's six faces, within its edges
    flags = ("--is_uniform_grid", "--colors", "none", "--coordinates", "unit", "--holes")
    for policy, message in (("fill", "holes: closed 6 of 6"), ("9", "holes: closed 0 of 6")):
        assert mesh(root, *flags, policy, "--out", f"{policy}.ply") == 0
        assert message in capsys.readouterr().out
        found = trimesh.load(root / f"{policy}.ply", process=False)
        assert found.is_watertight == (policy == "fill")
    closed = trimesh.load(root / "fill.ply", process=False)
    cap = np.pi * 0.2**2 * (3 * 1.2 - 0.2) / 3  # a ball's cap of height 0.2
    assert closed.volume == pytest.approx(4 / 3 * np.pi * 1.2**3 - 6 * cap, rel=0.01)


@pytest.mark.parametrize("flags", [("--components", "most"), ("--components", "1.5"), ("--holes", "-3")])
def test_invalid_words_are_argument_errors(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        export_mesh.main(list(flags))
    assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


# ---- cameras


def test_given_cameras_need_no_run(root, capsys):
    assert call(export_cameras, root, "--cameras", "given", "--out", "out", "--copy_images") == 0
    assert "cameras: 5 given and 1 held-out; world coordinates" in capsys.readouterr().out
    for kind in ("transforms", "idr"):
        source = read_source(root / "out", kind, None, None)
        check_projections(source, [np.linalg.inv(pose)[:3] for pose in ball.world_poses()])
        assert source.views[0].image.read_bytes() == (root / "data/balls/scan3/image/000.png").read_bytes()
    assert json.loads((root / "out" / "transforms.json").read_text())["test_filenames"] == ["image/004.png"]


def check_projections(source, extrinsics, atol=1e-6):
    """A known point of the world falls on the same pixel of each view."""
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (9, 3)) * ball.SCALE + ball.OFFSET
    assert len(source.views) == len(extrinsics)
    for view, matrix in zip(source.views, extrinsics, strict=True):
        got = project_points(points, view.intrinsics @ view.world_to_camera)[0]
        np.testing.assert_allclose(got, project_points(points, ball.INTRINSICS @ matrix)[0], atol=atol)


def test_trained_cameras_are_aligned_and_held_out_cameras_stay_given(root, capsys):
    run_poses = drifted_poses((4,))
    ball.write_run(root / "exps", poses=run_poses, **DRIFTED_BALL)
    assert call(export_cameras, root) == 0
    assert "cameras: 5 trained and 1 held-out, as given" in capsys.readouterr().out
    out = root / "evals" / "ball_3" / "cameras"
    source = read_source(out, "transforms", None, None)  # names images where they are
    # Trained poses are float32: 1e-7 of distances of 300 by a focal length of 42.
    check_projections(source, [np.linalg.inv(pose)[:3] for pose in ball.world_poses()], atol=1e-3)
    # In the unit sphere's frame they are the run's own.
    assert call(export_cameras, root, "--coordinates", "unit", "--formats", "npz", "--out", "unit") == 0
    with np.load(root / "unit" / "cameras.npz") as arrays:
        np.testing.assert_array_equal(arrays["scale_mat_0"], np.eye(4))
        own = pose_matrix(torch.as_tensor(run_poses).double())[0].numpy()
        expected = ball.INTRINSICS @ np.linalg.inv(own)[:3]
        np.testing.assert_allclose(arrays["world_mat_0"][:3], expected, atol=1e-4)


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "holds no trained cameras (CamParameters); export the scene's own with --cameras given"),
        (("--out", "ball.conf"), "is a file; expected a folder"),
        (
            ("--cameras", "given", "--copy_images", "--out", "data/balls/scan3"),
            "is there already: add --force",
        ),
        (
            ("--cameras", "given", "--copy_images", "--force", "--out", "data/balls/scan3"),
            "is the scene itself",
        ),
        (("--cameras", "given", "--scan_id", "9"), "no scene"),
    ],
)
def test_camera_mistakes_give_one_message_and_change_nothing(root, capsys, flags, message):
    ball.write_run(root / "exps")
    before = ball.files_of(root)
    assert call(export_cameras, root, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("error:") == 1 and "Traceback" not in error
    assert ball.files_of(root) == before


# ---- paths


def paths(root, *flags):
    return call(render_path, root, "--img_res", "12", "16", *flags)


def test_orbit_of_all_outputs_with_films(root, capsys):
    ball.write_run(root / "exps")
    flags = ("--frames", "4", "--elevation", "20", "--distance", "3", "--video", "film.gif")
    assert paths(root, *flags, "--path", "orbit", "--outputs", "color", "depth", "normal", "mask") == 0
    folder = root / "evals" / "ball_3" / "path_orbit"
    names = [f"{kind}_{n:04d}.png" for kind in ("color", "depth", "mask", "normal") for n in range(4)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "path.json"])
    for film in ("film.gif", "film_depth.gif", "film_normal.gif", "film_mask.gif"):
        assert (root / film).is_file()
    record = json.loads((folder / "path.json").read_text())
    assert (record["w"], record["h"], len(record["frames"])) == (16, 12, 4)
    centers = np.array([frame["transform_matrix"] for frame in record["frames"]])[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(centers - ball.OFFSET, axis=1), 3 * ball.SCALE)
    assert record["depth"]["at_1"] == pytest.approx(2 * ball.SCALE)
    # A ball seen from everywhere alike: its disc of radius f tan(asin(r / d)) at half size.
    area = np.pi * (41 / 2 * np.tan(np.arcsin(0.6 / 3))) ** 2
    for n in range(4):
        coverage = iio.imread(folder / f"mask_{n:04d}.png") / 255
        assert coverage.sum() == pytest.approx(area, rel=0.02)


def test_recorded_path_renders_the_same_frames(root):
    ball.write_run(root / "exps", center=(0.1, 0.2, -0.1))
    views = ("--path", "views", "--key_views", "0", "2", "1", "--frames", "5")
    assert paths(root, *views, "--outputs", "color", "mask", "--out", "first") == 0
    flags = ("--path", "first/path.json", "--outputs", "color", "mask", "--out", "second")
    assert call(render_path, root, *flags) == 0  # at the size that the file gives
    for n in range(5):
        first, second = (iio.imread(root / side / f"mask_{n:04d}.png") for side in ("first", "second"))
        assert first.shape == (12, 16) and (first != second).sum() <= 1 and (first > 0).any()


def test_first_frame_of_a_path_through_views_is_the_first_view(root):
    ball.write_run(root / "exps")
    flags = ("--path", "views", "--closed", "--frames", "6", "--outputs", "mask", "--out", "way")
    assert call(render_path, root, *flags, "--supersample", "1") == 0
    np.testing.assert_array_equal(
        iio.imread(root / "way" / "mask_0000.png") > 0, ball.exact_hit(ball.unit_poses()[0])
    )


def test_frames_of_a_longer_earlier_path_are_removed(root, capsys):
    ball.write_run(root / "exps")
    assert paths(root, "--frames", "3", "--path", "spiral", "--out", "way") == 0
    (root / "way" / "notes.png").write_bytes(b"mine")
    assert paths(root, "--frames", "2", "--path", "spiral", "--out", "way") == 2
    assert "is there already: add --force" in capsys.readouterr().err
    assert paths(root, "--frames", "2", "--path", "spiral", "--out", "way", "--force") == 0
    left = ["color_0000.png", "color_0001.png", "notes.png", "path.json"]
    assert sorted(path.name for path in (root / "way").iterdir()) == left


def test_appearance_of_another_run(root, capsys):
    ball.write_run(root / "exps")
    other = ball.write_run(root / "exps", "other", rgb=(0.6, -0.2, -1.0))
    flags = ("--frames", "1", "--appearance_run", "exps/other", "--out", "way", "--supersample", "1")
    assert paths(root, *flags) == 0
    assert f"appearance: {other}" in capsys.readouterr().out
    frame = iio.imread(root / "way" / "color_0000.png")
    inside = (frame != 255).any(axis=2)
    color = np.round((np.array([0.6, -0.2, -1.0]) + 1) / 2 * 255)
    np.testing.assert_array_equal(frame[inside], np.broadcast_to(color, (inside.sum(), 3)))
    assert inside.any()


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--frames", "0"), "--frames 0"),
        (("--fps", "0"), "--fps"),
        (("--img_res", "0", "5"), "--img_res"),
        (("--supersample", "0"), "--supersample 0: expected 1 to 8"),
        (("--supersample", "9"), "--supersample 9: expected 1 to 8"),
        (("--distance", "0.9"), "outside of the unit sphere"),
        (("--elevation", "88"), "-85 to 85"),
        (
            ("--path", "views", "--turns", "2"),
            "--turns means nothing to --path views: expected --path orbit or spiral",
        ),
        (("--closed",), "--closed means nothing to --path orbit: expected --path views"),
        (("--path", "views", "--key_views", "0", "17"), "no view 17; the scene has views 0 to 4"),
        (("--path", "views", "--key_views", "0"), "expected at least 2 views"),
        (("--path", "orbits"), "expected orbit, spiral, views or the name of a JSON file"),
        (("--view", "5"), "training views 0 to 4"),
        (("--video", "film.avi"), ".gif or .mp4"),
        (("--appearance_run", "exps/none"), "exps/none"),
        (("--out", "ball.conf"), "is a file; expected a folder"),
    ],
)
def test_path_mistakes_give_one_message_and_no_results(root, capsys, flags, message):
    ball.write_run(root / "exps")
    before = ball.files_of(root)
    assert paths(root, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("error:") == 1 and "Traceback" not in error
    assert ball.files_of(root) == before


# ---- real processes


@pytest.mark.parametrize("script", ["export_mesh.py", "export_cameras.py", "render_path.py"])
def test_mistake_in_a_real_process(script, warm_python):
    done = subprocess.run(
        [warm_python, f"evaluation/{script}", "--conf", "./confs/absent.conf", "--gpu", "ignore"],
        cwd=CODE, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("error:") and "absent.conf" in done.stderr
    assert "Traceback" not in done.stderr


# ---- files of others


@pytest.mark.parametrize(
    "command, flags",
    [
        (report, ("--out", "mine.html", "--views", "1", "--resolution", "8")),
        (render_path, ("--img_res", "6", "8", "--frames", "2", "--out", "way", "--video", "mine.gif")),
    ],
)
def test_files_of_others_are_replaced_with_force_only(root, capsys, command, flags):
    ball.write_run(root / "exps")
    path = root / next(flag for flag in flags if flag.startswith("mine"))
    path.write_text("mine")
    before = ball.files_of(root)
    assert call(command, root, *flags) == 2
    assert f"{path.name} is there already: add --force to replace it" in capsys.readouterr().err
    assert ball.files_of(root) == before
    assert call(command, root, *flags, "--force") == 0  # the remedy
    assert path.read_bytes() != b"mine"
    if command is report:
        assert call(command, root, *flags) == 0  # its own page
    path.unlink()
    path.symlink_to("/dev/null")
    assert call(command, root, *flags, "--force") == 2 and "is a symbolic link" in capsys.readouterr().err


def test_a_scene_in_meters_gives_its_size_and_an_stl_in_millimeters(root, capsys):
    ball.write_run(root / "exps")
    (record,) = (root / "data").rglob("cameras.npz")
    size = {"meters_per_unit": 0.2, "relative_error": 0.004, "origin": "the board"}
    flags = ("--colors", "none", "--out", "ball.stl", "ball.ply", "--force")
    assert mesh(root, *flags) == 0
    assert "size:" not in capsys.readouterr().out
    bare = trimesh.load(root / "ball.stl")
    np.testing.assert_allclose(bare.extents, trimesh.load(root / "ball.ply").extents, rtol=1e-5)
    (record.parent / "import.json").write_text(json.dumps({"unit": "m", "true_size": size}))
    assert mesh(root, *flags) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("size:")]
    diameter = 2 * ball.RADIUS * ball.SCALE
    unit, factor = ("m", 1) if diameter >= 1 else ("cm", 100)
    words = lines[0].split(f" {unit} ")[0].removeprefix("size: ").split(" x ")
    sides = [float(word) / factor for word in words]
    np.testing.assert_allclose(sides, diameter, rtol=0.03)  # of a coarse grid
    assert f"{unit} +- 0.40%, by the board; the unit is m, in STL mm" in lines[0]
    np.testing.assert_allclose(trimesh.load(root / "ball.stl").extents, 1000 * bare.extents, rtol=1e-5)
    np.testing.assert_allclose(trimesh.load(root / "ball.ply").extents, bare.extents, rtol=1e-5)
    assert mesh(root, *flags, "--on_ground", "--up", "none") == 2
    assert "--up none" in capsys.readouterr().err
    up = np.array([0.6, 0.0, -0.8])
    lowest = ("--out", "ball.glb", "ball.ply", "--colors", "none", "--force", "--on_ground", "--up=3,0,-4")
    assert mesh(root, *lowest) == 0
    bounds = trimesh.load(root / "ball.ply").bounds
    np.testing.assert_allclose(bounds[0, 2], 0, atol=1e-4 * diameter)  # its lowest point
    np.testing.assert_allclose(bounds.mean(axis=0)[:2], [0, 0], atol=1e-4 * diameter)
    in_viewer = trimesh.load(root / "ball.glb").to_geometry().bounds
    np.testing.assert_allclose(in_viewer[0, 1], 0, atol=1e-4 * diameter)
    size["ground"] = [*up, float(up @ ball.OFFSET) - diameter]  # a diameter below the center
    (record.parent / "import.json").write_text(json.dumps({"unit": "m", "true_size": size}))
    glb = ("--out", "ball.glb", "ball.ply", "--colors", "none", "--force", "--on_ground")
    assert mesh(root, *glb) == 0
    middle = trimesh.load(root / "ball.ply").bounds.mean(axis=0)
    np.testing.assert_allclose(middle, [0, 0, diameter], atol=0.02 * diameter)
    in_viewer = trimesh.load(root / "ball.glb").to_geometry().bounds.mean(axis=0)
    np.testing.assert_allclose(in_viewer, [0, diameter, 0], atol=0.02 * diameter)  # y is up in a GLB
    (record.parent / "import.json").write_text('{"unit": "m"}')
    assert mesh(root, *flags) == 2
    assert "import.json cannot be read" in capsys.readouterr().err
