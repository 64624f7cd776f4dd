"""`benchmarks/scenes.py` and `made_scenes.py`: shapes, written scenes, scores of surfaces, and the table."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from idr.datasets.scene_dataset import SceneDataset

pytest.importorskip("embreex")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import made_scenes  # noqa: E402
import scenes  # noqa: E402

NAME, IMG_RES, SPACING = "vase", (48, 64), 0.016
SETTINGS = made_scenes.Settings(IMG_RES, num_views=10, side=2)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite with one small scene."""
    folder = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(made_scenes.KINDS, NAME, dataclasses.replace(made_scenes.KINDS[NAME], spacing=SPACING))
        made_scenes.write([NAME], folder, SETTINGS)
    return folder


@pytest.fixture
def scene(suite: Path) -> scenes.Scene:
    return scenes.parse_scene(f"{suite}:{NAME}:1", suite)


def exact_mesh(scene: scenes.Scene) -> trimesh.Trimesh:
    return trimesh.load_mesh(scene.folder / made_scenes.SURFACE_FILE, process=False)


def in_unit_frame(points):
    return (points - made_scenes.UNIT_TO_WORLD[:3, 3]) / made_scenes.UNIT_TO_WORLD[0, 0]


@pytest.mark.parametrize("name", made_scenes.KINDS)
def test_shapes_are_distance_bounds_and_lie_inside_the_unit_sphere(name: str) -> None:
    sdf, generator = made_scenes.KINDS[name].shape(), np.random.default_rng(0)
    directions = generator.standard_normal((4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert (sdf(0.99 * directions) > 0).all()
    # Sphere tracing and marching cubes need values that are at most the distance: 1-Lipschitz.
    near = generator.uniform(-0.7, 0.7, (20_000, 3))
    apart = generator.uniform(0.001, 0.1, (20_000, 1)) * generator.standard_normal((20_000, 3))
    change = np.abs(sdf(near + apart) - sdf(near))
    assert (change <= np.linalg.norm(apart, axis=1) * (1 + 1e-3)).all()


def test_blends_stay_within_their_bound() -> None:
    generator = np.random.default_rng(0)
    points = generator.uniform(-1, 1, (10_000, 3))
    a, b = made_scenes.ball((0.2, 0, 0), 0.4), made_scenes.box((-0.2, 0, 0), (0.3, 0.2, 0.5))
    lower = np.minimum(a(points), b(points)) - made_scenes.union(a, b, width=0.1)(points)
    assert lower.min() >= 0 and 0.02 < lower.max() <= 0.025 + 1e-12


def test_vertices_are_exact_and_faces_outward(scene: scenes.Scene) -> None:
    mesh, sdf = exact_mesh(scene), made_scenes.vase()
    vertices = in_unit_frame(np.asarray(mesh.vertices))
    # Single precision in the file: 3e-5 of 640 world units.
    assert np.abs(sdf(vertices)).max() < made_scenes.MESH_ERROR + 1e-6
    assert mesh.is_watertight and mesh.volume > 0
    middles, step = in_unit_frame(np.asarray(mesh.triangles_center)), 1e-3 * np.asarray(mesh.face_normals)
    outward = sdf(middles + step) > sdf(middles - step)
    # All but a few triangles across rims, which such a coarse grid hardly resolves.
    assert np.asarray(mesh.area_faces)[outward].sum() > 0.998 * mesh.area


def test_masks_and_cameras_agree_with_the_shape(scene: scenes.Scene) -> None:
    dataset = SceneDataset(False, NAME, IMG_RES, 1, data_root=scene.data_root)
    sdf, (height, width) = made_scenes.vase(), IMG_RES
    rows, columns = np.divmod(np.arange(height * width), width)
    pixels = np.column_stack((columns, rows, np.ones(height * width)))
    for view in (0, 4):
        intrinsics, pose = (values[view].double().numpy() for values in (dataset.intrinsics, dataset.poses))
        directions = pixels @ np.linalg.inv(intrinsics[:3, :3]).T @ pose[:3, :3].T
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        # Values change no faster than positions, so the minimum is found up to half a step.
        step, least = 0.03, np.full(len(pixels), np.inf)
        for depth in np.arange(2.1, 3.9, step):
            least = np.minimum(least, sdf(pose[:3, 3] + depth * directions))
        mask, pixel = dataset.masks[view].numpy(), 4 / intrinsics[0, 0]
        assert 0.1 < mask.mean() < 0.9
        assert (least[mask] < pixel + step / 2).all() and (least[~mask] > -pixel).all()
        assert ((least < 0) == mask).mean() > 0.97


def test_colors_differ_only_in_the_textured_variant() -> None:
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (2000, 3))
    for kind in made_scenes.KINDS.values():
        assert np.ptp(made_scenes.albedo(kind, False, points), axis=0).max() == 0
        colors = made_scenes.albedo(kind, True, points)
        assert np.ptp(colors, axis=0).max() > 0.1 and colors.min() >= 0 and colors.max() <= 1


def test_a_scene_is_kept_and_other_content_is_refused(suite: Path, scene: scenes.Scene) -> None:
    before = (scene.folder / "cameras.npz").stat().st_mtime_ns
    made_scenes.write([NAME], suite, SETTINGS)
    assert (scene.folder / "cameras.npz").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="exists with other content; choose another folder"):
        made_scenes.write([NAME], suite, made_scenes.Settings())
    with pytest.raises(ValueError, match="made scene cube: expected one of vase"):
        made_scenes.write(["cube"], suite, SETTINGS)


def test_scores_of_the_true_surface_and_of_an_offset_one(scene: scenes.Scene) -> None:
    mesh = exact_mesh(scene)
    same = scenes.surface_scores(mesh, scene, samples=3000)
    assert max(same[key] for key in ("accuracy", "completeness", "chamfer")) < 1e-3
    assert same["normals"] < 0.1
    # Half the wall's thickness is 0.018: an offset of 0.005 along the normals keeps the shape.
    offset = 0.005 * made_scenes.UNIT_TO_WORLD[0, 0]
    grown = trimesh.Trimesh(mesh.vertices + offset * mesh.vertex_normals, mesh.faces, process=False)
    scores = scenes.surface_scores(grown, scene, samples=3000)
    assert scores["accuracy"] == pytest.approx(5, rel=0.05)
    assert scores["completeness"] == pytest.approx(5, rel=0.05)
    assert scores["normals"] < 6


def test_normals_are_those_of_the_triangle_at_a_point() -> None:
    mesh = trimesh.creation.icosphere(subdivisions=3)
    points, faces = trimesh.sample.sample_surface(mesh, 500, seed=0)
    found = scenes.normals_at(points, mesh)
    same = (found * mesh.face_normals[faces]).sum(axis=1) > 1 - 1e-9
    assert same.mean() > 0.99  # all but points on an edge, up to rounding


def test_only_the_side_that_a_camera_sees_counts(scene: scenes.Scene) -> None:
    # A ball seen from +x: the seen cap ends where the ray grazes.
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    pose = made_scenes.look_at(np.array([3.0, 0, 0]), np.zeros(3))
    views = scenes.view_points(made_scenes.camera_intrinsics((240, 320))[None], pose[None], (240, 320))
    points, normals = scenes.seen_samples(ball, views, 4000, np.random.default_rng(0))
    towards = pose[:3, 3] - points
    cosines = (towards * normals).sum(axis=1) / np.linalg.norm(towards, axis=1)
    assert cosines.min() > 0.1 and points[:, 0].min() < 0.16 and len(points) > 1000


def test_means_are_over_seeds_then_over_scenes() -> None:
    def run(scene: str, seed: int, **scores: float) -> dict:
        return {"scene": scene, "conf": "fast", "seed": seed, **scores}

    runs = [
        run("a", 1, chamfer=1.0, minutes=1.0),
        run("a", 2, chamfer=3.0, minutes=1.0),
        run("b", 1, points_median=1.0, minutes=4.0),
        run("c", 1, points_median=100.0, minutes=4.0),
        {"scene": "c", "conf": "fast", "seed": 2, "error": "training failed"},
    ]
    first, *_, last = scenes.table(runs)
    assert first == {"scene": "a", "conf": "fast", "seeds": 2, "chamfer": 2.0, "minutes": 1.0}
    assert last["scene"] == "mean" and last["seeds"] == 4
    assert last["chamfer"] == 2.0 and last["minutes"] == 3.0 and last["points_median"] == pytest.approx(10)


def test_scenes_have_their_keys(scene: scenes.Scene, suite: Path, tmp_path: Path) -> None:
    assert scene.overrides == [
        f"dataset.data_dir={NAME}",
        "dataset.img_res=[48, 64]",
        "dataset.holdout=[0, 8]",
    ]
    # The scene's shortest side is about 1.06.
    arguments = scenes.build_parser().parse_args(["--confs", "a=1", "--out", "out", "--spacing", "0.04"])
    assert 24 <= scenes.grid_resolution(scene, arguments) <= 33
    assert scenes.parse_scene("house_plain", suite).folder == suite / "house_plain" / "scan1"
    for text, message in (
        ("cube", "expected DATA_ROOT:DATA_DIR:SCAN_ID"),
        (f"{suite}:a:1", "no cameras.npz"),
    ):
        with pytest.raises(ValueError, match=message):
            scenes.parse_scene(text, suite)


def test_two_confs_are_trained_scored_and_read_again(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        sys.executable, str(BENCHMARKS / "scenes.py"), "--scenes", f"{suite}:{NAME}:1", "--seeds", "3",
        "--confs", "./confs/fast.conf=2", "./confs/fast.conf,loss.eikonal_weight=0.2=2",
        "--set", "train.num_pixels=128", "--spacing", "0.03", "--views", "1",
        "--out", str(tmp_path / "runs"), "--json", str(tmp_path / "scenes.json"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"| {NAME} 1 | fast, eikonal_weight=0.2, 2 epochs | 1 |" in done.stdout
    assert "| mean | fast, 2 epochs | 1 |" in done.stdout
    result = json.loads((tmp_path / "scenes.json").read_text())
    assert len(result["runs"]) == 2 and len(result["means"]) == 4
    for run in result["runs"]:
        assert "error" not in run
        assert run["chamfer"] > 0 and 0 < run["normals"] < 180 and 0 < run["iou_holdout"] <= 1
        assert run["processor_minutes"] > 0 and run["minutes"] > 0
    # Another call trains nothing.
    monkeypatch.setattr(sys.modules["fast"], "train", None)
    arguments = scenes.build_parser().parse_args(command[2:-2])
    entries = [scenes.parse_entry(text) for text in arguments.confs]
    jobs = scenes.make_jobs([scenes.parse_scene(arguments.scenes[0], suite)], entries, arguments)
    assert [scenes.run_job(job) for job in jobs] == result["runs"]
